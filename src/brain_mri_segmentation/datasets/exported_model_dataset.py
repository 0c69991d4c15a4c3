"""A model as a folder that others load with the tools they have."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset

from brain_mri_segmentation.datasets.storage import local_path
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.models import Checkpoint


class ExportedModelDataset(AbstractDataset[Mapping[str, bytes], Path]):
    """Saves all files of a model together, and loads the folder's path.

    The files are written beside the folder, which is then replaced as a whole: it never holds files
    of two exports.

    Args:
        filepath: The folder, on a local disk.
        metadata: Not used by Kedro; for Kedro-Viz.
    """

    def __init__(self, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._path = local_path(filepath)
        self.metadata = metadata

    def load(self) -> Path:
        """Return the folder.

        Raises:
            InputError: It is missing, or a file of it is missing or damaged.
        """
        Checkpoint.load(self._path)
        return self._path

    def save(self, data: Mapping[str, bytes]) -> None:
        """Write the contents of each file, given by its name.

        Raises:
            InputError: The system refuses; what was there before stays.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(
                dir=self._path.parent, prefix=f".{self._path.name}."
            ) as beside:
                new, old = Path(beside, "new"), Path(beside, "old")
                for name, content in data.items():
                    (new / name).parent.mkdir(parents=True, exist_ok=True)
                    (new / name).write_bytes(content)
                if self._path.exists():
                    self._path.rename(old)
                try:
                    new.rename(self._path)
                except OSError:
                    if old.exists():
                        old.rename(self._path)
                    raise
        except OSError as error:
            raise InputError(
                f"{self._path} could not be written: {error}. What was there before is untouched; "
                "free some space or choose another place."
            ) from error

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path)}

    def _exists(self) -> bool:
        return self._path.is_dir()
