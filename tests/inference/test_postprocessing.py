import numpy as np

from brain_mri_segmentation.inference.postprocessing import (
    probability_to_mask,
    remove_small_components,
)


def test_the_threshold_belongs_to_the_mask():
    probability = np.array([[0.49, 0.5, 0.51]])
    assert probability_to_mask(probability, 0.5).tolist() == [[0, 255, 255]]


def test_components_that_weigh_little_beside_the_heaviest_are_removed():
    probabilities = np.zeros((3, 16, 16), np.float32)
    probabilities[0:2, 2:6, 2:6] = 0.9  # 32 pixels across two slices
    probabilities[2, 6:9, 6:8] = 0.8  # 6 pixels that touch them by a corner
    probabilities[2, 12:15, 1:4] = 0.7  # apart; 6.3 in sum, 18.75 % of 33.6
    probabilities[0, 12, 12] = 0.4  # no component at all
    kept = remove_small_components(probabilities, threshold=0.5, min_component_ratio=0.19)
    expected = probabilities.copy()
    expected[2, 12:15, 1:4] = 0
    assert np.array_equal(kept, expected)
    assert np.array_equal(remove_small_components(probabilities, 0.5, 0.185), probabilities)


def test_a_volume_without_tumour_has_no_component_to_drop():
    empty = np.full((2, 8, 8), 0.1, np.float32)
    assert remove_small_components(empty, 0.5, 1.0) is empty


def test_a_single_slice_keeps_all_its_components():
    slice_ = np.zeros((1, 8, 8), np.float32)
    slice_[0, :4, :4] = slice_[0, 7, 7] = 0.9
    assert np.array_equal(remove_small_components(slice_, 0.5, 1.0), slice_)


def test_components_below_an_absolute_weight_are_removed_from_single_slices_too():
    slice_ = np.zeros((1, 8, 8), np.float32)
    slice_[0, :4, :4] = 0.75  # 16 pixels that weigh 12
    slice_[0, 6:, 6:] = 1  # 4 pixels
    expected = np.where(slice_ == 1, 0, slice_)
    assert np.array_equal(remove_small_components(slice_, 0.5, 0, 12), expected)
    assert not remove_small_components(slice_, 0.5, 0, 12.5).any()
