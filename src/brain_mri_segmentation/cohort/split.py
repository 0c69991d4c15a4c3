"""Which patient belongs to which partition or fold, and how a split is told from another."""

import hashlib
import logging
import random
from collections.abc import Sequence

import pandas as pd

from brain_mri_segmentation.cohort.index import DEVELOPMENT, SPLITS
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.naming import site_of

logger = logging.getLogger(__name__)

PUBLIC_COHORT_PATIENTS = 110


def split_by_seed(patients: list[str], seed: int, fraction: float) -> dict[str, str]:
    """Assign patients to partitions: shuffled by seed, train first, then val, then test.

    The patients are sorted by name, shuffled with ``random.Random(seed)`` and cut:
    ``round(fraction * n)``, but at least one, for val, as many for test. The 110 patients of the
    public cohort with seed 42 give 88 / 11 / 11.

    Returns:
        Partition by patient.

    Raises:
        InputError: Fewer than three patients, so that a partition would be empty.
    """
    held_out = max(1, round(fraction * len(patients)))
    if len(patients) < 2 * held_out + 1:
        raise InputError(
            f"{len(patients)} patient(s) cannot be split into train, val and test with "
            f"{held_out} in val and test each. Expected at least {2 * held_out + 1}: add patients, "
            "or name a split_manifest."
        )
    if len(patients) != PUBLIC_COHORT_PATIENTS:
        logger.warning(
            "%d patients are split anew; published results refer to the split of all %d. "
            "Give --params split_manifest=FILE to keep a published one.",
            len(patients),
            PUBLIC_COHORT_PATIENTS,
        )
    shuffled = sorted(patients)
    random.Random(seed).shuffle(shuffled)
    first_val, first_test = len(shuffled) - 2 * held_out, len(shuffled) - held_out
    names = ["train"] * first_val + ["val"] * (first_test - first_val) + ["test"] * held_out
    return dict(zip(shuffled, names, strict=True))


def split_by_manifest(
    patients: list[str], manifest: pd.DataFrame, needed: Sequence[str] = DEVELOPMENT
) -> dict[str, str]:
    """Assign patients to partitions as a table with the columns patient and split says.

    Patients of the manifest that the cohort lacks are left out with a warning.

    Args:
        patients: Those of the cohort.
        manifest: The table.
        needed: Partitions that may not be empty.

    Returns:
        Partition by patient.

    Raises:
        InputError: A column is missing, a partition unknown, a patient named twice, a patient of
            the cohort not named, or nobody left in a partition that is needed.
    """
    if missing := {"patient", "split"} - set(manifest.columns):
        raise InputError(
            f"The split manifest lacks the column(s) {', '.join(sorted(missing))}; "
            f"it has {', '.join(map(str, manifest.columns))}. Expected: patient, split."
        )
    if unknown := sorted(set(manifest["split"].astype(str)) - set(SPLITS)):
        raise InputError(
            f"The split manifest names the partition(s) {', '.join(unknown)}. "
            f"Allowed: {', '.join(SPLITS)}."
        )
    if twice := sorted(set(manifest.loc[manifest["patient"].duplicated(), "patient"])):
        raise InputError(f"The split manifest names patients more than once: {_some(twice)}.")
    split = dict(zip(manifest["patient"], manifest["split"], strict=True))
    if unnamed := sorted(set(patients) - split.keys()):
        raise InputError(
            f"{len(unnamed)} patient(s) of the cohort are not in the split manifest: "
            f"{_some(unnamed)}. Add them to it, or take their folders out of the raw cohort."
        )
    if absent := sorted(split.keys() - set(patients)):
        logger.warning("%d patient(s) of the manifest are absent: %s", len(absent), _some(absent))
    chosen = {patient: split[patient] for patient in sorted(patients)}
    for name in needed:
        if name not in chosen.values():
            raise InputError(
                f"The split manifest leaves no patient of the cohort in '{name}'. This pipeline "
                f"needs at least one in each of: {', '.join(needed)}."
            )
    return chosen


