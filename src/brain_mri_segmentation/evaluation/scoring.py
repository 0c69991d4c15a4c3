"""A model on the slices of a partition, in both modes: volume by volume and slice by slice."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd

from brain_mri_segmentation.cohort.index import Slices, patient_volumes
from brain_mri_segmentation.errors import InputError
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
from brain_mri_segmentation.models import Checkpoint


def check_unseen(checkpoint: Checkpoint, slice_names: Sequence[str], split: str) -> None:
    """Make sure that a model is not scored on patients that it has seen.

    Args:
        checkpoint: The model; it knows the patients that trained it and those that selected it.
        slice_names: Slices to be scored.
        split: Their partition. Scores on ``train`` may rest on training patients, those on ``val``
            on the patients that selected the epoch, and those on ``test`` on neither.

    Raises:
        InputError: A slice is of a patient that this partition must not hold.
    """
    forbidden = {"train": (), "val": ("train",), "test": ("train", "val")}[split]
    seen = {p for name in forbidden for p in checkpoint.metadata.get(f"{name}_patients", [])}
    if known := sorted(seen & {patient_of(name) for name in slice_names}):
        raise InputError(
            f"The checkpoint was trained or selected on {len(known)} of the patients to be scored, "
            f"such as {known[0]}. Leave them out; or, where the split has changed since, train "
            "again on this split, or score the split that the checkpoint was trained with."
        )


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
