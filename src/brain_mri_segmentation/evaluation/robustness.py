"""How much a model loses when slices are worse than those that it learnt from."""

import logging
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import ndimage

from brain_mri_segmentation.cohort.index import SliceReader, Slices
from brain_mri_segmentation.evaluation.metrics import summarise
from brain_mri_segmentation.evaluation.scoring import score_masks, segment_slices
from brain_mri_segmentation.imaging.intensity import FLAIR, resize_image
from brain_mri_segmentation.inference.predictor import Predictor

logger = logging.getLogger(__name__)

METRICS = [
    *("dice", "dice_median", "dice_pooled", "dice_tumour_slices", "dice_small_tumours"),
    "empty_slice_fp_rate",
]
"""Those of ``metrics.summarise`` that are reported under each condition."""


@dataclass(frozen=True)
class Condition:
    """Something that may happen to a slice before the model sees it.

    Attributes:
        change: Gives the changed slice, uint8, for a slice (H, W, 3) uint8 and a source of
            randomness.
        alone: Each slice comes by itself, without the volume that it is of.
    """

    change: Callable[[np.ndarray, np.random.Generator], np.ndarray]
    alone: bool = False


def _noise(deviation: float) -> Condition:
    def change(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        return _to_grey_levels(image + random.normal(0, deviation, image.shape))

    return Condition(change)


def _gamma(exponent: float) -> Condition:
    return Condition(lambda image, _: _to_grey_levels(255 * (image / 255) ** exponent))


def _contrast(factor: float) -> Condition:
    def change(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
        mean = image.mean(axis=(0, 1))
        return _to_grey_levels(mean + factor * (image - mean))

    return Condition(change)


def _blur(deviation: float) -> Condition:
    return Condition(lambda image, _: ndimage.gaussian_filter(image, (deviation, deviation, 0)))


def _to_grey_levels(values: np.ndarray) -> np.ndarray:
    return values.round().clip(0, 255).astype(np.uint8)


AS_IT_IS = "as it is"
CONDITIONS = {
    AS_IT_IS: Condition(lambda image, _: image),
    "each slice alone": Condition(lambda image, _: image, alone=True),
    "noise, deviation 5 of 255": _noise(5),
    "noise, deviation 10 of 255": _noise(10),
    "blur, deviation 1 pixel": _blur(1),
    "contrast 0.7": _contrast(0.7),
    "contrast 1.3": _contrast(1.3),
    "gamma 0.7": _gamma(0.7),
    "gamma 1.4": _gamma(1.4),
    "FLAIR alone": Condition(lambda image, _: np.repeat(image[..., [FLAIR]], 3, axis=2)),
    "128 x 128 pixels": Condition(lambda image, _: resize_image(image, 128, 128)),
}
"""What is tried, by name; the first is the reference."""


def score_conditions(
    predictor: Predictor,
    images: Slices,
    masks: Slices,
    batch_size: int = 16,
    seed: int = 0,
) -> pd.DataFrame:
    """Score a model under each of ``CONDITIONS``.

    Args:
        predictor: The model.
        images: Readers of (H, W, 3) uint8 by slice name.
        masks: Readers of (H, W) uint8 by slice name.
        batch_size: Slices in one forward pass.
        seed: Seed of the noise; each slice has noise of its own.

    Returns:
        One row a condition: ``condition``, ``METRICS``, and ``lost``, the mean Dice as it is less
        that under the condition.
    """
    rows = []
    for name, condition in CONDITIONS.items():
        changed = {
            slice_name: _reader(read, condition, slice_name, seed)
            for slice_name, read in images.items()
        }
        found = segment_slices(predictor, changed, batch_size, condition.alone)
        summary = summarise(score_masks(found, masks))
        rows.append({"condition": name} | {metric: summary[metric] for metric in METRICS})
        logger.info("%s: mean Dice %.3f", name, summary["dice"])
    table = pd.DataFrame(rows)
    return table.assign(lost=table["dice"].iloc[0] - table["dice"])


def _reader(read: SliceReader, condition: Condition, name: str, seed: int) -> SliceReader:
    def changed() -> np.ndarray:
        return condition.change(read(), np.random.default_rng((seed, zlib.crc32(name.encode()))))

    return changed