def check_leakage(slices: pd.DataFrame, patient_split: pd.DataFrame) -> None:
    """Make sure that nothing of one patient is in two partitions.

    Besides the patients themselves, slices with tumour are compared pixel by pixel (by their
    digests), since a copied folder under another name leaks as well.

    Raises:
        InputError: A patient, or a tumour slice, is in two partitions.
    """
    partitions = patient_split.groupby("patient")["split"].nunique()
    if leaked := sorted(partitions.index[partitions > 1]):
        raise InputError(f"Patients are in more than one partition: {_some(leaked)}.")
    tumour = slices[slices["tumour_pixels"] > 0].merge(patient_split, on="patient")
    partitions = tumour.groupby("digest")["split"].nunique()
    copies = tumour[tumour["digest"].isin(partitions.index[partitions > 1])]
    if len(copies):
        raise InputError(
            "The same slices are in more than one partition under different patients: "
            f"{_some(sorted(set(copies['patient'])))}. Remove the copied folders."
        )


def slices_of_split(slices: pd.DataFrame, patient_split: pd.DataFrame, split: str) -> list[str]:
    """Return the names ``<patient>_<number>`` of one partition's slices, in order."""
    chosen = set(patient_split.loc[patient_split["split"] == split, "patient"])
    return [f"{row.patient}_{row.slice}" for row in slices.itertuples() if row.patient in chosen]


def assign_folds(patients: list[str], folds: int, seed: int) -> pd.DataFrame:
    """Deal patients out to the folds of a cross-validation, those of each site evenly.

    Returns:
        One row a patient, by name: ``patient``, ``site``, ``fold`` (from 1). The sizes of two
        folds differ by one patient at most, and so do the patients that they have of one site.

    Raises:
        InputError: There are fewer patients than folds.
    """
    if len(patients) < folds:
        raise InputError(f"{len(patients)} patient(s) cannot be dealt out to {folds} folds.")
    shuffled = sorted(patients)
    random.Random(seed).shuffle(shuffled)
    table = pd.DataFrame({"patient": shuffled, "site": [site_of(name) for name in shuffled]})
    table = table.sort_values("site", kind="stable", ignore_index=True)
    table["fold"] = table.index % folds + 1
    return table.sort_values("patient", ignore_index=True)


def patients_of_fold(fold_assignment: pd.DataFrame, fold: int, folds: int) -> set[str]:
    """Return the patients of a fold: the model that all others train is scored on them.

    Nothing is selected by them, nor by anybody else, so no score rests on its own selection.

    Raises:
        InputError: The assignment is one to another number of folds.
    """
    if (assigned := int(fold_assignment["fold"].max())) != folds:
        raise InputError(
            f"The patients are assigned to {assigned} folds, and this run is for {folds}. Run the "
            f"cross-validation without --only-missing-outputs, or with --params folds={assigned}."
        )
    return set(fold_assignment.loc[fold_assignment["fold"] == fold, "patient"])


def fingerprint(*parts: object) -> str:
    """Return a short digest of values that ``repr`` shows in full."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def fingerprint_split(slices: pd.DataFrame, patient_split: pd.DataFrame) -> dict[str, object]:
    """Describe data and split, so that two results can be told to rest on the same ones.

    Returns:
        ``split`` and ``data`` (digests of who is where, and of all pixels of the cohort), and for
        each partition its number of ``patients`` and ``slices`` and the ``data`` digest.
    """
    pairs = sorted(zip(patient_split["patient"], patient_split["split"], strict=True))
    merged = slices.merge(patient_split, on="patient")
    described: dict[str, object] = {
        "split": fingerprint(pairs),
        "data": fingerprint(sorted(slices["digest"])),
    }
    for name in SPLITS:
        part = merged[merged["split"] == name]
        described[name] = {
            "patients": int(part["patient"].nunique()),
            "slices": len(part),
            "tumour_slices": int((part["tumour_pixels"] > 0).sum()),
            "data": fingerprint(sorted(part["digest"])),
        }
    return described


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
