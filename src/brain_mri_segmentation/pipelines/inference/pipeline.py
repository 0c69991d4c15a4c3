from kedro.pipeline import Node, Pipeline

from brain_mri_segmentation.pipelines.inference.nodes import report_folder, segment_folder


def create_pipeline(**kwargs: object) -> Pipeline:
    """Folders of slices, stacks and zips -> masks, overlays, summary (`--params input=PATH`)."""
    return Pipeline(
        [
            Node(
                segment_folder,
                inputs={
                    "inference_input": "inference_input",
                    "serving_model": "serving_model",
                    "inference_output": "inference_output",
                    "training": "params:training",
                    "engine": "params:engine",
                    "inference": "params:inference",
                },
                # The outcomes are in memory alone: each run looks at every volume, and
                # --only-missing-outputs cannot take the tables of an earlier one for its own.
                outputs=["inference_outcomes", "inference_summary", "inference_volumes"],
                name="segment_folder",
            ),
            Node(report_folder, inputs="inference_outcomes", outputs=None, name="report_folder"),
        ]
    )
