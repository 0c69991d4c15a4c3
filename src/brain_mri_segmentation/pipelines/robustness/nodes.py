"""From a checkpoint and one partition to scores under worse conditions."""

import pandas as pd

from brain_mri_segmentation.cohort.index import Slices
from brain_mri_segmentation.evaluation.robustness import score_conditions
from brain_mri_segmentation.evaluation.scoring import check_unseen
from brain_mri_segmentation.inference.predictor import Predictor
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.parameters import EvaluationParameters, TrainingParameters
from brain_mri_segmentation.training.hardware import find_device


def score_robustness(
    checkpoint: Checkpoint,
    images: Slices,
    masks: Slices,
    parameters: EvaluationParameters,
    training: TrainingParameters,
    seed: int,
) -> pd.DataFrame:
    """Score the model under noise, blur and other conditions."""
    check_unseen(checkpoint, list(images), parameters.split)
    predictor = Predictor(checkpoint, find_device(training.accelerator), parameters.engine)
    return score_conditions(predictor, images, masks, parameters.batch_size, seed)
