from kedro.pipeline import Node, Pipeline

from brain_mri_segmentation.evaluation import plots
from brain_mri_segmentation.pipelines import SPLIT_FOLDERS
from brain_mri_segmentation.pipelines.evaluation.nodes import (
    score_predictions,
    score_single_slices,
    segment_split,
    select_split,
    summarise_scores,
)


def create_pipeline(**kwargs: object) -> Pipeline:
    """Checkpoint and split folders -> predicted masks -> scores -> metrics and plots."""
    return Pipeline(
        [
            Node(
                select_split,
                inputs=SPLIT_FOLDERS | {"parameters": "params:evaluation"},
                outputs=["evaluation_images", "evaluation_masks"],
                name="select_split",
            ),
            Node(
                segment_split,
                inputs={
                    "checkpoint": "checkpoint",
                    "images": "evaluation_images",
                    "parameters": "params:evaluation",
                    "training": "params:training",
                },
                outputs="predictions",
                name="segment_split",
            ),
            Node(
                score_predictions,
                inputs=["predictions", "evaluation_masks", "params:evaluation"],
                outputs=["slice_scores", "patient_scores", "site_scores"],
                name="score_predictions",
            ),
            Node(
                score_single_slices,
                inputs={
                    "checkpoint": "checkpoint",
                    "images": "evaluation_images",
                    "masks": "evaluation_masks",
                    "parameters": "params:evaluation",
                    "training": "params:training",
                },
                outputs="single_slice_scores",
                name="score_single_slices",
            ),
            Node(
                summarise_scores,
                inputs={
                    "slice_scores": "slice_scores",
                    "patient_scores": "patient_scores",
                    "single_slice_scores": "single_slice_scores",
                    "checkpoint": "checkpoint",
                    "data_fingerprint": "data_fingerprint",
                    "parameters": "params:evaluation",
                    "seed": "params:seed",
                },
                outputs="metrics",
                name="summarise_scores",
            ),
            Node(
                plots.patient_dice,
                inputs=["patient_scores", "metrics"],
                outputs="patient_dice",
                name="plot_patient_dice",
            ),
            Node(
                plots.dice_by_tumour_size,
                inputs="slice_scores",
                outputs="dice_by_tumour_size",
                name="plot_dice_by_tumour_size",
            ),
            Node(
                plots.slice_gallery,
                inputs={
                    "slice_scores": "slice_scores",
                    "images": "evaluation_images",
                    "masks": "evaluation_masks",
                    "predictions": "predictions",
                },
                outputs="slice_gallery",
                name="plot_slice_gallery",
            ),
        ]
    )
