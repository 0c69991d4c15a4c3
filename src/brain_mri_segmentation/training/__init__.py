"""Fitting a model."""

from brain_mri_segmentation.training.trainer import Partition, TrainingConfig, fit_model

__all__ = ["Partition", "TrainingConfig", "fit_model"]
