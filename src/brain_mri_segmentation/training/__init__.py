"""Fitting a model."""

from brain_mri_segmentation.training.fit import Partition, Recipe, fit_model
from brain_mri_segmentation.training.sweep import StartExperiment, search_parameters

__all__ = ["Partition", "Recipe", "StartExperiment", "fit_model", "search_parameters"]
