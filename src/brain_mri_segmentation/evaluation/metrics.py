"""Segmentation metrics: counts first, then the formula, then the reduction.

Dice = 2TP / (2TP + FP + FN) and IoU = TP / (TP + FP + FN), with TP, FP, FN and TN counted in
pixels of the tumour class. A ratio without a denominator is NaN, and who reduces counts it.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.naming import site_of

Report = Mapping[str, Any]
"""What ``metrics.json`` holds: the summary, ``model``, ``split``, ``intervals_95`` and so on."""

OUT_OF_FOLD = "out_of_fold"
"""``split`` of a report on train and val, each patient segmented by a model that never saw it."""

COUNTS = ["true_positive", "false_positive", "false_negative", "true_negative"]

SMALL_TUMOUR = 200
"""A tumour of fewer pixels in a slice is a small one."""

SURFACE_SCORES = ("hd95_mm", "surface_dice")
"""Columns of ``patient_scores.csv`` where a spacing is known (``surface_scores``)."""
SURFACE_TOLERANCE = 2.0
"""Millimetres by which surfaces may differ and still agree (``surface_dice``)."""

SUMMARY = {
    "dice": "Dice, mean over patients",
    "dice_median": "Dice, median over patients",
    "dice_pooled": "Dice, all pixels together",
    "dice_tumour_slices": "Dice, mean over tumour slices",
    "dice_small_tumours": f"Dice, mean over tumours < {SMALL_TUMOUR} px",
    "iou": "IoU, mean over patients",
    "empty_slice_fp_rate": "Empty slices with a false alarm",
    "pixel_accuracy": "Pixel accuracy",
}
"""The metrics that a reader is shown, in this order."""


def confusion_counts(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Count the pixels of each outcome.

    Args:
        prediction: (..., H, W) bool, or any array whose non-zero pixels are tumour.
        truth: The same shape.

    Returns:
        (..., 4) int64 in the order of ``COUNTS``.

    Raises:
        ValueError: The shapes differ.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction has shape {prediction.shape}, truth {truth.shape}")
    predicted, actual = prediction > 0, truth > 0
    outcomes = (predicted & actual, predicted & ~actual, ~predicted & actual, ~predicted & ~actual)
    return np.stack([np.count_nonzero(outcome, axis=(-2, -1)) for outcome in outcomes], axis=-1)


def dice(counts: np.ndarray) -> np.ndarray:
    """Return Dice of each row of counts (..., 4); NaN without tumour in prediction and truth."""
    tp, fp, fn, _ = np.moveaxis(np.asarray(counts, dtype=float), -1, 0)
    return _ratio(2 * tp, 2 * tp + fp + fn)


def iou(counts: np.ndarray) -> np.ndarray:
    """Return IoU of each row of counts (..., 4); NaN without tumour in prediction and truth."""
    tp, fp, fn, _ = np.moveaxis(np.asarray(counts, dtype=float), -1, 0)
    return _ratio(tp, tp + fp + fn)


def pixel_accuracy(counts: np.ndarray) -> np.ndarray:
    """Return the share of right pixels of each row of counts (..., 4)."""
    counts = np.asarray(counts, dtype=float)
    return _ratio(counts[..., 0] + counts[..., 3], counts.sum(axis=-1))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    nothing = np.full(np.shape(denominator), np.nan)
    return np.divide(numerator, denominator, out=nothing, where=denominator > 0)


OVERLAPS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"dice": dice, "iou": iou}
"""Every score that is averaged over patients and over tumour slices, by its name in reports."""


def surface_scores(
    prediction: np.ndarray, truth: np.ndarray, spacing: tuple[float, float, float]
) -> dict[str, float]:
    """Measure how far the surfaces of two masks of a volume are apart, with MONAI.

    Args:
        prediction: (N, H, W) bool, or any array whose non-zero voxels are tumour.
        truth: The same shape.
        spacing: Millimetres from slice to slice, row to row and column to column.

    Returns:
        ``hd95_mm``, of the distances of one surface's voxels to the other surface the 95th
        percentile, of both directions the larger one (Hausdorff); NaN where a mask is empty.
        ``surface_dice``, the share of the voxels of both surfaces that are within
        ``SURFACE_TOLERANCE`` of the other one (Nikolov et al. 2021), 0..1; NaN where both are
        empty.
    """
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    empty = [not mask.any() for mask in (prediction, truth)]
    if any(empty):
        return {"hd95_mm": float("nan"), "surface_dice": float("nan") if all(empty) else 0.0}
    masks = [torch.from_numpy(mask > 0)[None, None] for mask in (prediction, truth)]
    common = {"include_background": True, "spacing": spacing}
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # MONAI's of itself
        distance = compute_hausdorff_distance(*masks, percentile=95, **common)
        overlap = compute_surface_dice(*masks, class_thresholds=[SURFACE_TOLERANCE], **common)
    return {"hd95_mm": float(distance), "surface_dice": float(overlap)}


def summarise_surfaces(patient_scores: pd.DataFrame) -> dict[str, float | None]:
    """Return mean and median over patients of each of ``SURFACE_SCORES`` that there is."""
    summary = {}
    for name in patient_scores.columns.intersection(SURFACE_SCORES):
        summary[str(name)] = _defined(float(patient_scores[name].mean()))
        summary[f"{name}_median"] = _defined(float(patient_scores[name].median()))
    return summary


def score_slices(slice_counts: pd.DataFrame) -> pd.DataFrame:
    """Add the scores of each row to a table with the columns of ``COUNTS``."""
    counts = slice_counts[COUNTS].to_numpy()
    scores = {name: score(counts) for name, score in OVERLAPS.items()}
    return slice_counts.assign(**scores, pixel_accuracy=pixel_accuracy(counts))


def score_patients(slice_scores: pd.DataFrame) -> pd.DataFrame:
    """Score each patient on the sum of the counts of all its slices.

    Args:
        slice_scores: One row a slice, with ``patient`` and the columns of ``COUNTS``.

    Returns:
        One row a patient, by name: ``patient``, ``slices``, ``COUNTS``, ``dice``, ``iou``,
        ``pixel_accuracy``.
    """
    groups = slice_scores.groupby("patient", sort=True)
    counts = groups[COUNTS].sum()
    counts.insert(0, "slices", groups.size())
    return score_slices(counts.reset_index())


def summarise(slice_scores: pd.DataFrame) -> dict[str, float]:
    """Reduce the scores of all slices to one value of each metric.

    Args:
        slice_scores: One row a slice, with ``patient`` and the columns of ``COUNTS``.

    Returns:
        For each of ``OVERLAPS``, such as ``dice``: ``dice``, the mean over patients;
        ``dice_median`` over patients; ``dice_pooled``, of all pixels together;
        ``dice_tumour_slices``, the mean over slices that hold tumour. Besides,
        ``dice_small_tumours``, the mean over slices that hold fewer than ``SMALL_TUMOUR`` pixels
        of it; ``pixel_accuracy`` of all pixels; and ``empty_slice_fp_rate``, the share of
        tumour-free slices with any predicted pixel. Undefined ratios (NaN) are left out of a
        mean; ``undefined_patients`` counts the patients without a Dice. A metric with nothing to
        average is NaN.
    """
    return {name: float(value) for name, value in _reduce(_patient_sums(slice_scores)).items()}


def score_sites(slice_scores: pd.DataFrame) -> pd.DataFrame:
    """Summarise the patients of each site that scanned them.

    Returns:
        One row a site: ``site``, ``patients``, ``slices`` and the metrics of ``summarise``.
    """
    rows = []
    for site, group in slice_scores.groupby(slice_scores["patient"].map(site_of), sort=True):
        counted = {"patients": group["patient"].nunique(), "slices": len(group)}
        rows.append({"site": site} | counted | summarise(group))
    return pd.DataFrame(rows)


def bootstrap_intervals(
    slice_scores: pd.DataFrame, samples: int, seed: int
) -> dict[str, tuple[float, float]]:
    """Return the 95 % percentile bootstrap interval over patients of each metric of ``summarise``.

    Patients, not slices, are drawn with replacement, since slices of one patient are not
    independent (Efron and Tibshirani 1993, chapter 13). A resample in which a metric is undefined
    is left out of its interval; both ends are NaN where it is undefined in all of them, and where
    there is one patient alone, whom every resample would repeat.

    Args:
        slice_scores: One row a slice, with ``patient`` and the columns of ``COUNTS``; at least one.
        samples: Resamples of the patients.
        seed: The same seed gives the same intervals.
    """
    sums, random = _patient_sums(slice_scores), np.random.default_rng(seed)
    patients = len(sums[COUNTS[0]])
    drawn = random.integers(patients, size=(samples, patients))
    resampled = _reduce({name: values[drawn] for name, values in sums.items()})
    return {
        name: tuple(_percentiles(values)) if patients > 1 else (np.nan, np.nan)
        for name, values in resampled.items()
        if name != "undefined_patients"
    }


def report(
    model: str,
    split: str,
    slice_scores: pd.DataFrame,
    single_slice_scores: pd.DataFrame,
    samples: int,
    seed: int,
) -> dict[str, Any]:
    """Summarise scores with their 95 % intervals, as plain values; an undefined metric is None.

    Args:
        model: Name of the architecture.
        split: What was scored.
        slice_scores: One row a slice (``score_slices``), segmented volume by volume.
        single_slice_scores: The same, segmented slice by slice.
        samples: Resamples behind each interval.
        seed: Seed of the resamples.

    Returns:
        ``model``, ``split``, ``patients``, ``slices``, the metrics of ``summarise`` and their
        ``intervals_95``; under ``single_slices`` the metrics and intervals of the other mode.

    Raises:
        InputError: The two modes are of other slices.
    """
    if other := set(slice_scores["slice"]) ^ set(single_slice_scores["slice"]):
        raise InputError(
            f"{len(other)} slice(s), such as {min(other)}, are scored in one mode alone: a table "
            "is cut or of another split. Run the pipeline again without --only-missing-outputs."
        )
    return {
        "model": model,
        "split": split,
        "patients": int(slice_scores["patient"].nunique()),
        "slices": len(slice_scores),
        **_summary(slice_scores, samples, seed),
        "single_slices": _summary(single_slice_scores, samples, seed),
    }


def _summary(slice_scores: pd.DataFrame, samples: int, seed: int) -> dict[str, Any]:
    intervals = bootstrap_intervals(slice_scores, samples, seed)
    return {
        **{name: _defined(value) for name, value in summarise(slice_scores).items()},
        "intervals_95": {n: [_defined(end) for end in ends] for n, ends in intervals.items()},
    }


def tracked(report: Report) -> dict[str, float]:
    """Return the defined metrics of a report as an experiment tracker names them."""
    split = report["split"]
    modes = {split: report, f"{split}/single_slices": report["single_slices"]}
    of_folds = report.get("dice_by_fold", {})
    return {
        f"{place}/{name}": float(mode[name])
        for place, mode in modes.items()
        for name in [*mode["intervals_95"], "undefined_patients"]
        if mode[name] is not None
    } | {f"{split}/dice_of_fold_{fold}": dice for fold, dice in of_folds.items()}


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else value


def format_summary(report: Report) -> str:
    """Return a few readable lines of a report, the metrics of each mode beside each other."""
    modes = {"volume by volume": report, "slice by slice": report["single_slices"]}
    lines = [
        f"{report['model']} on {report['split']}: "
        f"{report['patients']} patients, {report['slices']} slices",
        f"  {'(95 % intervals over patients)':<34}" + "".join(f" {n:<26}" for n in modes).rstrip(),
    ]
    for name, text in SUMMARY.items():
        values = [format_metric(mode, name) for mode in modes.values()]
        lines.append(f"  {text:<34}" + "".join(f" {value:<26}" for value in values).rstrip())
    return "\n".join(lines)


def format_metric(mode: Report, name: str) -> str:
    """Return a metric as text, such as ``0.808 (0.615 to 1.000)``; or ``undefined``."""
    if mode[name] is None:
        return "undefined"
    low, high = mode["intervals_95"][name]
    return f"{mode[name]:.3f}" + ("" if low is None else f" ({low:.3f} to {high:.3f})")


def _percentiles(values: np.ndarray) -> np.ndarray:
    defined = values[~np.isnan(values)]
    return np.percentile(defined, [2.5, 97.5]) if len(defined) else np.array([np.nan, np.nan])


def _patient_sums(slice_scores: pd.DataFrame) -> dict[str, np.ndarray]:
    """Sum up the slices of each patient: (patients,) of each term that ``_reduce`` needs."""
    counts = slice_scores[COUNTS].to_numpy()
    tumour_pixels = counts[:, 0] + counts[:, 2]
    holds_tumour = tumour_pixels > 0
    small = holds_tumour & (tumour_pixels < SMALL_TUMOUR)
    terms = {
        "empty_slices": ~holds_tumour,
        "false_alarms": ~holds_tumour & (counts[:, 1] > 0),
        "small_tumours": small,
        "small_tumour_dice": np.where(small, dice(counts), 0),
    }
    for name, score in OVERLAPS.items():
        of_slices = score(counts)
        scored = holds_tumour & ~np.isnan(of_slices)
        terms |= {f"{name}_slices": scored, f"{name}_sum": np.where(scored, of_slices, 0)}
    table = slice_scores[COUNTS].assign(**terms).groupby(slice_scores["patient"]).sum()
    return {str(name): table[name].to_numpy() for name in table}


def _reduce(sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Reduce sums (..., patients) to each metric (...), such as one value a resample."""
    counts = np.stack([sums[name] for name in COUNTS], axis=-1)
    pooled = counts.sum(axis=-2)
    total = {name: values.sum(axis=-1) for name, values in sums.items()}
    metrics = {}
    for name, score in OVERLAPS.items():
        of_patients = score(counts)
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # of nothing
            metrics[name] = np.nanmean(of_patients, axis=-1)
            metrics[f"{name}_median"] = np.nanmedian(of_patients, axis=-1)
        metrics[f"{name}_pooled"] = score(pooled)
        metrics[f"{name}_tumour_slices"] = _ratio(total[f"{name}_sum"], total[f"{name}_slices"])
    metrics["dice_small_tumours"] = _ratio(total["small_tumour_dice"], total["small_tumours"])
    metrics["undefined_patients"] = np.isnan(dice(counts)).sum(axis=-1)
    metrics["pixel_accuracy"] = pixel_accuracy(pooled)
    metrics["empty_slice_fp_rate"] = _ratio(total["false_alarms"], total["empty_slices"])
    return metrics
