"""The loss that training minimises."""

import torch
from torch import distributed, nn
from torch.nn import functional as F


class DiceCrossEntropyLoss(nn.Module):
    """Weighted sum of soft Dice loss and cross-entropy.

    Soft Dice = (2 sum(p t) + 1) / (sum(p) + sum(t) + 1), with the tumour probability p and the
    truth t (Milletari et al. 2016). Half of its loss is of the sums over the whole batch (the batch
    form of nnU-Net): a slice without tumour then adds its false positives instead of a ratio
    without meaning. The other half is the mean over the slices that hold tumour, so that small
    tumours count as much as large ones. In training by several processes the batch is that of all
    of them together.

    Args:
        dice_weight: Share of soft Dice in 0..1; the rest is cross-entropy.
    """

    def __init__(self, dice_weight: float) -> None:
        super().__init__()
        self.dice_weight = dice_weight

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss, a scalar.

        Args:
            logits: (N, 2, H, W).
            target: (N, H, W), classes as int64 or tumour probabilities as float32. A slice holds
                tumour if it has a pixel of 0.5 or more.
        """
        logits = logits.float()  # sums over a batch overflow half precision
        probability, truth = logits.softmax(dim=1)[:, 1].flatten(1), target.flatten(1).float()
        overlap = (probability * truth).sum(1)  # (N,)
        total = probability.sum(1) + truth.sum(1)
        of_slices = 1 - (2 * overlap + 1) / (total + 1)
        tumour = (truth.amax(1) >= 0.5).float()
        sums = torch.stack([overlap.sum(), total.sum(), (of_slices * tumour).sum(), tumour.sum()])
        if distributed.is_initialized() and torch.is_grad_enabled():
            sums = _over_processes(sums)
        of_batch = 1 - (2 * sums[0] + 1) / (sums[1] + 1)
        dice = (of_batch + sums[2] / sums[3].clamp_min(1)) / 2
        if target.is_floating_point():
            target = torch.stack([1 - target, target], dim=1)
        cross_entropy = F.cross_entropy(logits, target)
        return self.dice_weight * dice + (1 - self.dice_weight) * cross_entropy


def _over_processes(sums: torch.Tensor) -> torch.Tensor:
    """Add up what all processes have; gradients reach this one's share, as in one process."""
    total = sums.detach().clone()
    distributed.all_reduce(total)
    own = distributed.get_world_size() * sums  # gradients are averaged over the processes later
    return own + (total - own).detach()
