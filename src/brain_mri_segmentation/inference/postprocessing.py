"""From a model's probabilities to a mask in the size of its slice."""

import numpy as np
from PIL import Image
from scipy import ndimage


def remove_small_components(
    probabilities: np.ndarray, threshold: float, min_component_ratio: float
) -> np.ndarray:
    """Take away the tumour regions of a volume that are small beside its largest one.

    A glioma is mostly one body, and false alarms are mostly small and lie apart: the idea behind
    nnU-Net's choice to keep the largest region alone (Isensee et al. 2021), less strict.

    Args:
        probabilities: (N, S, S) float32 in 0..1, neighbouring slices in order.
        threshold: Probability from which a pixel belongs to a region. Pixels that touch by a
            side, an edge or a corner, also across slices, are of one region.
        min_component_ratio: Regions with fewer pixels than this share of the largest are dropped.

    Returns:
        (N, S, S) float32: 0 in the dropped regions. ``probabilities`` itself when there are none,
        or when it is of one slice, which does not show what hangs together in the volume.
    """
    if len(probabilities) == 1:
        return probabilities
    above = probabilities >= threshold
    regions, count = ndimage.label(above, structure=np.ones((3, 3, 3)))
    if count < 2:
        return probabilities
    pixels = np.bincount(regions.ravel())
    pixels[0] = 0  # what lies outside of all regions
    dropped = pixels < min_component_ratio * pixels.max()
    dropped[0] = False
    return np.where(dropped[regions], np.float32(0), probabilities)


def resize_probability(probability: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a probability map bilinearly.

    Args:
        probability: (S, S) float32 in 0..1.
        height: Rows of the result.
        width: Columns of the result.

    Returns:
        (height, width) float32 in 0..1; ``probability`` itself when it has that size.
    """
    if probability.shape == (height, width):
        return probability
    resized = Image.fromarray(probability).resize((width, height), Image.Resampling.BILINEAR)
    return np.clip(np.asarray(resized), 0, 1)


def probability_to_mask(probability: np.ndarray, threshold: float) -> np.ndarray:
    """Binarise a probability map.

    Args:
        probability: (..., H, W) in 0..1.
        threshold: Probability from which a pixel belongs to the tumour.

    Returns:
        (..., H, W) uint8, 0 or 255.
    """
    return np.where(probability >= threshold, np.uint8(255), np.uint8(0))
