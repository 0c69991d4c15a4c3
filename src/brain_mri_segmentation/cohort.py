"""Patients, slices and pairs of image and mask: what the cohort holds and how it is split."""

import hashlib
import logging
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.images import SMALLEST_SIDE

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
PUBLIC_COHORT_PATIENTS = 110

SliceReader = Callable[[], np.ndarray]
"""Reads one file when called, so that a cohort never sits in memory."""

Slices = Mapping[str, SliceReader]
"""Readers of one kind of picture by slice name."""

SliceFiles = Mapping[str, SliceReader | None]
"""Readers by ``<patient>/<file without ending>``; None by ``<patient>/`` for an empty folder."""

COHORT_COLUMNS = [
    "patient",
    "slice",
    "path",
    "height",
    "width",
    "tumour_pixels",
    "digest",
    "problem",
]
_SLICE_NAME = re.compile(r"(?P<patient>.+)_(?P<number>\d+)(?P<mask>_mask)?")


@dataclass(frozen=True)
class _Pair:
    """The paths of one slice's two files, either of which may be missing."""

    patient: str
    number: int
    image: str | None = None
    mask: str | None = None


def index_slices(files: SliceFiles) -> pd.DataFrame:
    """List and check every slice, reading one pair at a time.

    Args:
        files: Readers of the raw files. Images are (H, W, 3) uint8, masks (H, W) with the values
            0 and 255 (or 0 and 1).

    Returns:
        One row a slice, by patient and slice number: ``patient``, ``slice``, ``path`` of the
        image, ``height``, ``width``, ``tumour_pixels``, ``digest`` of all pixels (hexadecimal),
        ``problem`` (what is wrong and in which file; empty when the slice can be used). Sizes are
        0 and the digest is empty where a file could not be read. A file or folder that belongs to
        no slice has a row with slice -1.
    """
    pairs, rows = _pair_files(files)
    readers = {path: read for path, read in files.items() if read is not None}
    rows += [_check_pair(pair, readers) for pair in pairs]
    table = pd.DataFrame(rows, columns=COHORT_COLUMNS)
    return table.sort_values(["patient", "slice"], ignore_index=True)


