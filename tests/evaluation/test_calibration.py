import dataclasses

import numpy as np
import pandas as pd
import pytest

from brain_mri_segmentation.cohort.index import patient_volumes
from brain_mri_segmentation.evaluation import calibration
from brain_mri_segmentation.evaluation.calibration import (
    Case,
    count_near_tumour,
    expected_calibration_error,
    fit_review,
    fit_temperature,
    fit_volume_interval,
    measure,
    reliability,
)
from brain_mri_segmentation.evaluation.metrics import confusion_counts, dice
from brain_mri_segmentation.inference.predictor import Predictor

LOGITS = calibration._LOGITS


def counts(pixels_by_logit):
    """(961,) pixels from a dictionary of logit and pixels."""
    found = np.zeros(len(LOGITS), dtype=np.int64)
    for logit, pixels in pixels_by_logit.items():
        found[np.argmin(np.abs(LOGITS - logit))] += pixels
    return found


def probability(logit, temperature=1.0):
    return 1 / (1 + np.exp(-logit / temperature))


@pytest.mark.parametrize("temperature", [0.5, 1, 2, 4])
def test_the_temperature_that_made_the_truth_is_found(temperature):
    tumour = {
        logit: round(1e6 * probability(logit, temperature)) for logit in np.arange(-6.0, 6.5, 0.5)
    }
    near = np.stack([counts({logit: 1e6 - n for logit, n in tumour.items()}), counts(tumour)])
    assert fit_temperature(near) == pytest.approx(temperature, rel=1e-3)


def test_without_tumour_anywhere_the_temperature_stays():
    assert fit_temperature(np.zeros((2, len(LOGITS)), dtype=np.int64)) == 1


def test_reliability_compares_probability_and_frequency_of_each_interval():
    # 100 pixels said to be tumour with 0.88 (logit 2), of which 60 are; 300 with 0.12, of which 30.
    near = np.stack([counts({2: 40, -2: 270}), counts({2: 60, -2: 30})])
    table = reliability(near, temperature=1)
    assert table["pixels"].tolist() == [300, 100]
    assert table["probability"].tolist() == pytest.approx([probability(-2), probability(2)])
    assert table["frequency"].tolist() == pytest.approx([0.1, 0.6])
    # With a temperature of 4 the same pixels are said to have 0.62 and 0.38.
    cooled = reliability(near, temperature=4)
    assert cooled["probability"].tolist() == pytest.approx([0.3775, 0.6225], abs=1e-4)


def test_the_calibration_error_is_the_mean_gap_over_pixels():
    table = pd.DataFrame({"pixels": [300, 100], "probability": [0.1, 0.9], "frequency": [0.2, 0.5]})
    assert expected_calibration_error(table) == pytest.approx((300 * 0.1 + 100 * 0.4) / 400)


def test_review_finds_the_uncertainty_that_tells_bad_slices_from_good_ones():
    expected = np.array([0.9, 0.7, 0.5, 0.3, np.nan])
    review = fit_review(expected, np.array([0.95, 0.6, 0.3, 0.1, np.nan]), otherwise=0.5)
    assert review["threshold"] == pytest.approx(0.4)  # between 1 - 0.7 and 1 - 0.5
    assert review["precision"] == review["recall"] == 1
    assert review["flagged"] == pytest.approx(2 / 5)
    assert review["bad"] == 2


def test_a_bad_slice_that_the_model_is_sure_of_is_not_caught_and_said_so():
    expected = np.array([0.9, np.nan, 0.4])
    review = fit_review(expected, np.array([0.9, 0.0, 0.3]), otherwise=0.5)
    assert review["precision"] == 1
    assert review["recall"] == 0.5


def test_with_too_few_bad_ones_the_threshold_stays_and_is_judged():
    expected = np.array([0.95, 0.8, 0.7, 0.3])
    found = np.array([0.9, 0.8, 0.5, 0.1])
    review = fit_review(expected, found, otherwise=0.1, fewest_bad=3)
    assert review == {
        "threshold": 0.1, "precision": pytest.approx(2 / 3), "recall": 1, "flagged": 0.75, "bad": 2
    }  # fmt: skip


def test_without_a_bad_slice_the_threshold_stays():
    review = fit_review(np.array([0.9, 0.3]), np.array([0.9, np.nan]), otherwise=0.5)
    assert review == {
        "threshold": 0.5, "precision": None, "recall": None, "flagged": 0.5, "bad": 0
    }  # fmt: skip


