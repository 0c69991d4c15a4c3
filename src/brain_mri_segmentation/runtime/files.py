"""Files on a local disk or on object storage, read when asked for and written in one piece."""

import os
import secrets
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from fsspec import AbstractFileSystem, register_implementation, url_to_fs
from fsspec.implementations.local import LocalFileOpener, LocalFileSystem

from brain_mri_segmentation.errors import InputError

FileReader = Callable[[], bytes]


@dataclass(frozen=True)
class Folder:
    """A folder, or a single file, on any file system that fsspec knows.

    Attributes:
        filesystem: Where it is.
        path: Its path there.
    """

    filesystem: AbstractFileSystem
    path: str

    @classmethod
    def at(cls, place: str, **options: object) -> "Folder":
        """Find a place.

        Args:
            place: Path, or address such as ``s3://bucket/folder``.
            options: What the file system takes, such as credentials.

        Raises:
            InputError: There is no such file system, or its package is not installed.
        """
        try:
            return cls(*url_to_fs(place, **options))
        except (ImportError, ValueError) as error:
            raise InputError(f"{place} cannot be reached: {error}.") from error

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rstrip("/").rpartition("/")[2]

    @property
    def is_file(self) -> bool:
        """Whether it is a single file."""
        return bool(self.filesystem.isfile(self.path))

    def files(self) -> dict[str, FileReader]:
        """Return a reader of each file by its path inside; of a single file by its name.

        Raises:
            InputError: There is a link to a folder, a name that no text can hold, or a folder that
                may not be searched.
        """
        start = len(self.path.rstrip("/")) - (len(self.name) + 1 if self.is_file else 0)
        paths = sorted(self.filesystem.find(self.path))
        if isinstance(self.filesystem, LocalFileSystem):  # fsspec leaves out what it may not search
            for _ in os.walk(self.path, onerror=_refuse):
                pass
        for path in paths:
            refuse_odd_path(self.filesystem, path)
        return {path[start:].lstrip("/"): partial(_read, self.filesystem, path) for path in paths}

    def exists(self, name: str = "") -> bool:
        """Say whether there is a file of that path inside, or the place itself."""
        return bool(self.filesystem.exists(f"{self.path}/{name}".rstrip("/")))

    def holds(self, other: "Folder", name: str) -> bool:
        """Say whether a file of another folder is in this one as well."""
        same = type(self.filesystem) is type(other.filesystem)
        return same and f"{other.path}/{name}".startswith(f"{self.path}/")

    def read(self, name: str) -> bytes:
        """Return the contents of a file by its path inside.

        Raises:
            InputError: It cannot be opened.
        """
        return _read(self.filesystem, f"{self.path}/{name}")

    def write(self, name: str, content: bytes) -> None:
        """Write a file by its path inside: it is complete, or what was there before stays.

        Raises:
            InputError: The local disk refuses.
        """
        path = f"{self.path}/{name}"
        if isinstance(self.filesystem, LocalFileSystem):
            write_atomically(Path(path), lambda file: file.write(content))
        else:  # an object appears when all of it has arrived
            self.filesystem.pipe_file(path, content)

    def remove(self, name: str) -> None:
        """Remove a file by its path inside, if there is one.

        Raises:
            InputError: The local disk refuses.
        """
        path = f"{self.path}/{name}"
        try:
            if self.filesystem.isfile(path):
                self.filesystem.rm_file(path)
        except OSError as error:
            raise InputError(f"{path} could not be removed: {error}.") from error


def refuse_odd_path(filesystem: AbstractFileSystem, path: str) -> None:
    """Refuse what was found in a folder and would be left out, or could not be written again.

    Raises:
        InputError: It is a link to a folder, or its name is not UTF-8.
    """
    if isinstance(filesystem, LocalFileSystem) and Path(path).is_dir():
        raise InputError(
            f"{path} is a link to a folder, which is not followed. Name that folder itself, or "
            "copy what is in it."
        )
    if not path.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in path):
        shown = path.encode(errors="backslashreplace").decode()
        raise InputError(f"The name of the file {shown} is not UTF-8. Rename it.")


def _refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise InputError(f"{error.filename} cannot be searched: {error.strerror}.") from error


def _read(filesystem: AbstractFileSystem, path: str) -> bytes:
    try:
        content: bytes = filesystem.cat_file(path)
    except OSError as error:  # one file among many, which must not end the run
        raise InputError(f"The file cannot be opened: {error}") from error
    return content


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write beside ``path``, flush to the disk, then rename: no half-written file is ever seen.

    Raises:
        InputError: The system refuses (full disk, no permission); what was at ``path`` stays.
    """
    # mkstemp would give 0600 and hide a model from its server; of an opened file the umask decides.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        # torch reports a failed write as a RuntimeError about places in the file.
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        raise InputError(
            f"{path} could not be written: {str(reason).splitlines()[0]}. "
            "What was there before is untouched; free some space or choose another place."
        ) from error
    finally:
        with suppress(OSError):  # it took its place, or there is none
            temporary.unlink()


def write_whole_files() -> None:
    """Let everything that fsspec writes on the local disk, Kedro's datasets too, appear whole.

    Else a killed run would leave half a table, which ``kedro run --only-missing-outputs`` takes for
    a whole one. Objects on object storage do so by themselves.
    """
    for protocol in LocalFileSystem.protocol:
        register_implementation(protocol, _WholeFiles, clobber=True)


class _WholeFiles(LocalFileSystem):  # type: ignore[misc]  # fsspec has no types
    def _open(
        self, path: str, mode: str = "rb", block_size: int | None = None, **kwargs: Any
    ) -> LocalFileOpener:
        place = Path(self._strip_protocol(path)).resolve()  # what a link leads to
        if "w" not in mode or (place.exists() and not place.is_file()):  # such as /dev/null
            return super()._open(path, mode, block_size, **kwargs)
        if self.auto_mkdir:
            place.parent.mkdir(parents=True, exist_ok=True)
        return _WholeFile(place, mode, fs=self, **kwargs)


class _WholeFile(LocalFileOpener):  # type: ignore[misc]
    """Is written beside its place, and takes it when it is closed without an error."""

    def __init__(self, place: Path, mode: str, **kwargs: Any) -> None:
        self._place, self._error = place, sys.exc_info()[1]
        super().__init__(str(place.with_name(f".{place.name}.{os.getpid()}.part")), mode, **kwargs)

    def close(self) -> None:
        if self.closed:
            return
        try:
            super().close()
            # As text it is closed by a wrapper, which does not hand on why.
            if sys.exc_info()[1] is self._error:
                Path(self.path).replace(self._place)
        finally:
            Path(self.path).unlink(missing_ok=True)

    def __exit__(self, *_: object) -> None:
        self.close()
