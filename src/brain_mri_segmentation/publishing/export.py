"""From a checkpoint to ONNX, which others load with the tools they have."""

import logging
import warnings

import numpy as np
import onnxruntime
import torch

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.intensity import CHANNELS
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.parameters import PreprocessingParameters

ONNX_FILE = "model.onnx"
_SAME_LOGITS = 1e-4
"""Largest difference of ONNX logits; two runtimes do not add in the same order."""


def to_onnx(checkpoint: Checkpoint) -> bytes:
    """Return the network as ONNX, checked in onnxruntime against the checkpoint.

    Its input ``image`` is (N, 3 K, S, S) float32, normalised, for any N, K slices with the one to
    segment in the middle; its output ``logits`` (N, 2, S, S).

    Raises:
        InputError: onnxruntime gives other logits.
    """
    rules = PreprocessingParameters.model_validate(checkpoint.preprocessing)
    network, size = checkpoint.build(), rules.image_size
    channels = CHANNELS * (1 + 2 * rules.context)
    logging.getLogger("torch.onnx").setLevel(
        logging.ERROR
    )  # it misses torchvision, which we do not
    with warnings.catch_warnings(action="ignore"):
        program = torch.onnx.export(
            network,
            (torch.zeros(2, channels, size, size),),
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None  # for mypy: only the former exporter, not used here, gives None
    model = program.model_proto
    for part in (*model.graph.node, *model.graph.value_info):
        del part.metadata_props[:]  # the exporter leaves paths of this machine in them
    onnx = model.SerializeToString(deterministic=True)
    _check_onnx(onnx, network, channels, size)
    return onnx


@torch.inference_mode()
def _check_onnx(onnx: bytes, network: torch.nn.Module, channels: int, size: int) -> None:
    random = torch.Generator().manual_seed(0)
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    for count in (1, 3):
        image = torch.randn(count, channels, size, size, generator=random)
        (logits,) = session.run(["logits"], {"image": image.numpy()})
        if (difference := float(np.abs(logits - network(image).numpy()).max())) > _SAME_LOGITS:
            raise InputError(
                f"onnxruntime's logits differ from the checkpoint's by {difference:.2g}, more than "
                f"{_SAME_LOGITS:.0e}. Go on without ONNX: --params publishing.onnx=false"
            )
