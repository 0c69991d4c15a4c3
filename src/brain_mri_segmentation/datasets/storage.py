"""What object storage needs that a local disk does not."""

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from fsspec import AbstractFileSystem
from kedro.io.core import get_protocol_and_path

from brain_mri_segmentation.errors import InputError


def is_remote(place: str) -> bool:
    """Say whether a place is elsewhere than on a local disk, such as ``s3://bucket/data``."""
    return get_protocol_and_path(place)[0] != "file"


def local_path(place: str) -> Path:
    """Return the path of a folder for libraries that write files of their own.

    Raises:
        InputError: It is not on a local disk.
    """
    if is_remote(place):
        raise InputError(
            f"{place} must be on a local disk, since files are written there while a training runs "
            "or a model is exported. Name a local folder beside the one on object storage: "
            "local_data: data in globals.yml of your environment."
        )
    return Path(place)


class LocalCopy:
    """A copy of many files, fetched together when the first one is read, until the process ends.

    One by one they would cost a round trip each, and again in every epoch. Processes that read
    slices for a training find them there, too.

    Args:
        filesystem: Where they are.
        paths: Their paths there; the names must differ.
    """

    def __init__(self, filesystem: AbstractFileSystem, paths: Sequence[str]) -> None:
        self._filesystem, self._paths = filesystem, list(paths)

    @cached_property
    def folder(self) -> Path:
        """Folder with the files under their own names."""
        folder = Path(tempfile.mkdtemp(prefix="slices_"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        copies = [str(folder / path.rpartition("/")[2]) for path in self._paths]
        self._filesystem.get(self._paths, copies)
        return folder
