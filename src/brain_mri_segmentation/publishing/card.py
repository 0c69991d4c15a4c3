"""The model card: every number on it is taken from what training and evaluation measured."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from brain_mri_segmentation.evaluation.metrics import SUMMARY, Report, format_metric
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.parameters import PreprocessingParameters, PublishingParameters
from brain_mri_segmentation.publishing.export import ONNX_FILE
from brain_mri_segmentation.publishing.gate import Approval, Comparison

_TEMPLATE = Path(__file__).parent / "model_card.md.j2"
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
# How to use the network without this project: what is done before it and after it.
_PREPARE = """
resized = [Image.fromarray(s).resize(({size}, {size}), Image.Resampling.BILINEAR) for s in slices]
pixels = np.stack([np.asarray(image) for image in resized]).transpose(0, 3, 1, 2)
low, high = np.percentile(
    pixels, [{lower:g}, {upper:g}], axis=(0, 2, 3), method="inverted_cdf", keepdims=True
)
pixels = np.clip(pixels, low, high).astype(np.float64)
mean, std = (f(pixels, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.std))
pixels = ((pixels - mean) / np.where(std > 0, std, 1)).astype(np.float32)
"""
_ADD_NEIGHBOURS = """\
places = np.arange(len(pixels))[:, None] + np.arange(-{context}, {context} + 1)
pixels = pixels[places.clip(0, len(pixels) - 1)].reshape(len(pixels), -1, {size}, {size})
"""
_DECIDE = """\
probability = 1 / (1 + np.exp((logits[:, 0] - logits[:, 1]) / {temperature}))
masks = probability >= {threshold}  # (N, {size}, {size}) bool"""


def render_card(
    checkpoint: Checkpoint,
    report: Report,
    patient_scores: pd.DataFrame,
    site_scores: pd.DataFrame,
    comparison: Comparison,
    approval: Approval,
    settings: PublishingParameters,
    pictures: Mapping[str, str],
) -> str:
    """Render the card, with the metadata that the Hugging Face hub reads.

    Args:
        checkpoint: The model.
        report: Its ``metrics.json``.
        patient_scores: One row a patient: ``patient``, ``slices``, ``dice``.
        site_scores: One row a site, as ``metrics.score_sites`` gave it.
        comparison: What ``compare`` gave.
        approval: What ``approve`` gave.
        settings: Licence, data and destination.
        pictures: Path of each picture in the exported folder: ``patients``, ``comparison`` unless
            the model is the baseline, and ``failures`` where slices may be shown.

    Returns:
        Markdown, the contents of ``README.md``.
    """
    rules = PreprocessingParameters.model_validate(checkpoint.preprocessing)
    scores = patient_scores.dropna(subset=["dice"]).sort_values("dice")
    source = settings.repo_id if settings.destination == "hub" else "path/of/this/folder"
    card = ModelCard.from_template(
        _metadata(checkpoint, report, settings),
        template_path=str(_TEMPLATE),
        report=report,
        parameters=f"{sum(w.numel() for w in checkpoint.weights.values()) / 1e6:.1f}",
        size=rules.image_size,
        rules=rules,
        phantoms=patient_scores["patient"].str.startswith("PHANTOM").any(),
        approval=approval,
        comparison=comparison,
        pictures=pictures,
        modes=[report, *([report["single_slices"]] if "single_slices" in report else [])],
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
        data=settings.data,
        license=settings.license,
        library=checkpoint.library,
        source=source,
        repo_id=settings.repo_id if settings.destination == "hub" else None,
        onnx=_onnx_place(source, settings) if settings.onnx else None,
        number=_number,
        prepare=(_PREPARE + (_ADD_NEIGHBOURS if rules.context else "")).format(
            size=rules.image_size,
            lower=rules.lower_percentile,
            upper=rules.upper_percentile,
            context=rules.context,
        ),
        decide=_DECIDE.format(
            temperature=rules.temperature, threshold=rules.threshold, size=rules.image_size
        ),
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


def _number(value: float | None) -> str:
    return "undefined" if value is None or math.isnan(value) else f"{value:.3f}"


def _onnx_place(source: str | None, settings: PublishingParameters) -> str:
    if settings.destination == "hub":
        return f'hf_hub_download("{source}", "{ONNX_FILE}")'
    return f'"{source}/{ONNX_FILE}"'
