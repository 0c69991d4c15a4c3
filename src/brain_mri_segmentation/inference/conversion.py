"""A network in the formats of other engines, which are kept for the next start."""

import hashlib
import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from platformdirs import user_cache_path

import brain_mri_segmentation.models
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.intensity import CHANNELS
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.parameters import PreprocessingParameters

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

# OpenVINO and nncf tell Intel of each conversion unless a user has opted out. Without this package,
# which they look for and can do without, they tell nobody.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

ONNX_FILE = "model.onnx"
_SAME_LOGITS = 1e-4
"""Largest difference of ONNX logits; two runtimes do not add in the same order."""


def input_shape(checkpoint: Checkpoint) -> tuple[int, int, int]:
    """Return channels, height and width of what the network sees."""
    rules = PreprocessingParameters.model_validate(checkpoint.preprocessing)
    return CHANNELS * (1 + 2 * rules.context), rules.image_size, rules.image_size


def to_onnx(checkpoint: Checkpoint) -> bytes:
    """Return the network as ONNX, checked in onnxruntime against the checkpoint.

    Its input ``image`` is (N, 3 K, S, S) float32, normalised, for any N, K slices with the one to
    segment in the middle; its output ``logits`` (N, 2, S, S).

    Raises:
        InputError: onnxruntime gives other logits.
    """
    network, shape = checkpoint.build(), input_shape(checkpoint)
    import torch

    # It misses torchvision, which we do not.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(action="ignore"):
        program = torch.onnx.export(
            network,
            (torch.zeros(2, *shape),),
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
    _check_onnx(onnx, network, shape)
    return onnx


def _check_onnx(onnx: bytes, network: "torch.nn.Module", shape: tuple[int, int, int]) -> None:
    import onnxruntime
    import torch

    random = torch.Generator().manual_seed(0)
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    for count in (1, 3):
        image = torch.randn(count, *shape, generator=random)
        (logits,) = session.run(["logits"], {"image": image.numpy()})
        with torch.inference_mode():
            expected = network(image).numpy()
        if (difference := float(np.abs(logits - expected).max())) > _SAME_LOGITS:
            raise InputError(
                f"onnxruntime's logits differ from the checkpoint's by {difference:.2g}, more than "
                f"{_SAME_LOGITS:.0e}. Go on without ONNX: --params publishing.onnx=false"
            )


def to_openvino(checkpoint: Checkpoint, path: Path) -> None:
    """Write the network as OpenVINO's ``path`` (.xml) and the weights beside it (.bin).

    Input and output are those of ``to_onnx``; the weights have 32 bits.
    """
    import openvino

    network, shape = checkpoint.build(), input_shape(checkpoint)
    import torch

    # The tracer warns of checks of the input's shape, which is the same for ever; OpenVINO's own
    # call of it would run the network three times.
    with warnings.catch_warnings(action="ignore"), torch.inference_mode():
        example = torch.zeros(2, *shape)
        traced = torch.jit.trace(network, example, check_trace=False)  # type: ignore[no-untyped-call]
        model = openvino.convert_model(traced, input=[-1, *shape])
    openvino.save_model(model, path, compress_to_fp16=False)


@contextmanager
def converted(
    checkpoint: Checkpoint, package: ModuleType, convert: Callable[[Path], object]
) -> Iterator[Path]:
    """Give the folder of a converted network, which is kept in the user's cache.

    The cache tells models apart by their digests, by the code that builds them and by the package's
    version, and holds a folder when it is complete. Where it cannot be written, such as in a
    container, the network is converted at each start.

    Args:
        checkpoint: The model.
        package: What reads the folder.
        convert: Fills the folder.
    """
    cache = user_cache_path("brain-mri-segmentation")
    folder = cache / _key(checkpoint, package)
    if folder.is_dir():
        yield folder
        return
    logger.info("The model is converted for %s, which is done once.", package.__name__)
    with _temporary_folder(cache) as beside:
        place = Path(beside, "new")
        place.mkdir()
        convert(place)
        for path in place.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        with suppress(OSError):  # no cache, or another process was faster
            place = place.rename(folder)
        yield place


def _temporary_folder(cache: Path) -> "tempfile.TemporaryDirectory[str]":
    try:
        cache.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=cache, prefix=".")
    except OSError:
        return tempfile.TemporaryDirectory()


def _key(checkpoint: Checkpoint, package: ModuleType) -> str:
    model = [checkpoint.digest, checkpoint.model_name, checkpoint.model_config]
    key = hashlib.sha256(json.dumps(model, sort_keys=True).encode())
    for file in sorted(Path(brain_mri_segmentation.models.__file__).parent.glob("*.py")):
        key.update(file.read_bytes())
    version = package.__version__.partition("-")[0]
    return f"{package.__name__}-{version}-{key.hexdigest()[:16]}"
