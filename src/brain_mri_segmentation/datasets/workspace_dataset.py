"""A folder in which a node may work."""

from pathlib import Path
from typing import Any, NoReturn

from kedro.io import AbstractDataset, DatasetError

from brain_mri_segmentation.datasets.storage import local_path


class WorkspaceDataset(AbstractDataset[NoReturn, Path]):
    """Loads the path of a folder, for libraries that write files of their own while they run.

    Args:
        path: The folder, on a local disk; made when it is missing.
        metadata: Not used by Kedro; for Kedro-Viz.
    """

    def __init__(self, path: str, metadata: dict[str, Any] | None = None) -> None:
        self._path = local_path(path)
        self.metadata = metadata

    def load(self) -> Path:
        """Return the folder."""
        self._path.mkdir(parents=True, exist_ok=True)
        return self._path

    def save(self, data: NoReturn) -> None:
        """Refuse: a workspace is written to by its user."""
        raise DatasetError("A workspace is a place, not data; write into it instead.")

    def _describe(self) -> dict[str, Any]:
        return {"path": str(self._path)}

    def _exists(self) -> bool:
        return True
