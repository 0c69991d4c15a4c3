"""How well a model's probabilities are calibrated, and which slices it should doubt.

Measured on validation: a temperature for the logits (Guo et al. 2017), the expected calibration
error before and after, the expected Dice below which a slice goes to review, an interval of the
tumour's volume, and what other thresholds and component ratios would give.
Nearly all pixels of a slice are certainly healthy and would hide every error, so calibration is
measured near tumour, true or predicted.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from scipy import ndimage, optimize

from brain_mri_segmentation.cohort.index import Slices, patient_volumes
from brain_mri_segmentation.evaluation.metrics import (
    COUNTS,
    Report,
    confusion_counts,
    dice,
    summarise,
)
from brain_mri_segmentation.imaging.intensity import resize_mask
from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.inference.postprocessing import probability_of, remove_small_components
from brain_mri_segmentation.inference.predictor import Predictor
from brain_mri_segmentation.inference.review import doubt, expected_dice
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.parameters import EngineName, PreprocessingParameters

NEIGHBOURHOOD = 10
"""Pixels around tumour, true or predicted, in which calibration is measured."""
BAD_DICE = 0.6
"""A slice or a patient with a lower Dice is one that review should catch."""

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
"""Thresholds that are tried beside the model's own, with its component ratio."""
COMPONENT_RATIOS = (0.0, 0.1, 0.2, 0.3, 0.5, 1.0)
"""Component ratios that are tried beside the model's own, with its threshold."""

Fold = tuple[Checkpoint, Slices, Slices]
"""A model, and readers of images and masks by slice name."""

# Logits are counted in bins, so that any temperature can be tried without the maps in memory.
_LOGITS = np.linspace(-12, 12, 961)
_EDGES = (_LOGITS[1:] + _LOGITS[:-1]) / 2
_FEWEST_BAD_VOLUMES = 10  # a threshold that fits fewer says nothing of others


@dataclasses.dataclass(frozen=True)
class Case:
    """One patient, as the network sees it and as it is.

    Attributes:
        patient: Its name.
        logits: (N, S, S) float32, log(p / (1 - p)) before the temperature.
        truth: (N, S, S) bool, whether a pixel is tumour.
        agreement: Of the masks of the volume and of its mirror image; NaN where it is not known.
        fold: Of the cross-validation, in which it was not trained on.
    """

    patient: str
    logits: np.ndarray
    truth: np.ndarray
    agreement: float = float("nan")
    fold: int = 1


@dataclasses.dataclass(frozen=True)
class Measurement:
    """How a calibrated model does on a partition.

    Attributes:
        expected: (slices,) Dice that it expects of each slice; NaN where nothing may be tumour.
        found: (slices,) Dice that it has; NaN without tumour in mask and truth.
        patients: One row a case: patient, fold, true_pixels, predicted_pixels, dice, expected_dice
            and agreement.
        choices: One row a slice and choice: threshold, min_component_ratio, patient, ``COUNTS``.
    """

    expected: np.ndarray
    found: np.ndarray
    patients: pd.DataFrame
    choices: pd.DataFrame


def calibrate(
    checkpoint: Checkpoint,
    images: Slices,
    masks: Slices,
    batch_size: int = 16,
    device: str = "cpu",
) -> tuple[Checkpoint, Report]:
    """Fit temperature and review threshold on a partition that the model was not trained on.

    The network runs once; its logits, four bytes a pixel, stay in memory.

    Args:
        checkpoint: The trained model.
        images: Readers of (H, W, 3) uint8 by slice name.
        masks: Readers of (H, W) uint8 by slice name.
        batch_size: Slices in one forward pass.
        device: Where the model runs, such as ``cpu`` or ``cuda``.

    Returns:
        The model with both values stored, as its own mean Dice over these patients is
        (``val_dice`` of the metadata); and a report: ``dice``, that mean; ``temperature``;
        ``reliability``, tables as of ``reliability``, and ``expected_calibration_error``, each
        ``before`` and ``after``; of ``review`` (slices) and ``review_of_volumes`` the threshold,
        precision, recall and share of what is flagged (``fit_review``); ``volume_interval``
        (``fit_volume_interval``); ``patients``, the values of each (``Measurement``); and under
        ``postprocessing`` the scores of each threshold and component ratio that was tried. These
        are for a person to choose by: the model keeps its own.
    """
    predictor = Predictor(checkpoint, device)
    report = _fit(_run_all(predictor, images, masks, batch_size), predictor.preprocessing)
    metadata = checkpoint.metadata | {"val_dice": report["dice"]}
    return with_calibration(dataclasses.replace(checkpoint, metadata=metadata), report), report


