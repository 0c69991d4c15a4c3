"""A trained model."""

from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.models import Checkpoint


class CheckpointDataset(AbstractDataset[Checkpoint, Checkpoint]):
    """Saves in one piece, and loads without running pickled code.

    Args:
        filepath: The file, on a local disk; or an exported folder, to load from.
        model: Architecture that the file must hold; None takes any.
        metadata: Not used by Kedro; for Kedro-Viz.
    """

    def __init__(
        self, filepath: str, model: str | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        self._path = Path(filepath)
        self._model = model
        self.metadata = metadata

    def load(self) -> Checkpoint:
        """Return the checkpoint.

        Raises:
            InputError: The model is missing, damaged, or of another architecture.
        """
        checkpoint = Checkpoint.load(self._path)
        if self._model is not None and checkpoint.model_name != self._model:
            raise InputError(
                f"{self._path} holds a '{checkpoint.model_name}', but this run is for "
                f"model={self._model}. Give --params model={checkpoint.model_name}, or train a "
                f"{self._model} first."
            )
        return checkpoint

    def save(self, data: Checkpoint) -> None:
        """Write the checkpoint."""
        data.save(self._path)

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path), "model": self._model}

    def _exists(self) -> bool:
        return self._path.exists()
