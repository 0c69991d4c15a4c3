from kedro.pipeline import Node, Pipeline

from brain_mri_segmentation.pipelines import (
    DEVELOPMENT_FOLDERS,
    FOLDS,
    evaluation,
    in_namespace,
    training,
)
from brain_mri_segmentation.pipelines.cross_validation.nodes import (
    assign_folds,
    calibrate_models,
    join_folds,
    select_folds,
    summarise_folds,
)

_KINDS = ("images", "masks")
SCORES = ["slice_scores", "single_slice_scores", "patient_scores", "site_scores"]
_OF_A_FOLD = [f"{part}_{kind}" for part in ("train", "evaluation") for kind in _KINDS]


def create_pipeline(**kwargs: object) -> Pipeline:
    """Train and val -> folds -> training and evaluation of each -> one report over all patients.

    No fold has a validation: all its other patients train to the end of the schedule, as all do in
    the pipeline ``final``. The test patients take no part in either.
    """
    numbers = range(1, FOLDS.get() + 1)
    deal = [
        Node(
            assign_folds,
            inputs={"folds": "params:folds", "seed": "params:seed"} | DEVELOPMENT_FOLDERS,
            outputs="fold_assignment",
            name="assign_folds",
        ),
        Node(
            select_folds,
            inputs={"fold_assignment": "fold_assignment", "folds": "params:folds"}
            | DEVELOPMENT_FOLDERS,
            outputs={name: name for n in numbers for name in _named(f"fold_{n}", _OF_A_FOLD)},
            name="select_folds",
        ),
    ]
    train = training.without_validation()
    score = evaluation.create_pipeline().only_nodes(
        "segment_split", "score_predictions", "score_single_slices"
    )
    folds = [
        in_namespace(f"fold_{n}", train + score, {"data_fingerprint", "slice_statistics"})
        for n in numbers
    ]
    join = [
        Node(
            join_folds,
            inputs={"fold_assignment": "fold_assignment"}
            | {f"fold_{n}": f"fold_{n}.slice_scores" for n in numbers}
            | {f"single_{n}": f"fold_{n}.single_slice_scores" for n in numbers}
            | {f"patients_{n}": f"fold_{n}.patient_scores" for n in numbers},
            outputs=_named("out_of_fold", SCORES),
            name="join_folds",
        ),
        Node(
            summarise_folds,
            inputs={
                "slice_scores": "out_of_fold.slice_scores",
                "single_slice_scores": "out_of_fold.single_slice_scores",
                "patient_scores": "out_of_fold.patient_scores",
                "fold_assignment": "fold_assignment",
                "data_fingerprint": "data_fingerprint",
                "model": "params:model",
                "parameters": "params:evaluation",
                "seed": "params:seed",
            },
            outputs="out_of_fold.metrics",
            name="summarise_folds",
        ),
        Node(
            calibrate_models,
            inputs={"evaluation": "params:evaluation", "training": "params:training"}
            | {f"model_{n}": f"fold_{n}.checkpoint" for n in numbers}
            | {f"{kind}_{n}": f"fold_{n}.evaluation_{kind}" for n in numbers for kind in _KINDS},
            outputs="out_of_fold.calibration",
            name="calibrate_models",
        ),
    ]
    draw = evaluation.create_pipeline().only_nodes("plot_patient_dice")
    return Pipeline([*deal, *folds, *join, in_namespace("out_of_fold", draw)])


def _named(namespace: str, names: list[str]) -> list[str]:
    return [f"{namespace}.{name}" for name in names]
