"""All expectations are worked out by hand on tiny masks."""

import numpy as np
import pandas as pd
import pytest

from brain_mri_segmentation.evaluation import metrics
from brain_mri_segmentation.evaluation.metrics import COUNTS

TRUTH = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 0]])
PREDICTION = np.array([[0, 1, 1], [0, 1, 1], [0, 0, 1]])  # TP 2, FP 3, FN 2, TN 2


def table(*rows):
    slices = pd.DataFrame(rows, columns=["patient", "slice", *COUNTS])
    return metrics.score_slices(slices)


# Two patients. A: one tumour slice (8, 2, 2), one empty slice with 6 false pixels. B: one tumour
# slice found exactly (4), one empty slice left empty. 100 pixels each.
SCORES = table(
    ("A", "A_1", 8, 2, 2, 88),
    ("A", "A_2", 0, 6, 0, 94),
    ("B", "B_1", 4, 0, 0, 96),
    ("B", "B_2", 0, 0, 0, 100),
)


def test_counts_of_one_slice():
    np.testing.assert_array_equal(metrics.confusion_counts(PREDICTION, TRUTH), [2, 3, 2, 2])


def test_counts_of_a_batch_and_of_masks_with_255():
    batch = np.stack([PREDICTION, TRUTH]) * 255
    counts = metrics.confusion_counts(batch, np.stack([TRUTH, TRUTH]))
    np.testing.assert_array_equal(counts, [[2, 3, 2, 2], [4, 0, 0, 5]])


def test_counts_refuse_masks_of_different_shape():
    with pytest.raises(ValueError, match=r"\(3, 3\), truth \(2, 3\)"):
        metrics.confusion_counts(PREDICTION, TRUTH[:2])


def test_formulas():
    counts = np.array([2, 3, 2, 2])
    assert metrics.dice(counts) == pytest.approx(4 / 9)
    assert metrics.iou(counts) == pytest.approx(2 / 7)
    assert metrics.pixel_accuracy(counts) == pytest.approx(4 / 9)


def test_dice_and_iou_without_tumour_anywhere_are_undefined_but_accuracy_is_not():
    counts = np.array([0, 0, 0, 9])
    assert np.isnan(metrics.dice(counts))
    assert np.isnan(metrics.iou(counts))
    assert metrics.pixel_accuracy(counts) == 1


def test_missed_tumour_scores_zero():
    assert metrics.dice(np.array([0, 0, 5, 4])) == 0


def test_patients_are_scored_on_the_sum_of_their_slices():
    patients = metrics.score_patients(SCORES).set_index("patient")
    assert patients.loc["A", COUNTS].tolist() == [8, 8, 2, 182]
    assert patients.loc["A", "slices"] == 2
    assert patients.loc["A", "dice"] == pytest.approx(16 / 26)
    assert patients.loc["B", "dice"] == 1


def test_summary_of_two_patients():
    summary = metrics.summarise(SCORES)
    assert summary["dice"] == pytest.approx((16 / 26 + 1) / 2)
    assert summary["dice_median"] == pytest.approx((16 / 26 + 1) / 2)
    assert summary["dice_pooled"] == pytest.approx(24 / 34)
    assert summary["dice_tumour_slices"] == pytest.approx((16 / 20 + 1) / 2)
    assert summary["iou"] == pytest.approx((8 / 18 + 1) / 2)
    assert summary["iou_pooled"] == pytest.approx(12 / 22)
    assert summary["iou_tumour_slices"] == pytest.approx((8 / 12 + 1) / 2)
    assert summary["pixel_accuracy"] == pytest.approx(390 / 400)
    assert summary["empty_slice_fp_rate"] == pytest.approx(1 / 2)
    assert summary["undefined_patients"] == 0


def test_small_tumours_are_those_under_200_pixels_of_truth():
    scores = table(
        ("A", "A_1", 150, 50, 49, 0),  # 199 pixels: 300 / 399
        ("A", "A_2", 150, 0, 50, 0),  # 200 pixels
        ("B", "B_1", 0, 20, 0, 0),  # no tumour
        ("B", "B_2", 0, 0, 5, 0),  # missed: 0
    )
    summary = metrics.summarise(scores)
    assert summary["dice_small_tumours"] == pytest.approx((300 / 399 + 0) / 2)
    assert np.isnan(metrics.summarise(scores[1:3])["dice_small_tumours"])


def test_sites_are_summarised_each_over_its_own_patients():
    scores = table(
        ("TCGA_CS_1", "a", 8, 2, 2, 88),
        ("TCGA_CS_2", "b", 5, 5, 5, 85),
        ("TCGA_HT_1", "c", 1, 0, 0, 99),
        ("volunteer", "d", 0, 3, 0, 97),
    )
    sites = metrics.score_sites(scores).set_index("site")
    assert list(sites.index) == ["CS", "HT", "other"]
    assert sites.loc["CS", ["patients", "slices"]].tolist() == [2, 2]
    assert sites.loc["CS", "dice"] == pytest.approx((0.8 + 0.5) / 2)
    assert sites.loc["HT", "dice"] == 1
    assert sites.loc["other", "empty_slice_fp_rate"] == 1


def test_undefined_patients_are_counted_and_left_out_of_the_mean():
    scores = table(("A", "A_1", 4, 0, 0, 5), ("B", "B_1", 0, 0, 0, 9))
    summary = metrics.summarise(scores)
    assert summary["dice"] == 1
    assert summary["undefined_patients"] == 1


