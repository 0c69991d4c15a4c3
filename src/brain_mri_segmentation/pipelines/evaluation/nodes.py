"""From a checkpoint and one partition to scores."""

import logging
from typing import Any

import numpy as np
import pandas as pd

from brain_mri_segmentation.cohort.index import Slices
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.evaluation import metrics
from brain_mri_segmentation.evaluation.scoring import (
    check_unseen,
    score_masks,
    score_surfaces,
    segment_slices,
)
from brain_mri_segmentation.inference.predictor import Predictor
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.parameters import EvaluationParameters, TrainingParameters
from brain_mri_segmentation.training.hardware import find_device

logger = logging.getLogger(__name__)


def select_split(parameters: EvaluationParameters, **folders: Slices) -> tuple[Slices, Slices]:
    """Return images and masks of the partition to score."""
    images, masks = (folders[f"{parameters.split}_{kind}"] for kind in ("images", "masks"))
    if not images:
        raise InputError(
            f"The partition '{parameters.split}' holds no slices, so there is nothing to score. "
            "Name another one, such as --params evaluation.split=val"
        )
    return images, masks


def segment_split(
    checkpoint: Checkpoint,
    images: Slices,
    parameters: EvaluationParameters,
    training: TrainingParameters,
) -> dict[str, np.ndarray]:
    """Predict the mask of every slice."""
    check_unseen(checkpoint, list(images), parameters.split)
    predictor = Predictor(checkpoint, find_device(training.accelerator), parameters.engine)
    return dict(segment_slices(predictor, images, parameters.batch_size))


def score_predictions(
    predictions: Slices, masks: Slices, parameters: EvaluationParameters
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Score each slice, each patient on the sum of its slices, and each site."""
    if predictions.keys() != masks.keys():
        raise InputError(
            "The predicted masks are of other slices than those to score: split or partition have "
            "changed since. Run the pipeline again without --only-missing-outputs."
        )
    slice_scores = score_masks(((name, read()) for name, read in predictions.items()), masks)
    patient_scores = metrics.score_patients(slice_scores)
    if parameters.spacing is not None:
        surfaces = score_surfaces(predictions, masks, parameters.spacing)
        patient_scores = patient_scores.merge(surfaces, on="patient")
    return slice_scores, patient_scores, metrics.score_sites(slice_scores)


def score_single_slices(
    checkpoint: Checkpoint,
    images: Slices,
    masks: Slices,
    parameters: EvaluationParameters,
    training: TrainingParameters,
) -> pd.DataFrame:
    """Score each slice as if it were all that there is; the table says by which model."""
    predictor = Predictor(checkpoint, find_device(training.accelerator), parameters.engine)
    found = segment_slices(predictor, images, parameters.batch_size, single_slices=True)
    return score_masks(found, masks).assign(digest=checkpoint.digest)


def summarise_scores(
    slice_scores: pd.DataFrame,
    patient_scores: pd.DataFrame,
    single_slice_scores: pd.DataFrame,
    checkpoint: Checkpoint,
    data_fingerprint: dict[str, Any],
    parameters: EvaluationParameters,
    seed: int,
) -> metrics.Report:
    """Reduce the scores to one value of each metric."""
    if set(single_slice_scores.get("digest", [])) != {checkpoint.digest}:
        raise InputError(
            f"The tables of scores are not of the model {checkpoint.digest}, which is to be "
            "reported. Run the pipeline again without --only-missing-outputs."
        )
    split, samples = parameters.split, parameters.bootstrap_samples
    report = metrics.report(
        checkpoint.model_name, split, slice_scores, single_slice_scores, samples, seed
    )
    report |= metrics.summarise_surfaces(patient_scores)
    report["digest"] = checkpoint.digest
    report["fingerprint"] = {
        "split": data_fingerprint["split"],
        "data": data_fingerprint[split]["data"],
    }
    logger.info("%s", metrics.format_summary(report))
    return report