def calibrate_folds(
    folds: Iterable[Fold],
    batch_size: int = 16,
    device: str = "cpu",
    engine: EngineName = "torch",
) -> Report:
    """Fit temperature and review threshold on all folds of a cross-validation together.

    Args:
        folds: The model of each fold, with images and masks of the patients that it never saw.
        batch_size: Slices in one forward pass.
        device: Where the models run.
        engine: What runs them.

    Returns:
        The report of ``calibrate``.
    """
    cases: list[Case] = []
    for fold, (checkpoint, images, masks) in enumerate(folds, start=1):
        predictor = Predictor(checkpoint, device, engine)
        cases += _run_all(predictor, images, masks, batch_size, fold)
    return _fit(cases, predictor.preprocessing)


def with_calibration(checkpoint: Checkpoint, report: Report) -> Checkpoint:
    """Return a model with temperature, thresholds of review and interval of a report."""
    fitted = {
        "temperature": report["temperature"],
        "review_uncertainty": report["review"]["threshold"],
        "review_agreement": 1 - report["review_of_volumes"]["threshold"],
        "volume_interval": report["volume_interval"]["factor"],
    }
    return dataclasses.replace(checkpoint, preprocessing=checkpoint.preprocessing | fitted)


def _fit(cases: Sequence[Case], rules: PreprocessingParameters) -> Report:
    near_tumour = count_near_tumour(cases, rules)
    temperature = fit_temperature(near_tumour)
    tables = {"before": reliability(near_tumour, 1), "after": reliability(near_tumour, temperature)}

    # A temperature moves all thresholds but 0.5, so these are tried on calibrated probabilities.
    measured = measure(cases, rules.model_copy(update={"temperature": temperature}))
    review = fit_review(measured.expected, measured.found, rules.review_uncertainty)
    agreement, patient_dice = (measured.patients[n].to_numpy() for n in ("agreement", "dice"))
    review_of_volumes = fit_review(
        agreement, patient_dice, 1 - rules.review_agreement, _FEWEST_BAD_VOLUMES
    )
    choices = _compare_choices(measured.choices)
    own = (rules.threshold, rules.min_component_ratio)
    return {
        "dice": next(
            choice["dice"]
            for choice in choices
            if (choice["threshold"], choice["min_component_ratio"]) == own
        ),
        "temperature": temperature,
        "expected_calibration_error": {
            when: expected_calibration_error(table) for when, table in tables.items()
        },
        "review": review,
        "review_of_volumes": review_of_volumes,
        "volume_interval": fit_volume_interval(measured.patients),
        "postprocessing": choices,
        "reliability": {when: table.to_dict("list") for when, table in tables.items()},
        "patients": measured.patients.astype(object)
        .where(measured.patients.notna(), None)
        .to_dict("records"),
    }


def _run_all(
    predictor: Predictor, images: Slices, masks: Slices, batch_size: int, fold: int = 1
) -> list[Case]:
    return [_run(predictor, volume, masks, batch_size, fold) for volume in patient_volumes(images)]


def _run(predictor: Predictor, volume: Volume, masks: Slices, batch_size: int, fold: int) -> Case:
    logits = np.concatenate(
        [predictor.logits(batch) for batch in predictor.inputs(volume, batch_size)]
    )
    size = predictor.preprocessing.image_size
    truth = np.stack([resize_mask(masks[name](), size, size) > 0 for name in volume.names])
    return Case(volume.name, logits.mean(axis=1), truth, predictor.agreement(logits), fold)


def count_near_tumour(cases: Sequence[Case], rules: PreprocessingParameters) -> np.ndarray:
    """Count the pixels near tumour, predicted (without a temperature) or true, by truth and logit.

    Returns:
        (2, 961) int64: by truth (0 or 1) and by ``_LOGITS``.
    """
    near = np.zeros((2, len(_LOGITS)), dtype=np.int64)
    for case in cases:
        probability = probability_of(case.logits, 1)
        kept = remove_small_components(
            probability, rules.threshold, rules.min_component_ratio, rules.min_component_size
        )
        tumour = case.truth | (kept >= rules.threshold)
        for number in np.flatnonzero(tumour.any(axis=(1, 2))):
            place, truth = np.searchsorted(_EDGES, case.logits[number]), case.truth[number]
            around = ndimage.distance_transform_edt(~tumour[number]) <= NEIGHBOURHOOD
            for value in (0, 1):
                chosen = place[around & (truth == value)]
                near[value] += np.bincount(chosen, minlength=len(_LOGITS))
    return near


