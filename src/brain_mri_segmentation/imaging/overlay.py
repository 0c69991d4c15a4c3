"""A mask over its slice, as a picture."""

import numpy as np
from scipy import ndimage

from brain_mri_segmentation.imaging.intensity import FLAIR

ORANGE = "#E69F00"  # of Okabe and Ito's palette, which colour-blind readers can tell apart
_RGB = tuple(bytes.fromhex(ORANGE[1:]))


def overlay(image: np.ndarray, mask: np.ndarray, opacity: float = 0.45) -> np.ndarray:
    """Lay a mask over FLAIR, in translucent orange.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) uint8, 0 or 255.
        opacity: Of the orange, 0..1.

    Returns:
        (H, W, 3) uint8.
    """
    flair, tumour = image[..., FLAIR], mask > 0
    result = np.repeat(flair[..., None], 3, axis=2)
    blended = (1 - opacity) * flair[tumour, None].astype(np.float32)
    result[tumour] = blended + opacity * np.array(_RGB, np.float32)
    return result


def contour(mask: np.ndarray, width: int = 2) -> np.ndarray:
    """Draw the border of a mask, which lies inside of it, in orange on nothing.

    Args:
        mask: (H, W), 0 outside.
        width: Of the line, in pixels.

    Returns:
        (H, W, 4) uint8, RGB and opacity.
    """
    inside = mask > 0
    border = inside & ~ndimage.binary_erosion(inside, iterations=width)
    return np.where(border[..., None], np.array((*_RGB, 255), np.uint8), np.uint8(0))
