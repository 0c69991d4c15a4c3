"""What was found in a volume, as pictures and files."""

import io
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
from PIL import Image

from brain_mri_segmentation.imaging.intensity import FLAIR
from brain_mri_segmentation.imaging.overlay import overlay
from brain_mri_segmentation.imaging.volume import Volume

Picture = Literal["mask", "overlay", "probability", "image"]
"""The mask (grey, 0 and 255), FLAIR with the mask over it (RGB), the probability (grey, 255 for 1),
or FLAIR alone (grey)."""


def draw(
    picture: Picture, volume: Volume, mask: np.ndarray, probability: np.ndarray
) -> Iterator[np.ndarray]:
    """Draw one picture of each slice.

    Args:
        picture: Which.
        volume: The slices.
        mask: (N, H, W) uint8, 0 or 255.
        probability: (N, H, W) float32 in 0..1.

    Yields:
        (H, W) or (H, W, 3) uint8.
    """
    if picture == "mask":
        return iter(mask)
    if picture == "overlay":
        return map(overlay, volume.pictures, mask)
    if picture == "probability":
        return (np.rint(one * 255).astype(np.uint8) for one in probability)
    return iter(volume.pictures[..., FLAIR])


def to_files(volume: Volume, pictures: Iterable[np.ndarray]) -> Iterator[tuple[str, bytes]]:
    """Encode pictures of a volume as it came: as a stack in one TIFF, or each as a PNG.

    Yields:
        Name, after that of the volume or of the slice, and contents of each file.
    """
    if volume.in_one_file:
        yield f"{volume.name}.tif", to_tiff(pictures)
    else:
        for name, pixels in zip(volume.names, pictures, strict=True):
            yield f"{name}.png", to_png(pixels)


def to_png(pixels: np.ndarray) -> bytes:
    """Encode a picture."""
    buffer = io.BytesIO()
    # A quarter of the default level's time for a few hundredths more bytes.
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=2)
    return buffer.getvalue()


def to_tiff(pictures: Iterable[np.ndarray]) -> bytes:
    """Encode pictures as the pages of one TIFF file."""
    first, *others = [Image.fromarray(pixels) for pixels in pictures]
    buffer = io.BytesIO()
    first.save(buffer, "TIFF", save_all=True, append_images=others, compression="tiff_deflate")
    return buffer.getvalue()