def usable_slices(cohort: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the slices that can be used."""
    return cohort[cohort["problem"] == ""].reset_index(drop=True)


def refuse_problems(cohort: pd.DataFrame, on_problem: str) -> None:
    """Raise when there is nothing to use, or when problems are not to be skipped.

    Raises:
        InputError: No slice is usable, or ``on_problem`` is ``error`` and there is a problem.
    """
    problems = cohort.loc[cohort["problem"] != "", "problem"].tolist()
    listed = "".join(f"\n  {problem}" for problem in problems[:20])
    if len(problems) > 20:
        listed += f"\n  ... and {len(problems) - 20} more"
    if len(problems) == len(cohort):
        raise InputError(f"The raw cohort holds no usable slice:{listed}")
    if problems and on_problem == "error":
        raise InputError(
            f"The raw cohort has {len(problems)} problem(s):{listed}\n"
            "Mend these files, or leave them out with --params cohort.on_problem=skip."
        )
    if problems:
        logger.warning("%d problem(s) in the raw cohort are skipped:%s", len(problems), listed)


def _pair_files(files: SliceFiles) -> tuple[list[_Pair], list[dict[str, object]]]:
    pairs: dict[str, dict[str, str]] = {}  # by the path that both names begin with
    homes: dict[str, str] = {}  # the folder that a patient was first seen in
    stems: dict[tuple[str, int], str] = {}  # the path that a slice was first seen under
    problems: list[dict[str, object]] = []
    for path in files:
        folder, _, name = path.rpartition("/")
        patient = folder.rpartition("/")[2]
        match = _SLICE_NAME.fullmatch(name)
        stem = path.removesuffix("_mask")
        problem = ""
        if not name:
            problem = "the folder holds no slice"
        elif not match:
            problem = "the name is not <patient>_<number> or <patient>_<number>_mask"
        elif match["patient"] != patient:
            problem = f"a file of patient {match['patient']} stands in another's folder"
        elif homes.setdefault(patient, folder) != folder:
            problem = f"the patient also stands in {homes[patient]}"
        elif stems.setdefault((patient, int(match["number"])), stem) != stem:
            problem = f"another file has the same number: {stems[patient, int(match['number'])]}"
        if problem:
            problems.append(_row(patient, -1, problem=f"{path}: {problem}"))
        else:
            kind = "image" if path == stem else "mask"
            pairs.setdefault(stem, {})[kind] = path
    named = {stem: slice_name for slice_name, stem in stems.items()}
    return [
        _Pair(*named[stem], found.get("image"), found.get("mask")) for stem, found in pairs.items()
    ], problems


def _row(patient: str, number: int, **values: object) -> dict[str, object]:
    empty = {"path": "", "height": 0, "width": 0, "tumour_pixels": 0, "digest": "", "problem": ""}
    return {"patient": patient, "slice": number} | empty | values


def _check_pair(pair: _Pair, files: Slices) -> dict[str, object]:
    if pair.image is None:
        return _row(pair.patient, pair.number, problem=f"{pair.mask}: a mask without its image")
    if pair.mask is None:
        return _row(pair.patient, pair.number, problem=f"{pair.image}: an image without its mask")
    pixels = {}
    for path in (pair.image, pair.mask):
        try:
            pixels[path] = files[path]()
        except Exception as error:  # whatever a decoder raises on a broken file is a finding
            text = f"{path}: cannot be read ({error})"
            return _row(pair.patient, pair.number, problem=text)
    image, mask = pixels[pair.image], pixels[pair.mask]
    if problem := _image_problem(image):
        return _row(pair.patient, pair.number, problem=f"{pair.image}: {problem}")
    if problem := _mask_problem(mask, image.shape[:2]):
        return _row(pair.patient, pair.number, problem=f"{pair.mask}: {problem}")
    digest = hashlib.blake2b(image.tobytes() + mask.tobytes(), digest_size=12).hexdigest()
    return _row(
        pair.patient,
        pair.number,
        path=pair.image,
        height=image.shape[0],
        width=image.shape[1],
        tumour_pixels=int(np.count_nonzero(mask)),
        digest=digest,
    )


def _image_problem(image: np.ndarray) -> str:
    if image.dtype != np.uint8:
        return f"the image has dtype {image.dtype}, expected uint8"
    if image.ndim != 3 or image.shape[2] != 3:
        return f"the image has shape {image.shape}, expected (height, width, 3)"
    if min(image.shape[:2]) < SMALLEST_SIDE:
        return f"the image has shape {image.shape}, expected sides of {SMALLEST_SIDE} or more"
    return ""


def _mask_problem(mask: np.ndarray, size: tuple[int, int]) -> str:
    if mask.dtype not in (np.uint8, np.bool_):
        return f"the mask has dtype {mask.dtype}, expected uint8"
    if mask.shape != size:
        return f"the mask has shape {mask.shape}, its image {size}"
    values = np.unique(mask)
    if not set(values.tolist()) <= {0, int(values[-1])} or values[-1] not in (0, 1, 255):
        return f"the mask holds the values {values[:6].tolist()}, expected 0 and 255"
    return ""


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


def split_by_manifest(patients: list[str], manifest: pd.DataFrame) -> dict[str, str]:
    """Assign patients to partitions as a table with the columns patient and split says.

    Patients of the manifest that the cohort lacks are left out with a warning.

    Raises:
        InputError: A column is missing, a partition unknown, a patient named twice, a patient of
            the cohort not named, or nobody left to train or to validate with.
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
    for name in ("train", "val"):
        if name not in chosen.values():
            raise InputError(
                f"The split manifest leaves no patient of the cohort in '{name}'; "
                "training needs at least one in train and one in val."
            )
    return chosen


def check_leakage(slices: pd.DataFrame, patient_split: pd.DataFrame) -> None:
    """Make sure that nothing of one patient stands in two partitions.

    Besides the patients themselves, slices with tumour are compared pixel by pixel (by their
    digests), since a copied folder under another name leaks as well.

    Raises:
        InputError: A patient, or a tumour slice, stands in two partitions.
    """
    partitions = patient_split.groupby("patient")["split"].nunique()
    if leaked := sorted(partitions.index[partitions > 1]):
        raise InputError(f"Patients stand in more than one partition: {_some(leaked)}.")
    tumour = slices[slices["tumour_pixels"] > 0].merge(patient_split, on="patient")
    partitions = tumour.groupby("digest")["split"].nunique()
    copies = tumour[tumour["digest"].isin(partitions.index[partitions > 1])]
    if len(copies):
        raise InputError(
            "The same slices stand in more than one partition under different patients: "
            f"{_some(sorted(set(copies['patient'])))}. Remove the copied folders."
        )


def slices_of_split(
    slices: pd.DataFrame, patient_split: pd.DataFrame, split: str
) -> Iterator[tuple[str, str]]:
    """Yield slice name ``<patient>_<number>`` and path of one partition's images."""
    chosen = set(patient_split.loc[patient_split["split"] == split, "patient"])
    for row in slices.itertuples():
        if row.patient in chosen:
            yield f"{row.patient}_{row.slice}", row.path


def patient_of(slice_name: str) -> str:
    """Return the patient of a slice named ``<patient>_<number>``."""
    return slice_name.rpartition("_")[0]


def site_of(patient: str) -> str:
    """Return the site that scanned a patient: ``CS`` of TCGA_CS_4941_19960909, else ``other``."""
    match = re.match(r"[A-Z]+_([A-Z]{2})_", patient)
    return match[1] if match else "other"


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


def roles_in_fold(fold_assignment: pd.DataFrame, fold: int, folds: int) -> dict[str, str]:
    """Say what each patient is in the training of one fold.

    Returns:
        By patient: ``evaluation`` for those of the fold itself, ``val`` for those of the next,
        which select the epoch (so that no score rests on its own selection), else ``train``.

    Raises:
        InputError: The assignment is one to another number of folds.
    """
    if (assigned := int(fold_assignment["fold"].max())) != folds:
        raise InputError(
            f"The patients are assigned to {assigned} folds, and this run is for {folds}. Run the "
            f"cross-validation without --only-missing-outputs, or with --params folds={assigned}."
        )
    roles = {fold: "evaluation", fold % folds + 1: "val"}
    pairs = zip(fold_assignment["patient"], fold_assignment["fold"], strict=True)
    return {patient: roles.get(number, "train") for patient, number in pairs}


def by_patient(slice_names: list[str]) -> dict[str, list[str]]:
    """Group slice names ``<patient>_<number>`` by patient, slices in the order of their numbers.

    Raises:
        ValueError: A name does not end in a number.
    """

    def patient_and_number(name: str) -> tuple[str, int]:
        return patient_of(name), int(name.rpartition("_")[2])

    groups: dict[str, list[str]] = {}
    for name in sorted(slice_names, key=patient_and_number):
        groups.setdefault(patient_of(name), []).append(name)
    return groups


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
