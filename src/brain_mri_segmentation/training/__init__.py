"""Fitting a model."""

from brain_mri_segmentation.training.fit import Partition, Recipe, fit_model

__all__ = ["Partition", "Recipe", "fit_model"]
