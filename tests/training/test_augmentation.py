import numpy as np
import pytest
import torch

from brain_mri_segmentation.imaging.intensity import measure_intensities
from brain_mri_segmentation.parameters import AugmentationParameters
from brain_mri_segmentation.runtime.processes import Processes
from brain_mri_segmentation.training.augmentation import Augmentation, Draws

NOTHING = dict.fromkeys(AugmentationParameters.model_fields, 0)
UNIT = torch.tensor([[0.0] * 3, [255.0] * 3, [0.0] * 3, [1.0] * 3])  # changes nothing


def make(crop_size=None, **settings):
    return Augmentation(AugmentationParameters(**(NOTHING | settings)), crop_size)


def augment(images, masks, seed=0, crop_size=None, statistics=UNIT, own=UNIT, **settings):
    of_each = [values.expand(len(images), 4, 3) for values in (statistics, own)]
    return make(crop_size, **settings)(images, masks, *of_each, Draws(seed))


def artifacts(images, seed=0, statistics=UNIT, **settings):
    augmentation = make(artifacts=1, **settings)
    sequences = images.float().view(len(images), -1, 3, *images.shape[2:])
    statistics = statistics.repeat(len(images), 1, 1)
    augmentation.simulate_artifacts(sequences, statistics, Draws(seed))
    return sequences.flatten(1, 2), statistics


@pytest.fixture
def batch():
    """Eight slices whose first channel is the mask itself, so that both can be compared."""
    masks = torch.zeros(8, 64, 64, dtype=torch.int64)
    masks[:, 20:40, 10:26] = 1
    shape = (8, 3, 64, 64)
    images = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(1))
    images[:, 0] = masks * 255
    return images.to(torch.uint8), masks


def test_with_every_range_at_zero_nothing_changes(batch):
    images, masks = augment(*batch)
    torch.testing.assert_close(images, batch[0].float(), atol=1e-2, rtol=0)
    assert torch.equal(masks, batch[1])


def test_a_certain_flip_mirrors_left_and_right(batch):
    images, masks = augment(*batch, flip=1)
    torch.testing.assert_close(images, batch[0].flip(-1).float(), atol=1e-2, rtol=0)
    assert torch.equal(masks, batch[1].flip(-1))


@pytest.mark.parametrize(
    "settings",
    [{"rotation_degrees": 45}, {"scale": 0.3}, {"anisotropy": 0.3}, {"shift": 0.2}, {"flip": 0.5}],
)
def test_image_and_mask_move_together(batch, settings):
    images, masks = augment(*batch, **settings)
    assert not torch.equal(masks, batch[1])
    differing = (images[:, 0] > 127) != masks.bool()
    assert differing.float().mean() < 0.01  # borders alone, by the two interpolations
    assert set(masks.unique().tolist()) == {0, 1}


def test_zoom_stays_within_its_range(batch):
    _, masks = augment(*batch, scale=0.25)
    ratio = masks.sum((1, 2)) / batch[1].sum((1, 2))
    assert ratio.min() > 1 / 1.25**2 - 0.1
    assert ratio.max() < 1.25**2 + 0.1
    assert ratio.max() - ratio.min() > 0.2


def test_anisotropy_keeps_the_area(batch):
    _, masks = augment(*batch, anisotropy=0.2)
    assert (masks.sum((1, 2)) / batch[1].sum((1, 2)) - 1).abs().max() < 0.12
    widths = masks.any(1).sum(1).tolist()
    assert min(widths) < 15 < 17 < max(widths)  # 16 before


def test_a_crop_is_a_window_of_the_image_at_its_own_scale():
    # Each pixel holds its own place, which a crop must keep one pixel apart.
    place = torch.arange(64, dtype=torch.uint8).expand(4, 3, 64, 64).contiguous()
    images, masks = augment(place, torch.zeros(4, 64, 64, dtype=torch.int64), crop_size=32)
    assert images.shape == (4, 3, 32, 32)
    assert masks.shape == (4, 32, 32)
    steps = images[:, 0].diff(dim=-1)
    torch.testing.assert_close(steps, torch.ones_like(steps), atol=1e-3, rtol=0)
    assert images[:, 0, 0, 0].unique().numel() == 4  # another place for each slice


@pytest.mark.parametrize("settings", [{"contrast": 0.3}, {"brightness": 0.3}])
def test_intensity_changes_leave_the_mask_alone_and_are_one_for_all_neighbours(batch, settings):
    three = batch[0].repeat(1, 3, 1, 1)
    images, masks = augment(three, batch[1], **settings)
    assert torch.equal(masks, batch[1])
    assert not torch.allclose(images, three.float(), atol=0.05)
    torch.testing.assert_close(images[:, :3], images[:, 6:])


