"""Batch normalisation over the batches of all processes, on a CPU.

On GPUs PyTorch's own ``SyncBatchNorm`` does it; it refuses a CPU.
"""

import torch
from lightning.pytorch.plugins import LayerSync
from torch import distributed, nn


class SharedBatchNorm(nn.BatchNorm2d):
    """Normalises by mean and variance over all processes, which have as many slices each."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        """Return (N, C, H, W) normalised; in evaluation like any batch normalisation."""
        if not self.training:
            return super().forward(input)
        values = input.float()
        mean = _mean_of_all(values.mean((0, 2, 3), keepdim=True))
        variance = _mean_of_all((values - mean).square().mean((0, 2, 3), keepdim=True))
        self._keep(mean, variance, distributed.get_world_size() * input.numel() // input.shape[1])
        scale = self.weight[:, None, None] * (variance + self.eps).rsqrt()
        return ((values - mean) * scale + self.bias[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _keep(self, mean: torch.Tensor, variance: torch.Tensor, count: int) -> None:
        """Update the averages that evaluation uses; like PyTorch, with the unbiased variance."""
        assert self.momentum is not None  # None, the average of all steps, is for no network here
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.running_mean.lerp_(mean.flatten(), self.momentum)
        self.running_var.lerp_(variance.flatten() * (count / (count - 1)), self.momentum)
        self.num_batches_tracked.add_(1)


class ShareBatchNorm(LayerSync):
    """Tells Lightning how to turn the layers of a network into shared ones, and back."""

    def apply(self, model: nn.Module) -> nn.Module:
        """Share statistics."""
        return _turn(model, nn.BatchNorm2d, SharedBatchNorm)

    def revert(self, model: nn.Module) -> nn.Module:
        """Share nothing any more."""
        return _turn(model, SharedBatchNorm, nn.BatchNorm2d)


def _turn(model: nn.Module, old: type[nn.Module], new: type[nn.Module]) -> nn.Module:
    for module in model.modules():
        if type(module) is old:
            module.__class__ = new  # parameters, buffers and their names stay
    return model


def _mean_of_all(own: torch.Tensor) -> torch.Tensor:
    total: torch.Tensor = _Sum.apply(own)  # type: ignore[no-untyped-call]
    return total / distributed.get_world_size()


class _Sum(torch.autograd.Function):
    """A sum over processes through which gradients reach all of them."""

    @staticmethod
    def forward(_: object, own: torch.Tensor) -> torch.Tensor:
        return _sum(own)

    @staticmethod
    def backward(_: object, *gradients: torch.Tensor) -> torch.Tensor:
        return _sum(gradients[0])


def _sum(own: torch.Tensor) -> torch.Tensor:
    total = own.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(total)
    return total