def measure(cases: Sequence[Case], rules: PreprocessingParameters) -> Measurement:
    """Score each slice, and other thresholds and component ratios than those of the rules."""
    own = (rules.threshold, rules.min_component_ratio)
    tried = {own, *((threshold, own[1]) for threshold in THRESHOLDS)}
    tried |= {(own[0], ratio) for ratio in COMPONENT_RATIOS}
    expected, found, patients, choices = [], [], [], []
    for case in cases:
        probability = probability_of(case.logits, rules.temperature)
        for threshold, ratio in sorted(tried):
            kept = remove_small_components(probability, threshold, ratio, rules.min_component_size)
            counts = confusion_counts(kept >= threshold, case.truth)
            choices.append(
                pd.DataFrame(counts, columns=COUNTS).assign(
                    threshold=threshold, min_component_ratio=ratio, patient=case.patient
                )
            )
            if (threshold, ratio) == own:
                of_slices, of_volume = expected_dice(probability, kept, threshold)
                expected.append(of_slices)
                found.append(dice(counts))
                total = counts.sum(axis=0)
                patients.append(
                    {
                        "patient": case.patient,
                        "fold": case.fold,
                        "true_pixels": int(total[0] + total[2]),
                        "predicted_pixels": int(total[0] + total[1]),
                        "dice": float(dice(total)),
                        "expected_dice": of_volume,
                        "agreement": case.agreement,
                    }
                )
    return Measurement(
        np.concatenate(expected), np.concatenate(found), pd.DataFrame(patients), pd.concat(choices)
    )


def _compare_choices(choices: pd.DataFrame) -> list[dict[str, float | None]]:
    wanted = ["dice", "dice_median", "dice_pooled", "dice_small_tumours", "empty_slice_fp_rate"]
    rows = []
    for (threshold, ratio), group in choices.groupby(["threshold", "min_component_ratio"]):
        summary = summarise(group)
        scores = {name: None if np.isnan(summary[name]) else summary[name] for name in wanted}
        rows.append({"threshold": threshold, "min_component_ratio": ratio} | scores)
    return rows


def fit_temperature(near_tumour: np.ndarray) -> float:
    """Return the temperature with the highest likelihood of the truth (Guo et al. 2017).

    Args:
        near_tumour: (2, 961), as of ``count_near_tumour``.

    Returns:
        Between 0.1 and 10; above 1 where the model is too sure of itself.
    """

    def negative_log_likelihood(log_temperature: float) -> float:
        logits = _LOGITS / np.exp(log_temperature)
        # log(1 + exp(x)), of which x is the logit of the class that is not true
        return float(
            (near_tumour[0] * np.logaddexp(0, logits)).sum()
            + (near_tumour[1] * np.logaddexp(0, -logits)).sum()
        )

    if not near_tumour.any():
        return 1.0
    bounds = (np.log(0.1), np.log(10))
    best = optimize.minimize_scalar(negative_log_likelihood, bounds=bounds, method="bounded")
    return float(np.exp(best.x))


def reliability(near_tumour: np.ndarray, temperature: float, bins: int = 10) -> pd.DataFrame:
    """Compare predicted probabilities with how often tumour was there.

    Args:
        near_tumour: (2, 961), as of ``count_near_tumour``.
        temperature: Divides the logits.
        bins: Equal intervals of probability.

    Returns:
        One row an interval that holds pixels: ``pixels``, ``probability`` (their mean) and
        ``frequency`` (share of them that are tumour).
    """
    probability = 1 / (1 + np.exp(-_LOGITS / temperature))
    interval = np.minimum((probability * bins).astype(int), bins - 1)

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(interval, weights=values, minlength=bins)

    pixels = near_tumour.sum(axis=0)
    counted = total(pixels)
    held = counted > 0
    return pd.DataFrame(
        {
            "pixels": counted[held].astype(int),
            "probability": total(pixels * probability)[held] / counted[held],
            "frequency": total(near_tumour[1])[held] / counted[held],
        }
    )


