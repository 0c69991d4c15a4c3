from kedro.pipeline import Node, Pipeline

from brain_mri_segmentation.pipelines import evaluation
from brain_mri_segmentation.pipelines.robustness.nodes import score_robustness


def create_pipeline(**kwargs: object) -> Pipeline:
    """Checkpoint and split folders -> scores under noise, blur and other conditions."""
    return evaluation.create_pipeline().only_nodes("select_split") + Pipeline(
        [
            Node(
                score_robustness,
                inputs={
                    "checkpoint": "checkpoint",
                    "images": "evaluation_images",
                    "masks": "evaluation_masks",
                    "parameters": "params:evaluation",
                    "training": "params:training",
                    "seed": "params:seed",
                },
                outputs="robustness",
                name="score_robustness",
            ),
        ]
    )
