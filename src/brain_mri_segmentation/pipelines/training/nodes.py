"""From split folders to a checkpoint."""

import dataclasses
import logging

import pandas as pd
from lightning.pytorch.loggers import Logger

from brain_mri_segmentation.cohort.index import Slices
from brain_mri_segmentation.datasets.storage import local_path
from brain_mri_segmentation.evaluation.calibration import calibrate
from brain_mri_segmentation.evaluation.metrics import Report
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.parameters import PreprocessingParameters, TrainingParameters
from brain_mri_segmentation.training import Partition, TrainingConfig, fit_model
from brain_mri_segmentation.training.hardware import find_device
from brain_mri_segmentation.training.resume import claim

logger = logging.getLogger(__name__)


def train_model(
    train_images: Slices,
    train_masks: Slices,
    slice_statistics: pd.DataFrame,
    data_fingerprint: dict[str, object],
    model: str,
    models: dict[str, dict[str, object]],
    preprocessing: PreprocessingParameters,
    training: TrainingParameters,
    seed: int,
    training_workspace: dict[str, str],
    experiment_logger: Logger | None,
    val_images: Slices | None = None,
    val_masks: Slices | None = None,
) -> tuple[Checkpoint, pd.DataFrame, pd.DataFrame]:
    """Train the chosen model; return it at its best validation Dice, and its history twice.

    The catalog stores the history as a table and as a chart. Without validation the model is
    trained to the end.
    """
    recipe = TrainingConfig(
        model_name=model,
        model_options=models.get(model, {}),
        preprocessing=preprocessing,
        training=training,
        seed=seed,
        metadata={"fingerprint": data_fingerprint},
    )
    val = None
    if val_images is not None and val_masks is not None:
        val = Partition(val_images, val_masks, slice_statistics)
    workspace = local_path(training_workspace["path"])
    train = Partition(train_images, train_masks, slice_statistics)
    with claim(workspace):
        checkpoint, history = fit_model(recipe, train, val, workspace, experiment_logger)
    return checkpoint, history, history


def finish_model(checkpoint: Checkpoint, preprocessing: PreprocessingParameters) -> Checkpoint:
    """Give a model today's threshold, component rules and mirroring, and round its weights.

    So these can be chosen without training again, and every score is of the weights as they are
    shipped.
    """
    chosen = checkpoint.preprocessing | preprocessing.of_trained_weights()
    return dataclasses.replace(checkpoint, preprocessing=chosen).in_half_precision()


def calibrate_model(
    checkpoint: Checkpoint,
    val_images: Slices,
    val_masks: Slices,
    preprocessing: PreprocessingParameters,
    training: TrainingParameters,
) -> tuple[Checkpoint, Report]:
    """Fit temperature and review threshold on validation; return the model that knows them."""
    checkpoint = finish_model(checkpoint, preprocessing)
    device = find_device(training.accelerator)
    calibrated, report = calibrate(checkpoint, val_images, val_masks, training.batch_size, device)
    error, review = report["expected_calibration_error"], report["review"]
    logger.info(
        "Temperature %.2f: calibration error near tumour %.3f before, %.3f after; "
        "%.0f %% of the slices to review",
        report["temperature"],
        error["before"],
        error["after"],
        100 * review["flagged"],
    )
    return calibrated, report
