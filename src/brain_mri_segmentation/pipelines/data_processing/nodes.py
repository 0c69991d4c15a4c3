"""From raw TIF files to split folders."""

import pandas as pd

from brain_mri_segmentation.cohort import statistics
from brain_mri_segmentation.cohort.index import (
    SPLITS,
    ResizedSlices,
    SliceFiles,
    Slices,
    index_slices,
    refuse_problems,
    usable_slices,
)
from brain_mri_segmentation.cohort.split import (
    check_leakage,
    slices_of_split,
    split_by_manifest,
    split_by_seed,
)
from brain_mri_segmentation.parameters import (
    CohortParameters,
    PreprocessingParameters,
    SplitParameters,
)


def index_cohort(
    raw_slices: SliceFiles, parameters: CohortParameters, preprocessing: PreprocessingParameters
) -> tuple[pd.DataFrame, pd.DataFrame, Slices, Slices]:
    """Read every raw slice once; return the usable ones, resized, and a report on the others."""
    resized = ResizedSlices(preprocessing.image_size)
    table = index_slices(raw_slices, resized)
    refuse_problems(table, parameters.on_invalid)
    problems = table.loc[table["problem"] != "", ["patient", "slice", "problem"]]
    return usable_slices(table), problems, resized.images, resized.masks


def measure_slices(
    resized_images: Slices, resized_masks: Slices, parameters: PreprocessingParameters
) -> pd.DataFrame:
    """Measure intensities and tumour of each slice and volume."""
    return statistics.measure_slices(
        resized_images,
        resized_masks,
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
    resized_images: Slices,
    resized_masks: Slices,
    cohort: pd.DataFrame,
    patient_split: pd.DataFrame,
) -> dict[str, Slices]:
    """Deal the slices out to the folders of their partitions."""
    folders: dict[str, Slices] = {}
    for split in SPLITS:
        names = slices_of_split(cohort, patient_split, split)
        folders[f"{split}_images"] = {name: resized_images[name] for name in names}
        folders[f"{split}_masks"] = {name: resized_masks[name] for name in names}
    return folders
