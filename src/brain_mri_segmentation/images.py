"""What a picture file may be, and how it becomes a slice.

| file | becomes |
|---|---|
| RGB, 8 bits | itself: pre-contrast, FLAIR, post-contrast |
| grey | the grey three times, as the cohort's authors repeat FLAIR for a missing sequence |
| palette, 8 bits | its colours |
| with an alpha channel that is opaque everywhere | without it |
| 16-bit or float grey | scaled so that 0 to its own 99.9th percentile fill 8 bits; then as grey |
| transparent, CMYK, bilevel, negative or not finite values | refused with the reason |
"""

import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from brain_mri_segmentation.errors import InputError

SMALLEST_SIDE, LARGEST_SIDE = 32, 4096
_MAGIC = {
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "JPEG": (b"\xff\xd8\xff",),
    "TIFF": (b"II*\x00", b"MM\x00*"),
}
_BRIGHTEST = 99.9  # percentile that becomes 255 in a picture of more than 8 bits


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
    slices = read_slices(content)
    if len(slices) != 1:
        raise InputError(
            f"The file holds {len(slices)} pages, and one slice is expected. "
            "A stack is a volume, not a slice.",
        )
    return slices[0]


def read_slices(content: bytes, most: int = 512) -> list[np.ndarray]:
    """Read every page of a file.

    Args:
        content: The file.
        most: Pages from which it is refused.

    Returns:
        (H, W, 3) uint8 each.

    Raises:
        InputError: As in ``read_slice``, and for too many pages.
    """
    if not content:
        raise InputError("The file is empty.")
    kinds = [name for name, starts in _MAGIC.items() if content.startswith(starts)]
    if not kinds:
        raise NotAnImage("The file is no TIFF, PNG or JPEG by its own bytes.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(content), formats=kinds)
            _check_size(picture.size)
            pages = getattr(picture, "n_frames", 1)
            if pages > most:
                raise InputError(f"The file holds {pages} pages; at most {most} are taken.")
            slices = []
            for page in range(pages):
                if pages > 1:
                    picture.seek(page)
                    _check_size(picture.size)
                slices.append(_to_slice(picture))
            return slices
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError("The picture is absurdly large once it is unpacked.") from None
    except UnidentifiedImageError:
        raise InputError(f"The file begins as {kinds[0]} but cannot be read as one.") from None
    except InputError:
        raise
    # Pillow raises many kinds of errors on broken files, and all of them mean the same here.
    except Exception as error:
        raise InputError(f"The {kinds[0]} file is broken or truncated.") from error


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if not (min(size) >= SMALLEST_SIDE and max(size) <= LARGEST_SIDE):
        raise InputError(
            f"The picture is {width} x {height} pixels; "
            f"sides of {SMALLEST_SIDE} to {LARGEST_SIDE} are taken.",
        )


def _to_slice(picture: Image.Image) -> np.ndarray:
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        alpha = np.asarray(picture.convert("RGBA"))[..., 3]
        if alpha.min() < 255:
            raise InputError(
                "The picture has transparent pixels, whose intensity is not known. "
                "Save it without an alpha channel.",
            )
        return np.asarray(picture.convert("RGB"))
    if picture.mode in ("RGB", "P"):
        return np.asarray(picture.convert("RGB"))
    if picture.mode == "L":
        return np.repeat(np.asarray(picture)[..., None], 3, axis=2)
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        return np.repeat(_to_8_bits(np.asarray(picture))[..., None], 3, axis=2)
    names = {"CMYK": "CMYK, for printing", "1": "bilevel, which may be a mask"}
    raise InputError(
        f"The picture is {names.get(picture.mode, picture.mode)}. "
        "Send grey or RGB of 8 bits, or grey of 16 bits.",
    )


def _to_8_bits(grey: np.ndarray) -> np.ndarray:
    grey = grey.astype(np.float64)
    if not np.isfinite(grey).all():
        raise InputError("The picture holds values that are not finite (NaN or infinity).")
    if grey.min() < 0:
        raise InputError("The picture holds negative values; MR intensities are not negative.")
    brightest = np.percentile(grey, _BRIGHTEST) or grey.max() or 1.0
    return np.clip(np.rint(grey * (255 / brightest)), 0, 255).astype(np.uint8)