def test_a_slice_alone_is_its_own_neighbour_and_has_its_own_statistics(batch):
    neighbours = torch.cat([batch[0] // 2, batch[0], batch[0] // 3], dim=1)
    own = UNIT.clone()
    own[3] = 2.0
    images, _ = augment(neighbours, batch[1], own=own, slice_normalisation=1)
    for start in (0, 3, 6):
        torch.testing.assert_close(images[:, start : start + 3], batch[0] / 2, atol=1e-2, rtol=0)


def test_a_lost_sequence_is_flair_and_stays_equal_through_all_changes(batch):
    statistics = torch.arange(12.0).view(4, 3) + 1
    everything = {"contrast": 0.3, "brightness": 0.3, "artifacts": 1, "noise": 9, "gamma": 0.3}
    images, _ = augment(
        *batch, statistics=statistics, modality_dropout=1, blur=1, low_resolution=0.5, **everything
    )
    for channel in (0, 2):
        assert torch.equal(images[:, channel], images[:, 1])
    assert images.std() > 0


GREY = torch.full((400, 3, 16, 16), 128, dtype=torch.uint8)


def test_artifacts_come_to_the_share_of_slices_that_is_asked_for():
    sequences = GREY.float().view(400, 1, 3, 16, 16)
    half = make(artifacts=0.5, noise=10, gamma=0.3)
    changed = sequences.clone()
    half.simulate_artifacts(changed, UNIT.repeat(400, 1, 1), Draws(0))
    different = (changed != sequences).flatten(1).any(1).float().mean()
    assert different == pytest.approx(0.25, abs=0.06)  # noise and gamma are two of four


def test_noise_has_the_strength_it_says():
    images, _ = artifacts(GREY, noise=10)
    strength = images.std(dim=(1, 2, 3))
    noisy = strength[strength > 0]
    assert len(noisy) == pytest.approx(100, abs=25)
    assert noisy.max() < 11
    assert noisy.mean() == pytest.approx(5, abs=0.8)


def test_blur_spreads_a_point_into_a_gaussian():
    point = torch.zeros(64, 3, 17, 17, dtype=torch.uint8)
    point[:, :, 8, 8] = 100
    images, _ = artifacts(point, blur=1.0)
    torch.testing.assert_close(images.sum((2, 3)), torch.full((64, 3), 100.0), rtol=1e-3, atol=0)
    row = images[:, 0].sum(1) / 100  # (64, 17), a Gaussian of each slice's own width
    sigma = (row * (torch.arange(17.0) - 8) ** 2).sum(1).clamp_min(0).sqrt()
    assert 0.75 < sigma.max() < 1.05


def test_a_lower_resolution_keeps_size_and_mean(batch):
    images, _ = artifacts(batch[0], low_resolution=0.5)
    assert images.shape == batch[0].shape
    fewer_details = images[:, 1].diff(dim=-1).abs().mean((1, 2))
    assert fewer_details.min() < 0.6 * fewer_details.max()
    means = images.mean((2, 3)) - batch[0].float().mean((2, 3))
    assert means.abs().max() < 3


@pytest.mark.parametrize("settings", [{"gamma": 0.5}, {"noise": 20}])
def test_statistics_follow_what_an_artifact_does_to_the_volume(batch, settings):
    before, after = (
        measure_intensities([picture.numpy().transpose(1, 2, 0)], 0, 100)
        for picture in (batch[0][0], batch[0][0])
    )
    changed, statistics = artifacts(batch[0], statistics=torch.from_numpy(before), **settings)
    for picture, found, original in zip(changed, statistics, batch[0], strict=True):
        levels = picture.round().clamp(0, 255).to(torch.uint8).numpy().transpose(1, 2, 0)
        if np.array_equal(levels, original.numpy().transpose(1, 2, 0)):
            continue
        first = measure_intensities([original.numpy().transpose(1, 2, 0)], 0, 100)
        after = measure_intensities([levels], 0, 100)
        moved = found.numpy()[2:] - before[2:]  # mean and deviation follow the slice
        np.testing.assert_allclose(moved, after[2:] - first[2:], atol=1.5)


def test_a_slice_that_loses_more_variance_than_its_volume_has_is_not_blown_up(batch):
    statistics = torch.tensor([[0.0] * 3, [255.0] * 3, [60.0] * 3, [5.0] * 3])  # a flat volume
    _, found = artifacts(batch[0], statistics=statistics, blur=3, low_resolution=0.9)
    assert found[:, 3].min() >= 2.5


def test_the_seed_decides_everything(batch):
    settings = {"rotation_degrees": 20, "gamma": 0.3, "flip": 0.5, "artifacts": 1, "noise": 9}
    first, again, other = (augment(*batch, seed=seed, **settings)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_processes_draw_for_their_slices_what_one_would_draw_for_all():
    alone = Draws(1)
    shared = [Draws(1, Processes(rank, 2)) for rank in (0, 1)]
    for name, shape in (("uniform", ()), ("seeds", ()), ("symmetric", (2,))):
        whole = getattr(alone, name)(6, *shape)
        for rank, draws in enumerate(shared):
            part = getattr(draws, name)(3, *shape)
            assert np.array_equal(part, whole[rank::2])
