import numpy as np
import pandas as pd
import pytest

from brain_mri_segmentation.evaluation import plots


def scores(*dices, alarms=()):
    rows = [(f"P_{i}", d, 10, 5, 0) for i, d in enumerate(dices)]
    rows += [(f"E_{i}", np.nan, 0, 0, pixels) for i, pixels in enumerate((0, *alarms))]
    columns = ["slice", "dice", "true_positive", "false_negative", "false_positive"]
    return pd.DataFrame(rows, columns=columns)


def test_worst_median_and_best_slices_with_tumour_and_false_alarms_are_chosen():
    table = scores(0.9, 0.1, 0.5, 0.6, 0.2, 0.8, alarms=(7, 3, 70))
    chosen = plots.choose_slices(table, each=2)
    assert list(chosen) == ["P_1", "P_4", "P_2", "P_3", "P_5", "P_0", "E_3", "E_1"]
    assert chosen["P_1"] == "worst\nDice 0.10\nP_1"
    assert chosen["P_0"] == "best\nDice 0.90\nP_0"
    assert chosen["E_3"] == "no tumour: 70\npixels too many\nE_3"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_fewer_slices_are_shown_once_each(count, tmp_path):
    table = scores(*np.linspace(0.1, 0.9, count))
    image, mask = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8)
    mask[8:16, 8:16] = 255
    images, masks = (
        dict.fromkeys(table["slice"], lambda: image),
        dict.fromkeys(table["slice"], lambda: mask),
    )
    figure = plots.slice_gallery(table, images, masks, masks)
    titles = list(plots.choose_slices(table).values())
    assert [axes.get_ylabel() for axes in figure.axes[::4]] == (titles or [""])
    figure.savefig(tmp_path / "figure.png")


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
    report = {"model": "unet", "split": "test", "dice": 0.8, "intervals_95": {"dice": [0.7, 0.9]}}
    figure = plots.patient_dice(patients, report)
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["A (20)", "B (22) no tumour"]
    assert "mean Dice 0.800 over 1 patients" in figure.axes[0].get_title()
    figure.savefig(tmp_path / "figure.png")
    alone = plots.patient_dice(patients[:1], report | {"intervals_95": {"dice": [None, None]}})
    (legend,) = alone.legends
    assert [text.get_text() for text in legend.get_texts()] == ["mean 0.800"]


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
    figure.savefig(tmp_path / "figure.png")
    itself = plots.model_comparison(comparison | {"main": "unet"})
    assert itself.axes[0].get_title() == "unet is the baseline: nothing to compare it with"
