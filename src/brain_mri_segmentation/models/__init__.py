"""Architectures behind the parameter ``model``, and the checkpoint that carries one."""

from brain_mri_segmentation.models.checkpoint import RUN_FILE, Checkpoint, write_atomically
from brain_mri_segmentation.models.ensemble import EnsembleOptions
from brain_mri_segmentation.models.registry import (
    SegmentationModel,
    check_model_name,
    check_model_options,
    create_model,
    learning_rate_of,
    rebuild_model,
)

__all__ = [
    "RUN_FILE",
    "Checkpoint",
    "EnsembleOptions",
    "SegmentationModel",
    "check_model_name",
    "check_model_options",
    "create_model",
    "learning_rate_of",
    "rebuild_model",
    "write_atomically",
]
