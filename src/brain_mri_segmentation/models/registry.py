"""Which architectures there are.

A new one is a file beside this one, and a line in ``ARCHITECTURES``. The files are imported when
they are needed, since they need PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self

from pydantic import BaseModel, ValidationError

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.models.layout import Layout, SegFormerLayout

if TYPE_CHECKING:
    import torch


class SegmentationModel(Protocol):
    """What an architecture provides besides being an ``nn.Module``."""

    Options: ClassVar[type[BaseModel]]
    """Its options in ``parameters.yml``, under ``models.<name>``."""

    config: dict[str, object]
    """Plain values with which the class itself builds the same network again."""

    @classmethod
    def create(cls, options: BaseModel, in_channels: int) -> Self:
        """Build a network to be trained."""

    def __call__(self, image: "torch.Tensor") -> "torch.Tensor":
        """Return logits (N, 2, H, W), background and tumour, of images (N, C, H, W)."""


class Architecture(NamedTuple):
    """Name of the class in its file, and how an exported folder of it is laid out."""

    network: str
    layout: type[Layout] = Layout


ARCHITECTURES = {
    "ensemble": Architecture("Ensemble"),
    "segformer": Architecture("SegFormer", SegFormerLayout),
    "unet": Architecture("UNet"),
    "unet_efficientnet": Architecture("UNetEfficientNet"),
}
"""By the names of their files, which are the values of the parameter ``model``."""


def architecture(name: str) -> type[Any]:
    """Return the class of an architecture (``SegmentationModel``).

    Raises:
        KeyError: There is none of that name.
    """
    network = ARCHITECTURES[name].network
    return getattr(import_module(f"{__package__}.{name}"), network)


def check_model_name(name: str) -> str:
    """Return ``name``.

    Raises:
        ValueError: There is no such architecture.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown model '{name}'. Allowed: {', '.join(ARCHITECTURES)}")
    return name


def check_model_options(options: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    """Return the options of all architectures, each checked by the architecture itself.

    Raises:
        ValueError: An architecture is unknown, or one of its options is unknown or ill-typed.
    """
    for name, values in options.items():
        check_model_name(name)
        try:
            architecture(name).Options.model_validate(values)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in (name, *problem["loc"]))
            allowed = ", ".join(architecture(name).Options.model_fields)
            raise ValueError(f"{where}: {problem['msg']}. Allowed here: {allowed}") from None
    return options


def create_model(name: str, options: dict[str, object], in_channels: int = 3) -> "torch.nn.Module":
    """Build a network to be trained.

    Args:
        name: Its name in the registry.
        options: Its options, as in ``parameters_training.yml`` under ``models.<name>``.
        in_channels: Channels of an image, 3 for each slice of it.

    Raises:
        ValueError: The name or an option is unknown.
        InputError: Pretrained weights cannot be had.
    """
    network = architecture(check_model_name(name))
    return network.create(network.Options.model_validate(options), in_channels)


def rebuild_model(
    name: str, config: dict[str, object], weights: "dict[str, torch.Tensor]"
) -> "torch.nn.Module":
    """Build the network that a checkpoint describes, with its weights, ready for inference.

    Raises:
        InputError: This version knows no such architecture, or the weights belong to another.
    """
    if name not in ARCHITECTURES:
        raise InputError(
            f"The checkpoint holds a model '{name}', which this version does not know. "
            f"It knows {', '.join(ARCHITECTURES)}; install the version that trained it."
        )
    made = architecture(name)
    try:
        _check_shapes(made, config, weights)
        network = made(**config)
        network.load_state_dict(weights)
    # A hostile config can hold anything in any place.
    except Exception as error:
        first = [line.strip() for line in str(error).strip().splitlines()[:2]]
        raise InputError(
            f"The checkpoint says that it holds a '{name}', but its weights do not fit that "
            f"architecture: {' '.join(first) or type(error).__name__}"
        ) from error
    return network.eval()


def _check_shapes(
    made: type[Any], config: dict[str, object], weights: "dict[str, torch.Tensor]"
) -> None:
    """Compare a network with its weights before memory is taken for it.

    Raises:
        ValueError: It would have other weights than those that are there.
    """
    import torch
    from torch.nn.modules.module import register_module_parameter_registration_hook

    room = len(weights)

    def count(*_: object) -> None:
        nonlocal room
        room -= 1
        if room < 0:
            raise ValueError(f"it has more than the {len(weights)} weights that are there")

    hook = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            expected = made(**config).state_dict()
    finally:
        hook.remove()
    if unknown := sorted(expected.keys() ^ weights.keys()):
        raise ValueError(f"{len(unknown)} are missing or too many, such as {unknown[0]}")
    for weight, value in weights.items():
        wanted = expected[weight]
        if wanted.shape != value.shape or wanted.is_floating_point() != value.is_floating_point():
            raise ValueError(
                f"{weight} is {value.dtype} {tuple(value.shape)}, expected {wanted.dtype} "
                f"{tuple(wanted.shape)}"
            )
