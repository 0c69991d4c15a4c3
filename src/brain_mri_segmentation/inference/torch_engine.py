"""PyTorch as an engine, and what a device does best with it."""

import numpy as np
import torch


class TorchEngine:
    """PyTorch, on any device.

    Args:
        network: In evaluation mode; gives logits (N, 2, S, S).
        device: Such as ``cpu``, ``cuda`` or ``mps``.
        fast: In bfloat16 and channels last where the device is faster with them. Otherwise in 32
            bits, the reference for all engines.
    """

    def __init__(self, network: torch.nn.Module, device: str = "cpu", fast: bool = False) -> None:
        self.device = device
        self._layout = fastest_layout(device) if fast else torch.contiguous_format
        self._bfloat16 = fast and has_bfloat16(device)
        self._network = network.to(device, memory_format=self._layout)  # type: ignore[call-overload]
        self.name = "torch bf16" if self._bfloat16 else "torch fp32"

    @torch.inference_mode()
    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Run one forward pass (see ``Engine``)."""
        images = torch.from_numpy(inputs).to(self.device, memory_format=self._layout)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self._bfloat16):
            logits = self._network(images)
        return (logits[:, 1].float() - logits[:, 0].float()).cpu().numpy()


def has_bfloat16(device: str) -> bool:
    """Say whether a device calculates in bfloat16; others emulate it, many times slower."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    capabilities = torch.cpu.get_capabilities() if device == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def fastest_layout(device: str) -> torch.memory_format:
    """Return the layout in which convolutions are fastest on a device.

    Channels last wins on NVIDIA GPUs and on processors with AVX-512; on those with AVX2 alone it
    loses (benchmarks/train_throughput.py --all shows both).
    """
    if device == "cuda" or (device == "cpu" and torch.cpu.get_capabilities().get("avx512_f")):
        return torch.channels_last
    return torch.contiguous_format
