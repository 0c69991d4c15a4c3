"""From train and val to one model, for which the folds of a cross-validation speak."""

import dataclasses
from collections.abc import Mapping

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
    **results: pd.DataFrame | Checkpoint | Slices,
) -> tuple[Checkpoint, Report, Report, Slices, *tuple[pd.DataFrame, ...]]:
    """Give the model what the folds found out, in the places where publishing looks for it.

    Of each fold there are its model and its masks, and of all together the tables of scores.
    """
    models = [result for result in results.values() if isinstance(result, Checkpoint)]
    check_same_recipe(*models, checkpoint)
    metadata = checkpoint.metadata | {"out_of_fold_dice": report["dice"]}
    model = dataclasses.replace(with_calibration(checkpoint, calibration), metadata=metadata)
    adopted = dict(report) | {"digest": model.digest}
    folds = [result for result in results.values() if isinstance(result, Mapping)]
    masks = {name: read for fold in folds for name, read in fold.items()}
    tables = [result for result in results.values() if isinstance(result, pd.DataFrame)]
    return model, adopted, calibration, masks, *tables
