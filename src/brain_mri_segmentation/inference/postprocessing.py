"""From a model's probabilities to a mask in the size of its slice."""

import numpy as np
from PIL import Image
from scipy import ndimage, special

from brain_mri_segmentation.imaging.geometry import crop_or_pad, model_shape
from brain_mri_segmentation.imaging.volume import Volume


def probability_of(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Return the probability, float32 in 0..1, of logits that a temperature divides."""
    return special.expit(logits / np.float32(temperature))


def remove_small_components(
    probabilities: np.ndarray,
    threshold: float,
    min_component_ratio: float,
    min_component_size: float = 0,
) -> np.ndarray:
    """Take away the components of a volume that weigh little, alone or beside its heaviest one.

    A glioma is mostly one body, and false alarms mostly lie apart: the idea behind nnU-Net's choice
    to keep the largest component alone (Isensee et al. 2021). A component weighs the sum of its
    probabilities, so a large one of which the model is in doubt does not outweigh the tumour.

    Args:
        probabilities: (N, S, S) float32 in 0..1, neighbouring slices in order.
        threshold: Probability from which a pixel belongs to a component. Pixels that touch by a
            side, an edge or a corner, also across slices, are of one component.
        min_component_ratio: Components that weigh less than this share of the heaviest one are
            removed. In a single slice, which does not show what hangs together, all may stay.
        min_component_size: Components that weigh less than this many certain pixels are removed.

    Returns:
        (N, S, S) float32: 0 in the removed components.
    """
    found = probabilities >= threshold
    if (box := bounding_box(found)) is None:
        return probabilities
    components, _ = ndimage.label(found[box], structure=np.ones((3, 3, 3)))
    weights = np.bincount(components.ravel(), probabilities[box].ravel())
    weights[0] = np.inf  # what lies outside of all components stays
    ratio = min_component_ratio if len(probabilities) > 1 else 0
    removed = weights < max(ratio * weights[1:].max(), min_component_size)
    kept = probabilities.copy()
    kept[box][removed[components]] = 0
    return kept


def bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """Return the smallest box around all that is True in a mask; None where nothing is.

    To label components in it alone takes a small part of the time.
    """
    box: tuple[slice, ...] | None = ndimage.find_objects(mask.view(np.uint8), 1)[0]
    return box


def from_model_grid(probabilities: np.ndarray, volume: Volume) -> np.ndarray:
    """Bring what a model gives back to the size of the slices: ``to_model_grid`` undone.

    Args:
        probabilities: (N, S, S) float32 in 0..1.
        volume: What they are of.

    Returns:
        (N, H, W) float32 in 0..1, 0 where the model did not look; by bilinear interpolation.
    """
    height, width = volume.slices.shape[1:3]
    shape = model_shape(height, width, probabilities.shape[1], volume.spacing)
    if shape == (height, width) == probabilities.shape[1:]:
        return probabilities
    seen = (Image.fromarray(crop_or_pad(one, *shape)) for one in probabilities)
    resized = [one.resize((width, height), Image.Resampling.BILINEAR) for one in seen]
    return np.stack([np.clip(np.asarray(one), 0, 1) for one in resized])


def probability_to_mask(probability: np.ndarray, threshold: float) -> np.ndarray:
    """Binarise a probability map.

    Args:
        probability: (..., H, W) in 0..1.
        threshold: Probability from which a pixel belongs to the tumour.

    Returns:
        (..., H, W) uint8, 0 or 255.
    """
    return np.where(probability >= threshold, np.uint8(255), np.uint8(0))
