from kedro.pipeline import Node, Pipeline

from brain_mri_segmentation.pipelines.ensemble.nodes import combine_checkpoints


def create_pipeline(**kwargs: object) -> Pipeline:
    """Checkpoints that the parameters name -> one checkpoint with all of them."""
    return Pipeline(
        [
            Node(
                combine_checkpoints,
                inputs="params:models",
                outputs="ensemble_checkpoint",
                name="combine_checkpoints",
            )
        ]
    )
