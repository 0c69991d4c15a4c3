"""Which patients of a cohort a finished model is scored on."""

import pandas as pd

from brain_mri_segmentation.cohort.split import split_by_manifest
from brain_mri_segmentation.parameters import EvaluationParameters


def select_patients(
    cohort: pd.DataFrame, split_manifest: pd.DataFrame | None, parameters: EvaluationParameters
) -> pd.DataFrame:
    """Put all patients into the partition to score, unless there is a manifest."""
    patients = sorted(cohort["patient"].unique())
    if split_manifest is None:
        split = dict.fromkeys(patients, str(parameters.split))
    else:
        split = split_by_manifest(patients, split_manifest)
    return pd.DataFrame(sorted(split.items()), columns=["patient", "split"])
