"""From raw TIF files to split folders."""

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from brain_mri_segmentation import cohort as cohorts
from brain_mri_segmentation import figures
from brain_mri_segmentation.cohort import SliceFiles, SliceReader, Slices
from brain_mri_segmentation.parameters import (
    CohortParameters,
    PreprocessingParameters,
    SplitParameters,
)
from brain_mri_segmentation.preprocessing import resize_image, resize_mask


def index_cohort(
    raw_slices: SliceFiles, parameters: CohortParameters
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Check every raw slice; return the usable ones and a report on the others."""
    table = cohorts.index_slices(raw_slices)
    cohorts.refuse_problems(table, parameters.on_problem)
    problems = table.loc[table["problem"] != "", ["patient", "slice", "problem"]]
    return cohorts.usable_slices(table), problems


def split_patients(
    cohort: pd.DataFrame, split_manifest: pd.DataFrame | None, parameters: SplitParameters
) -> pd.DataFrame:
    """Assign each patient to train, val or test, by the manifest if there is one."""
    patients = sorted(cohort["patient"].unique())
    everyone: str | None = parameters.everyone
    if everyone is not None:
        split = dict.fromkeys(patients, everyone)
    elif split_manifest is None:
        split = cohorts.split_by_seed(patients, parameters.seed, parameters.fraction)
    else:
        split = cohorts.split_by_manifest(patients, split_manifest)
    table = pd.DataFrame(sorted(split.items()), columns=["patient", "split"])
    cohorts.check_leakage(cohort, table)
    return table


def fingerprint_data(cohort: pd.DataFrame, patient_split: pd.DataFrame) -> dict[str, object]:
    """Describe data and split, so that results on different ones are never compared."""
    return cohorts.fingerprint_split(cohort, patient_split)


def draw_cohort_overview(cohort: pd.DataFrame) -> Figure:
    """Draw slices and tumour of each patient, site by site."""
    return figures.cohort_overview(cohort)


def draw_split_balance(cohort: pd.DataFrame, patient_split: pd.DataFrame) -> Figure:
    """Draw how alike the partitions are."""
    return figures.split_balance(cohort, patient_split)


def write_split_folders(
    raw_slices: Slices,
    cohort: pd.DataFrame,
    patient_split: pd.DataFrame,
    parameters: PreprocessingParameters,
) -> dict[str, dict[str, SliceReader]]:
    """Return readers of resized images and masks by partition; each slice is made when saved."""
    folders: dict[str, dict[str, SliceReader]] = {}
    for split in cohorts.SPLITS:
        pairs = list(cohorts.slices_of_split(cohort, patient_split, split))
        folders[f"{split}_images"] = {
            name: partial(_read_image, raw_slices[raw], parameters.image_size)
            for name, raw in pairs
        }
        folders[f"{split}_masks"] = {
            name: partial(_read_mask, raw_slices[f"{raw}_mask"], parameters.image_size)
            for name, raw in pairs
        }
    return folders


def _read_image(read: SliceReader, size: int) -> np.ndarray:
    return resize_image(read(), size)


def _read_mask(read: SliceReader, size: int) -> np.ndarray:
    return resize_mask(read(), size, size)
