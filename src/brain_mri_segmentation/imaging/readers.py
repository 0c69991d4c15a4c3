"""What a picture file may be, and how it becomes a slice.

| file | becomes |
|---|---|
| RGB, 8 bits | itself: pre-contrast, FLAIR, post-contrast |
| grey | the grey three times, as the cohort's authors repeat FLAIR for a missing sequence |
| palette, 8 bits | its colours |
| with an alpha channel that is opaque everywhere | without it |
| grey of more bits, or float | scaled: 0 to its 99.9th percentile fill 8 bits; then as grey |
| what a decoder would change in silence, or what no slice can be | refused with the reason |
"""

import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image, UnidentifiedImageError

from brain_mri_segmentation.errors import InputError

SMALLEST_SIDE, LARGEST_SIDE = 32, 4096
MOST_SLICES = 512  # of a volume, which is held in memory
MOST_PIXELS = 64 * 2**20  # of a whole volume: 1,024 slices of 256 x 256
_MAGIC = {
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "JPEG": (b"\xff\xd8\xff",),
    "TIFF": (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),  # the latter two are BigTIFF
}
_BRIGHTEST = 99.9  # percentile that becomes 255 in a picture of more than 8 bits
_PHOTOMETRIC, _ORIENTATION, _SAMPLE_FORMAT = 262, 274, 339  # tags of TIFF and EXIF
_WHITE_IS_ZERO, _UPRIGHT, _SIGNED = 0, 1, 2


class NotAnImage(InputError):  # noqa: N818 - says what it is
    """A file that is no TIFF, PNG or JPEG by its own bytes."""


def read_slice(content: bytes) -> np.ndarray:
    """Read one slice.

    Args:
        content: The file. What it is is told by its first bytes alone, whatever its name says.

    Returns:
        (H, W, 3) uint8.

    Raises:
        NotAnImage: It is no TIFF, PNG or JPEG.
        InputError: It is one that cannot be a slice; the message says why.
    """
    return _to_slices([_read_page(content)])[0]


def read_slices(
    files: Mapping[str, Callable[[], bytes]],
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read the slices of one volume, each a file of its own, and leave out what is none.

    Args:
        files: Readers of the files by name; one that raises ``InputError`` is left out, too.

    Returns:
        (H, W, 3) uint8 by name, on one scale where they have more than 8 bits; and what is wrong
        with the others, by name.
    """
    pages: dict[str, np.ndarray] = {}
    problems: dict[str, str] = {}
    for name, read in files.items():
        try:
            pages[name] = _read_page(read())
        except InputError as error:
            problems[name] = str(error)
    return dict(zip(pages, _to_slices(list(pages.values())), strict=True)), problems


def read_volume(contents: Sequence[bytes]) -> list[np.ndarray]:
    """Read the slices of one volume, which share the scale of what has more than 8 bits.

    Args:
        contents: Files of one or more pages each, in their order.

    Returns:
        (H, W, 3) uint8 each.

    Raises:
        NotAnImage: A file is no TIFF, PNG or JPEG.
        InputError: A page cannot be a slice, or there are more than 512 or too large ones.
    """
    pages: list[np.ndarray] = []
    room = MOST_PIXELS
    for number, content in enumerate(contents, start=1):
        try:
            found = _read_pages(content, MOST_SLICES - len(pages), room)
        except InputError as error:
            if len(contents) == 1:
                raise
            raise type(error)(f"File {number} of {len(contents)}: {error}") from error
        pages += found
        room -= sum(page.shape[0] * page.shape[1] for page in found)
        if len(pages) > MOST_SLICES:
            raise InputError(f"The volume holds more than {MOST_SLICES} slices.")
    return _to_slices(pages)


def is_zip(content: bytes) -> bool:
    """Say whether a file is a zip by its own bytes; an empty one is, too."""
    return content.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def _read_page(content: bytes) -> np.ndarray:
    """Return the one page of a file, as ``_read_pages`` does."""
    pages = _read_pages(content, 1, MOST_PIXELS)
    if len(pages) > 1:
        raise InputError(
            "The file holds several pages, and one slice is expected. "
            "A stack is a volume, not a slice."
        )
    return pages[0]


def _read_pages(content: bytes, most: int, room: int) -> list[np.ndarray]:
    """Return the pages of a file as (H, W, 3) uint8 or (H, W) of more bits, at most one too many.

    Args:
        content: The file.
        most: Pages that are wanted; reading stops after one more.
        room: Pixels that all pages together may have.
    """
    kind = _kind(content)
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
    except InputError:
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
    if content[128:132] == b"DICM":
        raise NotAnImage("The file is DICOM. Export the slice as TIFF or PNG.")
    if content[344:348] in (b"n+1\0", b"ni1\0"):
        raise NotAnImage("The file is NIfTI. Export its slices as TIFF or PNG.")
    if content.startswith(b"\x1f\x8b"):
        raise NotAnImage("The file is packed with gzip, as NIfTI is. Send TIFF or PNG.")
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
    # Only pictures from files have tiles: where which bytes stand, and how they are laid out.
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


def _to_slices(pages: list[np.ndarray]) -> list[np.ndarray]:
    """Bring pages of more than 8 bits to (H, W, 3) uint8, on a scale that they share."""
    deep = [page for page in pages if page.ndim == 2]
    brightest = max((np.percentile(page, _BRIGHTEST) for page in deep), default=0)
    brightest = brightest or max((page.max() for page in deep), default=0) or 1
    return [page if page.ndim == 3 else _to_8_bits(page, float(brightest)) for page in pages]


def _to_8_bits(grey: np.ndarray, brightest: float) -> np.ndarray:
    scaled = np.clip(np.rint(grey.astype(np.float64) * (255 / brightest)), 0, 255)
    return np.repeat(scaled.astype(np.uint8)[..., None], 3, axis=2)
