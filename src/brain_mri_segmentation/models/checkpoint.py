"""One file that holds a trained model and everything that is needed to use it."""

import os
import pickle
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO

import torch

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.models.registry import rebuild_model

FORMAT = "brain-mri-segmentation/1"


@dataclass(frozen=True)
class Checkpoint:
    """A trained model as plain values and tensors; no pickled code is written or read.

    Attributes:
        model_name: Name of the architecture in the registry.
        model_config: What the architecture needs to build the same network.
        preprocessing: Image size, normalisation and threshold (``PreprocessingParameters``).
        weights: The network's state dict.
        metadata: Where it comes from: epoch, validation scores, parameters, fingerprints.
    """

    model_name: str
    model_config: dict[str, object]
    preprocessing: dict[str, object]
    weights: dict[str, torch.Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the file in one piece: it is complete, or what was there before stays.

        Raises:
            InputError: The file cannot be written, such as on a full disk.
        """
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        write_atomically(path, lambda file: torch.save({"format": FORMAT} | values, file))

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read a file that ``save`` wrote.

        Raises:
            InputError: There is no such file, or it is no checkpoint of this project.
        """
        if not path.is_file():
            raise InputError(
                f"There is no checkpoint at {path}. Train a model first "
                "(kedro run --pipeline training), or mend the path."
            )
        try:
            values = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
            raise InputError(
                f"{path} is no checkpoint that can be read safely: it is damaged, or it holds "
                f"more than tensors and plain values ({type(error).__name__}). "
                "Train again, or copy it anew."
            ) from error
        if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
            raise InputError(
                f"{path} is not a checkpoint of this project (format {FORMAT}). "
                "Give the best.ckpt that the training pipeline saved."
            )
        return cls(**values)

    def build(self) -> torch.nn.Module:
        """Rebuild the network with its weights, in evaluation mode, on the CPU.

        Raises:
            InputError: The weights do not fit the architecture.
        """
        return rebuild_model(self.model_name, self.model_config, self.weights)

    def describe(self) -> dict[str, object]:
        """Return everything but the weights."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        del values["weights"]
        return values


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write beside ``path``, flush to the disk, then rename: no half-written file is ever seen.

    Raises:
        InputError: The system refuses (full disk, no permission); what was at ``path`` stays.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp gives 0600, which would hide a model from its server
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        raise InputError(
            f"{path} could not be written: {str(error).splitlines()[0]}. "
            "What was there before is untouched; free some space or choose another place."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
