"""Which patients of a cohort a finished model is scored on."""

import pandas as pd

from brain_mri_segmentation.cohort.split import slices_of_split, split_by_manifest
from brain_mri_segmentation.evaluation.scoring import check_unseen
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.parameters import EvaluationParameters


def select_patients(
    cohort: pd.DataFrame,
    split_manifest: pd.DataFrame | None,
    checkpoint: Checkpoint,
    parameters: EvaluationParameters,
) -> pd.DataFrame:
    """Put all patients into the partition to score, unless there is a manifest.

    The partition is a label here: the model may have seen none of its patients.
    """
    patients = sorted(cohort["patient"].unique())
    if split_manifest is None:
        split = dict.fromkeys(patients, str(parameters.split))
    else:
        split = split_by_manifest(patients, split_manifest, needed=[parameters.split])
    table = pd.DataFrame(sorted(split.items()), columns=["patient", "split"])
    check_unseen(checkpoint, slices_of_split(cohort, table, parameters.split), "test")
    return table
