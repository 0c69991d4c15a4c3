"""Statistics of batch normalisation for the weights as they are."""

from collections.abc import Iterable

import torch
from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def measure_batch_norm(network: nn.Module, images: Iterable[torch.Tensor]) -> None:
    """Measure the statistics anew, as the mean over batches.

    An average of weights needs statistics of its own: those of the weights that were averaged
    belong to other activations (Izmailov et al., Averaging weights leads to wider optima, 2018).
    Like ``torch.optim.swa_utils.update_bn``, but all other layers work as in evaluation, and of
    several processes each takes part.

    Args:
        network: Left in evaluation mode.
        images: Batches (N, C, H, W), normalised and augmented as in training.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    network.eval()
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over all batches
        layer.train()
    for batch in images:
        network(batch)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()
        if distributed.is_initialized():
            for name in ("running_mean", "running_var"):
                value = layer.get_buffer(name)
                distributed.all_reduce(value)
                value /= distributed.get_world_size()
