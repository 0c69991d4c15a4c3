"""What a picture file may be, and how it becomes a slice.

| file | becomes |
|---|---|
| RGB, 8 bits | itself: pre-contrast, FLAIR, post-contrast |
| grey | the grey three times, as the cohort's authors repeat FLAIR for a missing sequence |
| palette, 8 bits | its colours |
| with an alpha channel that is opaque everywhere | without it |
| grey of more bits, or float | scaled: 0 to its 99.9th percentile fill 8 bits; then as grey |
| NIfTI, NRRD, MetaImage (``medical``), DICOM | a volume with its geometry and all its bits |
| what a decoder would change in silence, or what no slice can be | refused with the reason |
"""

import hashlib
import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging import dicom
from brain_mri_segmentation.imaging.limits import check_counts
from brain_mri_segmentation.imaging.medical import Scan, assemble, kind_of, read_scan
from brain_mri_segmentation.imaging.naming import (
    ENDINGS,
    GRID_ENDINGS,
    count_volumes,
    free_name,
    group_sequences,
    group_studies,
    group_volumes,
    may_be_slice,
    natural_key,
    sequence_of,
    without_ending,
)
from brain_mri_segmentation.imaging.volume import (
    BRIGHTEST,
    MOST_PIXELS,
    MOST_SLICES,
    SEQUENCES,
    Volume,
    page_names,
)
from brain_mri_segmentation.runtime.files import FileReader, Folder

SMALLEST_SIDE, LARGEST_SIDE = 32, 4096
_MAGIC = {
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "JPEG": (b"\xff\xd8\xff",),
    "TIFF": (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),  # the latter two are BigTIFF
}
_ZIP_ENTRY = b"PK\x01\x02"  # begins a file's line in the list at the end of a zip
_MOST_ENTRIES = 16 * MOST_SLICES  # of a zip, folders and hidden files among them
_MOST_UNPACKED = 4 * MOST_PIXELS  # bytes of all zips of a volume
_PHOTOMETRIC, _ORIENTATION, _SAMPLE_FORMAT = 262, 274, 339  # tags of TIFF and EXIF
_WHITE_IS_ZERO, _UPRIGHT, _SIGNED = 0, 1, 2

Files = dict[str, FileReader]
"""Readers of the files of a volume, in order, by path without ending."""

_Members = Sequence[tuple[str, bytes]]  # files with one or more slices of a volume, by name


class NotAnImage(InputError):  # noqa: N818 - says what it is
    """A file that is no picture and no volume by its own bytes."""


