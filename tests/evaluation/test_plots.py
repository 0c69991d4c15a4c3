import numpy as np
import pandas as pd
import pytest

from brain_mri_segmentation.evaluation import plots


def scores(*dices):
    rows = [(f"P_{i}", d, 10, 5) for i, d in enumerate(dices)] + [("P_99", np.nan, 0, 0)]
    return pd.DataFrame(rows, columns=["slice", "dice", "true_positive", "false_negative"])


def test_worst_median_and_best_slices_with_tumour_are_chosen():
    chosen = plots.choose_slices(scores(0.9, 0.1, 0.5, 0.6, 0.2, 0.8), each=2)
    assert list(chosen) == ["P_1", "P_4", "P_2", "P_3", "P_5", "P_0"]
    assert chosen["P_1"] == "worst\nDice 0.10\nP_1"
    assert chosen["P_0"] == "best\nDice 0.90\nP_0"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_fewer_slices_are_shown_once_each(count):
    chosen = plots.choose_slices(scores(*np.linspace(0.1, 0.9, count)))
    assert len(chosen) == count


COHORT = pd.DataFrame(
    [
        *[("TCGA_CS_1", n, 0 if n < 3 else 500) for n in range(1, 5)],
        *[("TCGA_DU_2", n, 0 if n < 4 else 1000) for n in range(1, 5)],
        *[("TCGA_DU_1", n, 100) for n in range(1, 3)],
    ],
    columns=["patient", "slice", "tumour_pixels"],
).assign(height=100, width=100)


def test_the_cohort_overview_sorts_patients_by_site_and_tumour(tmp_path):
    figure = plots.cohort_overview(COHORT)
    assert figure.get_suptitle() == "3 patients of 2 sites: 50 % of 10 slices hold tumour"
    slices, area = figure.axes
    assert [bar.get_height() for bar in slices.containers[0]] == [4, 2, 4]
    assert [bar.get_height() for bar in slices.containers[1]] == [2, 2, 1]
    assert [bar.get_height() for bar in area.containers[0]] == [5, 1, 10]  # % of the slice
    assert [text.get_text() for text in area.get_xticklabels()] == ["CS (1)", "DU (2)"]
    figure.savefig(tmp_path / "figure.png")


def test_the_split_balance_names_the_shares_of_tumour_slices(tmp_path):
    split = pd.DataFrame(
        {"patient": ["TCGA_CS_1", "TCGA_DU_1", "TCGA_DU_2"], "split": ["train", "train", "val"]}
    )
    figure = plots.split_balance(COHORT, split)
    assert figure.get_suptitle() == "Between 25 % and 67 % of each partition's slices hold tumour"
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert labels == ["train\n2 patients\n6 slices", "val\n1 patients\n4 slices"]
    figure.savefig(tmp_path / "figure.png")


def test_dice_by_size_gives_the_median_of_each_quarter(tmp_path):
    sizes = np.array([80, 70, 60, 50, 40, 30, 20, 10])
    table = pd.DataFrame(
        {
            "dice": [0.9, 0.9, 0.8, 0.8, 0.7, 0.5, 0.3, 0.1],
            "true_positive": sizes,
            "false_negative": 0,
        }
    )
    empty = pd.DataFrame({"dice": [np.nan], "true_positive": [0], "false_negative": [0]})
    figure = plots.dice_by_tumour_size(pd.concat([table, empty]))
    title = figure.axes[0].get_title()
    assert (
        title == "Median Dice is 0.20 in the quarter of the smallest tumours, 0.90 in the largest"
    )
    figure.savefig(tmp_path / "figure.png")
    assert plots.dice_by_tumour_size(empty).axes[0].get_title() == "No slice holds tumour"


def test_training_curves_say_the_finding_in_the_title():
    history = pd.DataFrame(
        {
            "epoch": [1, 2, 3],
            "train/loss": [0.9, 0.5, 0.4],
            "val/loss": [0.9, 0.6, 0.7],
            "val/dice": [0.2, 0.7, 0.6],
            "val/iou": [0.1, 0.6, 0.5],
        }
    )
    title = plots.training_curves(history).get_suptitle()
    assert title == "Validation Dice is best at epoch 2: 0.700"


