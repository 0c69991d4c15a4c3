import numpy as np
import pytest
import torch

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.inference import (
    Segmenter,
    check_unseen,
    load_model,
    segment_patients,
    segment_volume,
)
from brain_mri_segmentation.models import Checkpoint, create_model


@pytest.fixture
def checkpoint(parameters):
    torch.manual_seed(0)
    model = create_model("unet", {"channels": [4, 8]})
    preprocessing = parameters.preprocessing.model_dump() | {"image_size": 32}
    metadata = {"train_patients": ["P0", "P9"], "val_patients": ["P1"]}
    return Checkpoint("unet", model.config, preprocessing, model.state_dict(), metadata)


def volume(*sizes):
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def test_a_model_is_loaded_from_its_path_alone(checkpoint, tmp_path):
    checkpoint.save(tmp_path / "best.ckpt")
    segmenter = load_model(tmp_path / "best.ckpt")
    assert segmenter.preprocessing.image_size == 32


def test_masks_have_the_size_of_their_slices(checkpoint):
    slices = volume((32, 32), (64, 48), (33, 100))
    masks = segment_volume(Segmenter(checkpoint), slices)
    assert [mask.shape for mask in masks] == [(32, 32), (64, 48), (33, 100)]
    assert all(mask.dtype == np.uint8 and set(np.unique(mask)) <= {0, 255} for mask in masks)


def test_the_batch_size_does_not_change_the_masks(checkpoint):
    slices = volume(*[(32, 32)] * 5)
    together, alone = (segment_volume(Segmenter(checkpoint), slices, n) for n in (16, 1))
    assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))


def test_an_empty_volume_is_refused(checkpoint):
    with pytest.raises(ValueError, match="at least one slice"):
        segment_volume(Segmenter(checkpoint), [])


def test_patients_are_segmented_each_as_its_own_volume(checkpoint, synthetic_slices):
    slices = synthetic_slices(patients=2, slices=3)
    masks = dict(segment_patients(Segmenter(checkpoint), slices.images))
    assert list(masks) == ["P0_1", "P0_2", "P0_3", "P1_1", "P1_2", "P1_3"]
    own = segment_volume(Segmenter(checkpoint), [slices.images[f"P1_{n}"]() for n in (1, 2, 3)])
    assert np.array_equal(masks["P1_2"], own[1])


def test_a_model_is_not_scored_on_patients_that_it_has_seen(checkpoint):
    check_unseen(checkpoint, ["P2_1", "P3_1"], "test")
    check_unseen(checkpoint, ["P1_1", "P2_1"], "val")
    check_unseen(checkpoint, ["P0_1"], "train")
    with pytest.raises(InputError, match="selected on 1 of the patients .* P0"):
        check_unseen(checkpoint, ["P0_1", "P0_2", "P1_1"], "val")
    with pytest.raises(InputError, match="selected on 1 of the patients .* P1"):
        check_unseen(checkpoint, ["P1_1", "P2_1"], "test")
