"""A trained model with everything that is needed to use it: one file, or a folder to publish."""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy

from brain_mri_segmentation.errors import InputError, needs_torch
from brain_mri_segmentation.models.registry import ARCHITECTURES, rebuild_model
from brain_mri_segmentation.runtime.files import write_atomically

if TYPE_CHECKING:
    import torch

SHIPPED_MODEL = Path(__file__).parents[1] / "pretrained" / "unet_efficientnet"
"""The exported model that comes with the package; in a checkout, a link to data/06_models."""

FORMAT = "brain-mri-segmentation/1"

# The files of a folder, named as the Hugging Face hub and transformers name them ...
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
INT8_FILES = ("model.int8.xml", "model.int8.bin")  # of OpenVINO
# ... and where the model comes from.
RUN_FILE = "run.json"


@dataclass(frozen=True)
class Checkpoint:
    """A trained model as plain values and arrays; no pickled code is written or read.

    Attributes:
        model_name: Name of the architecture in the registry.
        model_config: What the architecture needs to build the same network.
        preprocessing: Image size, normalisation and threshold (``PreprocessingParameters``).
        weights: The network's state dict (``as_arrays``).
        metadata: Where it comes from: epoch, validation scores, parameters, fingerprints.
        int8: A copy of the network in 8 bits, as OpenVINO's .xml and .bin, if publishing kept one;
            it is in exported folders alone.
    """

    model_name: str
    model_config: dict[str, object]
    preprocessing: dict[str, object]
    weights: dict[str, np.ndarray]
    metadata: dict[str, Any] = field(default_factory=dict)
    int8: tuple[bytes, bytes] | None = field(default=None, repr=False)

    def save(self, path: Path) -> None:
        """Write the file in one piece: it is complete, or what was there before stays.

        Raises:
            InputError: The file cannot be written, such as on a full disk.
        """
        import torch

        values = self.describe() | {"weights": _as_tensors(self.weights)}
        values |= {"format": FORMAT, "digest": self.digest}
        write_atomically(path, lambda file: torch.save(values, file))

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read a file that ``save`` wrote, or a folder with what ``folder_files`` gave.

        Raises:
            InputError: There is neither, it holds no model of this project, a byte of it has
                changed since, or it is a file and PyTorch is not installed.
        """
        try:
            checkpoint, digest = _read_folder(path) if path.is_dir() else _read_file(path)
            checkpoint._check_values()
            if digest != checkpoint.digest:
                raise InputError(
                    f"The model in {path} is not the one that its digest describes: files of "
                    "several models are mixed, or a byte was changed. Copy it anew."
                )
            return checkpoint
        except InputError:
            raise
        # What a hostile file holds in the place of values raises many kinds, such as TypeError.
        except Exception as error:
            raise InputError(
                f"A file in {path} is damaged ({type(error).__name__}: {error}). Copy it anew."
            ) from error

    def _check_values(self) -> None:
        """Refuse what is no model, before anything is made of it.

        Raises:
            ValueError: A value is of another kind, or a weight is no finite number.
        """
        if not isinstance(self.model_name, str):
            raise ValueError("model_name is no text")
        for name in ("model_config", "preprocessing", "weights", "metadata"):
            if not isinstance(getattr(self, name), dict):
                raise ValueError(f"{name} is no table of values by name")
        for name, value in self.weights.items():
            if np.iscomplexobj(value) or not np.isfinite(value).all():
                raise ValueError(f"{name} holds what is no finite number (NaN or infinity)")

    @needs_torch("To convert a model, or to run it with engine=torch")
    def build(self) -> "torch.nn.Module":
        """Rebuild the network with its weights, in evaluation mode, on the CPU.

        Raises:
            InputError: The weights do not fit the architecture, or PyTorch is not installed.
        """
        return rebuild_model(self.model_name, self.model_config, _as_tensors(self.weights))

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that tell models apart: their weights and preprocessing.

        Worked out once, so that an answer need not read all weights again: make another model with
        ``dataclasses.replace`` instead of changing the values of this one.
        """
        digest = hashlib.sha256(json.dumps(self.preprocessing, sort_keys=True).encode())
        for name, value in sorted(self.weights.items()):
            digest.update(f"{name} torch.{value.dtype} {value.shape}".encode())
            digest.update(np.ascontiguousarray(value).data)
        return digest.hexdigest()[:16]

    def in_half_precision(self) -> "Checkpoint":
        """Return it with matrices and convolutions in float16, at half the size.

        Norms and biases, which are few and may be large, stay as they are.
        """
        weights = self.weights.items()
        half = {n: w.astype(np.float16) if w.ndim > 1 else w for n, w in weights}
        return replace(self, weights=half)

    @property
    def library(self) -> str:
        """Library that loads an exported folder, as the hub calls it."""
        return ARCHITECTURES[self.model_name].layout.LIBRARY

    def folder_files(self, results: Mapping[str, object]) -> dict[str, bytes]:
        """Lay the model out as a folder that transformers and the Hugging Face hub understand.

        Args:
            results: What ``run.json`` says besides, such as metrics.

        Returns:
            The contents of each file by its name.
        """
        layout = ARCHITECTURES[self.model_name].layout
        config, weights = layout.to_hub(self.model_config, self.weights)
        stored = _to_json(config)
        run = {
            "format": FORMAT,
            "model_name": self.model_name,
            "digest": self.digest,
            "config_sha256": hashlib.sha256(stored).hexdigest(),
            "metadata": self.metadata,
        }
        copy = dict(zip(INT8_FILES, self.int8 or (), strict=False))
        run |= {"sha256": {name: hashlib.sha256(copy[name]).hexdigest() for name in copy}}
        contiguous = {name: np.asarray(value, order="C") for name, value in weights.items()}
        return {
            CONFIG_FILE: stored,
            WEIGHTS_FILE: safetensors.numpy.save(contiguous, metadata={"format": "pt"}),
            PREPROCESSOR_FILE: _to_json({"preprocessing": self.preprocessing}),
            RUN_FILE: _to_json(run | dict(results)),
            **copy,
        }

    def describe(self) -> dict[str, object]:
        """Return everything but weights and copies of them."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        del values["weights"], values["int8"]
        return values


def as_arrays(state: "Mapping[str, torch.Tensor]") -> dict[str, np.ndarray]:
    """Return a network's state dict as a checkpoint holds it; both share their memory.

    Raises:
        ValueError: A value is no tensor, or a view that is larger than what is stored of it.
    """
    import torch

    for name, value in state.items():
        if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
            raise ValueError(f"{name} is no tensor")
        # A view can repeat one number of a file for ever.
        if value.untyped_storage().nbytes() < value.numel() * value.element_size():
            raise ValueError(f"{name} is larger than what is stored of it")
    return {name: value.detach().cpu().numpy() for name, value in state.items()}


def _as_tensors(weights: Mapping[str, np.ndarray]) -> "dict[str, torch.Tensor]":
    import torch

    return {name: torch.tensor(value) for name, value in weights.items()}


def _to_json(values: dict[str, object]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()


@needs_torch("To read a checkpoint (.ckpt)")
def _read_file(path: Path) -> tuple[Checkpoint, str]:
    """Return what ``save`` wrote, and the digest."""
    if not path.is_file():
        raise InputError(
            f"There is no checkpoint at {path}. Train a model first "
            "(kedro run --pipeline training), or correct the path."
        )
    import torch

    try:
        with zipfile.ZipFile(path) as parts:
            if damaged := parts.testzip():  # torch does not look at the checksums that it writes
                raise zipfile.BadZipFile(damaged)
        values = torch.load(path, map_location="cpu", weights_only=True)
    # On files of other kinds the unpickler raises many errors, such as KeyError on a text.
    except Exception as error:
        raise InputError(
            f"{path} is no checkpoint that can be read safely: it is damaged, or it holds "
            f"more than tensors and plain values ({type(error).__name__}). "
            "Train again, or copy it anew."
        ) from error
    names = {"format", "digest", *(item.name for item in fields(Checkpoint))} - {"int8"}
    known = isinstance(values, dict) and values.keys() == names
    if not known or values.pop("format") != FORMAT:
        raise InputError(
            f"{path} is not a checkpoint of this project (format {FORMAT} with a digest, since "
            "version 0.2). Give the best.ckpt that the training pipeline saved."
        )
    digest = values.pop("digest")
    if isinstance(values["weights"], dict):  # what is not is refused with the other values
        values["weights"] = as_arrays(values["weights"])
    return Checkpoint(**values), digest


def _read_folder(path: Path) -> tuple[Checkpoint, str]:
    """Return what ``folder_files`` gave, and the digest."""
    names = (CONFIG_FILE, PREPROCESSOR_FILE, RUN_FILE, WEIGHTS_FILE)
    if missing := [name for name in names if not (path / name).is_file()]:
        raise InputError(
            f"The folder {path} is no model that this project exported: {', '.join(missing)} "
            "missing. Give the folder that the publishing pipeline wrote, or a best.ckpt."
        )
    stored = (path / CONFIG_FILE).read_bytes()
    config, preprocessor, run = (json.loads((path / name).read_bytes()) for name in names[:3])
    weights = safetensors.numpy.load_file(path / WEIGHTS_FILE)
    name, digest, metadata = (run[key] for key in ("model_name", "digest", "metadata"))
    if run.get("format") != FORMAT or name not in ARCHITECTURES:
        raise InputError(
            f"{path} holds a model '{name}' in format '{run.get('format')}'; this version knows "
            f"{', '.join(ARCHITECTURES)} in format {FORMAT}. Install the version that exported it."
        )
    if run["config_sha256"] != hashlib.sha256(stored).hexdigest():
        raise ValueError(f"{CONFIG_FILE} was changed")
    int8 = None
    if copies := run.get("sha256"):
        network, constants = ((path / copy).read_bytes() for copy in INT8_FILES)
        for copy, content in zip(INT8_FILES, (network, constants), strict=True):
            if hashlib.sha256(content).hexdigest() != copies[copy]:
                raise ValueError(f"{copy} was changed")
        int8 = network, constants
    config, weights = ARCHITECTURES[name].layout.from_hub(config, weights)
    return Checkpoint(name, config, preprocessor["preprocessing"], weights, metadata, int8), digest
