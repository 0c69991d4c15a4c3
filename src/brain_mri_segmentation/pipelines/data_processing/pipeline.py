from kedro.pipeline import Node, Pipeline

from brain_mri_segmentation.pipelines import SPLIT_FOLDERS
from brain_mri_segmentation.pipelines.data_processing.nodes import (
    draw_cohort_overview,
    draw_split_balance,
    fingerprint_data,
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
                inputs=["raw_slices", "params:cohort", "params:preprocessing"],
                outputs=["cohort", "cohort_problems", "resized_images", "resized_masks"],
                name="index_cohort",
            ),
            Node(
                measure_slices,
                inputs=["resized_images", "resized_masks", "params:preprocessing"],
                outputs="slice_statistics",
                name="measure_slices",
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
                inputs=["resized_images", "resized_masks", "cohort", "patient_split"],
                outputs=SPLIT_FOLDERS,
                name="write_split_folders",
            ),
        ]
    )
