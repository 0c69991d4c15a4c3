"""What training needs of all slices, measured once: their intensities, and where tumour is."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from brain_mri_segmentation.cohort.index import Slices
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.intensity import count_intensities, measure_counts
from brain_mri_segmentation.imaging.naming import by_patient

_VALUES = [
    f"{value}_{sequence}"
    for value in ("low", "high", "mean", "deviation")
    for sequence in ("pre", "flair", "post")
]
_VOLUME = [f"volume_{name}" for name in _VALUES]
_MEASURED_WITH = ["image_size", "lower_percentile", "upper_percentile"]


def measure_slices(
    images: Slices, masks: Slices, size: int, lower: float, upper: float
) -> pd.DataFrame:
    """Measure slices and their volumes, one slice in memory at a time.

    Args:
        images: Readers of (S, S, 3) uint8 by slice name.
        masks: Readers of (S, S) uint8 by the same names.
        size: S, in pixels.
        lower: Percentile of the lower bound of intensities.
        upper: Percentile of the upper bound.

    Returns:
        One row a slice: ``slice``, its name; ``tumour_pixels``; the twelve values of
        ``measure_intensities``, of the slice and (``volume_...``) of its volume; and what they were
        measured with.
    """
    rows = []
    for names in by_patient(list(images)).values():
        counts = np.stack([count_intensities(images[name]()) for name in names])  # (N, 3, 256)
        volume = measure_counts(counts.sum(axis=0), lower, upper).ravel()
        for name, own in zip(names, counts, strict=True):
            alone = measure_counts(own, lower, upper).ravel()
            tumour = np.count_nonzero(masks[name]())
            rows.append([name, tumour, *alone, *volume, size, lower, upper])
    return pd.DataFrame(
        rows, columns=["slice", "tumour_pixels", *_VALUES, *_VOLUME, *_MEASURED_WITH]
    )


@dataclass(frozen=True)
class SliceStatistics:
    """What was measured of N slices.

    Attributes:
        alone: (N, 4, 3) float32, ``measure_intensities`` of each slice.
        volume: (N, 4, 3) float32, those of its volume.
        tumour_pixels: (N,) int64.
    """

    alone: np.ndarray
    volume: np.ndarray
    tumour_pixels: np.ndarray

    @classmethod
    def of(
        cls, table: pd.DataFrame, names: list[str], size: int, lower: float, upper: float
    ) -> "SliceStatistics":
        """Look slices up in a table of ``measure_slices``.

        Args:
            table: The table.
            names: The slices.
            size: Height and width that the slices must have had, in pixels.
            lower: Percentile of the lower bound that they must have been measured with.
            upper: Percentile of the upper bound that they must have been measured with.

        Raises:
            InputError: They were measured with other values, or one was not.
        """
        for column, wanted in zip(_MEASURED_WITH, (size, lower, upper), strict=True):
            if (table[column] != wanted).any():
                raise InputError(
                    f"The split folders were made with preprocessing.{column}="
                    f"{table[column].iloc[0]:g}, and this run says {wanted:g}. Write them anew: "
                    "kedro run --pipeline data_processing"
                )
        rows = table.set_index("slice").reindex(names)
        if missing := rows.index[rows["tumour_pixels"].isna()].tolist():
            raise InputError(
                f"{len(missing)} slice(s) of the split folders were not measured, such as "
                f"{missing[0]}. Write the folders anew: kedro run --pipeline data_processing"
            )
        alone, volume = (
            rows[columns].to_numpy(np.float32, copy=True).reshape(-1, 4, 3)
            for columns in (_VALUES, _VOLUME)
        )
        return cls(alone, volume, rows["tumour_pixels"].to_numpy(np.int64))
