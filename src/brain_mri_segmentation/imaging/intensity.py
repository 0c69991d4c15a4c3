"""The one way from pixels to what a network sees, for training, evaluation and serving.

A slice goes through ``resize_image`` (of a volume ``to_model_grid``) -> ``normalise``; the
way back is in ``inference.postprocessing``. The normalisation is
the public U-Net's for this cohort (Buda et al. 2019): intensities of a volume are clipped to two
percentiles and scaled to mean 0 and standard deviation 1, here per channel.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image

from brain_mri_segmentation.imaging.geometry import crop_or_pad, model_shape
from brain_mri_segmentation.imaging.volume import Volume

if TYPE_CHECKING:
    import torch

Array = TypeVar("Array", np.ndarray, "torch.Tensor")

CHANNELS = 3  # pre-contrast, FLAIR, post-contrast
FLAIR = 1  # in which the tumour is bright
_LEVELS = 256  # intensities of uint8
_NOTHING = np.zeros((CHANNELS, _LEVELS), dtype=np.int64)


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a slice with antialiasing.

    Args:
        image: (H, W, 3) uint8 or float32.
        height: Rows of the result.
        width: Columns of the result.

    Returns:
        (height, width, 3) of the same dtype; ``image`` itself when it has that size.
    """
    if image.shape[:2] == (height, width):
        return image
    if image.dtype != np.uint8:  # Pillow has pictures of floats with one channel alone
        return np.stack([_resize(image[..., channel], height, width) for channel in range(3)], -1)
    return _resize(image, height, width)


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def to_model_grid(volume: Volume, size: int) -> np.ndarray:
    """Bring the slices of a volume to the square that a model sees (``geometry.model_shape``).

    Returns:
        (N, size, size, 3) uint8 or float32, as the volume's slices.
    """
    height, width = volume.slices.shape[1:3]
    shape = model_shape(height, width, size, volume.spacing)
    fill = 0.0 if volume.geometry is None else float(volume.slices.min())
    resized = (resize_image(image, *shape) for image in volume.slices)
    return np.stack([crop_or_pad(image, size, size, fill) for image in resized])


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a mask by nearest neighbour and binarise it.

    Args:
        mask: (H, W), 0 outside the tumour and any other value inside.
        height: Rows of the result.
        width: Columns of the result.

    Returns:
        (height, width) uint8, 0 or 255.
    """
    binary = np.where(mask > 0, np.uint8(255), np.uint8(0))
    if binary.shape == (height, width):
        return binary
    return np.asarray(Image.fromarray(binary).resize((width, height), Image.Resampling.NEAREST))


def measure_intensities(slices: Iterable[np.ndarray], lower: float, upper: float) -> np.ndarray:
    """Measure what ``normalise`` needs of a volume; of uint8, one slice is in memory at a time.

    Args:
        slices: (H, W, 3) uint8 each, or all of a volume as (N, H, W, 3) float32.
        lower: Percentile of the lower bound.
        upper: Percentile of the upper bound.

    Returns:
        (4, 3) float32: lower bound, upper bound, mean and standard deviation by channel, of the
        intensities clipped to the bounds. A constant channel has standard deviation 1.

    Raises:
        ValueError: There is no slice.
    """
    if isinstance(slices, np.ndarray) and slices.dtype != np.uint8:
        pixels = slices.reshape(-1, CHANNELS)
        # As of a histogram, whose percentiles are intensities.
        low, high = np.percentile(pixels, (lower, upper), axis=0, method="inverted_cdf")
        clipped = np.clip(pixels, low, high)
        mean, deviation = (f(clipped, axis=0, dtype=np.float64) for f in (np.mean, np.std))
        deviation = np.where(deviation > 0, deviation, 1.0)
        return np.stack([low, high, mean, deviation]).astype(np.float32)
    counts = sum((count_intensities(image) for image in slices), _NOTHING)
    if not counts.any():
        raise ValueError("intensity statistics need at least one slice, got none")
    return measure_counts(counts, lower, upper)


def measure_counts(counts: np.ndarray, lower: float, upper: float) -> np.ndarray:
    """Return what ``measure_intensities`` does, of (3, 256) pixels by channel and intensity."""
    return np.stack([_clipped_moments(c, lower, upper) for c in counts], axis=1)


def count_intensities(image: np.ndarray) -> np.ndarray:
    """Count the pixels of a slice (H, W, 3) uint8: (3, 256) int64 by channel and intensity."""
    pixels = image.reshape(-1, CHANNELS)
    return np.stack([np.bincount(channel, minlength=_LEVELS) for channel in pixels.T])


def _clipped_moments(counts: np.ndarray, lower: float, upper: float) -> np.ndarray:
    """Return (low, high, mean, deviation) of the intensities that a histogram counts."""
    share = np.cumsum(counts) / counts.sum()
    low, high = (int(np.searchsorted(share, percentile / 100)) for percentile in (lower, upper))
    clipped = np.clip(np.arange(_LEVELS), low, high)
    mean = np.average(clipped, weights=counts)
    deviation = np.sqrt(np.average((clipped - mean) ** 2, weights=counts))
    return np.array([low, high, mean, deviation or 1.0], dtype=np.float32)


def channels_first(slices: np.ndarray) -> np.ndarray:
    """Turn neighbouring slices (..., K, H, W, 3) into images (..., 3 K, H, W) of the same dtype."""
    *rest, count, height, width, channels = slices.shape
    # In one piece of memory, on which all that follows is several times as fast.
    images = np.ascontiguousarray(np.moveaxis(slices, -1, -3))
    return images.reshape(*rest, count * channels, height, width)


def neighbours(count: int, context: int) -> np.ndarray:
    """Say which slices of a volume a model sees to segment each of them.

    Args:
        count: Slices of the volume; a single slice is a volume of one.
        context: Slices on each side. At the ends of the volume the last one repeats.

    Returns:
        (count, 1 + 2 context) places in the volume, each slice itself in the middle.
    """
    places = np.arange(count)[:, None] + np.arange(-context, context + 1)
    return places.clip(0, count - 1)


def normalise(images: Array, statistics: Array) -> Array:
    """Clip and standardise intensities, of arrays or, where a network is trained, of tensors.

    Args:
        images: (N, 3 K, H, W), uint8 or float32, of K neighbouring slices.
        statistics: (N, 4, 3) or (1, 4, 3), as of ``measure_intensities`` of each slice's volume.

    Returns:
        (N, 3 K, H, W) float32, mean 0 and standard deviation 1 over the volume.
    """
    low, high, mean, deviation = (statistics[:, n, None, :, None, None] for n in range(4))
    sequences = images.reshape(len(images), -1, CHANNELS, *images.shape[2:])  # (N, K, 3, H, W)
    normalised = sequences.clip(low, high)
    normalised -= mean
    normalised /= deviation
    return normalised.reshape(images.shape)
