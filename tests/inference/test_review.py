import numpy as np
import pytest
import tifffile

from brain_mri_segmentation.inference.review import (
    agreement,
    expected_dice,
    reason_to_review,
    reason_to_review_volume,
)


def test_the_expected_dice_weighs_what_hangs_together_with_the_mask():
    probabilities = np.full((4, 16, 16), 0.1, np.float32)
    probabilities[0, 2:4, 2:4] = 0.9  # the mask
    probabilities[0, 2:4, 4:6] = 0.4  # around it
    probabilities[0, 10:13, 10:13] = 0.4  # elsewhere, and so decided upon
    probabilities[1, 2:4, 2:4] = 0.4  # touches the mask in the slice before
    probabilities[2, 10:13, 10:13] = 0.9  # a component that was dropped
    kept = np.where(np.arange(4)[:, None, None] == 2, 0, probabilities)
    expected, of_volume = expected_dice(probabilities, kept, 0.5)
    assert of_volume == pytest.approx(2 * 3.6 / (3.6 + 1.6 + 1.6 + 4))
    assert expected[0] == pytest.approx(2 * 3.6 / (3.6 + 1.6 + 4))
    assert expected[1] == 0
    assert np.isnan(expected[2:]).all()


@pytest.mark.parametrize(("pixels", "expected"), [(49, np.nan), (50, 0)])
def test_without_a_mask_the_model_doubts_itself_where_enough_may_be_tumour(pixels, expected):
    probabilities = np.zeros((1, 16, 16), np.float32)
    probabilities[0].flat[:pixels] = 0.4
    of_slices, of_volume = expected_dice(probabilities, probabilities, 0.5)
    np.testing.assert_equal([*of_slices, of_volume], [expected, expected])


def test_an_uncertain_mask_is_to_be_reviewed_and_a_certain_one_is_not(phantom_folder, parameters):
    home = phantom_folder / "kaggle_3m/PHANTOM_CS_0000"
    image = tifffile.imread(home / "PHANTOM_CS_0000_3.tif")

    def reason(expected, uncertainty=0.5):
        rules = parameters.preprocessing.model_copy(update={"review_uncertainty": uncertainty})
        return reason_to_review(image, expected, rules)

    assert reason(0.6) is None
    assert reason(float("nan")) is None
    assert reason(0.4) == "the model is uncertain: it expects a Dice of 0.40 of its own mask"
    assert reason(0.4, uncertainty=0.7) is None
    assert reason(0.0) == "nothing was found, but something may be tumour"


def test_two_masks_of_a_volume_agree_as_their_dice_says():
    first, second = np.zeros((2, 2, 4, 4), bool)
    assert np.isnan(agreement(first, second))
    first[0, 0, :3] = True
    assert agreement(first, second) == 0
    second[0, 0, 2:] = second[1, 0, 0] = True
    assert agreement(first, second) == 2 * 1 / (3 + 3)


def test_a_volume_is_to_be_reviewed_where_nothing_was_found_or_its_masks_contradict_each_other(
    parameters,
):
    rules = parameters.preprocessing.model_copy(update={"review_agreement": 0.9})
    empty, found = np.zeros((2, 4, 4), np.uint8), np.full((2, 4, 4), 255, np.uint8)
    nan = float("nan")

    def reason(mask, agreement=nan, expected=nan):
        return reason_to_review_volume(mask, agreement, expected, rules)

    assert reason(empty) == "no tumour was found in any slice"
    assert reason(empty[:1]) is None  # most single slices have none
    assert reason(found) is None
    assert reason(found, 0.9, 0.85) is None
    assert "a Dice of 0.89 with each other" in reason(found, 0.89)
    assert "a Dice of 0.84 of all slices" in reason(found, 0.9, 0.84)
    assert reason(found[:1], 0.9, 0.84) is None  # of a slice by itself less is accepted
