from kedro.pipeline import Node, Pipeline

from brain_mri_segmentation.pipelines.sweep.nodes import search_parameters

_DATASETS = [
    "train_images",
    "train_masks",
    "val_images",
    "val_masks",
    "slice_statistics",
    "data_fingerprint",
    "sweep_workspace",
]
_PARAMETERS = ["model", "models", "preprocessing", "training", "sweep", "seed"]


def create_pipeline(**kwargs: object) -> Pipeline:
    """Split folders -> trials -> the best parameters, as an environment to run with."""
    return Pipeline(
        [
            Node(
                search_parameters,
                inputs={name: name for name in _DATASETS}
                | {name: f"params:{name}" for name in _PARAMETERS},
                outputs=["sweep_trials", "best_parameters"],
                name="search_parameters",
            )
        ]
    )
