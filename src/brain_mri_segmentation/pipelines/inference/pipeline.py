from kedro.pipeline import Node, Pipeline

from brain_mri_segmentation.pipelines.inference.nodes import (
    report_folder,
    segment_folder,
    summarise_folder,
)


def create_pipeline(**kwargs: object) -> Pipeline:
    """A folder of slices, or one -> masks, overlays and a summary (`--params input=PATH`)."""
    return Pipeline(
        [
            Node(
                segment_folder,
                inputs=["input_slices", "serving_model"],
                outputs=["inference_masks", "inference_overlays", "inference_rows"],
                name="segment_folder",
            ),
            Node(
                summarise_folder,
                inputs=["inference_rows", "input_slices"],
                outputs=["inference_summary", "inference_volumes"],
                name="summarise_folder",
            ),
            Node(report_folder, inputs="inference_summary", outputs=None, name="report_folder"),
        ]
    )
