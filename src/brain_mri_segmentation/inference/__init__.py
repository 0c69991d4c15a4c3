"""Using a trained model: what command line, pipelines and service call."""

from brain_mri_segmentation.inference.predictor import (
    Predictor,
    Segmentation,
    load_model,
    segment,
    segment_batch,
    segment_volume,
)

__all__ = [
    "Predictor",
    "Segmentation",
    "load_model",
    "segment",
    "segment_batch",
    "segment_volume",
]
