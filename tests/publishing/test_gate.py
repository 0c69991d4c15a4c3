import pandas as pd
import pytest

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.publishing.gate import Scores, approve, compare, find_report


def scores(model, dice, patients="ABCDEF", **report):
    report = {
        "model": model,
        "split": "test",
        "fingerprint": {"split": "s1", "data": "d1"},
        "digest": "w1",
    } | report
    table = {"patient": list(patients)[: len(dice)], "dice": dice}
    return Scores(report, pd.DataFrame(table))


BASELINE = [0.5, 0.6, 0.7, 0.8, 0.4, 0.5]
BETTER = [0.62, 0.7, 0.78, 0.84, 0.57, 0.63]  # by 0.12, 0.10, 0.08, 0.04, 0.17, 0.13


NOTHING = float("nan")  # Dice where there is no tumour, neither in the mask nor in the truth


def compared(dice, seed=0):
    return compare(scores("segformer", dice), scores("unet", BASELINE), 0.95, 500, seed)


def test_the_difference_is_the_mean_over_patients_of_paired_differences():
    comparison = compared(BETTER)
    assert comparison["difference"] == pytest.approx(0.64 / 6)
    assert comparison["dice"] == pytest.approx(4.14 / 6)
    assert comparison["baseline_dice"] == pytest.approx(3.5 / 6)
    low, high = comparison["interval"]
    # No resample can have a mean outside of the smallest and the largest difference.
    assert 0.04 < low < 0.64 / 6 < high < 0.17
    assert [row["patient"] for row in comparison["patient_scores"]] == list("DCBAFE")
    assert comparison["patients"] == 6


def test_patients_are_paired_by_name_and_not_by_row():
    shuffled = scores("segformer", BETTER[::-1], "FEDCBA")
    comparison = compare(shuffled, scores("unet", BASELINE), 0.95, 500, 0)
    assert comparison["difference"] == pytest.approx(0.64 / 6)
    # All of six differences are positive: 2 of 2^6 signs are as extreme.
    assert comparison["wilcoxon_p"] == pytest.approx(2 / 64)


def test_the_interval_is_a_percentile_bootstrap_and_repeats_with_its_seed():
    assert compared(BETTER) == compared(BETTER)
    assert compared(BETTER)["interval"] != compared(BETTER, seed=1)["interval"]
    wide = compare(scores("segformer", BETTER), scores("unet", BASELINE), 0.99, 500, 0)
    assert wide["interval"][0] < compared(BETTER)["interval"][0]


@pytest.mark.parametrize(
    ("dice", "baseline", "patients", "difference"),
    [
        (NOTHING, NOTHING, 5, 0.52 / 5),  # an empty mask of both says nothing about either
        (0.0, NOTHING, 6, (-1 + 0.52) / 6),  # a false alarm that the baseline does not give
        (NOTHING, 0.0, 6, (1 + 0.52) / 6),
    ],
)
def test_a_patient_without_tumour_counts_where_one_of_both_marks_any(
    dice, baseline, patients, difference
):
    models = scores("segformer", [dice, *BETTER[1:]]), scores("unet", [baseline, *BASELINE[1:]])
    comparison = compare(*models, 0.95, 500, 0)
    assert comparison["patients"] == patients
    assert comparison["undefined_patients"] == 6 - patients
    assert comparison["difference"] == pytest.approx(difference)


def test_a_model_beside_itself_has_no_p_value():
    comparison = compare(scores("unet", BASELINE), scores("unet", BASELINE), 0.95, 500, 0)
    assert comparison["wilcoxon_p"] is None
    assert comparison["interval"] == [0, 0]


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ({"split": "val"}, "another partition: segformer on 'val', unet on 'test'"),
        (
            {"fingerprint": {"split": "s2", "data": "d1"}},
            "another split of the patients: segformer on 's2', unet on 's1'",
        ),
        (
            {"fingerprint": {"split": "s1", "data": "d2"}},
            "other pixels: segformer on 'd2', unet on 'd1'",
        ),
    ],
)
def test_scores_on_other_data_are_refused_naming_both(report, message):
    with pytest.raises(InputError, match=message) as caught:
        compare(scores("segformer", BETTER, **report), scores("unet", BASELINE), 0.95, 500, 0)
    assert "--params model=segformer; kedro run" in str(caught.value)


