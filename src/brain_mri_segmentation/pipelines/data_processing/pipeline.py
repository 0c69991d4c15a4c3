from kedro.pipeline import Node, Pipeline

from brain_mri_segmentation.cohort.split import fingerprint_split
from brain_mri_segmentation.evaluation import plots
from brain_mri_segmentation.pipelines import SPLIT_FOLDERS
from brain_mri_segmentation.pipelines.data_processing.nodes import (
    index_cohort,
    measure_slices,
    split_patients,
    write_split_folders,
)


def create_pipeline(**kwargs: object) -> Pipeline:
    """Raw TIF files -> cohort table -> split by patient -> split folders."""
    return Pipeline(
        [
            Node(
                index_cohort,
                inputs=["raw_slices", "params:cohort"],
                outputs=["cohort", "cohort_problems"],
                name="index_cohort",
            ),
            Node(
                split_patients,
                inputs={
                    "cohort": "cohort",
                    "split_manifest": "split_manifest",
                    "parameters": "params:split",
                },
                outputs="patient_split",
                name="split_patients",
            ),
            Node(
                fingerprint_split,
                inputs=["cohort", "patient_split"],
                outputs="data_fingerprint",
                name="fingerprint_split",
            ),
            Node(
                plots.cohort_overview,
                inputs="cohort",
                outputs="cohort_overview",
                name="plot_cohort_overview",
            ),
            Node(
                write_split_folders,
                inputs=["raw_slices", "cohort", "patient_split", "params:preprocessing"],
                outputs=SPLIT_FOLDERS,
                name="write_split_folders",
            ),
            Node(
                measure_slices,
                inputs=SPLIT_FOLDERS | {"parameters": "params:preprocessing"},
                outputs="slice_statistics",
                name="measure_slices",
            ),
        ]
    )
