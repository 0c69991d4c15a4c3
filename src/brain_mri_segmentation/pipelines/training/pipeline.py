from kedro.pipeline import Node, Pipeline

from brain_mri_segmentation.evaluation import plots
from brain_mri_segmentation.pipelines.training.nodes import (
    calibrate_model,
    finish_model,
    train_model,
)

_DATASETS = [
    "train_images",
    "train_masks",
    "slice_statistics",
    "data_fingerprint",
    "training_workspace",
    "experiment_logger",
]
_VALIDATION = ["val_images", "val_masks"]
_PARAMETERS = ["model", "models", "preprocessing", "training", "seed"]


def create_pipeline(**kwargs: object) -> Pipeline:
    """Split folders -> calibrated checkpoint, training history and their plots."""
    return Pipeline(
        [
            _train(*_DATASETS, *_VALIDATION),
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
                plots.reliability_diagram,
                inputs="calibration",
                outputs="reliability_diagram",
                name="plot_reliability_diagram",
            ),
        ]
    )


def without_validation() -> Pipeline:
    """Train to the end of the schedule, for a fold or for the final model."""
    finish = Node(
        finish_model,
        inputs=["uncalibrated_checkpoint", "params:preprocessing"],
        outputs="checkpoint",
        name="finish_model",
    )
    return Pipeline([_train(*_DATASETS), finish])


def _train(*datasets: str) -> Node:
    return Node(
        train_model,
        inputs={name: name for name in datasets} | {name: f"params:{name}" for name in _PARAMETERS},
        outputs=["uncalibrated_checkpoint", "training_history", "training_chart"],
        name="train_model",
    )