def patients(scores, folds, agreement=0.88):
    """Patients whose doubt is 1.02 - agreement, and whose true volume is off by score x doubt."""
    spread = np.asarray(scores) * (1.02 - np.asarray(agreement))
    signs = np.where(np.arange(len(spread)) % 2, 1, -1)  # too small and too large in turn
    table = {"fold": folds, "true_pixels": 1000 * np.exp(signs * spread)}
    return pd.DataFrame(table | {"predicted_pixels": 1000, "agreement": agreement})


def test_the_interval_is_the_score_that_nine_of_ten_do_not_exceed():
    # Of 19, 0.9 x 20 = the 18th score, and of the 9 or 10 of the other fold the 9th or 10th.
    fitted = fit_volume_interval(patients(np.arange(1, 20), [1, 2] * 9 + [1]))
    assert fitted["factor"] == pytest.approx(18)
    assert fitted["patients"] == 19
    # 2, 4 ... 18 are the second fold's, for the first one's 1, 3 ... 19; and the other way round.
    assert fitted["covered"] == pytest.approx(18 / 19)
    first, second = 2 * np.sinh(18 * 0.14), 2 * np.sinh(19 * 0.14)
    assert fitted["width"] == pytest.approx((10 * first + 9 * second) / 19)
    assert fitted["width_median"] == pytest.approx(first)


def test_where_two_views_agree_more_the_interval_is_narrower():
    agreement = np.linspace(0.5, 0.98, 18)
    fitted = fit_volume_interval(patients(np.full(18, 3.0), [1, 2] * 9, agreement))
    assert fitted["factor"] == pytest.approx(3)
    assert fitted["width"] == pytest.approx(np.mean(2 * np.sinh(3 * (1.02 - agreement))))


def test_a_tumour_that_is_not_there_is_not_covered():
    table = patients(1 + np.arange(40) / 2, [1, 2] * 20)  # 1, 2 ... 20, and 1.5, 2.5 ... 20.5
    table.loc[38:, "true_pixels"] = 0  # the last of either fold
    fitted = fit_volume_interval(table)
    assert fitted["factor"] == pytest.approx(19)  # the 37th of 40
    # Of the first fold 1 to 19, by the second one's 19.5, and of that 1.5 to 18.5, by 19.
    assert fitted["covered"] == pytest.approx((19 + 18) / 40)


@pytest.mark.parametrize(
    ("count", "folds", "change"),
    [
        (18, 1, {}),  # nobody can say what it covers
        (17, 2, {}),  # 8 of a fold, whose largest is exceeded by one of nine
        (18, 2, {"predicted_pixels": 0}),
        (18, 2, {"agreement": np.nan}),
    ],
)
def test_without_enough_patients_there_is_no_interval(count, folds, change):
    table = patients(np.ones(count), np.arange(count) % folds)
    for column, value in change.items():
        table.loc[0, column] = value
    fitted = fit_volume_interval(table)
    assert fitted.pop("patients") == count - len(change)
    assert set(fitted.values()) == {None}


@pytest.fixture
def checkpoint(make_checkpoint):
    return make_checkpoint("unet", image_size=32)


@pytest.fixture
def rules(parameters):
    return parameters.preprocessing.model_copy(
        update={"threshold": 0.5, "min_component_ratio": 0.3}
    )


def test_pixels_near_tumour_are_counted_by_truth_and_logit(rules):
    truth = np.zeros((1, 32, 32), bool)
    truth[0, 16, 16] = True
    near = count_near_tumour([Case("P0", np.full((1, 32, 32), -3, np.float32), truth)], rules)
    assert np.array_equal(near[1], counts({-3: 1}))
    # 317 points of the grid lie within a distance of 10 (Gauss's circle problem).
    assert np.array_equal(near[0], counts({-3: 316}))


