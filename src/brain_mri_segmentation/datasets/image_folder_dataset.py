"""Any folder of pictures, slices of patients in folders or flat; or a single picture."""

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import fsspec
from fsspec import AbstractFileSystem
from kedro.io import AbstractDataset, DatasetError
from kedro.io.core import get_protocol_and_path

from brain_mri_segmentation.errors import InputError

_ENDINGS = (".tif", ".tiff", ".png", ".jpg", ".jpeg")
FileReader = Callable[[], bytes]


class ImageFolderDataset(AbstractDataset[NoReturn, dict[str, FileReader]]):
    """Reads lazily; files that end in ``_mask`` or begin with a dot are left out.

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

    def load(self) -> dict[str, FileReader]:
        """Return a reader of each file's bytes by its path inside the folder, without ending.

        Raises:
            InputError: No folder is named, or it holds no picture.
        """
        if self._path is None:
            raise InputError(
                f"Name a folder of slices, or one slice: --params {self._parameter}=PATH"
            )
        protocol, root = get_protocol_and_path(self._path)
        filesystem = fsspec.filesystem(protocol, **self._credentials)
        files: dict[str, FileReader] = {}
        paths = sorted(filesystem.find(root))
        folder = root.rpartition("/")[0] if paths == [root] else root  # a picture finds itself
        for path in paths:
            name, _, ending = path[len(folder) :].lstrip("/").rpartition(".")
            hidden = name.rpartition("/")[2].startswith(".")  # such as macOS writes beside files
            if f".{ending.lower()}" in _ENDINGS and not name.endswith("_mask") and not hidden:
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


def _read(filesystem: AbstractFileSystem, path: str) -> bytes:
    try:
        content: bytes = filesystem.cat_file(path)
    except OSError as error:  # one file among many, which must not end the run
        raise InputError(f"The file cannot be opened: {error}") from error
    return content