def read_volume(source: str | Path | bytes | Sequence[bytes], name: str = "volume") -> Volume:
    """Read one volume. What a file is is told by its own bytes, whatever its name says.

    Args:
        source: By its path, a file (a picture, a stack of pages, a NIfTI, NRRD or MetaImage file,
            DICOM, or a zip) or a folder; or the bytes of one file, or of several in their order.
            Pictures of a zip or folder are ordered by name; hidden ones and masks (``..._mask``)
            are left out. Of NIfTI, NRRD and MetaImage, one file is FLAIR or all three sequences;
            three are pre-contrast, FLAIR and post-contrast, in a zip or folder by their names. The
            DICOM files of a study are in any order (``dicom.read_study``).
        name: Of the volume, where the source has no path.

    Returns:
        The volume; a picture of more than 8 bits is brought to 8 on a scale that all slices share.

    Raises:
        NotAnImage: A file is none of these.
        InputError: There is nothing; a picture cannot be a slice or differs in size from the first;
            there are several volumes by the names, or more than 512 or too large slices.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            return _to_volume(path.name, _find(path))
        if not path.is_file():
            raise InputError(f"There is no file or folder {path}.")
        source, name = path.read_bytes(), without_ending(path.name)
    if isinstance(source, bytes):
        return _to_volume(name, _members(name, source), source)
    members: list[tuple[str, bytes]] = []
    room = _MOST_UNPACKED
    for number, content in enumerate(source, start=1):
        found = _members(f"{name}_{number}", content, room)
        room -= sum(len(file) for _, file in found)
        members += found
    if not members:
        raise InputError("There is no file. Send at least one.")
    nameless = len(source) > 1 and not any(map(is_zip, source))
    if nameless and any(kind_of(file) for _, file in members):
        if len(members) != len(SEQUENCES):
            raise InputError(
                f"There are {len(members)} files with a volume each. Send FLAIR alone, or three: "
                "pre-contrast, FLAIR, post-contrast."
            )
        files = dict(zip(SEQUENCES, (file for _, file in members), strict=True))
        notes = (f"file {n} was taken for {sequence}" for n, sequence in enumerate(files, start=1))
        return read_sequences(files, name, tuple(notes))
    return _to_volume(name, members)


def read_sequences(
    sequences: Mapping[str, bytes | str | Path],
    name: str = "volume",
    notes: tuple[str, ...] = (),
    series: Mapping[str, int] | None = None,
) -> Volume:
    """Read a volume of which it is known what each file holds.

    Args:
        sequences: Files, or of DICOM folders or zips with one series, by the names of
            ``SEQUENCES``, of which only FLAIR must be there.
        name: Of the volume.
        notes: What is to be said with its result.
        series: Numbers of DICOM series by the same names, where files hold several.

    Raises:
        InputError: A file cannot be read, or the sequences do not lie in the same place.
    """
    scans: dict[str, Scan] = {}
    members: list[tuple[str, bytes]] = []
    for sequence, source in sequences.items():
        try:
            files = _members(sequence, source) if isinstance(source, bytes) else _find(Path(source))
            number = (series or {}).get(sequence)
            members += [(f"{sequence}: series {number}", b""), *files]
            scans[sequence] = _read_scan(files, sequence, number)
        except InputError as error:
            raise type(error)(f"{sequence}: {error}") from error
        if scans[sequence].voxels.ndim > 3 and len(sequences) > 1:
            raise InputError(f"{sequence}: The file holds three sequences, and one is expected.")
    return assemble(name, scans, _digest(members), notes)


def _read_scan(members: _Members, sequence: str, number: int | None) -> Scan:
    if any(dicom.is_dicom(content) for _, content in members):
        return dicom.read_sequence((content for _, content in members), sequence, number)
    if len(members) != 1 or kind_of(members[0][1]) is None:
        raise NotAnImage("It is no NIfTI, NRRD, MetaImage or DICOM by its own bytes.")
    return read_scan(members[0][1])


class Unreadable(NamedTuple):
    """A file that is left out."""

    path: str
    reason: str


def find_volumes(*places: Folder, leave_out: Folder | None = None) -> dict[str, Files]:
    """Search folders for slices, stacks and zips.

    Args:
        places: Folders, searched with all that is in them, or single files. Of several, folders
            give their own names to what is in them; single files of DICOM have that of the folder
            that they are in.
        leave_out: What is in this folder, such as the results of an earlier run.

    Returns:
        For each volume by its name a reader of its files by their paths without ending, at most
        512 of pictures; files of one folder named ``<volume>_<number>`` are a volume (called
        ``<volume>-2`` where a file is called ``<volume>``), and so are NIfTI, NRRD and MetaImage
        files that differ by the sequence they name, and the DICOM files of a study; any other is
        by itself.

    Raises:
        InputError: A place does not exist or holds nothing, or two hold files of the same path.
    """
    files: Files = {}
    kinds: dict[str, str] = {}  # of each file: picture, grid, or its study
    for place in places:
        found: Files = {}
        is_file = place.is_file
        prefix = f"{place.name}/" if len(places) > 1 and not is_file else ""
        for name, read in place.files().items():
            ours = leave_out is not None and leave_out.holds(place, name)
            parent = PurePosixPath(place.path, "" if is_file else name).parent
            if ours or (kind := _kind_by_name(name, read, parent)) is None:
                continue
            if kind in ("picture", "grid"):
                path = prefix + without_ending(name)
            else:  # a study is named by the folder that holds its files
                path = str(PurePosixPath(parent.name, name)) if is_file else prefix + name
            path = prefix + name if path in found else path  # beside scan.tif is a scan.png
            found[path], kinds[path] = read, kind
        if not found:
            state = "holds no file that may be a slice or a volume"
            state = state if place.exists() else "does not exist"
            raise InputError(f"{place.path} {state}.")
        if both := files.keys() & found.keys():
            raise InputError(
                f"{place.path} holds a second {min(both)}, whose results would replace those of "
                "the first. Segment the places one by one, into folders of their own."
            )
        files |= found
    by_kind: dict[str, list[str]] = {"picture": [], "grid": []}
    for path in files:
        by_kind.setdefault(kinds[path], []).append(path)
    groups = group_volumes(by_kind.pop("picture"))
    for others in (group_sequences(by_kind.pop("grid")), group_studies(by_kind, places[0].name)):
        for name, paths in others.items():
            groups[free_name(name, groups)] = paths
    taken = {*groups, *files}
    return {
        # A stack is a volume that is called as its file, and no other may be.
        free_name(name, taken) if kinds.get(name) == "picture" and paths != [name] else name: {
            path: files[path] for path in paths
        }
        for name, paths in groups.items()
    }


def _kind_by_name(name: str, read: FileReader, folder: PurePosixPath) -> str | None:
    """Say how a file is grouped: ``picture``, ``grid``, or by its study; None: not at all."""
    if not may_be_slice(name) or not _may_hold_slices(name):
        return None
    if name.lower().endswith(GRID_ENDINGS):
        is_mask = sequence_of(PurePosixPath(without_ending(name)).name) == "mask"
        return None if is_mask else "grid"
    if name.lower().endswith(ENDINGS):
        return "picture"
    try:
        content = read()
    except InputError:  # said again when it is its turn
        return "picture"
    if not dicom.is_dicom(content):
        return None
    return f"study {dicom.study_of(content) or f'in {folder}'}"


def read_files(files: Mapping[str, FileReader], name: str) -> Iterator[Volume | Unreadable]:
    """Read what was found under the name of one volume, one file in memory beside its slices.

    Args:
        files: Readers of the files, in order, by path without ending.
        name: Of the volume whose slices are files of their own.

    Yields:
        A volume for each stack or zip, called as its file; what is left out; and at the end the
        volume of the single slices.
    """
    slices: dict[str, np.ndarray] = {}
    digests: list[tuple[str, bytes]] = []
    placed: list[tuple[str, bytes]] = []
    for path, read in files.items():
        try:
            members = _members(path, content := read())
            if _have_places(members):
                if is_zip(content):
                    yield _to_volume(path, members, content)
                else:
                    placed += members
                continue
            pages, names = _read(members)
            if not _holds_volume(content, pages):
                _check_same_size(pages, next(iter(slices.values()), pages[0]))
        except InputError as error:
            yield Unreadable(path, str(error))
            continue
        if _holds_volume(content, pages):
            yield Volume(_to_slices(pages), path, tuple(names), True, _digest(members))
        else:
            slices[path] = pages[0]
            digests.append((path, _digest(members).encode()))
    if slices:
        pages = list(slices.values())
        yield Volume(_to_slices(pages), name, tuple(slices), digest=_digest(digests))
    if placed:
        try:
            if slices:
                raise InputError(
                    f"{placed[0][0]} holds a volume, and other files slices of one of the same "
                    "name. Rename it."
                )
            yield _to_volume(name, placed)
        except InputError as error:
            yield Unreadable(name, str(error))


def read_slice(content: bytes) -> Volume:
    """Read a picture as a volume of one slice.

    Raises:
        NotAnImage: It is no TIFF, PNG or JPEG.
        InputError: It is one that cannot be a slice, or several.
    """
    pages = _read_pages(content, 1, MOST_PIXELS)
    if len(pages) > 1:
        raise InputError(
            "The file holds several pages, and one slice is expected. "
            "A stack is a volume, not a slice."
        )
    return Volume(_to_slices(pages), "slice")


def is_zip(content: bytes) -> bool:
    """Say whether a file is a zip by its own bytes; an empty one is, too."""
    return content.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def _to_volume(name: str, members: _Members, content: bytes = b"") -> Volume:
    """Make a volume of all files; ``content`` is the one that they came in, if it was one."""
    if any(dicom.is_dicom(file) for _, file in members):
        scans, notes = dicom.read_study(file for _, file in members)
        return assemble(name, scans, _digest(members), notes)
    if _have_places(members):
        return _by_their_names(name, members)
    pages, names = _read(members)
    in_one_file = bool(content) and _holds_volume(content, pages)
    return Volume(_to_slices(pages), name, tuple(names), in_one_file, _digest(members))


def _have_places(members: _Members) -> bool:
    """Say whether one of the files is of a kind that says where its voxels lie."""
    return any(kind_of(file) or dicom.is_dicom(file) for _, file in members)


def _by_their_names(name: str, members: _Members) -> Volume:
    """Read a volume of which the names of the files say what each holds."""
    taken: dict[str, tuple[str, bytes]] = {}
    for path, content in members:
        sequence = sequence_of(path.rpartition("/")[2])
        if sequence is None and len(members) == 1:
            sequence = "FLAIR"
        if sequence in taken:
            raise InputError(f"{taken[sequence][0]} and {path} are {sequence} by their names.")
        if sequence in SEQUENCES:
            taken[sequence] = path, content
    if "FLAIR" not in taken:
        names = ", ".join(path for path, _ in members)
        raise InputError(f"No file is FLAIR by its name ({names}). Name it with --flair.")
    if len(heads := group_sequences(path for path, _ in taken.values())) > 1:
        raise InputError(
            f"The files are of several heads by their names: {', '.join(heads)}. Names of one head "
            "differ by the sequence alone, as x_flair and x_t1."
        )
    notes = tuple(f"{path} was taken for {sequence}" for sequence, (path, _) in taken.items())
    files = {sequence: content for sequence, (_, content) in taken.items()}
    return read_sequences(files, name, notes if len(members) > 1 else ())


def _digest(members: _Members) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, content in members:
        digest.update(f"{len(name)} {name} {len(content)} ".encode())
        digest.update(content)
    return digest.hexdigest()


def _holds_volume(content: bytes, pages: Sequence[np.ndarray]) -> bool:
    """Say whether a file is a stack or a zip, rather than one slice."""
    return len(pages) > 1 or is_zip(content)


def _read(members: _Members) -> tuple[list[np.ndarray], list[str]]:
    """Return the pages of all files, as of ``_read_pages``, and their names."""
    pages: list[np.ndarray] = []
    names: list[str] = []
    room = MOST_PIXELS
    for number, (name, content) in enumerate(members, start=1):
        try:
            found = _read_pages(content, MOST_SLICES - len(pages), room)
            _check_same_size(found, (pages or found)[0])
        except InputError as error:
            if len(members) == 1:
                raise
            raise type(error)(f"File {number} of {len(members)}: {error}") from error
        pages += found
        names += page_names(name, len(found))
        room -= sum(page.shape[0] * page.shape[1] for page in found)
        if len(pages) > MOST_SLICES:
            raise InputError(f"The volume holds more than {MOST_SLICES} slices.")
    return pages, names


def _members(name: str, content: bytes, room: int = _MOST_UNPACKED) -> _Members:
    """Return a file, or those in it if it is a zip."""
    return _unzip(content, room) if is_zip(content) else [(name, content)]


def _find(path: Path) -> _Members:
    """Return the files of a folder, or a file, or those in it if it is a zip."""
    if path.is_file():
        return _members(without_ending(path.name), path.read_bytes())
    if not path.is_dir():
        raise InputError(f"There is no file or folder {path}.")
    files = Folder.at(str(path)).files()
    names = _in_order(files, "folder")
    return _check_one_volume(((name, files[name]()) for name in names), "folder")


def _unzip(content: bytes, room: int) -> _Members:
    """Return the files of a zip, at most ``room`` bytes."""
    if content.count(_ZIP_ENTRY) > _MOST_ENTRIES:  # zipfile would spend minutes on a long list
        raise InputError("The zip lists absurdly many files.")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            files = {info.filename: info for info in archive.infolist() if not info.is_dir()}
            wanted = [files[name] for name in _in_order(files, "zip")]
            if sum(info.file_size for info in wanted) > room:
                raise InputError("The zip is absurdly large once it is unpacked.")
            members = ((info.filename, _read_member(archive, info)) for info in wanted)
            return _check_one_volume(members, "zip")
    except (InputError, MemoryError):
        raise
    # zipfile and its decoders raise many kinds of errors, and all of them mean the same here.
    except Exception as error:
        raise InputError("The zip is broken, truncated or encrypted.") from error


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Return a file, of which no more is unpacked than the size that the zip says it has."""
    # Of the other methods, zipfile unpacks as much as there is before it looks at the size.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError("The zip is packed in an unusual way. Pack it with deflate.")
    with archive.open(info) as member:
        return member.read(info.file_size)


