from kedro.pipeline import Node, Pipeline

from brain_mri_segmentation.pipelines.training.nodes import draw_training_curves, train_model

_DATASETS = [
    "train_images",
    "train_masks",
    "val_images",
    "val_masks",
    "data_fingerprint",
    "training_workspace",
    "experiment_logger",
]
_PARAMETERS = ["model", "models", "preprocessing", "training", "seed"]


def create_pipeline(**kwargs: object) -> Pipeline:
    """Split folders -> checkpoint, training history and its curves."""
    return Pipeline(
        [
            Node(
                train_model,
                inputs={name: name for name in _DATASETS}
                | {name: f"params:{name}" for name in _PARAMETERS},
                outputs=["checkpoint", "training_history"],
                name="train_model",
            ),
            Node(
                draw_training_curves,
                inputs="training_history",
                outputs="training_curves",
                name="draw_training_curves",
            ),
        ]
    )
