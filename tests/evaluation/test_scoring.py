import pytest

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.evaluation.scoring import check_unseen


def test_a_model_is_not_scored_on_patients_that_it_has_seen(make_checkpoint):
    metadata = {"train_patients": ["P0", "P9"], "val_patients": ["P1"]}
    checkpoint = make_checkpoint("unet", metadata)
    check_unseen(checkpoint, ["P2_1", "P3_1"], "test")
    check_unseen(checkpoint, ["P1_1", "P2_1"], "val")
    check_unseen(checkpoint, ["P0_1"], "train")
    with pytest.raises(InputError, match="selected on 1 of the patients .* P0"):
        check_unseen(checkpoint, ["P0_1", "P0_2", "P1_1"], "val")
    with pytest.raises(InputError, match="selected on 1 of the patients .* P1"):
        check_unseen(checkpoint, ["P1_1", "P2_1"], "test")
