"""The model card: every number on it is taken from what training and evaluation measured."""

import math
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from brain_mri_segmentation.evaluation.metrics import SUMMARY, Report, format_metric
from brain_mri_segmentation.inference.conversion import ONNX_FILE
from brain_mri_segmentation.inference.review import doubt
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.parameters import PreprocessingParameters, PublishingParameters
from brain_mri_segmentation.publishing.gate import Approval, Comparison

_TEMPLATE = Path(__file__).parent / "model_card.md.j2"
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def render_card(
    checkpoint: Checkpoint,
    report: Report,
    patient_scores: pd.DataFrame,
    site_scores: pd.DataFrame,
    comparison: Comparison,
    approval: Approval,
    card_pictures: Collection[str],
    quantisation: Report,
    parameters: PublishingParameters,
) -> str:
    """Render the card, with the metadata that the Hugging Face hub reads.

    Args:
        checkpoint: The model.
        report: Its ``metrics.json``.
        patient_scores: One row a patient: ``patient``, ``slices``, ``dice``.
        site_scores: One row a site, as ``metrics.score_sites`` gave it.
        comparison: What ``compare`` gave.
        approval: What ``approve`` gave.
        card_pictures: Paths of pictures in the exported folder: ``patient_dice.png``,
            ``comparison.png`` unless the model is the baseline, and ``slice_gallery.png`` where
            slices may be shown.
        quantisation: What ``prove`` gave; empty where no copy in 8 bits was made.
        parameters: Licence, data and destination.

    Returns:
        Markdown, the contents of ``README.md``.
    """
    rules = PreprocessingParameters.model_validate(checkpoint.preprocessing)
    scores = patient_scores.dropna(subset=["dice"]).sort_values("dice")
    on_hub = parameters.destination == "hub"
    card = ModelCard.from_template(
        _metadata(checkpoint, report, parameters),
        template_path=str(_TEMPLATE),
        report=report,
        quantisation=quantisation,
        millions=sum(w.size for w in checkpoint.weights.values()) / 1e6,
        rules=rules,
        doubt=doubt,
        exp=math.exp,
        phantoms=patient_scores["patient"].str.startswith("PHANTOM").any(),
        approval=approval,
        comparison=comparison,
        pictures={Path(place).stem: place for place in card_pictures},
        summary=SUMMARY,
        format_metric=format_metric,
        sites=site_scores.to_dict("records"),
        worst=scores.iloc[0],
        best=scores.iloc[-1],
        partitions=[
            {"name": name, **counts}
            for name, counts in checkpoint.metadata.get("fingerprint", {}).items()
            if isinstance(counts, dict)
        ],
        metadata=checkpoint.metadata,
        base_model=_base_model(checkpoint),
        settings=parameters,
        library=checkpoint.library,
        source=parameters.repo_id if on_hub else "path/of/this/folder",
        on_hub=on_hub,
        onnx_file=ONNX_FILE,
    )
    return f"{card}\n"


def _metadata(
    checkpoint: Checkpoint, report: Report, settings: PublishingParameters
) -> ModelCardData:
    results = [
        EvalResult(
            task_type="image-segmentation",
            task_name="Segmentation of lower-grade glioma",
            dataset_type=settings.data.id,
            dataset_name=settings.data.name,
            dataset_split=report["split"],
            dataset_revision=report["fingerprint"]["data"],
            metric_type=name,
            metric_name=text,
            metric_value=round(float(report[name]), 4),
            metric_args={"interval_95": _rounded(report["intervals_95"][name])},
        )
        for name, text in SUMMARY.items()
        if report[name] is not None
    ]
    return ModelCardData(
        license=settings.license,
        library_name=checkpoint.library,
        pipeline_tag="image-segmentation",
        tags=["medical-imaging", "mri", "brain", "glioma", "semantic-segmentation"],
        datasets=[settings.data.id],
        metrics=["dice", "iou"],
        base_model=_base_model(checkpoint),
        model_name=f"brain-mri-segmentation-{report['model']}",
        eval_results=results,
    )


def _rounded(ends: Sequence[float | None]) -> list[float | None]:
    return [None if end is None else round(float(end), 4) for end in ends]


def _base_model(checkpoint: Checkpoint) -> str | None:
    """Return the hub name of the weights that training started from, if it had some."""
    start = (checkpoint.metadata.get("model_options") or {}).get("pretrained")
    # As transformers reads it: a folder of that name goes before the hub.
    if not isinstance(start, str):  # true: weights of a package, which is no model of a hub
        return None
    return start if _HUB_NAME.fullmatch(start) and not Path(start).exists() else None
