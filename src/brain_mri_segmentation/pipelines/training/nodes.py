"""From split folders to a checkpoint."""

from pathlib import Path

import pandas as pd
from lightning.pytorch.loggers import Logger
from matplotlib.figure import Figure

from brain_mri_segmentation import figures
from brain_mri_segmentation.cohort import Slices
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.parameters import PreprocessingParameters, TrainingParameters
from brain_mri_segmentation.training import Partition, Recipe, fit_model


def train_model(
    train_images: Slices,
    train_masks: Slices,
    val_images: Slices,
    val_masks: Slices,
    data_fingerprint: dict[str, object],
    model: str,
    models: dict[str, dict[str, object]],
    preprocessing: PreprocessingParameters,
    training: TrainingParameters,
    seed: int,
    training_workspace: Path,
    experiment_logger: Logger | None,
) -> tuple[Checkpoint, pd.DataFrame]:
    """Train the chosen model; return it at its best validation Dice, and its history."""
    recipe = Recipe(
        model_name=model,
        model_options=models.get(model, {}),
        preprocessing=preprocessing,
        training=training,
        seed=seed,
        metadata={"fingerprint": data_fingerprint},
    )
    return fit_model(
        recipe,
        Partition(train_images, train_masks),
        Partition(val_images, val_masks),
        training_workspace,
        experiment_logger,
    )


def draw_training_curves(training_history: pd.DataFrame) -> Figure:
    """Draw losses and validation scores of each epoch."""
    return figures.training_curves(training_history)
