"""From all slices to folds, and from the scores of all folds to one report."""

import logging

import pandas as pd

from brain_mri_segmentation.cohort import split as splits
from brain_mri_segmentation.cohort.index import SPLITS, Slices
from brain_mri_segmentation.cohort.split import roles_in_fold
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.evaluation import metrics
from brain_mri_segmentation.imaging.naming import patient_of
from brain_mri_segmentation.parameters import EvaluationParameters

logger = logging.getLogger(__name__)


def assign_folds(folds: int, seed: int, **partitions: Slices) -> pd.DataFrame:
    """Deal the patients of all partitions out to folds, those of each site evenly."""
    return splits.assign_folds(sorted(_patients(partitions)), folds, seed)


def select_folds(
    fold_assignment: pd.DataFrame, folds: int, **partitions: Slices
) -> dict[str, Slices]:
    """Return the slices of each fold: those to score, those to select by, and all others."""
    if unassigned := _patients(partitions) - set(fold_assignment["patient"]):
        raise InputError(
            f"{len(unassigned)} patient(s), such as {min(unassigned)}, are in no fold: the cohort "
            "has changed since. Run the cross-validation without --only-missing-outputs."
        )
    selected: dict[str, Slices] = {}
    for fold in range(1, folds + 1):
        part_of = roles_in_fold(fold_assignment, fold, folds)
        for kind in ("images", "masks"):
            every = {n: r for split in SPLITS for n, r in partitions[f"{split}_{kind}"].items()}
            for part in ("train", "val", "evaluation"):
                selected[f"fold_{fold}.{part}_{kind}"] = {
                    name: reader
                    for name, reader in every.items()
                    if part_of[patient_of(name)] == part
                }
    return selected


def _patients(partitions: dict[str, Slices]) -> set[str]:
    return {patient_of(name) for slices in partitions.values() for name in slices}


def join_folds(
    fold_assignment: pd.DataFrame, **slice_scores: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Put the scores of all folds together: every patient by the model that never saw it."""
    joined = pd.concat(slice_scores.values(), ignore_index=True)
    if joined["slice"].duplicated().any() or set(joined["patient"]) != set(
        fold_assignment["patient"]
    ):
        raise InputError(
            "The scores of the folds do not hold every patient once: some are of another "
            "assignment. Run the cross-validation without --only-missing-outputs."
        )
    patients = metrics.score_patients(joined).merge(fold_assignment, on="patient")
    return joined, patients, metrics.score_sites(joined)


def summarise_folds(
    slice_scores: pd.DataFrame,
    patient_scores: pd.DataFrame,
    model: str,
    parameters: EvaluationParameters,
    seed: int,
    **single_slice_scores: pd.DataFrame,
) -> tuple[metrics.Report, dict[str, dict[str, float]]]:
    """Reduce the scores to one value of each metric over all patients, and Dice by fold."""
    report = metrics.report(
        model,
        "folds that it has not seen",
        slice_scores,
        pd.concat(single_slice_scores.values(), ignore_index=True),
        parameters.bootstrap_samples,
        seed,
    )
    by_fold = patient_scores.groupby("fold")["dice"].mean()
    report |= {"dice_by_fold": {str(fold): float(dice) for fold, dice in by_fold.items()}}
    logger.info("%s", metrics.format_summary(report))
    tracked = metrics.tracked(report, "out_of_fold")
    tracked |= {
        f"out_of_fold/dice_of_fold_{fold}": {"value": dice, "step": 0}
        for fold, dice in by_fold.items()
    }
    return report, tracked