def test_a_metric_with_nothing_to_average_is_nan():
    summary = metrics.summarise(table(("A", "A_1", 0, 0, 0, 9)))
    assert np.isnan(summary["dice"])
    assert np.isnan(summary["dice_tumour_slices"])
    only_tumour = metrics.summarise(table(("A", "A_1", 4, 0, 0, 5)))
    assert np.isnan(only_tumour["empty_slice_fp_rate"])


def test_one_patient_alone_has_no_interval_however_many_slices_it_has():
    alone = SCORES[SCORES["patient"] == "A"]
    report = metrics.report("unet", "val", alone, alone, samples=100, seed=0)
    assert report["dice"] == pytest.approx(16 / 26)
    assert report["intervals_95"]["dice"] == [None, None]
    assert metrics.format_metric(report, "dice") == "0.615"


def test_bootstrap_of_two_patients_reaches_from_one_to_the_other():
    # A quarter of the resamples holds A twice and a quarter B twice.
    low, high = metrics.bootstrap_intervals(SCORES, samples=500, seed=0)["dice"]
    assert (low, high) == (pytest.approx(16 / 26), 1)


def test_bootstrap_repeats_with_its_seed():
    first = metrics.bootstrap_intervals(SCORES, samples=100, seed=3)
    assert first == metrics.bootstrap_intervals(SCORES, samples=100, seed=3)


def test_summary_as_text_names_model_split_and_interval():
    alone = SCORES.assign(false_positive=SCORES["false_positive"] + 2)
    report = metrics.report("unet", "val", SCORES, alone, samples=100, seed=0)
    text = metrics.format_summary(report)
    assert "unet on val: 2 patients, 4 slices" in text
    assert "Dice, mean over patients           0.808 (0.615 to 1.000)     " in text
    single = report["single_slices"]
    assert single.keys() == report.keys() - {"model", "split", "patients", "slices"} - {
        "single_slices"
    }
    assert single["dice"] < report["dice"]
    assert metrics.format_metric(single, "dice") in text
    tracked = metrics.tracked(report)
    assert tracked["val/dice"] == report["dice"]
    assert tracked["val/single_slices/dice"] == single["dice"]


def box(slices, rows, columns, shape=(5, 24, 24)):
    mask = np.zeros(shape, bool)
    mask[slice(*slices), slice(*rows), slice(*columns)] = True
    return mask


def test_the_distance_of_two_voxels_is_in_millimetres():
    # One slice of 12 mm, 3 rows and 4 columns of 1 mm apart.
    first, second = box((2, 3), (3, 4), (4, 5)), box((3, 4), (6, 7), (8, 9))
    scores = metrics.surface_scores(first, second, (12.0, 1.0, 1.0))
    assert scores == {"hd95_mm": 13, "surface_dice": 0}
    scores = metrics.surface_scores(first, second, (1.2, 0.1, 0.1))
    assert scores == {"hd95_mm": pytest.approx(1.3), "surface_dice": 1}


def test_of_all_distances_the_95th_percentile_counts_and_the_worse_direction():
    # A bar of 101 voxels, of which the other one has the first 91: from voxel 92 to 101 there are
    # 1 to 10 mm, and 0 from all others. Of 101 sorted distances the one at 0.95 * 100 is 5 mm.
    whole, part = (box((0, 1), (1, 2), (1, end), (1, 3, 110)) for end in (102, 92))
    for masks in ((whole, part), (part, whole)):
        scores = metrics.surface_scores(*masks, (1.0, 1.0, 1.0))
        assert scores["hd95_mm"] == pytest.approx(5)
        # All 91 of the part, and of the whole those up to 2 mm behind its end.
        assert scores["surface_dice"] == pytest.approx((91 + 93) / (91 + 101))


def test_the_surface_of_a_body_is_its_border_alone():
    # 3 x 6 x 6 voxels, moved by 3 columns of 1 mm: of the 2 x 36 + 20 voxels of each surface those
    # of the other lie within 2 mm but for the outer column of 6, in all three slices.
    body, moved = box((1, 4), (5, 11), (5, 11)), box((1, 4), (5, 11), (8, 14))
    scores = metrics.surface_scores(body, moved, (4.0, 1.0, 1.0))
    assert scores["hd95_mm"] == 3
    assert scores["surface_dice"] == pytest.approx(1 - 18 / 92)


@pytest.mark.parametrize(
    ("prediction", "truth", "overlap"), [(False, False, np.nan), (True, False, 0), (False, True, 0)]
)
def test_without_a_mask_there_is_no_distance(prediction, truth, overlap):
    body = box((1, 4), (5, 11), (5, 11))
    scores = metrics.surface_scores(body & prediction, body & truth, (1.0, 1.0, 1.0))
    np.testing.assert_equal(scores, {"hd95_mm": np.nan, "surface_dice": overlap})


def test_surfaces_are_summarised_over_patients():
    patients = pd.DataFrame({"hd95_mm": [1, 2, np.nan, 9], "surface_dice": [np.nan] * 4})
    assert metrics.summarise_surfaces(patients) == {
        "hd95_mm": 4, "hd95_mm_median": 2, "surface_dice": None, "surface_dice_median": None
    }  # fmt: skip
    assert metrics.summarise_surfaces(patients[[]]) == {}
