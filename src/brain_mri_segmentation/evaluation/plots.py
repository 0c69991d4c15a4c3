"""Every plot of the project, made once for reports, experiment tracking and documents.

Colours are of Okabe and Ito's palette, which colour-blind readers can tell apart.
"""

import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from brain_mri_segmentation.cohort.index import Slices
from brain_mri_segmentation.evaluation.metrics import Report
from brain_mri_segmentation.imaging.intensity import FLAIR
from brain_mri_segmentation.imaging.naming import site_of
from brain_mri_segmentation.imaging.overlay import ORANGE

BLUE, GREY = "#0072B2", "#7F7F7F"


def cohort_overview(cohort: pd.DataFrame) -> Figure:
    """Draw the slices of each patient, and how large its tumour becomes, site by site.

    Args:
        cohort: Columns patient, slice, height, width, tumour_pixels.
    """
    share = 100 * cohort["tumour_pixels"] / (cohort["height"] * cohort["width"])
    rows = cohort.assign(share=share, site=cohort["patient"].map(site_of))
    rows["tumour"] = rows["tumour_pixels"] > 0
    groups = rows.groupby(["site", "patient"])
    table = groups.agg(slices=("slice", "size"), tumour=("tumour", "sum"), share=("share", "max"))
    table = table.sort_values(["site", "share"]).reset_index()
    place = np.arange(len(table))
    figure = _figure(max(7, 2 + 0.08 * len(table)), 5.5)
    slices, area = figure.subplots(2, 1, sharex=True)
    slices.bar(place, table["slices"], color="#CCCCCC", width=0.85, label="all")
    slices.bar(place, table["tumour"], color=BLUE, width=0.85, label="with tumour")
    slices.set_ylabel("Slices")
    slices.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    area.bar(place, table["share"], color=ORANGE, width=0.85)
    area.set_ylabel("Largest tumour,\n% of its slice")
    first = table.groupby("site").head(1).index
    for axes in (slices, area):
        for start in first[1:]:
            axes.axvline(start - 0.5, color="black", linewidth=0.8)
        axes.tick_params(axis="x", length=0)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    ends = [*first[1:], len(table)]
    middles = [(start + end - 1) / 2 for start, end in zip(first, ends, strict=True)]
    labels = [f"{table['site'][s]} ({e - s})" for s, e in zip(first, ends, strict=True)]
    area.set_xticks(middles, labels)
    area.set(xlim=(-1, len(table)), xlabel="Site (patients); patients from small to large tumours")
    figure.suptitle(
        f"{len(table)} patients of {len(first)} sites: {100 * rows['tumour'].mean():.0f} % of "
        f"{len(rows):,} slices hold tumour"
    )
    return figure


def patient_dice(patient_scores: pd.DataFrame, report: Report) -> Figure:
    """Draw each patient's Dice, worst first, and the mean of all with its interval.

    Args:
        patient_scores: Columns patient, slices, dice.
        report: Gives model, split, dice and its interval.
    """
    table = patient_scores.sort_values("dice")
    figure = _figure(9, 1.6 + 0.3 * len(table))
    axes = figure.subplots()
    place = np.arange(len(table))
    axes.barh(place, table["dice"].fillna(0), color=BLUE)
    labels = [
        f"{row.patient} ({row.slices})" + (" no tumour" if np.isnan(row.dice) else "")
        for row in table.itertuples()
    ]
    axes.set_yticks(place, labels, fontsize=8)
    axes.invert_yaxis()
    mean, ends = report["dice"], report["intervals_95"]["dice"]
    title = f"{report['model']} on {report['split']}"
    if mean is not None:
        axes.axvline(mean, color=ORANGE, linewidth=2, label=f"mean {mean:.3f}")
        if None not in ends:
            interval = f"95 % interval {ends[0]:.3f} to {ends[1]:.3f}"
            axes.axvspan(*ends, color=ORANGE, alpha=0.2, label=interval)
        title += f": mean Dice {mean:.3f} over {table['dice'].count()} patients"
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
    axes.set(xlim=(0, 1), xlabel="Dice of all slices of a patient")
    axes.set_title(title)
    return figure


