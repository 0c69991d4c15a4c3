"""Using a trained model: what command line, pipelines and service call."""

from brain_mri_segmentation.inference.predictor import Prediction, Predictor, load_model

__all__ = ["Prediction", "Predictor", "load_model"]
