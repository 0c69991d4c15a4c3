"""A model on the slices of a partition, in both modes: volume by volume and slice by slice."""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from brain_mri_segmentation.cohort.index import Slices, patient_volumes
from brain_mri_segmentation.evaluation.metrics import (
    COUNTS,
    SURFACE_SCORES,
    confusion_counts,
    score_slices,
    surface_scores,
)
from brain_mri_segmentation.imaging.intensity import resize_mask
from brain_mri_segmentation.imaging.naming import by_patient, patient_of
from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.inference.predictor import Predictor


def segment_slices(
    predictor: Predictor, images: Slices, batch_size: int = 16, single_slices: bool = False
) -> Iterator[tuple[str, np.ndarray]]:
    """Segment all slices, one volume in memory at a time.

    Args:
        predictor: The model.
        images: Readers of (H, W, 3) uint8 by slice name.
        batch_size: Slices in one forward pass.
        single_slices: Whether each slice comes by itself, without the volume that it is of.

    Yields:
        The name of each slice and its mask (H, W) uint8, 0 or 255.
    """
    volumes: Iterable[Volume] = patient_volumes(images)
    if single_slices:
        volumes = (Volume(read()[None], name) for name, read in images.items())
    for volume in volumes:
        yield from zip(volume.names, predictor.predict(volume, batch_size).mask, strict=True)


def score_masks(found: Iterable[tuple[str, np.ndarray]], masks: Slices) -> pd.DataFrame:
    """Score masks, in the size of the true ones.

    Args:
        found: Name and mask (H, W) of each slice.
        masks: Readers of the true masks (H, W) by slice name.

    Returns:
        One row a slice: ``patient``, ``slice``, ``COUNTS`` and the scores of ``score_slices``.
    """
    rows = []
    for name, mask in found:
        truth = masks[name]()
        counts = confusion_counts(resize_mask(mask, *truth.shape), truth)
        rows.append([patient_of(name), name, *counts])
    return score_slices(pd.DataFrame(rows, columns=["patient", "slice", *COUNTS]))


def score_surfaces(
    found: Slices, masks: Slices, spacing: tuple[float, float, float]
) -> pd.DataFrame:
    """Score the surfaces of masks volume by volume, in the size of the true ones.

    Args:
        found: Readers of the masks (H, W) by slice name.
        masks: Readers of the true masks (H, W) by slice name.
        spacing: Millimetres from slice to slice, row to row and column to column of these.

    Returns:
        One row a patient: ``patient`` and ``SURFACE_SCORES``.
    """
    rows = []
    for patient, names in by_patient(masks).items():
        truth = np.stack([masks[name]() for name in names])
        mask = np.stack([resize_mask(found[name](), *truth.shape[1:]) for name in names])
        rows.append({"patient": patient} | surface_scores(mask, truth, spacing))
    return pd.DataFrame(rows, columns=["patient", *SURFACE_SCORES])