def dice_by_tumour_size(slice_scores: pd.DataFrame) -> Figure:
    """Draw the Dice of each slice with tumour against its size, and the median of each quarter.

    Args:
        slice_scores: Columns dice, true_positive, false_negative.
    """
    pixels = slice_scores["true_positive"] + slice_scores["false_negative"]
    table = slice_scores.assign(pixels=pixels)[pixels > 0].sort_values("pixels")
    figure = _figure(7, 4.5)
    axes = figure.subplots()
    axes.set(ylim=(-0.03, 1.03), xlabel="Tumour pixels in the slice (truth)", ylabel="Dice")
    axes.grid(alpha=0.3)
    if table.empty:
        axes.set_title("No slice holds tumour")
        return figure
    axes.scatter(
        table["pixels"], table["dice"], s=14, color=BLUE, alpha=0.4, linewidths=0, zorder=3
    )
    axes.set_xscale("log")
    _plain_ticks(axes.xaxis)
    parts = np.array_split(np.arange(len(table)), min(4, len(table)))
    medians = []
    for number, part in enumerate(parts):
        quarter = table.iloc[part]
        medians.append(float(quarter["dice"].median()))
        ends = (quarter["pixels"].iloc[0], quarter["pixels"].iloc[-1])
        label = "median of each quarter of the slices" if number == 0 else None
        axes.plot(ends, [medians[-1]] * 2, color=ORANGE, linewidth=4, label=label)
    figure.legend(frameon=False, loc="outside lower center")
    axes.set_title(
        f"Median Dice is {medians[0]:.2f} in the quarter of the smallest tumours, "
        f"{medians[-1]:.2f} in the largest",
        fontsize=11,
    )
    return figure


def reliability_diagram(calibration: Report) -> Figure:
    """Draw how often tumour is there against how probable the model says it is.

    Args:
        calibration: The report of ``calibration.calibrate``.
    """
    figure = _figure(5.5, 5.5)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfectly calibrated")
    errors = calibration["expected_calibration_error"]
    styles = {"before": (ORANGE, "s", "as trained"), "after": (BLUE, "o", "with temperature")}
    for when, (colour, marker, text) in styles.items():
        table = calibration["reliability"][when]
        label = f"{text}: error {errors[when]:.3f}"
        axes.plot(
            table["probability"], table["frequency"], color=colour, marker=marker, label=label
        )
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set(xlabel="Predicted tumour probability", ylabel="Share of pixels that are tumour")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper left")
    axes.set_title(
        f"A temperature of {calibration['temperature']:.2f} takes the calibration error\n"
        f"near tumour from {errors['before']:.3f} to {errors['after']:.3f}",
        fontsize=10,
    )
    return figure