def test_the_reliability_diagram_says_what_the_temperature_brings():
    table = {"pixels": [30, 10], "probability": [0.1, 0.9], "frequency": [0.2, 0.6]}
    report = {
        "temperature": 2.0,
        "expected_calibration_error": {"before": 0.15, "after": 0.02},
        "reliability": {"before": table, "after": table},
    }
    axes = plots.reliability_diagram(report).axes[0]
    assert "temperature of 2.00" in axes.get_title()
    assert "from 0.150 to 0.020" in axes.get_title()
    assert axes.lines[1].get_ydata().tolist() == [0.2, 0.6]


def test_patients_without_tumour_are_labelled_not_scored_zero_in_silence(tmp_path):
    patients = pd.DataFrame({"patient": ["A", "B"], "slices": [20, 22], "dice": [0.8, np.nan]})
    intervals = pd.DataFrame({"lower": [0.7, np.nan], "upper": [0.9, np.nan]}, index=["A", "B"])
    report = {"model": "unet", "split": "test", "dice": 0.8, "intervals_95": {"dice": [0.7, 0.9]}}
    figure = plots.patient_dice(patients, intervals, report)
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["A (20)", "B (22) no tumour"]
    assert "mean Dice 0.800 over 1 patients" in figure.axes[0].get_title()
    figure.savefig(tmp_path / "figure.png")


def test_the_gallery_has_a_row_a_slice_and_can_be_drawn(tmp_path):
    image = np.zeros((32, 32, 3), np.uint8)
    mask = np.zeros((32, 32), np.uint8)
    mask[8:16, 8:16] = 255
    rows = [("a", image, mask, mask), ("b", image, mask, mask * 0)]
    figure = plots.slice_gallery(rows)
    assert len(figure.axes) == 8
    figure.savefig(tmp_path / "figure.png")
    plots.slice_gallery([]).savefig(tmp_path / "empty.png")


def test_the_comparison_says_the_finding_and_names_both_models(tmp_path):
    rows = [("A", 0.5, 0.6, -0.1), ("B", 0.7, 0.6, 0.1), ("C", 0.9, 0.6, 0.3)]
    comparison = {
        "main": "segformer",
        "baseline": "unet",
        "split": "test",
        "difference": 0.1,
        "confidence": 0.95,
        "interval": [-0.1, 0.3],
        "patients": 3,
        "patient_scores": [
            dict(zip(("patient", "dice", "baseline_dice", "difference"), row, strict=True))
            for row in rows
        ],
    }
    figure = plots.model_comparison(comparison)
    (axes,) = figure.axes
    assert axes.get_title().startswith("segformer against unet on test: +0.100 mean Dice\n95%")
    assert [text.get_text() for text in axes.get_yticklabels()] == ["C", "B", "A"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["unet", "segformer"]
    assert plots.to_png(figure).startswith(b"\x89PNG")
    itself = plots.model_comparison(comparison | {"main": "unet"})
    assert itself.axes[0].get_title() == "unet is the baseline: nothing to compare it with"


def test_failures_are_missed_tumour_and_tumour_where_there_is_none():
    rows = [  # slice, dice, true positive, false positive, false negative
        ("P_1", 0.9, 90, 10, 10),
        ("P_2", 0.0, 0, 0, 50),
        ("P_3", 0.4, 20, 30, 30),
        ("P_4", 0.0, 0, 7, 0),
        ("P_5", 0.0, 0, 70, 0),
        ("P_6", np.nan, 0, 0, 0),
    ]
    columns = ["slice", "dice", "true_positive", "false_positive", "false_negative"]
    chosen = plots.choose_failures(pd.DataFrame(rows, columns=columns), each=2)
    assert list(chosen) == ["P_2", "P_3", "P_5", "P_4"]
    assert chosen["P_3"] == "lowest Dice: 0.40\nP_3"
    assert chosen["P_5"] == "no tumour: 70\npixels too many\nP_5"
