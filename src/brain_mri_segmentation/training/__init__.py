"""Fitting a model."""

from brain_mri_segmentation.training.sweep import StartExperiment, search_parameters
from brain_mri_segmentation.training.trainer import Partition, TrainingConfig, fit_model

__all__ = ["Partition", "StartExperiment", "TrainingConfig", "fit_model", "search_parameters"]