def _may_hold_slices(name: str) -> bool:
    """Say by a file's name whether it is worth a look; DICOM often has a number for an ending."""
    ending = PurePosixPath(name).suffix.lower()
    return name.lower().endswith(ENDINGS) or ending in ("", ".dcm", ".ima") or ending[1:].isdigit()


def _is_wanted(name: str, content: bytes) -> bool:
    """Say of a file in a folder or zip whether it is to be read: by its ending, or its bytes."""
    is_picture = any(map(content.startswith, _MAGIC.values()))
    return name.lower().endswith(ENDINGS) or is_picture or _have_places([(name, content)])


def _in_order(names: Iterable[str], place: str) -> list[str]:
    """Return the files that may be slices, in order.

    Raises:
        InputError: They are none or too many.
    """
    wanted = [name for name in names if may_be_slice(name) and _may_hold_slices(name)]
    _check_number(len(wanted), _MOST_ENTRIES, place)
    return sorted(wanted, key=natural_key)


def _check_number(files: int, most: int, place: str) -> None:
    if not 0 < files <= most:
        raise InputError(
            f"The {place} holds {files} files that may be slices; 1 to {MOST_SLICES} are taken."
        )


def _check_one_volume(found: Iterable[tuple[str, bytes]], place: str) -> _Members:
    """Return the files that are to be read, by their paths without ending.

    Raises:
        InputError: They are slices of several patients by their names, which would be scaled and
            segmented as one volume; or they are none or too many.
    """
    members = [member for member in found if _is_wanted(*member)]
    if not _have_places(members):
        if (volumes := count_volumes(name for name, _ in members)) > 1:
            raise InputError(
                f"The {place} holds files of {volumes} volumes by their names, and one is "
                f"expected. Make a {place} for each patient."
            )
        _check_number(len(members), MOST_SLICES, place)
    return [(without_ending(name), content) for name, content in members]


