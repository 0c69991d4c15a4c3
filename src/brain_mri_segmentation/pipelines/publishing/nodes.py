"""From a checkpoint and its scores to a model that others can load."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
from huggingface_hub import HfApi
from matplotlib.figure import Figure

from brain_mri_segmentation.cohort.index import DEVELOPMENT, Slices, join_partitions
from brain_mri_segmentation.datasets.registered_model_dataset import Release
from brain_mri_segmentation.evaluation import plots
from brain_mri_segmentation.evaluation.metrics import OUT_OF_FOLD, Report
from brain_mri_segmentation.inference.conversion import ONNX_FILE, to_onnx
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.parameters import EvaluationParameters, PublishingParameters
from brain_mri_segmentation.publishing.gate import (
    Approval,
    Comparison,
    Scores,
    approve,
    compare,
    find_report,
)
from brain_mri_segmentation.publishing.hub import push
from brain_mri_segmentation.publishing.quantisation import prove, quantise

logger = logging.getLogger(__name__)

# Aliases in the registry: the champion is what is served, and only a model that passed becomes it.
_ALIASES = {"passed": "champion", "baseline": "baseline", "overridden": None}


def compare_models(
    reports: Mapping[str, Callable[[], Report]],
    scores: Mapping[str, Callable[[], pd.DataFrame]],
    model: str,
    parameters: PublishingParameters,
    evaluation: EvaluationParameters,
    seed: int,
) -> tuple[Comparison, Figure]:
    """Compare the model with the baseline, patient by patient."""
    main, baseline = (
        Scores(find_report(name, reports), scores[name]()) for name in (model, parameters.baseline)
    )
    comparison = compare(
        main, baseline, parameters.gate.confidence, evaluation.bootstrap_samples, seed
    )
    return comparison, plots.model_comparison(comparison)


def check_gate(
    comparison: Comparison,
    checkpoint: Checkpoint,
    report: Report,
    parameters: PublishingParameters,
) -> Approval:
    """Refuse a model that does not beat the baseline."""
    approval = approve(comparison, checkpoint, report, parameters.gate)
    level = logging.WARNING if approval.status == "overridden" else logging.INFO
    logger.log(level, "%s", approval.reason)
    return approval


def quantise_model(
    checkpoint: Checkpoint,
    approval: Approval,  # noqa: ARG001 - without it nothing is made
    report: Report,
    parameters: PublishingParameters,
    **folders: Slices,
) -> tuple[Checkpoint, Report]:
    """Add a copy in 8 bits, if it is wanted and loses hardly any Dice."""
    if not parameters.int8:
        return checkpoint, {}
    splits = DEVELOPMENT if report["split"] == OUT_OF_FOLD else (report["split"],)
    images, masks = join_partitions(splits, **folders)
    quantised = quantise(checkpoint, folders["train_images"])
    proof = prove(quantised, images, masks, report["split"])
    logger.info("%s", proof["reason"])
    return quantised if proof["kept"] else checkpoint, proof


def choose_card_pictures(
    report_pictures: Mapping[str, Callable[[], bytes]],
    approval: Approval,  # noqa: ARG001 - without it nothing is made
    comparison: Comparison,
    parameters: PublishingParameters,
) -> dict[str, bytes]:
    """Take what the model card shows from the plots of the reports, by name in the folder."""
    names = ["patient_dice"]
    if comparison["main"] != comparison["baseline"]:
        names.append("comparison")
    if parameters.pictures:
        names.append("slice_gallery")
    return {f"pictures/{name}.png": report_pictures[name]() for name in names}


def export_model(
    quantised_checkpoint: Checkpoint,
    quantisation: Report,
    report: Report,
    comparison: Comparison,
    approval: Approval,
    model_card: str,
    card_pictures: dict[str, bytes],
    parameters: PublishingParameters,
) -> dict[str, bytes]:
    """Make all files of the exported folder."""
    results = {
        "metrics": report,
        "comparison": comparison,
        "approval": {"status": approval.status, "reason": approval.reason},
        "int8": quantisation,
    }
    files = quantised_checkpoint.folder_files(results)
    if parameters.onnx:
        files[ONNX_FILE] = to_onnx(quantised_checkpoint)
    return files | {"README.md": model_card.encode()} | card_pictures


def push_to_hub(
    exported_model: Path, report: Report, parameters: PublishingParameters
) -> dict[str, str]:
    """Push the folder, if that is its destination."""
    if parameters.destination == "folder" or parameters.repo_id is None:
        logger.info("The model is in %s", exported_model)
        return {"destination": "folder"}
    message = f"Publish {report['model']} {report['digest']}"
    # The client takes HF_TOKEN and HF_ENDPOINT from the environment.
    release = push(
        exported_model,
        parameters.repo_id,
        parameters.private,
        parameters.revision,
        message,
        HfApi(),
    )
    logger.info("%s: %s", message, release["url"])
    return {"destination": "hub"} | release


def register_model(exported_model: Path, approval: Approval, report: Report) -> Release:
    """Register the folder; the champion changes only when the gate is passed."""
    tags = {"model": report["model"], "digest": report["digest"], "gate": approval.status}
    tags |= {"reason": approval.reason, f"{report['split']}/dice": f"{report['dice']:.4f}"}
    return Release(exported_model, _ALIASES[approval.status], tags)
