import numpy as np
import pytest
import torch

from brain_mri_segmentation.imaging.intensity import (
    channels_first,
    measure_intensities,
    normalise,
    resize_image,
    resize_mask,
)


def test_an_image_of_the_right_size_is_not_touched():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert resize_image(image, 64, 64) is image


def test_images_are_resized_with_antialiasing():
    # One-pixel stripes: nearest neighbour would give 0 or 255, an average gives grey.
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    resized = resize_image(stripes, 32, 32)
    assert resized.shape == (32, 32, 3)
    assert abs(int(resized[16, 16, 0]) - 127) < 15


def test_masks_are_resized_by_nearest_neighbour_and_stay_binary():
    mask = np.zeros((60, 40), np.uint8)
    mask[10:30, 10:30] = 1
    resized = resize_mask(mask, 32, 32)
    assert resized.shape == (32, 32)
    assert set(np.unique(resized)) == {0, 255}
    assert resize_mask(resized, 60, 40).shape == (60, 40)


def test_statistics_worked_out_by_hand():
    # 10 pixels: 0 x 1, 10 x 8, 200 x 1. The 10th percentile is 0 (one of ten), the 90th is 10.
    values = np.array([0] + [10] * 8 + [200], np.uint8)
    image = np.repeat(values.reshape(2, 5, 1), 3, axis=2)
    low, high, mean, deviation = measure_intensities([image], 10, 90)[:, 0]
    assert (low, high) == (0, 10)
    assert mean == 9  # 200 counts as 10
    assert deviation == 3  # variance (81 + 9 * 1) / 10


def test_statistics_of_a_volume_are_those_of_all_its_pixels():
    random = np.random.default_rng(0)
    volume = random.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    statistics = measure_intensities(iter(volume), 10, 99)
    for channel in range(3):
        pixels = volume[..., channel].astype(float)
        bounds = np.percentile(pixels, [10, 99], method="inverted_cdf")
        clipped = np.clip(pixels, *bounds)
        expected = [*bounds, clipped.mean(), clipped.std()]
        np.testing.assert_allclose(statistics[:, channel], expected, rtol=1e-5)


def test_normalised_volume_has_mean_0_and_deviation_1_in_each_channel():
    random = np.random.default_rng(0)
    volume = random.integers(0, 200, (3, 32, 32, 3), dtype=np.uint8)
    statistics = measure_intensities(volume, 10, 99)[None]
    normalised = normalise(channels_first(volume[:, None]), statistics)
    assert normalised.shape == (3, 3, 32, 32)
    assert normalised.dtype == np.float32
    np.testing.assert_allclose(normalised.mean((0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(normalised.std((0, 2, 3)), 1, atol=1e-4)


def test_arrays_and_tensors_of_neighbouring_slices_are_normalised_alike_bit_for_bit():
    random = np.random.default_rng(0)
    slices = random.integers(0, 200, (2, 3, 8, 8, 3), dtype=np.uint8)  # 2 of 3 neighbours each
    statistics = np.stack([measure_intensities(volume, 10, 99) for volume in slices])
    images = channels_first(slices)
    assert np.array_equal(images[1, 3:6], slices[1, 1].transpose(2, 0, 1))
    expected = normalise(images, statistics)
    tensors = normalise(torch.from_numpy(images), torch.from_numpy(statistics))
    assert np.array_equal(tensors.numpy(), expected)


def test_each_slice_of_a_batch_is_normalised_by_its_own_statistics():
    images = torch.full((2, 3, 4, 4), 50, dtype=torch.uint8)
    statistics = torch.tensor([[0.0, 255, 50, 10], [0, 255, 30, 10]])
    statistics = statistics[..., None].expand(2, 4, 3)
    assert normalise(images, statistics)[:, 0, 0, 0].tolist() == [0, 2]


def test_a_constant_channel_becomes_zero():
    image = np.full((8, 8, 3), 7, np.uint8)
    statistics = measure_intensities([image], 10, 99)
    assert not normalise(channels_first(image[None])[None], statistics[None]).any()


def test_statistics_of_nothing_are_refused():
    with pytest.raises(ValueError, match="at least one slice"):
        measure_intensities([], 10, 99)