def model_comparison(comparison: Report) -> Figure:
    """Draw the Dice of each patient under two models, the greatest loss first.

    Args:
        comparison: What ``publishing.gate.compare`` gave.
    """
    table = pd.DataFrame(comparison["patient_scores"])[::-1]
    main, baseline = comparison["main"], comparison["baseline"]
    figure = _figure(9, 1.9 + 0.3 * len(table))
    axes = figure.subplots()
    place = np.arange(len(table))
    for better, colour in ((True, BLUE), (False, ORANGE)):
        rows = (table["difference"] > 0) == better
        ends = table.loc[rows, ["baseline_dice", "dice"]].to_numpy().T
        axes.hlines(place[rows], *ends, color=colour, linewidth=2)
    axes.plot(table["baseline_dice"], place, "o", color=GREY, label=baseline)
    axes.plot(table["dice"], place, "D", color="black", ms=5, label=main)
    axes.set_yticks(place, table["patient"], fontsize=8)
    axes.set(xlim=(0, 1), xlabel="Dice of all slices of a patient; blue: higher, orange: lower")
    axes.grid(alpha=0.3, axis="x")
    low, high = comparison["interval"]
    title = (
        f"{main} against {baseline} on {comparison['split']}: {comparison['difference']:+.3f} mean "
        f"Dice\n{comparison['confidence']:.0%} interval {low:+.3f} to {high:+.3f} over "
        f"{comparison['patients']} patients"
    )
    itself = f"{main} is the baseline: nothing to compare it with"
    axes.set_title(itself if main == baseline else title, fontsize=11)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def choose_slices(slice_scores: pd.DataFrame, each: int = 2) -> dict[str, str]:
    """Choose the worst, the middle and the best slices with tumour, and the largest false alarms.

    Args:
        slice_scores: Columns slice, dice and the counts.
        each: Slices of each kind.

    Returns:
        A title by slice name, worst first; fewer where there are not enough slices.
    """
    tumour = slice_scores["true_positive"] + slice_scores["false_negative"] > 0
    ranked = slice_scores[tumour].sort_values("dice", kind="stable").reset_index(drop=True)
    middle = max(0, len(ranked) // 2 - each // 2)
    chosen: dict[str, str] = {}
    for kind, rows in (
        ("worst", ranked[:each]),
        ("median", ranked[middle : middle + each]),
        ("best", ranked[-each:]),
    ):
        for row in rows.itertuples():
            chosen.setdefault(row.slice, f"{kind}\nDice {row.dice:.2f}\n{row.slice}")
    alarms = slice_scores[~tumour & (slice_scores["false_positive"] > 0)]
    for row in alarms.nlargest(each, "false_positive").itertuples():
        chosen[row.slice] = f"no tumour: {row.false_positive}\npixels too many\n{row.slice}"
    return chosen


def slice_gallery(
    slice_scores: pd.DataFrame, images: Slices, masks: Slices, predictions: Slices
) -> Figure:
    """Draw chosen slices: FLAIR, truth, prediction, and both outlined on the image.

    Args:
        slice_scores: Columns slice, dice and the counts; ``choose_slices`` chooses by them.
        images: Readers of (H, W, 3) uint8 by slice name.
        masks: Readers of the true masks (H, W).
        predictions: Readers of the predicted masks (H, W).
    """
    chosen = choose_slices(slice_scores)
    figure = _figure(10, 2.4 * max(1, len(chosen)) + 0.6)
    grid = figure.subplots(max(1, len(chosen)), 4, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    headings = ("FLAIR", "truth", "prediction", "truth (blue), prediction (orange)")
    for axes, heading in zip(grid[0], headings, strict=True):
        axes.set_title(heading, fontsize=10)
    for line, (name, title) in zip(grid, chosen.items(), strict=False):
        flair, truth, prediction = images[name]()[..., FLAIR], masks[name](), predictions[name]()
        for axes, picture in zip(line, (flair, truth > 0, prediction > 0, flair), strict=True):
            axes.imshow(picture, cmap="gray", interpolation="nearest")
        for mask, colour in ((truth, BLUE), (prediction, ORANGE)):
            if (mask > 0).any():
                line[3].contour(mask > 0, levels=[0.5], colors=[colour], linewidths=1.2)
        line[0].set_ylabel(title, fontsize=8)
    figure.suptitle(
        "Worst, median and best slices with tumour, and false alarms (research use only)",
        fontsize=11,
    )
    return figure


def _figure(width: float, height: float) -> Figure:
    """Return an empty plot of that size in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def _plain_ticks(axis: Axis) -> None:
    """Write 1, 3, 10, 30 and so on at a logarithmic axis, without powers."""
    axis.get_major_locator().set_params(subs=(1, 3))  # type: ignore[call-arg]
    axis.set_major_formatter("{x:,.0f}")
    axis.minorticks_off()
