"""The loss that training minimises."""

import torch
from torch import distributed, nn
from torch.nn import functional as F


class DiceCrossEntropyLoss(nn.Module):
    """Weighted sum of soft Dice loss and cross-entropy.

    Soft Dice = 1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1), with the tumour probability p and
    the truth t summed over the whole batch (Milletari et al. 2016; the batch form of nnU-Net):
    a slice without tumour then adds its false positives instead of a ratio without meaning.
    In training by several processes the batch is that of all of them together.

    Args:
        dice_weight: Share of soft Dice in 0..1; the rest is cross-entropy.
    """

    def __init__(self, dice_weight: float) -> None:
        super().__init__()
        self.dice_weight = dice_weight

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss of logits against classes (N, H, W) int64.

        Args:
            logits: (N, 2, H, W), or (N, K, 2, H, W) of K outputs, of which each weighs half as
                much as the one before it (deep supervision; Isensee et al. 2021).
            target: (N, H, W) int64, 0 or 1.

        Returns:
            A scalar.
        """
        if logits.dim() == 4:
            return self._of_output(logits, target)
        weights = [0.5**output for output in range(logits.shape[1])]
        losses = [self._of_output(output, target) for output in logits.unbind(dim=1)]
        weighted = [weight * loss for weight, loss in zip(weights, losses, strict=True)]
        return torch.stack(weighted).sum() / sum(weights)

    def _of_output(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        logits = logits.float()  # sums over a batch overflow half precision
        probability, truth = logits.softmax(dim=1)[:, 1], target.float()
        sums = torch.stack([(probability * truth).sum(), probability.sum() + truth.sum()])
        if distributed.is_initialized() and torch.is_grad_enabled():
            sums = _over_processes(sums)
        dice = (2 * sums[0] + 1) / (sums[1] + 1)
        cross_entropy = F.cross_entropy(logits, target)
        return self.dice_weight * (1 - dice) + (1 - self.dice_weight) * cross_entropy


def _over_processes(sums: torch.Tensor) -> torch.Tensor:
    """Add up what all processes have; gradients reach this one's share, as in one process."""
    total = sums.detach().clone()
    distributed.all_reduce(total)
    own = distributed.get_world_size() * sums  # gradients are averaged over the processes later
    return own + (total - own).detach()
