"""From raw TIF files to split folders."""

from functools import partial

import numpy as np
import pandas as pd

from brain_mri_segmentation.cohort import statistics
from brain_mri_segmentation.cohort.index import (
    SPLITS,
    SliceFiles,
    Slices,
    index_slices,
    join_partitions,
    refuse_problems,
    usable_slices,
)
from brain_mri_segmentation.cohort.split import (
    check_leakage,
    slices_of_split,
    split_by_manifest,
    split_by_seed,
)
from brain_mri_segmentation.imaging.intensity import resize_image, resize_mask
from brain_mri_segmentation.parameters import (
    CohortParameters,
    PreprocessingParameters,
    SplitParameters,
)


def index_cohort(
    raw_slices: SliceFiles, parameters: CohortParameters
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Check every raw slice; return the usable ones, and a report on the others."""
    table = index_slices(raw_slices)
    refuse_problems(table, parameters.on_invalid)
    problems = table.loc[table["problem"] != "", ["patient", "slice", "problem"]]
    return usable_slices(table), problems


def measure_slices(parameters: PreprocessingParameters, **folders: Slices) -> pd.DataFrame:
    """Measure intensities and tumour of each slice and volume."""
    return statistics.measure_slices(
        *join_partitions(SPLITS, **folders),
        parameters.image_size,
        parameters.lower_percentile,
        parameters.upper_percentile,
    )


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


def write_split_folders(
    raw_slices: Slices,
    cohort: pd.DataFrame,
    patient_split: pd.DataFrame,
    preprocessing: PreprocessingParameters,
) -> dict[str, Slices]:
    """Resize the slices into the folders of their partitions, one in memory at a time."""
    size = preprocessing.image_size
    paths = {f"{row.patient}_{row.slice}": row.path for row in cohort.itertuples()}

    def image(path: str) -> np.ndarray:
        return resize_image(raw_slices[path](), size, size)

    def mask(path: str) -> np.ndarray:
        return resize_mask(raw_slices[f"{path}_mask"](), size, size)

    folders: dict[str, Slices] = {}
    for split in SPLITS:
        names = slices_of_split(cohort, patient_split, split)
        folders[f"{split}_images"] = {name: partial(image, paths[name]) for name in names}
        folders[f"{split}_masks"] = {name: partial(mask, paths[name]) for name in names}
    return folders
