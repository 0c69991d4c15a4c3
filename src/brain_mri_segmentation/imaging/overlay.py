"""A mask over its slice, as a picture."""

import numpy as np

from brain_mri_segmentation.imaging.intensity import FLAIR

ORANGE = "#E69F00"  # of Okabe and Ito's palette, which colour-blind readers can tell apart


def overlay(image: np.ndarray, mask: np.ndarray, opacity: float = 0.45) -> np.ndarray:
    """Lay a mask over FLAIR, in translucent orange.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) uint8, 0 or 255.
        opacity: Of the orange, 0..1.

    Returns:
        (H, W, 3) uint8.
    """
    grey = np.repeat(image[..., FLAIR, None].astype(np.float32), 3, axis=2)
    orange = np.array([int(ORANGE[i : i + 2], 16) for i in (1, 3, 5)], np.float32)
    return np.where(mask[..., None] > 0, (1 - opacity) * grey + opacity * orange, grey).astype(
        np.uint8
    )
