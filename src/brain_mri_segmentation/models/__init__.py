"""Architectures behind the parameter ``model``, and the checkpoint that carries one.

The networks themselves are imported when one is built, since they need PyTorch.
"""

from brain_mri_segmentation.models.checkpoint import RUN_FILE, SHIPPED_MODEL, Checkpoint, as_arrays
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
    "SegmentationModel",
    "as_arrays",
    "check_model_name",
    "check_model_options",
    "create_model",
    "rebuild_model",
]
