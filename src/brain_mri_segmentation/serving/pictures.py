"""Results as files: PNG pictures, multi-page TIFF, run-length encoding."""

import base64
import io
from collections.abc import Iterable

import numpy as np
from PIL import Image

from brain_mri_segmentation.imaging.intensity import FLAIR
from brain_mri_segmentation.imaging.overlay import overlay
from brain_mri_segmentation.inference.predictor import Segmentation


def _mask(image: np.ndarray, result: Segmentation) -> np.ndarray:  # noqa: ARG001
    return result.mask


def _probability(image: np.ndarray, result: Segmentation) -> np.ndarray:  # noqa: ARG001
    return np.rint(result.probability * 255).astype(np.uint8)


def _image(image: np.ndarray, result: Segmentation) -> np.ndarray:  # noqa: ARG001
    return np.ascontiguousarray(image[..., FLAIR])


def _overlay(image: np.ndarray, result: Segmentation) -> np.ndarray:
    return overlay(image, result.mask)


DRAW = {"mask": _mask, "overlay": _overlay, "probability": _probability, "image": _image}
"""Pixels, uint8, of a slice (H, W, 3) uint8 and its result: the mask (grey, 0 and 255), FLAIR with
the mask over it (RGB), the probability (grey, 255 for 1), FLAIR alone (grey)."""


def png(pixels: np.ndarray) -> bytes:
    """Encode a picture."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def png_url(pixels: np.ndarray) -> str:
    """Encode a picture as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(png(pixels)).decode()}"


def tiff(pictures: Iterable[np.ndarray]) -> bytes:
    """Encode pictures as the pages of one TIFF file."""
    first, *others = [Image.fromarray(pixels) for pixels in pictures]
    buffer = io.BytesIO()
    first.save(buffer, "TIFF", save_all=True, append_images=others, compression="tiff_deflate")
    return buffer.getvalue()


def run_lengths(mask: np.ndarray) -> list[int]:
    """Encode a mask row by row: lengths of runs, background first (0 if the first pixel is tumour).

    Args:
        mask: (H, W) uint8, 0 or 255.
    """
    flat = mask.ravel() > 0
    changes = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return [0, *lengths] if flat[0] else lengths


def figures(result: Segmentation) -> dict[str, object]:
    """Return the figures of a result with its mask in run-length encoding."""
    height, width = result.mask.shape
    return {
        "height": height,
        "width": width,
        "tumour_pixels": result.tumour_pixels,
        "tumour_fraction": result.tumour_fraction,
        "confidence": result.confidence,
        "review": result.review,
        "mask": {"encoding": "row-major runs, background first", "runs": run_lengths(result.mask)},
    }
