"""Which architectures there are.

A new one is a file beside this one, registered under its name, and a line in ``models/__init__``.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Protocol, Self, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from torch.nn.modules.module import register_module_parameter_registration_hook

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.models.hub import Config, Weights


class SegmentationModel(Protocol):
    """What an architecture provides besides being an ``nn.Module``."""

    Options: ClassVar[type[BaseModel]]
    """Its options in ``parameters.yml``, under ``models.<name>``."""

    LIBRARY: ClassVar[str]
    """Library that loads an exported folder, as the hub calls it."""

    config: dict[str, object]
    """Plain values with which the class itself builds the same network again."""

    @classmethod
    def create(cls, options: BaseModel, in_channels: int) -> Self:
        """Build a network to be trained."""

    @classmethod
    def to_hub(cls, config: Config, weights: Weights) -> tuple[Config, Weights]:
        """Turn ``config`` and state dict into what an exported folder holds."""

    @classmethod
    def from_hub(cls, config: Config, weights: Weights) -> tuple[Config, Weights]:
        """Turn what an exported folder holds into ``config`` and state dict."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits (N, 2, H, W), background and tumour, of images (N, C, H, W)."""


MODELS: dict[str, type[Any]] = {}
"""Architectures by the value of the parameter ``model``."""

T = TypeVar("T", bound=type)


def register(name: str) -> Callable[[T], T]:
    """Make a class known as the architecture ``name``."""

    def add(architecture: T) -> T:
        MODELS[name] = architecture
        return architecture

    return add


def check_model_name(name: str) -> str:
    """Return ``name``.

    Raises:
        ValueError: There is no such architecture.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model '{name}'. Allowed: {', '.join(MODELS)}")
    return name


def check_model_options(options: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    """Return the options of all architectures, each checked by the architecture itself.

    Raises:
        ValueError: An architecture is unknown, or one of its options is unknown or ill-typed.
    """
    for name, values in options.items():
        check_model_name(name)
        try:
            MODELS[name].Options.model_validate(values)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in (name, *problem["loc"]))
            allowed = ", ".join(MODELS[name].Options.model_fields)
            raise ValueError(f"{where}: {problem['msg']}. Allowed here: {allowed}") from None
    return options


def create_model(name: str, options: dict[str, object], in_channels: int = 3) -> torch.nn.Module:
    """Build a network to be trained.

    Args:
        name: Its name in the registry.
        options: Its options, as in ``parameters_training.yml`` under ``models.<name>``.
        in_channels: Channels of an image, 3 for each slice of it.

    Raises:
        ValueError: The name or an option is unknown.
        InputError: Pretrained weights cannot be had.
    """
    architecture = MODELS[check_model_name(name)]
    return architecture.create(architecture.Options.model_validate(options), in_channels)


def rebuild_model(
    name: str, config: dict[str, object], weights: dict[str, torch.Tensor]
) -> torch.nn.Module:
    """Build the network that a checkpoint describes, with its weights, ready for inference.

    Raises:
        InputError: This version knows no such architecture, or the weights belong to another.
    """
    if name not in MODELS:
        raise InputError(
            f"The checkpoint holds a model '{name}', which this version does not know. "
            f"It knows {', '.join(MODELS)}; install the version that trained it."
        )
    try:
        _check_shapes(name, config, weights)
        network = MODELS[name](**config)
        network.load_state_dict(weights)
    # A hostile config can hold anything in any place.
    except Exception as error:
        first = [line.strip() for line in str(error).strip().splitlines()[:2]]
        raise InputError(
            f"The checkpoint says that it holds a '{name}', but its weights do not fit that "
            f"architecture: {' '.join(first) or type(error).__name__}"
        ) from error
    return network.eval()


def _check_shapes(name: str, config: dict[str, object], weights: dict[str, torch.Tensor]) -> None:
    """Compare a network with its weights before memory is taken for it.

    Raises:
        ValueError: It would have other weights than those that are there.
    """
    room = len(weights)

    def count(*_: object) -> None:
        nonlocal room
        room -= 1
        if room < 0:
            raise ValueError(f"it has more than the {len(weights)} weights that are there")

    hook = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            expected = MODELS[name](**config).state_dict()
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
