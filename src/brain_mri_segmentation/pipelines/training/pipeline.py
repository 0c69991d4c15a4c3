from kedro.pipeline import Node, Pipeline

from brain_mri_segmentation.pipelines.training.nodes import (
    calibrate_model,
    draw_reliability_diagram,
    draw_training_curves,
    train_model,
)

_DATASETS = [
    "train_images",
    "train_masks",
    "val_images",
    "val_masks",
    "slice_statistics",
    "data_fingerprint",
    "training_workspace",
    "experiment_logger",
]
_PARAMETERS = ["model", "models", "preprocessing", "training", "seed"]


def create_pipeline(**kwargs: object) -> Pipeline:
    """Split folders -> calibrated checkpoint, training history and their figures."""
    return Pipeline(
        [
            Node(
                train_model,
                inputs={name: name for name in _DATASETS}
                | {name: f"params:{name}" for name in _PARAMETERS},
                outputs=["uncalibrated_checkpoint", "training_history"],
                name="train_model",
            ),
            Node(
                calibrate_model,
                inputs={
                    "checkpoint": "uncalibrated_checkpoint",
                    "val_images": "val_images",
                    "val_masks": "val_masks",
                    "preprocessing": "params:preprocessing",
                    "training": "params:training",
                },
                outputs=["checkpoint", "calibration"],
                name="calibrate_model",
            ),
            Node(
                draw_reliability_diagram,
                inputs="calibration",
                outputs="reliability_diagram",
                name="draw_reliability_diagram",
            ),
            Node(
                draw_training_curves,
                inputs="training_history",
                outputs=["training_curves", "training_chart"],
                name="draw_training_curves",
            ),
        ]
    )
