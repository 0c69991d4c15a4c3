import numpy as np
import pytest
import torch

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.runtime.processes import Processes
from brain_mri_segmentation.training.data_module import (
    ForegroundSampler,
    SliceDataModule,
    SliceDataset,
)


@pytest.fixture
def preprocessing(parameters):
    return parameters.preprocessing.model_copy(update={"image_size": 32, "context": 1})


HOLDS_TUMOUR = np.array([True] * 6 + [False] * 20)


def drawn(share, seed=0, epoch=0):
    sampler = ForegroundSampler(HOLDS_TUMOUR, share, seed)
    sampler.set_epoch(epoch)
    chosen = list(sampler)
    assert len(chosen) == len(sampler)
    return chosen


@pytest.mark.parametrize(("share", "others"), [(1.0, 0), (0.6, 4), (0.5, 6), (0.1, 20), (None, 20)])
def test_an_epoch_holds_all_tumour_slices_and_the_share_decides_the_others(share, others):
    chosen = drawn(share)
    assert sum(HOLDS_TUMOUR[chosen]) == 6
    assert len(chosen) == 6 + others
    assert len(set(chosen)) == len(chosen)


def test_processes_deal_out_every_batch_between_them():
    alone = drawn(0.5)
    parts = []
    for rank in range(3):
        sampler = ForegroundSampler(HOLDS_TUMOUR, 0.5, 0, Processes(rank, 3, 3))
        parts.append(list(sampler))
        assert len(parts[-1]) == len(sampler) == 4
    # Batches of two in each process are the batches of six of one alone.
    assert {*parts[0][:2], *parts[1][:2], *parts[2][:2]} == set(alone[:6])
    assert {*parts[0][2:], *parts[1][2:], *parts[2][2:]} == set(alone[6:])


def test_each_epoch_draws_anew_and_the_seed_repeats_it():
    assert drawn(0.5, epoch=1) == drawn(0.5, epoch=1)
    assert set(drawn(0.5, epoch=1)) != set(drawn(0.5, epoch=2))
    assert drawn(0.5, seed=1) != drawn(0.5, seed=2)


def test_a_sample_is_image_mask_and_the_statistics_of_its_volume(synthetic_slices, preprocessing):
    slices = synthetic_slices(patients=2, slices=3)
    dataset = SliceDataset(slices.images, slices.masks, preprocessing)
    assert dataset.names == ["P0_1", "P0_2", "P0_3", "P1_1", "P1_2", "P1_3"]
    assert dataset.holds_tumour.tolist() == [True, False, True] * 2
    first, other = dataset[0], dataset[3]
    assert first["image"].shape == (9, 32, 32)
    assert first["image"].dtype == torch.uint8
    pictures = [slices.images[f"P0_{number}"]() for number in (1, 1, 2)]
    expected = np.concatenate(pictures, axis=2).transpose(2, 0, 1)
    assert np.array_equal(first["image"], expected)
    assert first["mask"].unique().tolist() == [0, 1]
    assert (first["patient"], other["patient"]) == (0, 1)
    assert torch.equal(first["statistics"], dataset[2]["statistics"])
    assert not torch.equal(first["own_statistics"], first["statistics"])
    assert not torch.equal(first["statistics"], other["statistics"])


def test_images_without_masks_are_refused(synthetic_slices, preprocessing):
    slices = synthetic_slices(patients=1, slices=2)
    del slices.masks["P0_2"]
    with pytest.raises(InputError, match="such as P0_2"):
        SliceDataset(slices.images, slices.masks, preprocessing)


def test_validation_without_tumour_is_refused(synthetic_slices, preprocessing, parameters):
    sound, empty = (
        SliceDataset(slices.images, slices.masks, preprocessing)
        for slices in (synthetic_slices(2, 2), synthetic_slices(1, 2, tumour=False))
    )
    with pytest.raises(InputError, match=r"val partition holds 2 slice\(s\) and no tumour"):
        SliceDataModule(sound, empty, parameters.training, seed=0)
    nothing = SliceDataset({}, {}, preprocessing)  # is no reason to validate on the training slices
    with pytest.raises(InputError, match=r"val partition holds 0 slice\(s\) and no tumour"):
        SliceDataModule(sound, nothing, parameters.training, seed=0)
