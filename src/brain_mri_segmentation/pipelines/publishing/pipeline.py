from kedro.pipeline import Node, Pipeline

from brain_mri_segmentation.pipelines import SPLIT_FOLDERS
from brain_mri_segmentation.pipelines.publishing.nodes import (
    check_gate,
    choose_card_pictures,
    compare_models,
    export_model,
    push_to_hub,
    quantise_model,
    register_model,
)
from brain_mri_segmentation.publishing.card import render_card


def _inputs(*names: str) -> dict[str, str]:
    """Wire arguments to the entries of the same name, and to what they abbreviate."""
    entries = {
        "report": "metrics",
        "parameters": "params:publishing",
        "evaluation": "params:evaluation",
        "seed": "params:seed",
        "model": "params:model",
    }
    return {name: entries.get(name, name) for name in names}


def create_pipeline(**kwargs: object) -> Pipeline:
    """Checkpoint and scores -> gate -> card and exported model -> hub and registry."""
    return Pipeline(
        [
            Node(
                compare_models,
                inputs=_inputs("model", "parameters", "evaluation", "seed")
                | {"reports": "metrics_of_models", "scores": "patient_scores_of_models"},
                outputs=["comparison", "comparison_plot"],
                name="compare_models",
            ),
            Node(
                check_gate,
                inputs=_inputs("comparison", "checkpoint", "report", "parameters"),
                outputs="approval",
                name="check_gate",
            ),
            Node(
                quantise_model,
                inputs=_inputs("checkpoint", "approval", "report", "parameters") | SPLIT_FOLDERS,
                outputs=["quantised_checkpoint", "quantisation"],
                name="quantise_model",
            ),
            Node(
                choose_card_pictures,
                inputs=_inputs("report_pictures", "approval", "comparison", "parameters"),
                outputs="card_pictures",
                name="choose_card_pictures",
            ),
            Node(
                render_card,
                inputs=_inputs("checkpoint", "report", "patient_scores", "site_scores")
                | _inputs("comparison", "approval", "card_pictures", "quantisation", "parameters"),
                outputs="model_card",
                name="render_card",
            ),
            Node(
                export_model,
                inputs=_inputs(
                    "quantised_checkpoint", "quantisation", "report", "comparison", "approval"
                )
                | _inputs("model_card", "card_pictures", "parameters"),
                outputs="exported_model",
                name="export_model",
            ),
            Node(
                push_to_hub,
                inputs=_inputs("exported_model", "report", "parameters"),
                outputs="hub_release",
                name="push_to_hub",
            ),
            Node(
                register_model,
                inputs=_inputs("exported_model", "approval", "report"),
                outputs="registered_model",
                name="register_model",
            ),
        ]
    )
