"""The one way from pixels to a tensor and back, shared by training, evaluation and serving.

A slice goes through ``resize_image`` -> ``normalise``; the
way back is in ``inference.postprocessing``. The normalisation is
the public U-Net's for this cohort (Buda et al. 2019): intensities of a volume are clipped to two
percentiles and scaled to mean 0 and standard deviation 1, here per channel.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

CHANNELS = 3  # pre-contrast, FLAIR, post-contrast
FLAIR = 1  # in which the tumour is bright
_LEVELS = 256  # intensities of uint8
_NOTHING = np.zeros((CHANNELS, _LEVELS), dtype=np.int64)


def resize_image(image: np.ndarray, size: int) -> np.ndarray:
    """Resize a slice to a square, with antialiasing.

    Args:
        image: (H, W, 3) uint8.
        size: Height and width of the result in pixels.

    Returns:
        (size, size, 3) uint8; ``image`` itself when it has that size.
    """
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


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


@dataclass(frozen=True)
class IntensityStatistics:
    """What ``normalise`` needs of a volume: four values per channel, in units of uint8.

    Attributes:
        values: (4, 3) float32: lower bound, upper bound, mean and standard deviation of the
            intensities clipped to the bounds. A constant channel has standard deviation 1.
    """

    values: np.ndarray

    @classmethod
    def of(cls, slices: Iterable[np.ndarray], lower: float, upper: float) -> "IntensityStatistics":
        """Measure one or more slices of a volume, of which one is in memory at a time.

        Args:
            slices: (H, W, 3) uint8 each.
            lower: Percentile of the lower bound.
            upper: Percentile of the upper bound.

        Raises:
            ValueError: There is no slice.
        """
        counts = sum((count_intensities(image) for image in slices), _NOTHING)
        if not counts.any():
            raise ValueError("intensity statistics need at least one slice, got none")
        return cls.of_counts(counts, lower, upper)

    @classmethod
    def of_counts(cls, counts: np.ndarray, lower: float, upper: float) -> "IntensityStatistics":
        """Take the statistics of (3, 256) pixels by channel and intensity."""
        return cls(np.stack([_clipped_moments(c, lower, upper) for c in counts], axis=1))


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


def to_tensor(slices: np.ndarray) -> torch.Tensor:
    """Turn neighbouring slices (..., K, H, W, 3) uint8 into tensors (..., 3 K, H, W) uint8."""
    channels_first = np.moveaxis(slices, -1, -3)  # (..., K, 3, H, W)
    return torch.from_numpy(np.ascontiguousarray(channels_first)).flatten(-4, -3)


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


def normalise(images: torch.Tensor, statistics: torch.Tensor) -> torch.Tensor:
    """Clip and standardise intensities.

    Args:
        images: (N, 3 K, H, W), uint8 or float in 0..255, of K neighbouring slices.
        statistics: (N, 4, 3) or (1, 4, 3), ``IntensityStatistics.values`` of each slice's volume.

    Returns:
        (N, 3 K, H, W) float32, mean 0 and standard deviation 1 over the volume.
    """
    statistics = statistics.repeat(1, 1, images.shape[1] // CHANNELS)
    low, high, mean, deviation = statistics[..., None, None].unbind(1)  # (N, 3 K, 1, 1)
    return (torch.clamp(images.float(), low, high) - mean) / deviation
