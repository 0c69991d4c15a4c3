"""A model on the slices of a partition, in both modes: volume by volume and slice by slice."""

from collections.abc import Iterable

import pandas as pd

from brain_mri_segmentation.cohort.index import Slices, patient_volumes
from brain_mri_segmentation.evaluation.metrics import COUNTS, confusion_counts, score_slices
from brain_mri_segmentation.imaging.intensity import resize_mask
from brain_mri_segmentation.imaging.naming import patient_of
from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.inference.predictor import Predictor


def score_model(
    predictor: Predictor,
    images: Slices,
    masks: Slices,
    batch_size: int = 16,
    single_slices: bool = False,
) -> pd.DataFrame:
    """Score a model on each slice.

    Args:
        predictor: The model.
        images: Readers of (H, W, 3) uint8 by slice name.
        masks: Readers of (H, W) uint8 by slice name.
        batch_size: Slices in one forward pass.
        single_slices: Whether each slice comes by itself, without the volume that it is of.

    Returns:
        One row a slice: ``patient``, ``slice``, ``COUNTS`` and the scores of ``score_slices``.
    """
    volumes: Iterable[Volume] = patient_volumes(images)
    if single_slices:
        volumes = (Volume(read()[None], name) for name, read in images.items())
    rows = []
    for volume in volumes:
        found = predictor.predict(volume, batch_size).mask
        for name, mask in zip(volume.names, found, strict=True):
            truth = masks[name]()
            counts = confusion_counts(resize_mask(mask, *truth.shape), truth)
            rows.append([patient_of(name), name, *counts])
    return score_slices(pd.DataFrame(rows, columns=["patient", "slice", *COUNTS]))