def test_other_patients_are_refused_naming_both():
    other = scores("segformer", BETTER, "ABCDEG")
    with pytest.raises(InputError, match="on other patients: segformer on 'A, B, C, D, E, G', un"):
        compare(other, scores("unet", BASELINE), 0.95, 500, 0)


def test_one_patient_cannot_be_compared():
    with pytest.raises(InputError, match="defined for 1 patient"):
        compare(scores("segformer", [0.5]), scores("unet", [0.4]), 0.95, 500, 0)


def test_missing_metrics_are_refused_naming_what_there_is():
    with pytest.raises(InputError, match=r"no metrics.json of segformer \(there is one of: unet\)"):
        find_report("segformer", {"unet": dict})
    with pytest.raises(InputError, match="of: no model.*--params model=unet"):
        find_report("unet", {})


@pytest.fixture
def checkpoint(make_checkpoint):
    return make_checkpoint("unet")


@pytest.fixture
def gate(parameters):
    return parameters.publishing.gate


def judge(comparison, checkpoint, gate, **change):
    report = {"digest": checkpoint.digest, "split": "test"}
    comparison = comparison | {"digest": checkpoint.digest}
    return approve(comparison, checkpoint, report, gate.model_copy(update=change))


def test_a_better_model_passes(checkpoint, gate):
    approval = judge(compared(BETTER), checkpoint, gate)
    assert approval.status == "passed"
    assert "mean Dice differs by +0.107 from unet's, 95 % interval +0." in approval.reason


@pytest.mark.parametrize(
    ("dice", "change"),
    [
        ([0.7, 0.5, 0.8, 0.7, 0.5, 0.4], {}),  # up and down by 0.1, but for the first
        (BASELINE, {}),  # the same
        (BETTER, {"minimum_difference": 0.1}),  # better, but not by that much for certain
    ],
)
def test_a_model_that_does_not_beat_the_baseline_is_refused_with_the_figures(
    checkpoint, gate, dice, change
):
    with pytest.raises(InputError, match=r"interval [+-]0.*does not lie above 0.*override="):
        judge(compared(dice), checkpoint, gate, **change)


def test_an_override_needs_a_reason_which_is_kept(checkpoint, gate):
    approval = judge(compared(BASELINE), checkpoint, gate, override="for a workshop")
    assert approval.status == "overridden"
    assert approval.reason.endswith("for this reason: for a workshop")
    # A model that passes needs none.
    assert judge(compared(BETTER), checkpoint, gate, override="x").status == "passed"


def test_the_baseline_has_nothing_to_beat(checkpoint, gate):
    comparison = compare(scores("unet", BASELINE), scores("unet", BASELINE), 0.95, 500, 0)
    assert judge(comparison, checkpoint, gate).status == "baseline"


def test_a_model_compared_with_none_is_published_for_a_reason(checkpoint, gate):
    comparison = compare(scores("unet", BASELINE), scores("unet", BASELINE), 0.95, 500, 0)
    approval = judge(comparison, checkpoint, gate, override="no baseline has folds")
    assert approval.status == "overridden"
    assert "compared with no other model" in approval.reason
    assert approval.reason.endswith("for this reason: no baseline has folds")


@pytest.mark.parametrize("scored", ["w1", None])
@pytest.mark.parametrize("what", ["report", "comparison"])
def test_figures_of_another_model_are_refused(checkpoint, gate, what, scored):
    report = {"digest": checkpoint.digest, "split": "val"}
    comparison = compared(BETTER) | {"digest": checkpoint.digest}
    (report if what == "report" else comparison)["digest"] = scored
    with pytest.raises(InputError, match=f"{checkpoint.digest}: it was trained after .*split=val"):
        approve(comparison, checkpoint, report, gate)
