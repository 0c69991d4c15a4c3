from kedro.pipeline import Node, Pipeline

from brain_mri_segmentation.cohort.index import join_partitions
from brain_mri_segmentation.pipelines import (
    DEVELOPMENT_FOLDERS,
    FOLDS,
    evaluation,
    in_namespace,
    training,
)
from brain_mri_segmentation.pipelines.cross_validation.pipeline import SCORES
from brain_mri_segmentation.pipelines.final.nodes import adopt_results


def create_pipeline(**kwargs: object) -> Pipeline:
    """Train and val together -> the model to publish, with the scores of the folds before it."""
    numbers = range(1, FOLDS.get() + 1)
    join = Node(
        join_partitions,
        inputs=DEVELOPMENT_FOLDERS,
        outputs=["final.train_images", "final.train_masks"],
        name="join_partitions",
    )
    train = in_namespace(
        "final",
        training.without_validation(),
        {"data_fingerprint", "slice_statistics"},
        {"training_history", "training_chart"},
    )
    adopt = Node(
        adopt_results,
        inputs={
            "checkpoint": "final.checkpoint",
            "calibration": "out_of_fold.calibration",
            "report": "out_of_fold.metrics",
        }
        | {name: f"out_of_fold.{name}" for name in SCORES}
        | {f"model_{n}": f"fold_{n}.checkpoint" for n in numbers}
        | {f"masks_{n}": f"fold_{n}.predictions" for n in numbers},
        outputs=["checkpoint", "metrics", "calibration", "predictions", *SCORES],
        name="adopt_results",
    )
    drawn = evaluation.create_pipeline()
    gallery = Pipeline(
        drawn.only_nodes("plot_slice_gallery"),
        inputs={f"evaluation_{kind}": f"final.train_{kind}" for kind in ("images", "masks")},
    )
    draw = drawn.only_nodes("plot_patient_dice", "plot_dice_by_tumour_size")
    draw += training.create_pipeline().only_nodes("plot_reliability_diagram")
    return Pipeline([join, train, adopt, draw, gallery])
