"""From split folders and a space of parameters to the best ones."""

from typing import Any

import pandas as pd

from brain_mri_segmentation import training as trainings
from brain_mri_segmentation.cohort.index import Slices
from brain_mri_segmentation.datasets import local_path
from brain_mri_segmentation.parameters import (
    PreprocessingParameters,
    SweepParameters,
    TrainingParameters,
)
from brain_mri_segmentation.training import Partition, TrainingConfig


def search_parameters(
    train_images: Slices,
    train_masks: Slices,
    val_images: Slices,
    val_masks: Slices,
    slice_statistics: pd.DataFrame,
    data_fingerprint: dict[str, object],
    model: str,
    models: dict[str, dict[str, object]],
    preprocessing: PreprocessingParameters,
    training: TrainingParameters,
    sweep: SweepParameters,
    seed: int,
    sweep_workspace: dict[str, str],
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Train with many parameters; return all trials, and the best as parameters.yml has them."""
    return trainings.search_parameters(
        TrainingConfig(
            model_name=model,
            model_options=models.get(model, {}),
            preprocessing=preprocessing,
            training=training,
            seed=seed,
            metadata={"fingerprint": data_fingerprint},
        ),
        sweep,
        Partition(train_images, train_masks, slice_statistics),
        Partition(val_images, val_masks, slice_statistics),
        local_path(sweep_workspace["path"]),
    )
