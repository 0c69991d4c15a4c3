"""From all slices to folds, and from the scores of all folds to one report."""

import logging
from typing import Any

import pandas as pd

from brain_mri_segmentation.cohort import split as splits
from brain_mri_segmentation.cohort.index import DEVELOPMENT, Slices, join_partitions
from brain_mri_segmentation.cohort.split import patients_of_fold
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.evaluation import metrics
from brain_mri_segmentation.evaluation.calibration import calibrate_folds
from brain_mri_segmentation.evaluation.metrics import OUT_OF_FOLD, Report
from brain_mri_segmentation.imaging.naming import patient_of
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.parameters import EvaluationParameters, TrainingParameters
from brain_mri_segmentation.training.hardware import find_device
from brain_mri_segmentation.training.resume import check_same_recipe

logger = logging.getLogger(__name__)


def assign_folds(folds: int, seed: int, **partitions: Slices) -> pd.DataFrame:
    """Deal the patients of train and val out to folds, those of each site evenly."""
    return splits.assign_folds(sorted(_patients(partitions)), folds, seed)


def select_folds(
    fold_assignment: pd.DataFrame, folds: int, **partitions: Slices
) -> dict[str, Slices]:
    """Return the slices of each fold: those to score, and all others to train with."""
    if changed := _patients(partitions) ^ set(fold_assignment["patient"]):
        raise InputError(
            f"{len(changed)} patient(s), such as {min(changed)}, are in no fold, or in one and no "
            "longer in train or val: the cohort has changed since. Run the cross-validation "
            "without --only-missing-outputs."
        )
    selected: dict[str, Slices] = {}
    images, masks = join_partitions(**partitions)
    for fold in range(1, folds + 1):
        held_out = patients_of_fold(fold_assignment, fold, folds)
        for kind, every in (("images", images), ("masks", masks)):
            for part, held in (("train", False), ("evaluation", True)):
                selected[f"fold_{fold}.{part}_{kind}"] = {
                    name: reader
                    for name, reader in every.items()
                    if (patient_of(name) in held_out) == held
                }
    return selected


def _patients(partitions: dict[str, Slices]) -> set[str]:
    return {patient_of(name) for slices in partitions.values() for name in slices}


def join_folds(
    fold_assignment: pd.DataFrame, **tables: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Put the scores of all folds together: every patient by the model that never saw it.

    Of each fold there are the scores of its slices, ``fold_<n>``, ``single_<n>`` of the same slices
    by themselves, and ``patients_<n>``.
    """
    slice_scores, singles, of_patients = (
        {name: table for name, table in tables.items() if name.startswith(start)}
        for start in ("fold_", "single_", "patients_")
    )
    for name, scores in slice_scores.items():
        missing = {"patient", "slice", *metrics.COUNTS} - set(scores)
        if missing or scores[metrics.COUNTS].isna().any(axis=None):
            raise InputError(
                f"The scores of the slices of {name} are no whole table of counts"
                f"{f', without {sorted(missing)}' if missing else ''}. Run the cross-validation "
                "again with --params training.resume=auto, which trains no finished fold."
            )
    joined = pd.concat(slice_scores.values(), ignore_index=True)
    if joined["slice"].duplicated().any() or set(joined["patient"]) != set(
        fold_assignment["patient"]
    ):
        raise InputError(
            "The scores of the folds do not hold every patient once: some are of another "
            "assignment. Run the cross-validation without --only-missing-outputs."
        )
    patients = metrics.score_patients(joined).merge(fold_assignment, on="patient")
    if of_patients:
        surfaces = pd.concat(of_patients.values())
        kept = surfaces.columns.intersection(["patient", *metrics.SURFACE_SCORES])
        patients = patients.merge(surfaces[kept], on="patient")
    single_slice_scores = pd.concat(singles.values(), ignore_index=True)
    return joined, single_slice_scores, patients, metrics.score_sites(joined)


def summarise_folds(
    slice_scores: pd.DataFrame,
    single_slice_scores: pd.DataFrame,
    patient_scores: pd.DataFrame,
    fold_assignment: pd.DataFrame,
    data_fingerprint: dict[str, Any],
    model: str,
    parameters: EvaluationParameters,
    seed: int,
) -> metrics.Report:
    """Reduce the scores to one value of each metric over all patients, and Dice by fold."""
    report = metrics.report(
        model, OUT_OF_FOLD, slice_scores, single_slice_scores, parameters.bootstrap_samples, seed
    )
    by_fold = patient_scores.groupby("fold")["dice"].mean().dropna()
    report |= metrics.summarise_surfaces(patient_scores) | {
        "dice_by_fold": {str(fold): float(dice) for fold, dice in by_fold.items()},
        "fingerprint": {
            "split": splits.fingerprint(fold_assignment.to_dict("records")),
            "data": splits.fingerprint(*(data_fingerprint[name]["data"] for name in DEVELOPMENT)),
        },
    }
    logger.info("%s", metrics.format_summary(report))
    return report


def calibrate_models(
    evaluation: EvaluationParameters,
    training: TrainingParameters,
    **folds: Checkpoint | Slices,
) -> Report:
    """Fit temperature, review and interval on all patients of all folds.

    Of each fold there are ``model_<n>``, ``images_<n>`` and ``masks_<n>``.
    """
    check_same_recipe(*(fold for fold in folds.values() if isinstance(fold, Checkpoint)))
    numbers = range(1, len(folds) // 3 + 1)
    parts: Any = ([folds[f"{kind}_{n}"] for kind in ("model", "images", "masks")] for n in numbers)
    device = find_device(training.accelerator)
    report = calibrate_folds(parts, evaluation.batch_size, device, evaluation.engine)
    logger.info(
        "Out of fold: temperature %.2f, %.0f %% of the slices to review",
        report["temperature"],
        100 * report["review"]["flagged"],
    )
    if (covered := report["volume_interval"]["covered"]) is not None:
        logger.info("Intervals of volumes cover %.0f %% of the patients left out", 100 * covered)
    return report