def _read_pages(content: bytes, most: int, room: int) -> list[np.ndarray]:
    """Return the pages of a file as (H, W, 3) uint8 or (H, W) of more bits, at most one too many.

    Args:
        content: The file.
        most: Pages that are wanted; reading stops after one more.
        room: Pixels that all pages together may have.
    """
    kind = _kind(content)
    check_counts(kind, content)
    pages: list[np.ndarray] = []
    try:
        picture = Image.open(io.BytesIO(content), formats=[kind])
        while len(pages) <= most:
            try:
                picture.seek(len(pages))
            except EOFError:
                break
            _check_size(picture.size)
            room -= picture.size[0] * picture.size[1]
            if room < 0:
                raise InputError(f"The slices have more than {MOST_PIXELS} pixels in all.")
            pages.append(_pixels(picture))
    except (InputError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise InputError("The picture is absurdly large once it is unpacked.") from None
    except UnidentifiedImageError:
        raise InputError(
            f"The file begins as {kind} but cannot be read as one. "
            "Send grey or RGB of 8 bits, or grey of 16 bits."
        ) from None
    # Pillow raises many kinds of errors on broken files, and all of them mean the same here.
    except Exception as error:
        raise InputError(f"The {kind} file is broken or truncated.") from error
    return pages


def _kind(content: bytes) -> str:
    if not content:
        raise InputError("The file is empty.")
    for kind, starts in _MAGIC.items():
        if content.startswith(starts):
            return kind
    if placed := "DICOM" if dicom.is_dicom(content) else kind_of(content):
        raise NotAnImage(f"The file is {placed}, which is a volume and not a slice.")
    if content.startswith(b"\x1f\x8b"):
        raise NotAnImage("The file is packed with gzip and no NIfTI. Unpack it.")
    if is_zip(content):
        raise NotAnImage("The file is a zip, which may be a volume but not a slice.")
    raise NotAnImage("The file is no TIFF, PNG or JPEG by its own bytes.")


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if not (min(size) >= SMALLEST_SIDE and max(size) <= LARGEST_SIDE):
        raise InputError(
            f"The picture is {width} x {height} pixels; "
            f"sides of {SMALLEST_SIDE} to {LARGEST_SIDE} are taken.",
        )


def _pixels(picture: Image.Image) -> np.ndarray:
    """Return (H, W, 3) uint8, or (H, W) for grey of more than 8 bits."""
    mode = picture.mode
    deep = mode in ("I", "F") or mode.startswith("I;16")
    _refuse_what_would_change(picture, deep)
    if mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        alpha = np.asarray(picture.convert("RGBA"))[..., 3]
        if alpha.min() < 255:
            raise InputError(
                "The picture has transparent pixels, whose intensity is not known. "
                "Save it without an alpha channel.",
            )
        return np.asarray(picture.convert("RGB"))
    if mode in ("RGB", "P"):
        return np.asarray(picture.convert("RGB"))
    if mode == "L":
        return np.repeat(np.asarray(picture)[..., None], 3, axis=2)
    if deep:
        grey = np.asarray(picture)
        if not np.isfinite(grey).all():
            raise InputError("The picture holds values that are not finite (NaN or infinity).")
        if grey.min() < 0:
            raise InputError("The picture holds negative values; MR intensities are not negative.")
        return grey
    names = {"CMYK": "CMYK, for printing", "1": "bilevel, which may be a mask"}
    raise InputError(
        f"The picture is {names.get(mode, mode)}. Send grey or RGB of 8 bits, or grey of 16 bits.",
    )


def _refuse_what_would_change(picture: Image.Image, deep: bool) -> None:
    """Refuse what Pillow reads as something else than the file says."""
    # Only pictures from files have tiles: where which bytes are, and how they are laid out.
    layout = " ".join(str(tile.args) for tile in getattr(picture, "tile", []))
    tags = picture.getexif()
    if ";16" in layout and not deep:
        raise InputError(
            "The picture has 16 bits in each of several channels. Send RGB of 8 bits, or grey."
        )
    if "X" in layout:
        raise InputError("The picture has more channels than grey or RGB. Send one or three.")
    if tags.get(_SAMPLE_FORMAT) == _SIGNED and picture.mode == "L":
        raise InputError("The picture has signed intensities of 8 bits. Send unsigned ones.")
    if deep and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        raise InputError("The picture says that white is zero. Invert it, and save it so.")
    if tags.get(_ORIENTATION, _UPRIGHT) != _UPRIGHT:
        raise InputError("The picture is to be turned or mirrored by its tag. Save it upright.")


def _check_same_size(pages: Sequence[np.ndarray], first: np.ndarray) -> None:
    for page in pages:
        if page.shape[:2] != first.shape[:2]:
            (height, width), (rows, columns) = page.shape[:2], first.shape[:2]
            raise InputError(
                f"The picture is {width} x {height} pixels, and the first slice of its volume "
                f"{columns} x {rows}. Slices of one volume have one size."
            )


def _to_slices(pages: Sequence[np.ndarray]) -> np.ndarray:
    """Return (N, H, W, 3) uint8; pages of more than 8 bits are brought to a scale they share."""
    deep = [page for page in pages if page.ndim == 2]
    brightest = max((np.percentile(page, BRIGHTEST) for page in deep), default=0)
    brightest = brightest or max((page.max() for page in deep), default=0) or 1
    return np.stack(
        [page if page.ndim == 3 else _to_8_bits(page, float(brightest)) for page in pages]
    )


def _to_8_bits(grey: np.ndarray, brightest: float) -> np.ndarray:
    scaled = np.clip(np.rint(grey.astype(np.float64) * (255 / brightest)), 0, 255)
    return np.repeat(scaled.astype(np.uint8)[..., None], 3, axis=2)
