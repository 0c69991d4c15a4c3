"""A folder whose files are read and written one by one."""

from typing import Any, NoReturn

from kedro.io import AbstractDataset, DatasetError

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.runtime.files import Folder


class FolderDataset(AbstractDataset[NoReturn, Folder]):
    """Loads a place, for nodes that read or write files of their own while they run.

    Args:
        path: The folder or file, on any file system that fsspec knows; None is an error when
            loading.
        credentials: Passed to the file system.
        metadata: Not used by Kedro; for Kedro-Viz.
    """

    def __init__(
        self,
        path: str | None,
        credentials: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._path, self._credentials = path, credentials or {}
        self.metadata = metadata

    def load(self) -> Folder:
        """Return the place.

        Raises:
            InputError: None is named, or its file system is not known.
        """
        if self._path is None:
            raise InputError(
                "Name a folder of slices, stacks or zips, or one of them: --params input=PATH"
            )
        return Folder.at(self._path, **self._credentials)

    def save(self, data: NoReturn) -> None:
        """Refuse: nodes write into it."""
        raise DatasetError("A folder is a place, not data; write into it instead.")

    def _describe(self) -> dict[str, Any]:
        return {"path": self._path}

    def _exists(self) -> bool:
        return True