def test_other_thresholds_and_component_ratios_are_compared(rules):
    logits, truth = np.full((2, 32, 32), -4, np.float32), np.zeros((2, 32, 32), bool)
    logits[:, 4:14, 4:14] = 0.5  # probability 0.62 on 100 pixels of tumour
    truth[:, 4:14, 4:14] = True
    logits[:, 20:24, 20:25] = 0.5  # 20 pixels of a false alarm, in both slices: 40 of 200
    measured = measure([Case("P0", logits, truth)], rules)
    rows = {
        (row["threshold"], row["min_component_ratio"]): row["dice"]
        for row in calibration._compare_choices(measured.choices)
    }
    assert rows[0.5, 0.3] == rows[0.5, 1.0] == 1
    assert rows[0.5, 0.0] == rows[0.5, 0.1] == pytest.approx(400 / 440)
    assert rows[0.6, 0.3] == 1
    assert rows[0.7, 0.3] == 0
    assert len(rows) == 5 + 6 - 1


def masks_of(model, data):
    """Find the masks of a model, and the true ones, by patient."""
    for volume in patient_volumes(data.images):
        truth = np.stack([data.masks[name]() > 0 for name in volume.names])
        yield Predictor(model).predict(volume), truth


def test_calibration_stores_what_it_found_and_leaves_the_masks(checkpoint, synthetic_slices):
    data = synthetic_slices(patients=2, slices=3)
    calibrated, report = calibration.calibrate(checkpoint, data.images, data.masks)
    assert calibrated.preprocessing["temperature"] == report["temperature"] != 1
    assert calibrated.preprocessing["review_uncertainty"] == report["review"]["threshold"]
    error = report["expected_calibration_error"]
    assert error["after"] < error["before"]
    flagged, found = [], []
    for (before, _), (after, truth) in zip(
        masks_of(checkpoint, data), masks_of(calibrated, data), strict=True
    ):
        assert np.array_equal(before.mask, after.mask)
        flagged += (1 - after.expected_dice > report["review"]["threshold"]).tolist()
        found += dice(confusion_counts(after.mask, truth)).tolist()
    assert np.mean(flagged) == report["review"]["flagged"]
    caught = np.array(flagged) & (np.array(found) < 0.6)
    assert caught.sum() == round(report["review"]["recall"] * report["review"]["bad"])
    assert_is_the_dice_of(calibrated, data)
    # Calibrated a second time, it gives the same, not the same twice over.
    again, _ = calibration.calibrate(calibrated, data.images, data.masks)
    assert again.preprocessing == calibrated.preprocessing


def test_another_threshold_is_one_of_calibrated_probabilities(checkpoint, synthetic_slices):
    data = synthetic_slices(patients=2, slices=3)
    checkpoint.preprocessing["threshold"] = 0.55
    calibrated, report = calibration.calibrate(checkpoint, data.images, data.masks)
    assert report["temperature"] != 1
    assert_is_the_dice_of(calibrated, data)


def test_the_interval_of_the_folds_goes_with_the_model(checkpoint, synthetic_slices):
    data = synthetic_slices(patients=20, slices=2)
    checkpoint.preprocessing["mirroring"] = True
    report = calibration.calibrate_folds([(checkpoint, data.images, data.masks)] * 2)
    factor = report["volume_interval"]["factor"]
    calibrated = calibration.with_calibration(checkpoint, report)
    found = list(masks_of(calibrated, data))
    inside = []
    for prediction, truth in found:
        low, high = dataclasses.replace(prediction, voxel_ml=1.0).tumour_ml_interval
        assert np.log(high / low) == pytest.approx(2 * factor * (1.02 - prediction.agreement))
        inside.append(low - 1e-6 <= truth.sum() <= high + 1e-6)
    # Of the 40, 20 patients twice, the score of the 37th is the largest of 19 of the 20.
    assert sum(inside) >= 19
    dices = [row["expected_dice"] for row in report["patients"]]
    assert [p.volume_expected_dice for p, _ in found] * 2 == pytest.approx(dices)


def test_the_network_runs_once(checkpoint, synthetic_slices, monkeypatch):
    data, seen = synthetic_slices(patients=2, slices=3), []
    logits = Predictor.logits
    monkeypatch.setattr(
        Predictor, "logits", lambda self, batch: seen.append(len(batch)) or logits(self, batch)
    )
    calibration.calibrate(checkpoint, data.images, data.masks)
    assert sum(seen) == 6


def assert_is_the_dice_of(model, data):
    """The Dice that is stored with a model is the one that its masks have."""
    found = [
        dice(confusion_counts(prediction.mask, truth).sum(axis=0))
        for prediction, truth in masks_of(model, data)
    ]
    assert model.metadata["val_dice"] == pytest.approx(np.mean(found))
