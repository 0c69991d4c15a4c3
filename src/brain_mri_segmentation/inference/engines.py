"""What runs the network: PyTorch, OpenVINO or ONNX Runtime."""

from functools import cache
from importlib.util import find_spec
from threading import Lock
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch

from brain_mri_segmentation.errors import InputError
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
    device: torch.device
    """Where it runs."""

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Run one forward pass.

        Args:
            inputs: (N, C, S, S) float32, normalised slices.

        Returns:
            (N, S, S) float32, log(p / (1 - p)) of the tumour.
        """


class TorchEngine:
    """PyTorch, on any device.

    Args:
        network: In evaluation mode; gives logits (N, 2, S, S).
        device: Such as ``cpu``, ``cuda`` or ``mps``.
        fast: In bfloat16 and channels last where the device is faster with them. Otherwise in 32
            bits, the reference for all engines.
    """

    def __init__(self, network: torch.nn.Module, device: str = "cpu", fast: bool = False) -> None:
        self.device = torch.device(device)
        self._layout = fastest_layout(device) if fast else torch.contiguous_format
        self._bfloat16 = fast and has_bfloat16(device)
        self._network = network.to(self.device, memory_format=self._layout)  # type: ignore[call-overload]
        self.name = "torch bf16" if self._bfloat16 else "torch fp32"

    @torch.inference_mode()
    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Run one forward pass (see ``Engine``)."""
        images = torch.from_numpy(inputs).to(self.device, memory_format=self._layout)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16):
            logits = self._network(images)
        return (logits[:, 1].float() - logits[:, 0].float()).cpu().numpy()


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
    """OpenVINO on the processor, with as many threads as PyTorch (``OMP_NUM_THREADS``).

    Args:
        checkpoint: The model.
        precision: ``fp32``, ``bf16`` or ``int8``, which the model must carry; by default bf16 where
            the processor has instructions for it, else fp32.
    """

    device = torch.device("cpu")

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
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
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

    name, device = "onnxruntime fp32", torch.device("cpu")

    def __init__(self, checkpoint: Checkpoint) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
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
        InputError: The engine is not installed, or the network cannot be converted for it.
    """
    if name == "auto" and device == "cpu" and find_spec("openvino"):
        return OpenVINOEngine(checkpoint, "int8" if checkpoint.int8 else None)
    if name in ("auto", "torch"):
        return TorchEngine(checkpoint.build(), device, fast=name == "auto")
    if find_spec(name) is None:
        raise InputError(
            f"engine={name}, but {name} is not installed here. Install it (pip install {name}), or "
            "take the engine auto or torch."
        )
    return OpenVINOEngine(checkpoint) if name == "openvino" else OnnxRuntimeEngine(checkpoint)


def has_bfloat16(device: str) -> bool:
    """Say whether a device calculates in bfloat16; others emulate it, many times slower."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    capabilities = torch.cpu.get_capabilities() if device == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def fastest_layout(device: str) -> torch.memory_format:
    """Return the layout in which convolutions are fastest on a device.

    Channels last wins on NVIDIA GPUs and on processors with AVX-512; on those with AVX2 alone it
    loses (benchmarks/train_throughput.py shows both).
    """
    if device == "cuda" or (device == "cpu" and torch.cpu.get_capabilities().get("avx512_f")):
        return torch.channels_last
    return torch.contiguous_format
