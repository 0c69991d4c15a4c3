"""Whether a model may be published: it must beat the baseline on the same patients."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.evaluation.metrics import Report
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.parameters import GateParameters

Reports = Mapping[str, Callable[[], Report]]
"""A reader of ``metrics.json`` by model."""


Comparison = dict[str, Any]
"""What ``comparison.json`` holds."""


@dataclass(frozen=True)
class Scores:
    """What evaluation found out about one model.

    Attributes:
        report: The contents of ``metrics.json``.
        patients: One row a patient, with the columns ``patient`` and ``dice``.
    """

    report: Report
    patients: pd.DataFrame


@dataclass(frozen=True)
class Approval:
    """Why a model may be published.

    Attributes:
        status: ``baseline`` has nothing to beat, ``passed`` beats it, ``overridden`` does not,
            or was not compared.
        reason: One sentence for log and model card.
    """

    status: str
    reason: str


def find_report(model: str, reports: Reports) -> Report:
    """Return what evaluation reported on a model.

    Raises:
        InputError: It was not evaluated.
    """
    if model not in reports:
        raise InputError(
            f"There is no metrics.json of {model} (there is one of: "
            f"{', '.join(sorted(reports)) or 'no model'}). "
            f"Evaluate it first: kedro run --pipeline evaluation --params model={model}"
        )
    return reports[model]()


def compare(
    main: Scores, baseline: Scores, confidence: float, samples: int, seed: int
) -> Comparison:
    """Compare two models patient by patient.

    The interval of the mean difference is a percentile bootstrap over patients (Efron and
    Tibshirani 1993, chapter 13); the p value is that of Wilcoxon's signed-rank test, two-sided.
    Patients whose Dice is undefined for both models are left out and counted. Where it is undefined
    for one, a patient without tumour is rightly left empty by it and has a false alarm of the
    other: the Dice of the first counts as 1 here, that of the second is 0.

    Args:
        main: The model to be published.
        baseline: The model that it must beat.
        confidence: Of the interval.
        samples: Resamples of the patients.
        seed: The same seed gives the same interval.

    Returns:
        Plain values for ``comparison.json``; ``patient_scores`` are sorted by difference.

    Raises:
        InputError: The models were not scored on the same patients, or on fewer than two.
    """
    _check_same_patients(main, baseline)
    pairs = main.patients.merge(baseline.patients, on="patient", suffixes=("", "_baseline"))
    scored = ["dice", "dice_baseline"]
    defined = pairs.dropna(subset=scored, how="all").fillna(dict.fromkeys(scored, 1.0))
    if len(defined) < 2:
        raise InputError(
            f"Dice is defined for {len(defined)} patient(s) of '{main.report['split']}' only; a "
            "comparison needs two at least. Evaluate both models on a larger partition."
        )
    dice, baseline_dice = defined["dice"].to_numpy(), defined["dice_baseline"].to_numpy()
    difference = dice - baseline_dice
    interval = stats.bootstrap(
        (difference,),
        np.mean,
        n_resamples=samples,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    rows = zip(defined["patient"], dice, baseline_dice, difference, strict=True)
    return {
        "main": main.report["model"],
        "digest": main.report.get("digest"),
        "baseline": baseline.report["model"],
        "split": main.report["split"],
        "fingerprint": main.report["fingerprint"],
        "patients": len(defined),
        "undefined_patients": len(pairs) - len(defined),
        "dice": float(dice.mean()),
        "baseline_dice": float(baseline_dice.mean()),
        "difference": float(difference.mean()),
        "confidence": confidence,
        "interval": [float(interval.low), float(interval.high)],
        "wilcoxon_p": float(stats.wilcoxon(difference).pvalue) if difference.any() else None,
        "patient_scores": [
            {"patient": patient, "dice": a, "baseline_dice": b, "difference": d}
            for patient, a, b, d in sorted(rows, key=lambda row: row[3])
        ],
    }


def approve(
    comparison: Comparison, checkpoint: Checkpoint, report: Report, gate: GateParameters
) -> Approval:
    """Decide whether a model may be published.

    Args:
        comparison: What ``compare`` gave.
        checkpoint: The model.
        report: Its ``metrics.json``, which must be of this model, like the comparison.
        gate: What it must show.

    Raises:
        InputError: The metrics are of other weights, or it does not beat the baseline and nobody
            overrides that.
    """
    for scored in (report.get("digest"), comparison["digest"]):
        if scored == checkpoint.digest:
            continue
        raise InputError(
            f"metrics.json is of a model {scored or 'unknown'}, but the checkpoint of "
            f"{checkpoint.model_name} holds {checkpoint.digest}: it was trained after it was "
            f"scored. Run kedro run --pipeline evaluation --params "
            f"model={checkpoint.model_name},evaluation.split={report['split']}"
        )
    main, baseline = comparison["main"], comparison["baseline"]
    if main == baseline and gate.override:
        return Approval(
            "overridden",
            f"{main} was compared with no other model. It is published for this reason: "
            f"{gate.override}",
        )
    if main == baseline:
        return Approval("baseline", f"{main} is the baseline: there is nothing for it to beat.")
    low, high = comparison["interval"]
    found = (
        f"on {comparison['patients']} patients of '{comparison['split']}' its mean Dice differs by "
        f"{comparison['difference']:+.3f} from {baseline}'s, "
        f"{100 * comparison['confidence']:g} % interval {low:+.3f} to {high:+.3f}"
    )
    if low > gate.minimum_difference:
        return Approval("passed", f"{main} beats {baseline}: {found}.")
    bound = f"does not lie above {gate.minimum_difference:g} (publishing.gate.minimum_difference)"
    if gate.override:
        return Approval(
            "overridden",
            f"{main} does not beat {baseline}: {found}, which {bound}. "
            f"It is published all the same, for this reason: {gate.override}",
        )
    raise InputError(
        f"{main} is not published, because it does not beat {baseline}: {found}, which {bound}. "
        "Train it further; or publish it all the same with a reason, which is printed on its card: "
        "--params publishing.gate.override='REASON'"
    )


def _check_same_patients(main: Scores, baseline: Scores) -> None:
    reports = (main.report, baseline.report)
    names = [report["model"] for report in reports]
    for what, values in (
        ("another partition", [report["split"] for report in reports]),
        ("another split of the patients", [r["fingerprint"]["split"] for r in reports]),
        ("other pixels", [r["fingerprint"]["data"] for r in reports]),
        ("other patients", [", ".join(sorted(s.patients["patient"])) for s in (main, baseline)]),
    ):
        if values[0] != values[1]:
            raise InputError(
                f"{names[0]} and {names[1]} cannot be compared, because one was scored on {what}: "
                f"{names[0]} on '{values[0]}', {names[1]} on '{values[1]}'. Evaluate both anew: "
                + "; ".join(f"kedro run --pipeline evaluation --params model={n}" for n in names)
            )