def expected_calibration_error(table: pd.DataFrame) -> float:
    """Return the mean over pixels of |probability - frequency| of their interval; 0..1."""
    gaps = (table["probability"] - table["frequency"]).abs()
    return float(np.average(gaps, weights=table["pixels"])) if len(table) else float("nan")


def fit_review(
    expected: np.ndarray, found: np.ndarray, otherwise: float, fewest_bad: int = 1
) -> Report:
    """Choose the uncertainty, 1 - expected Dice, that best tells what is bad from the rest.

    Args:
        expected: (N,) Dice that the model expects of slices, or the agreement of its two masks of
            volumes; NaN where nothing may be tumour.
        found: (N,) Dice that it has; NaN without tumour in mask and truth.
        otherwise: The threshold where nothing can be learnt, since too little is bad or all is
            equally uncertain.
        fewest_bad: That must be bad, or a threshold would fit these alone.

    Returns:
        ``threshold`` with the highest F1 for what has a Dice below 0.6, its ``precision`` and
        ``recall`` (None where nothing is flagged or bad), the share of what is ``flagged``, and how
        much was ``bad``.
    """
    uncertainty = np.nan_to_num(1 - expected, nan=0.0)
    bad = found < BAD_DICE  # NaN, nothing there and nothing found, is not bad
    values = np.unique(uncertainty)
    threshold = otherwise
    if bad.sum() >= fewest_bad and len(values) > 1:
        # A flag is raised above the threshold, so the candidates lie between neighbours.
        candidates = (values[1:] + values[:-1]) / 2
        flags = uncertainty > candidates[:, None]  # (candidates, N)
        f1 = 2 * (flags & bad).sum(axis=1) / (flags.sum(axis=1) + bad.sum())
        threshold = float(candidates[np.argmax(f1)])
    flagged = uncertainty > threshold
    caught = (flagged & bad).sum()
    return {
        "threshold": threshold,
        "precision": float(caught / flagged.sum()) if (bad.any() and flagged.any()) else None,
        "recall": float(caught / bad.sum()) if bad.any() else None,
        "flagged": float(flagged.mean()),
        "bad": int(bad.sum()),
    }


def fit_volume_interval(patients: pd.DataFrame) -> Report:
    """Find how far the true volumes of 90 % of the patients are from the predicted ones.

    Split conformal prediction with scores that are normalised by what the model knows of its own
    error (Vovk, Gammerman and Shafer 2005; Lei et al. 2018, section 5.2): of n patients the score
    |log(true / predicted)| / ``review.doubt``, of which the k-th smallest, k = 0.9 (n + 1) rounded
    up, is the ``factor``. Of patients like these, whatever the distribution, the true volume lies
    between predicted / e^(factor doubt) and predicted * e^(factor doubt) with at least 90 %.

    Args:
        patients: One row a patient: fold, true_pixels, predicted_pixels, agreement. Those of whom
            nothing was predicted, or no agreement is known, are left out.

    Returns:
        ``factor``, ``patients``; and with the factor of all other folds for each fold the share of
        patients whose volume it ``covered``, and mean and median ``width`` as multiples of the
        predicted volume. All but the number are None with one fold alone, in which nobody can say
        what is covered, and with too few patients.
    """
    known = patients[(patients["predicted_pixels"] > 0) & patients["agreement"].notna()]
    doubts, fold = doubt(known["agreement"].to_numpy()), known["fold"].to_numpy()
    with np.errstate(divide="ignore"):  # of a tumour that is not there, which nothing covers
        scores = np.abs(np.log(known["true_pixels"] / known["predicted_pixels"])) / doubts
    others = {one: _conformal(scores[fold != one].to_numpy()) for one in np.unique(fold)}
    factors = np.array([others[one] for one in fold])
    result = dict.fromkeys(("factor", "covered", "width", "width_median"))
    if len(factors) and np.isfinite(factors).all():
        widths = 2 * np.sinh(factors * doubts)  # e^x - e^-x
        result = {
            "factor": _conformal(scores.to_numpy()),
            "covered": float((scores <= factors).mean()),
            "width": float(widths.mean()),
            "width_median": float(np.median(widths)),
        }
    return {"patients": len(known)} | result


def _conformal(scores: np.ndarray) -> float:
    """Return the score that 90 % of the next ones do not exceed; infinity if there are too few."""
    place = -(-(len(scores) + 1) * 9 // 10)
    return float(np.sort(scores)[place - 1]) if place <= len(scores) else float("inf")
