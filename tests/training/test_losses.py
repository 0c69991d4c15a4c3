import math

import pytest
import torch

from brain_mri_segmentation.training.losses import DiceCrossEntropyLoss

LOGITS = torch.zeros(1, 2, 2, 2)  # probability 0.5 everywhere
TARGET = torch.tensor([[[1, 1], [0, 0]]])


@pytest.mark.parametrize(
    ("dice_weight", "expected"),
    [
        # Soft Dice: overlap 2 * 0.5 = 1, sums 4 * 0.5 = 2 and 2: 1 - (2 * 1 + 1) / (2 + 2 + 1).
        (1.0, 0.4),
        (0.0, math.log(2)),
        (0.5, 0.5 * 0.4 + 0.5 * math.log(2)),
    ],
)
def test_loss_worked_out_by_hand(dice_weight, expected):
    assert DiceCrossEntropyLoss(dice_weight)(LOGITS, TARGET).item() == pytest.approx(expected)


def test_half_of_dice_is_of_the_batch_and_half_of_the_slices_with_tumour():
    logits = torch.zeros(3, 2, 2, 2)  # probability 0.5 everywhere
    target = torch.tensor([[[1, 1], [1, 1]], [[1, 0], [0, 0]], [[0, 0], [0, 0]]])
    # Batch: overlap 2 + 0.5, sums 3 * 2 and 5. Slices: (2 * 2 + 1) / (2 + 4 + 1) and
    # (2 * 0.5 + 1) / (2 + 1 + 1).
    of_batch, of_slices = 1 - 6 / 12, (1 - 5 / 7 + 1 - 2 / 4) / 2
    expected = (of_batch + of_slices) / 2
    assert DiceCrossEntropyLoss(1.0)(logits, target).item() == pytest.approx(expected)


def test_probabilities_are_targets_too():
    certain = DiceCrossEntropyLoss(0.5)(LOGITS, TARGET)
    assert DiceCrossEntropyLoss(0.5)(LOGITS, TARGET.float()).item() == pytest.approx(certain.item())
    # Cross-entropy of 0.25 and 0.75 against a certain 0.75: worked out for one pixel.
    logits = torch.tensor([0.0, math.log(3)]).view(1, 2, 1, 1)
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    found = DiceCrossEntropyLoss(0.0)(logits, torch.full((1, 1, 1), 0.75))
    assert found.item() == pytest.approx(expected)


def test_a_certain_and_right_prediction_has_no_loss():
    logits = torch.stack([1.0 - TARGET, TARGET.float()], dim=1) * 50
    assert DiceCrossEntropyLoss(0.5)(logits, TARGET).item() == pytest.approx(0, abs=1e-6)


def test_a_batch_without_tumour_still_punishes_false_positives():
    loss = DiceCrossEntropyLoss(1.0)
    empty = torch.zeros(1, 2, 2, dtype=torch.int64)
    alarm = torch.tensor([-9.0, 9.0]).reshape(1, 2, 1, 1).expand(1, 2, 2, 2)
    assert loss(alarm, empty) > loss(LOGITS, empty) > loss(-alarm, empty)
    assert loss(-alarm, empty).item() == pytest.approx(0, abs=1e-3)


def test_half_precision_logits_are_summed_in_full():
    logits = torch.zeros(16, 2, 256, 256, dtype=torch.bfloat16)
    target = torch.ones(16, 256, 256, dtype=torch.int64)
    assert DiceCrossEntropyLoss(1.0)(logits, target).item() == pytest.approx(1 / 3, abs=1e-4)
