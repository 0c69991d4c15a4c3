import pytest
import torch

from brain_mri_segmentation.parameters import AugmentationParameters
from brain_mri_segmentation.runtime.processes import Processes
from brain_mri_segmentation.training.augmentation import Augmentation, Draws

NOTHING = dict.fromkeys(AugmentationParameters.model_fields, 0)


def augment(images, masks, seed=0, crop_size=None, **settings):
    augmentation = Augmentation(AugmentationParameters(**(NOTHING | settings)), crop_size)
    return augmentation(images, masks, Draws(seed))


@pytest.fixture
def batch():
    """Eight slices whose first channel is the mask itself, so that both can be compared."""
    masks = torch.zeros(8, 64, 64, dtype=torch.int64)
    masks[:, 20:40, 10:26] = 1
    images = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    images[:, 0] = masks.float()
    return images, masks


def test_with_every_range_at_zero_nothing_changes(batch):
    images, masks = augment(*batch)
    torch.testing.assert_close(images, batch[0], atol=1e-5, rtol=0)
    assert torch.equal(masks, batch[1])


def test_a_certain_flip_mirrors_left_and_right(batch):
    images, masks = augment(*batch, flip=1)
    torch.testing.assert_close(images, batch[0].flip(-1), atol=1e-4, rtol=0)
    assert torch.equal(masks, batch[1].flip(-1))


@pytest.mark.parametrize(
    "settings", [{"rotation_degrees": 45}, {"scale": 0.3}, {"shift": 0.2}, {"flip": 0.5}]
)
def test_image_and_mask_move_together(batch, settings):
    images, masks = augment(*batch, **settings)
    assert not torch.equal(masks, batch[1])
    differing = (images[:, 0] > 0.5) != masks.bool()
    assert differing.float().mean() < 0.01  # borders alone, by the two interpolations
    assert set(masks.unique().tolist()) == {0, 1}


def test_zoom_stays_within_its_range(batch):
    _, masks = augment(*batch, scale=0.25)
    ratio = masks.sum((1, 2)) / batch[1].sum((1, 2))
    assert ratio.min() > 1 / 1.25**2 - 0.1
    assert ratio.max() < 1.25**2 + 0.1
    assert ratio.max() - ratio.min() > 0.2


def test_a_crop_is_a_window_of_the_image_at_its_own_scale():
    # Each pixel holds its own place, which a crop must keep one pixel apart.
    place = torch.arange(64.0).expand(4, 3, 64, 64).contiguous()
    images, masks = augment(place, torch.zeros(4, 64, 64, dtype=torch.int64), crop_size=32)
    assert images.shape == (4, 3, 32, 32)
    assert masks.shape == (4, 32, 32)
    steps = images[:, 0].diff(dim=-1)
    torch.testing.assert_close(steps, torch.ones_like(steps), atol=1e-3, rtol=0)
    assert images[:, 0, 0, 0].unique().numel() == 4  # another place for each slice


@pytest.mark.parametrize("settings", [{"gamma": 0.5}, {"contrast": 0.3}, {"brightness": 0.3}])
def test_intensity_changes_leave_the_mask_alone(batch, settings):
    images, masks = augment(*batch, **settings)
    assert torch.equal(masks, batch[1])
    assert not torch.allclose(images, batch[0], atol=1e-3)


def test_gamma_keeps_order_and_range(batch):
    images, _ = augment(*batch, gamma=0.5)
    for before, after in zip(batch[0][:, 1], images[:, 1], strict=True):
        order = before.flatten().argsort()
        assert (after.flatten()[order].diff() >= -1e-5).all()
        assert after.max().item() == pytest.approx(before.max().item(), abs=1e-4)


def test_a_constant_channel_stays_finite():
    flat = torch.full((2, 3, 32, 32), 0.7)
    images, _ = augment(flat, torch.zeros(2, 32, 32, dtype=torch.int64), gamma=0.5)
    torch.testing.assert_close(images, flat)


def simulate_artifacts(images, statistics=None, seed=0, **settings):
    if statistics is None:
        statistics = torch.arange(12.0).view(1, 4, 3).repeat(len(images), 1, 1)
    augmentation = Augmentation(AugmentationParameters(**(NOTHING | settings)))
    return augmentation.simulate_artifacts(images, statistics, Draws(seed))


@pytest.fixture
def raw():
    shape = (16, 3, 32, 32)
    levels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(2))
    return levels.to(torch.uint8)


def test_without_degradation_the_grey_levels_stay(raw):
    images, _ = simulate_artifacts(raw)
    assert torch.equal(images, raw.float())


def test_noise_has_the_strength_it_says_and_spares_half_of_the_slices():
    grey = torch.full((400, 3, 16, 16), 128, dtype=torch.uint8)
    images, _ = simulate_artifacts(grey, noise=10)
    strength = images.std(dim=(1, 2, 3))
    assert ((strength == 0).float().mean() - 0.5).abs() < 0.1
    noisy = strength[strength > 0]
    assert noisy.max() < 11
    assert noisy.mean() == pytest.approx(5, abs=0.7)


def test_noise_stays_within_the_grey_levels(raw):
    images, _ = simulate_artifacts(raw, noise=50)
    assert images.min() == 0
    assert images.max() == 255


def test_blur_spreads_a_point_into_a_gaussian():
    point = torch.zeros(64, 3, 17, 17, dtype=torch.uint8)
    point[:, :, 8, 8] = 100
    images, _ = simulate_artifacts(point, blur=1.0)
    torch.testing.assert_close(images.sum((2, 3)), torch.full((64, 3), 100.0), rtol=1e-4, atol=0)
    row = images[:, 0].sum(1) / 100  # (64, 17), a Gaussian of each slice's own width
    place = torch.arange(17.0) - 8
    sigma = (row * place**2).sum(1).sqrt()
    assert ((sigma < 0.01).float().mean() - 0.5).abs() < 0.2
    assert 0.8 < sigma.max() < 1.05


def test_a_modality_dropout_is_flair_in_every_channel_with_its_statistics(raw):
    images, statistics = simulate_artifacts(raw, modality_dropout=1)
    for channel in range(3):
        assert torch.equal(images[:, channel], raw[:, 1].float())
        assert statistics[0, :, channel].tolist() == [1, 4, 7, 10]


def test_the_seed_decides_everything(batch):
    settings = {"rotation_degrees": 20, "gamma": 0.3, "flip": 0.5}
    first, again, other = (augment(*batch, seed=seed, **settings)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_processes_draw_for_their_slices_what_one_would_draw_for_all():
    alone = Draws(1)
    shared = [Draws(1, Processes(rank, 2)) for rank in (0, 1)]
    for name, shape in (("uniform", ()), ("normal", (3, 8, 8)), ("uniform", (2,))):
        whole = getattr(alone, name)(6, *shape)
        for rank, draws in enumerate(shared):
            assert torch.equal(getattr(draws, name)(3, *shape), whole[rank::2])
