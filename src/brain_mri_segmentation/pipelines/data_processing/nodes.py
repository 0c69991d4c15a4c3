"""From raw TIF files to split folders."""

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from brain_mri_segmentation.cohort.index import (
    SPLITS,
    SliceFiles,
    SliceReader,
    Slices,
    index_slices,
    refuse_problems,
    usable_slices,
)
from brain_mri_segmentation.cohort.split import (
    check_leakage,
    fingerprint_split,
    slices_of_split,
    split_by_manifest,
    split_by_seed,
)
from brain_mri_segmentation.evaluation import plots
from brain_mri_segmentation.imaging.intensity import resize_image, resize_mask
from brain_mri_segmentation.parameters import (
    CohortParameters,
    PreprocessingParameters,
    SplitParameters,
)


def index_cohort(
    raw_slices: SliceFiles, parameters: CohortParameters
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Check every raw slice; return the usable ones and a report on the others."""
    table = index_slices(raw_slices)
    refuse_problems(table, parameters.on_invalid)
    problems = table.loc[table["problem"] != "", ["patient", "slice", "problem"]]
    return usable_slices(table), problems


def split_patients(
    cohort: pd.DataFrame, split_manifest: pd.DataFrame | None, parameters: SplitParameters
) -> pd.DataFrame:
    """Assign each patient to train, val or test, by the manifest if there is one."""
    patients = sorted(cohort["patient"].unique())
    if split_manifest is None:
        split = split_by_seed(patients, parameters.seed, parameters.fraction)
    else:
        split = split_by_manifest(patients, split_manifest)
    table = pd.DataFrame(sorted(split.items()), columns=["patient", "split"])
    check_leakage(cohort, table)
    return table


def fingerprint_data(cohort: pd.DataFrame, patient_split: pd.DataFrame) -> dict[str, object]:
    """Describe data and split, so that results on different ones are never compared."""
    return fingerprint_split(cohort, patient_split)


def draw_cohort_overview(cohort: pd.DataFrame) -> Figure:
    """Draw slices and tumour of each patient, site by site."""
    return plots.cohort_overview(cohort)


def draw_split_balance(cohort: pd.DataFrame, patient_split: pd.DataFrame) -> Figure:
    """Draw how alike the partitions are."""
    return plots.split_balance(cohort, patient_split)


def write_split_folders(
    raw_slices: Slices,
    cohort: pd.DataFrame,
    patient_split: pd.DataFrame,
    parameters: PreprocessingParameters,
) -> dict[str, dict[str, SliceReader]]:
    """Return readers of resized images and masks by partition; each slice is made when saved."""
    folders: dict[str, dict[str, SliceReader]] = {}
    for split in SPLITS:
        pairs = list(slices_of_split(cohort, patient_split, split))
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
