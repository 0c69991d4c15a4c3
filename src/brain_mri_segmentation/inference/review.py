"""What speaks for a person to look at a slice, or at a whole volume."""

import numpy as np
from scipy import ndimage

from brain_mri_segmentation.imaging.intensity import FLAIR
from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.inference.postprocessing import bounding_box
from brain_mri_segmentation.parameters import PreprocessingParameters

POSSIBLE = 0.2
"""Probability from which a pixel may be tumour, when the model says how good its mask is."""
_LEAST_DOUBT = 0.02  # masks that agree wholly may be wrong as well; 0 to 0.1 make no difference
_LEAST_EXPECTED = 0.85  # of a volume; of 19 with less, out of fold, 14 had a Dice below 0.7
_FEWEST_POSSIBLE_PIXELS = 50  # in a volume without a mask, less than this is noise
# Of the 3,542 slices of the public cohort at hand, those with a brain in them lie within these.
_DARKEST_DEVIATION = 2.0  # grey levels; below, there is nothing in the picture
_DARKEST_SLICE = 0.1  # mean of a slice over that of the brightest; below, it is outside of the head
_BRIGHTEST_BORDER = 0.9  # mean of the border over mean of the centre; a photograph has about 1


def expected_dice(
    probabilities: np.ndarray, kept: np.ndarray, threshold: float
) -> tuple[np.ndarray, float]:
    """Estimate the Dice of a volume and of each of its slices without knowing the truth.

    The soft Dice confidence 2 sum(p m) / (sum(p) + sum(m)) of mask m and probability p (Borges et
    al. 2024), of pixels that may be tumour. Of those that a volume has elsewhere the model decided
    that they are none, so only what hangs together with the mask counts; without any mask, all.

    Args:
        probabilities: (N, S, S) float32 in 0..1, neighbouring slices in order.
        kept: The same, 0 in components that were dropped (``remove_small_components``).
        threshold: Probability from which a pixel belongs to the mask.

    Returns:
        (N,) float64 in 0..1, NaN for a slice without mask where nothing may be tumour; and that of
        all slices together.
    """
    mask = kept >= threshold
    found = (probabilities > POSSIBLE) | mask
    both, either = np.zeros((2, len(mask)))
    if (box := bounding_box(found)) is not None:
        components, count = ndimage.label(found[box], structure=np.ones((3, 3, 3)))
        inside = mask[box]
        if inside.any():
            counts = np.isin(np.arange(count + 1), components[inside])
        else:
            counts = np.bincount(components.ravel()) >= _FEWEST_POSSIBLE_PIXELS
        counts[0] = False  # what lies outside of all components
        possible = np.where(counts[components], probabilities[box], 0).astype(np.float64)
        both[box[0]] = (possible * inside).sum(axis=(1, 2))
        either[box[0]] = possible.sum(axis=(1, 2)) + inside.sum(axis=(1, 2))
    total = float(2 * both.sum() / either.sum()) if either.any() else float("nan")
    return 2 * both / np.where(either > 0, either, np.nan), total


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Dice of two masks (N, S, S) bool of one volume; NaN where both are empty.

    Those of a volume and of its mirror image tell a bad mask much better than the probabilities do:
    where a network has learnt nothing, its answers differ.
    """
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return 2 * np.count_nonzero(first & second) / total if total else float("nan")


def doubt(agreement: float) -> float:
    """Return the doubt about a volume on whose mask two views agree so far; NaN for NaN."""
    return 1 - agreement + _LEAST_DOUBT


def shows_head(volume: Volume) -> np.ndarray:
    """Say which slices show something of the head, (N,) bool.

    Of a volume with a geometry, those above and below the head are dark and nothing is wrong with
    them; of pictures, which someone chose, all should show it.
    """
    if volume.geometry is None:
        return np.ones(len(volume), bool)
    brightness = volume.pictures[..., FLAIR].mean(axis=(1, 2))
    return brightness >= _DARKEST_SLICE * brightness.max()


def reason_to_review_volume(
    mask: np.ndarray, agreement: float, expected: float, rules: PreprocessingParameters
) -> str | None:
    """Say why a person should look at all slices of a volume; None when nothing speaks for it.

    Args:
        mask: (N, H, W), non-zero in tumour.
        agreement: Of the masks of the volume and of its mirror image; NaN where it is not known.
        expected: Dice that the model expects of all slices together; NaN where nothing may be
            tumour. A single slice has a rule of its own.
        rules: The agreement that is expected.
    """
    if len(mask) > 1 and not mask.any():
        return "no tumour was found in any slice"
    if agreement < rules.review_agreement:  # not so for NaN
        return (
            "the model contradicts itself: the masks of the volume and of its mirror image have a "
            f"Dice of {agreement:.2f} with each other"
        )
    if len(mask) > 1 and expected < _LEAST_EXPECTED:
        return f"the model is uncertain: it expects a Dice of {expected:.2f} of all slices together"
    return None


def reason_to_review(
    image: np.ndarray, expected: float, rules: PreprocessingParameters
) -> str | None:
    """Say why a person should look at a slice; None when nothing speaks for it.

    Args:
        image: (H, W, 3) uint8.
        expected: Dice that the model expects of its mask; 0 without a mask where something may be
            tumour, NaN where nothing may be.
        rules: How much may be missing from 1.
    """
    # A mean over the last axis would take ten times as long.
    grey = (np.add(image[..., 0], image[..., 1], dtype=np.uint16) + image[..., 2]) / 3
    if grey.std() < _DARKEST_DEVIATION:
        return "the picture is almost empty"
    height, width = grey.shape
    centre = grey[height // 4 : -(height // 4), width // 4 : -(width // 4)].mean()
    edge = max(1, min(height, width) // 32)
    border = np.concatenate(
        [grey[:edge].ravel(), grey[-edge:].ravel(), grey[:, :edge].ravel(), grey[:, -edge:].ravel()]
    ).mean()
    if border > _BRIGHTEST_BORDER * centre:
        return "the picture does not look like a brain MRI slice: its border is not darker"
    if expected == 0:
        return "nothing was found, but something may be tumour"
    if 1 - expected > rules.review_uncertainty:  # not so for NaN
        return f"the model is uncertain: it expects a Dice of {expected:.2f} of its own mask"
    return None
