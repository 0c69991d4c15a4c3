"""A folder of slices, one TIF file each."""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import fsspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem
from kedro.io import AbstractDataset
from kedro.io.core import get_protocol_and_path

from brain_mri_segmentation.cohort.index import SliceReader
from brain_mri_segmentation.datasets.storage import LocalCopy
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.tiff import read_tiff, write_tiff

_COMPLETE = "_complete.json"  # written last: a folder without it was interrupted


class SliceFolderDataset(
    AbstractDataset[Mapping[str, np.ndarray | SliceReader], dict[str, SliceReader]]
):
    """Reads and writes slice by slice, so that a cohort never sits in memory.

    Saving replaces the folder's slices. A folder counts as existing only when all of it was
    written; one that was interrupted is refused on loading. From object storage, a folder is copied
    to the local disk as a whole when its first slice is read.

    Args:
        path: The folder, on any file system that fsspec knows.
        credentials: Passed to that file system.
        metadata: Not used by Kedro; for Kedro-Viz.
    """

    def __init__(
        self,
        path: str,
        credentials: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._protocol, self._path = get_protocol_and_path(path)
        self._filesystem = fsspec.filesystem(self._protocol, **(credentials or {}))
        self._fetched: LocalCopy | None = None
        self.metadata = metadata

    def load(self) -> dict[str, SliceReader]:
        """Return a reader by slice name.

        Raises:
            InputError: The folder is missing or was not written to its end.
        """
        if not self._exists():
            found = self._filesystem.isdir(self._path)
            raise InputError(
                f"The slice folder {self._path} "
                f"{'was not written to its end' if found else 'does not exist'}. "
                "Run the pipeline that writes it again (split folders: data_processing; "
                "predicted masks: evaluation)."
            )
        listed = json.loads(self._filesystem.cat_file(f"{self._path}/{_COMPLETE}"))["slices"]
        if self._protocol == "file":
            return {name: partial(read_tiff, self._filesystem, self._file(name)) for name in listed}
        if self._fetched is None:  # several nodes of a run share it
            self._fetched = LocalCopy(self._filesystem, [self._file(name) for name in listed])
        return {name: partial(_read_copy, self._fetched, f"{name}.tif") for name in listed}

    def save(self, data: Mapping[str, np.ndarray | SliceReader]) -> None:
        """Write slices, given as pixels or as readers that are called one at a time."""
        fs = self._filesystem
        self._fetched = None
        fs.makedirs(self._path, exist_ok=True)
        marker = f"{self._path}/{_COMPLETE}"
        if fs.exists(marker):
            fs.rm_file(marker)
        wanted = {self._file(name) for name in data}
        for path in fs.glob(f"{self._path}/*.tif"):
            if path not in wanted:
                fs.rm_file(path)
        for name, pixels in data.items():
            write_tiff(fs, self._file(name), pixels() if callable(pixels) else pixels)
        fs.pipe_file(marker, json.dumps({"slices": list(data)}).encode())

    def _file(self, name: str) -> str:
        return f"{self._path}/{name}.tif"

    def _describe(self) -> dict[str, Any]:
        return {"path": self._path, "protocol": self._protocol}

    def _exists(self) -> bool:
        return self._filesystem.exists(f"{self._path}/{_COMPLETE}")


def _read_copy(copy: LocalCopy, name: str) -> np.ndarray:
    return read_tiff(LocalFileSystem(), str(copy.folder / name))
