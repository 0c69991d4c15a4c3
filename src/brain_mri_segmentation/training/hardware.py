"""What the machine can do: where training runs, and in which number format."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import distributed
from torch._dynamo.exc import TorchDynamoException
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.inference.predictor import best_device
from brain_mri_segmentation.inference.torch_engine import has_bfloat16
from brain_mri_segmentation.runtime.processes import Processes

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
_PRECISIONS: dict[str, Precision] = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def find_device(accelerator: str) -> str:
    """Return where training runs (see ``best_device``).

    Raises:
        InputError: ``gpu`` is asked for on a machine without one.
    """
    device = best_device(accelerator)
    if accelerator == "gpu" and device == "cpu":
        raise InputError(
            "training.accelerator=gpu, but PyTorch finds no GPU on this machine. Leave out "
            "'--env gpu', or give --params training.accelerator=auto; on a machine with a GPU, "
            "check its driver (nvidia-smi) and that this PyTorch build supports it "
            f"(installed: {torch.__version__})."
        )
    return device


def rejoin_processes(processes: Processes, device: str) -> None:
    """Connect processes that torchrun started again; the first time Lightning does it.

    torchrun keeps one store over all starts, in which a new process would find the addresses of
    dead ones. A prefix for each start keeps them apart.
    """
    starts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or starts == "0":
        return
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, is_master=False)
    distributed.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        store=PrefixStore(f"start_{starts}", store),
        rank=processes.rank,
        world_size=processes.count,
    )


def choose_precision(precision: str, device: str) -> Precision:
    """Return Lightning's name of a number format: ``32-true``, ``bf16-mixed`` or ``16-mixed``.

    Args:
        precision: ``auto``, ``32``, ``bf16`` or ``16``.
        device: Such as ``cpu``, ``cuda`` or ``mps``.
    """
    if precision != "auto":
        return _PRECISIONS[precision]
    if has_bfloat16(device):
        return "bf16-mixed"
    return "16-mixed" if device == "cuda" else "32-true"


@contextmanager
def allow_tf32(device: str) -> Iterator[None]:
    """Let an NVIDIA GPU multiply 32-bit matrices in TF32, on tensor cores, within this context.

    The factors are rounded to 10 bits after the point; sums keep 23. PyTorch does so for
    convolutions by itself. On a CPU nothing changes.
    """
    before = torch.get_float32_matmul_precision()
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def explain_compiler() -> Iterator[None]:
    """Turn what torch.compile raises within this context, pages long, into one message.

    Raises:
        InputError: The network could not be compiled.
    """
    try:
        yield
    except TorchDynamoException as error:
        reason = next(line for line in str(error).splitlines() if line.strip())
        raise InputError(
            "The network cannot be compiled on this machine (training.compile=true): "
            f"{reason}\nGive --params training.compile=false; or install a C++ compiler such as "
            "g++, and use a GPU of compute capability 7.0 or more."
        ) from error
