"""Fitting a model."""

from brain_mri_segmentation.training.sweep import search_parameters
from brain_mri_segmentation.training.trainer import Partition, TrainingConfig, fit_model

__all__ = ["Partition", "TrainingConfig", "fit_model", "search_parameters"]
