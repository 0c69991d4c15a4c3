"""What runs the network: PyTorch, OpenVINO or ONNX Runtime."""

import os
from functools import cache
from importlib.util import find_spec
from threading import Lock
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from brain_mri_segmentation.errors import InputError, needs_torch
from brain_mri_segmentation.inference.conversion import ONNX_FILE, converted, to_onnx, to_openvino
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.parameters import EngineName

if TYPE_CHECKING:
    import openvino

Precision = Literal["fp32", "bf16", "int8"]
_HINTS = {"fp32": "f32", "bf16": "bf16"}  # as OpenVINO calls them


class Engine(Protocol):
    """A network that is ready to run; several threads may call it."""

    name: str
    """Package and number format, such as ``openvino bf16``."""
    device: str
    """Where it runs, such as ``cpu`` or ``cuda``."""

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Run one forward pass.

        Args:
            inputs: (N, C, S, S) float32, normalised slices.

        Returns:
            (N, S, S) float32, log(p / (1 - p)) of the tumour.
        """


@cache
def openvino_core() -> "openvino.Core":
    """Return the one OpenVINO runtime of this process, which is never given back.

    Each runtime sets a stack for signal handlers and frees it with its last model. When several
    end in another order than they began, the process is left with a freed one, and the next
    signal that Python handles, such as the end of a child process, ends it.
    """
    import openvino

    return openvino.Core()


class OpenVINOEngine:
    """OpenVINO on the processor.

    Args:
        checkpoint: The model.
        precision: ``fp32``, ``bf16`` or ``int8``, which the model must carry; by default bf16 where
            the processor has instructions for it, else fp32.
    """

    device = "cpu"

    def __init__(self, checkpoint: Checkpoint, precision: Precision | None = None) -> None:
        import openvino

        core = openvino_core()
        capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        floats: Precision = "bf16" if "BF16" in capabilities else "fp32"
        precision = precision or floats
        if precision == "int8" and checkpoint.int8:
            model = core.read_model(*checkpoint.int8)
        else:
            with converted(
                checkpoint, openvino, lambda folder: to_openvino(checkpoint, folder / "model.xml")
            ) as folder:
                model = core.read_model(folder / "model.xml")
        compiled = core.compile_model(
            model,
            "CPU",
            {
                # In an INT8 model, of the layers that are left in floating point.
                "INFERENCE_PRECISION_HINT": _HINTS[floats if precision == "int8" else precision],
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": _threads(),
                "ENABLE_CPU_PINNING": False,  # or two processes would share one core
            },
        )
        self.name = f"openvino {precision}"
        self._request = compiled.create_infer_request()
        self._lock = Lock()  # one pass takes all threads, so that two at once gain nothing

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Run one forward pass (see ``Engine``)."""
        with self._lock:
            logits = self._request.infer([inputs], share_inputs=True, share_outputs=True)[0]
            return logits[:, 1] - logits[:, 0]


class OnnxRuntimeEngine:
    """ONNX Runtime on the processor, in 32 bits.

    Args:
        checkpoint: The model.
    """

    name, device = "onnxruntime fp32", "cpu"

    def __init__(self, checkpoint: Checkpoint) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = _threads()
        # Threads that wait actively would slow down whatever else the process does.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        with converted(
            checkpoint,
            onnxruntime,
            lambda folder: (folder / ONNX_FILE).write_bytes(to_onnx(checkpoint)),
        ) as folder:
            self._session = onnxruntime.InferenceSession(
                folder / ONNX_FILE, options, providers=["CPUExecutionProvider"]
            )

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Run one forward pass (see ``Engine``)."""
        (logits,) = self._session.run(["logits"], {"image": inputs})
        return logits[:, 1] - logits[:, 0]


def create_engine(checkpoint: Checkpoint, name: EngineName, device: str) -> Engine:
    """Build an engine.

    Args:
        checkpoint: The model.
        name: ``torch`` is the reference, in 32 bits. ``auto`` is the fastest: OpenVINO on a
            processor where it is installed, with the model's copy in 8 bits if it carries one;
            otherwise PyTorch in the format that the device likes. The others take no such copy.
        device: Where PyTorch runs; the others run on the processor.

    Raises:
        InputError: The engine is not installed, or the network cannot be converted for it; also
            since there is no PyTorch.
    """
    if name == "auto" and device == "cpu" and find_spec("openvino"):
        return OpenVINOEngine(checkpoint, "int8" if checkpoint.int8 else None)
    if name in ("auto", "torch"):
        with needs_torch(f"For engine={name}" + " without OpenVINO" * (name == "auto")):
            from brain_mri_segmentation.inference.torch_engine import TorchEngine
        return TorchEngine(checkpoint.build(), device, fast=name == "auto")
    if find_spec(name) is None:
        raise InputError(
            f"engine={name}, but {name} is not installed here. Install it (pip install {name}), or "
            "take the engine auto or torch."
        )
    return OpenVINOEngine(checkpoint) if name == "openvino" else OnnxRuntimeEngine(checkpoint)


def _threads() -> int:
    """Return how many threads an engine takes: ``OMP_NUM_THREADS``, or one a core."""
    asked_for = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if asked_for.isdecimal() and int(asked_for):
        return int(asked_for)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
