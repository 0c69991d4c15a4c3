"""The raw cohort as it is downloaded: a folder of patients, each a folder of TIF files."""

from functools import partial
from typing import Any, NoReturn

import fsspec
from kedro.io import AbstractDataset, DatasetError
from kedro.io.core import get_protocol_and_path

from brain_mri_segmentation.cohort.index import SliceFiles, SliceReader
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.tiff import TIFF_ENDINGS, read_tiff
from brain_mri_segmentation.runtime.files import refuse_odd_path


class RawSlicesDataset(AbstractDataset[NoReturn, SliceFiles]):
    """Reads lazily: loading lists the files, and each is read when its reader is called.

    Args:
        path: The folder ``kaggle_3m``, or one that holds it.
        credentials: Passed to the file system of ``path``.
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
        self.metadata = metadata

    def load(self) -> dict[str, SliceReader | None]:
        """Return readers by ``<patient>/<file without ending>``, None for folders without a TIF.

        Raises:
            InputError: The folder is missing, holds no TIF file, a slice twice or a link to a
                folder.
        """
        root = self._path
        if self._filesystem.isdir(f"{root}/kaggle_3m"):  # the download also holds the cohort twice
            root = f"{root}/kaggle_3m"
        files: dict[str, SliceReader | None] = {}
        folders: set[str] = set()
        listing = self._filesystem.find(root, withdirs=True, detail=True)
        for path, details in sorted(listing.items()):
            name = path[len(root) :].lstrip("/")
            if details["type"] == "directory":
                folders.add(name)
                continue
            refuse_odd_path(self._filesystem, path)
            if path.lower().endswith(TIFF_ENDINGS):
                if (key := name.rpartition(".")[0]) in files:
                    raise InputError(
                        f"{root}/{key} is there twice, with other endings such as .tif and .TIFF. "
                        "Remove one of them."
                    )
                files[key] = partial(read_tiff, self._filesystem, path)
        for folder in sorted(folders - {""}):
            if not any(name.startswith(f"{folder}/") for name in files):
                files[f"{folder}/"] = None
        if not any(files.values()):
            state = "holds no TIF file" if self._filesystem.isdir(root) else "does not exist"
            raise InputError(
                f"The raw cohort folder {root} {state}. Expected <patient>/<patient>_<n>.tif with "
                "<patient>_<n>_mask.tif in it. Bring the cohort in with scripts/sync_data.sh SRC, "
                "or say where it is with --params raw_path=FOLDER."
            )
        return files

    def save(self, data: NoReturn) -> None:
        """Refuse: raw data is never changed."""
        raise DatasetError("The raw cohort is read-only.")

    def _describe(self) -> dict[str, Any]:
        return {"path": self._path, "protocol": self._protocol}

    def _exists(self) -> bool:
        return self._filesystem.isdir(self._path)
