"""Any folder of pictures, slices of patients in folders or flat; or a single picture."""

from functools import partial
from typing import Any, NoReturn

import fsspec
import numpy as np
from fsspec import AbstractFileSystem
from kedro.io import AbstractDataset, DatasetError
from kedro.io.core import get_protocol_and_path

from brain_mri_segmentation.cohort import SliceReader
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.images import read_slice

_ENDINGS = (".tif", ".tiff", ".png", ".jpg", ".jpeg")


class ImageFolderDataset(AbstractDataset[NoReturn, dict[str, SliceReader]]):
    """Reads lazily; files that end in ``_mask`` are left out.

    Args:
        path: The folder or the one picture, on any file system that fsspec knows; None is an error
            when loading.
        parameter: Parameter that names it, for that error.
        credentials: Passed to the file system.
        metadata: Not used by Kedro; for Kedro-Viz.
    """

    def __init__(
        self,
        path: str | None,
        parameter: str = "input",
        credentials: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._path, self._parameter, self._credentials = path, parameter, credentials or {}
        self.metadata = metadata

    def load(self) -> dict[str, SliceReader]:
        """Return a reader of (H, W, 3) uint8 by path inside the folder, without ending.

        Raises:
            InputError: No folder is named, or it holds no picture.
        """
        if self._path is None:
            raise InputError(
                f"Name a folder of slices, or one slice: --params {self._parameter}=PATH"
            )
        protocol, root = get_protocol_and_path(self._path)
        filesystem = fsspec.filesystem(protocol, **self._credentials)
        files: dict[str, SliceReader] = {}
        paths = sorted(filesystem.find(root))
        folder = root.rpartition("/")[0] if paths == [root] else root  # a picture finds itself
        for path in paths:
            name, _, ending = path[len(folder) :].lstrip("/").rpartition(".")
            if f".{ending.lower()}" in _ENDINGS and not name.endswith("_mask"):
                # Beside scan.tif, a scan.png keeps its ending, so that neither is lost.
                files[f"{name}.{ending}" if name in files else name] = partial(
                    _read, filesystem, path
                )
        if not files:
            state = "holds no TIFF, PNG or JPEG" if filesystem.exists(root) else "does not exist"
            raise InputError(f"{root} {state}. Name another: --params {self._parameter}=PATH")
        return files

    def save(self, data: NoReturn) -> None:
        """Refuse: the folder is the user's."""
        raise DatasetError("A folder of input pictures is read-only.")

    def _describe(self) -> dict[str, Any]:
        return {"path": self._path}


def _read(filesystem: AbstractFileSystem, path: str) -> np.ndarray:
    try:
        content = filesystem.cat_file(path)
    except OSError as error:  # one file among many, which must not end the run
        raise InputError(f"The file cannot be opened: {error}") from error
    return read_slice(content)
