"""Fitting a model."""

from brain_mri_segmentation.training.fit import Partition, Recipe, fit

__all__ = ["Partition", "Recipe", "fit"]
