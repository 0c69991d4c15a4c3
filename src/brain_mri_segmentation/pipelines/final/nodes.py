"""From train and val to one model, for which the folds of a cross-validation speak."""

import dataclasses

import pandas as pd

from brain_mri_segmentation.cohort.index import Slices
from brain_mri_segmentation.evaluation.calibration import with_calibration
from brain_mri_segmentation.evaluation.metrics import Report
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.training.resume import check_same_recipe


def adopt_results(
    checkpoint: Checkpoint,
    calibration: Report,
    report: Report,
    slice_scores: pd.DataFrame,
    patient_scores: pd.DataFrame,
    site_scores: pd.DataFrame,
    **folds: Checkpoint | Slices,
) -> tuple[Checkpoint, Report, pd.DataFrame, pd.DataFrame, pd.DataFrame, Slices]:
    """Give the model what the folds found out, in the places where publishing looks for it.

    Of each fold there are ``model_<n>`` and ``masks_<n>``.
    """
    models = [fold for fold in folds.values() if isinstance(fold, Checkpoint)]
    check_same_recipe(*models, checkpoint)
    metadata = checkpoint.metadata | {"out_of_fold_dice": report["dice"]}
    model = dataclasses.replace(with_calibration(checkpoint, calibration), metadata=metadata)
    predictions = [fold for fold in folds.values() if not isinstance(fold, Checkpoint)]
    masks = {name: read for fold in predictions for name, read in fold.items()}
    adopted = dict(report) | {"digest": model.digest}
    return model, adopted, slice_scores, patient_scores, site_scores, masks
