from kedro.pipeline import Node, Pipeline

from brain_mri_segmentation.pipelines import SPLIT_FOLDERS
from brain_mri_segmentation.pipelines.data_processing.nodes import (
    draw_cohort_overview,
    draw_split_balance,
    fingerprint_data,
    index_cohort,
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
                fingerprint_data,
                inputs=["cohort", "patient_split"],
                outputs="data_fingerprint",
                name="fingerprint_data",
            ),
            Node(
                draw_cohort_overview,
                inputs="cohort",
                outputs="cohort_overview",
                name="draw_cohort_overview",
            ),
            Node(
                draw_split_balance,
                inputs=["cohort", "patient_split"],
                outputs="split_balance",
                name="draw_split_balance",
            ),
            Node(
                write_split_folders,
                inputs={
                    "raw_slices": "raw_slices",
                    "cohort": "cohort",
                    "patient_split": "patient_split",
                    "parameters": "params:preprocessing",
                },
                outputs=SPLIT_FOLDERS,
                name="write_split_folders",
            ),
        ]
    )
