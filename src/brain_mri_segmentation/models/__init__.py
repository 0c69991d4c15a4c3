"""Architectures behind the parameter ``model``, and the checkpoint that carries one."""

from brain_mri_segmentation.models import (  # noqa: F401 - each registers itself
    ensemble,
    segformer,
    unet,
    unet_efficientnet,
)
from brain_mri_segmentation.models.checkpoint import RUN_FILE, SHIPPED_MODEL, Checkpoint
from brain_mri_segmentation.models.ensemble import EnsembleOptions, combine, find_checkpoints
from brain_mri_segmentation.models.registry import (
    SegmentationModel,
    check_model_name,
    check_model_options,
    create_model,
    rebuild_model,
)

__all__ = [
    "RUN_FILE",
    "SHIPPED_MODEL",
    "Checkpoint",
    "EnsembleOptions",
    "SegmentationModel",
    "check_model_name",
    "check_model_options",
    "combine",
    "create_model",
    "find_checkpoints",
    "rebuild_model",
]
