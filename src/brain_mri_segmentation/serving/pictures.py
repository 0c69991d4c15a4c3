"""Results as files: PNG pictures, multi-page TIFF, run-length encoding."""

import io

import numpy as np
from PIL import Image

from brain_mri_segmentation.figures import overlay
from brain_mri_segmentation.inference import Segmentation
from brain_mri_segmentation.preprocessing import FLAIR


def _mask_png(image: np.ndarray, result: Segmentation) -> bytes:  # noqa: ARG001
    return _png(result.mask)


def _probability_png(image: np.ndarray, result: Segmentation) -> bytes:  # noqa: ARG001
    return _png(np.rint(result.probability * 255).astype(np.uint8))


def _image_png(image: np.ndarray, result: Segmentation) -> bytes:  # noqa: ARG001
    return _png(np.ascontiguousarray(image[..., FLAIR]))


def _overlay_png(image: np.ndarray, result: Segmentation) -> bytes:
    return _png(overlay(image, result.mask))


DRAW = {
    "mask": _mask_png,
    "overlay": _overlay_png,
    "probability": _probability_png,
    "image": _image_png,
}
"""PNG of a slice (H, W, 3) uint8 and its result: the mask (grey, 0 and 255), FLAIR with the mask
over it (RGB), the probability (grey, 255 for 1), FLAIR alone (grey)."""


def masks_tiff(results: list[Segmentation]) -> bytes:
    """Return all masks as the pages of one TIFF file."""
    pages = [Image.fromarray(result.mask) for result in results]
    buffer = io.BytesIO()
    pages[0].save(
        buffer, "TIFF", save_all=True, append_images=pages[1:], compression="tiff_deflate"
    )
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


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
