"""Patients, slices and pairs of image and mask: what the cohort holds and how it is split."""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.naming import by_patient, parse_slice_name
from brain_mri_segmentation.imaging.readers import SMALLEST_SIDE
from brain_mri_segmentation.imaging.volume import Volume

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")

DEVELOPMENT = ("train", "val")
"""Partitions of a cross-validation and of the final model, which never see the test patients."""

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


def patient_volumes(images: Slices) -> Iterator[Volume]:
    """Read slices named ``<patient>_<number>`` patient by patient, one in memory at a time."""
    for patient, names in by_patient(images).items():
        yield Volume(np.stack([images[name]() for name in names]), patient, tuple(names))


def join_partitions(
    splits: Sequence[str] = DEVELOPMENT, /, **folders: Slices
) -> tuple[dict[str, SliceReader], dict[str, SliceReader]]:
    """Return images and masks of several partitions, of folders named ``<split>_<kind>``."""
    images, masks = (
        {name: read for split in splits for name, read in folders[f"{split}_{kind}"].items()}
        for kind in ("images", "masks")
    )
    return images, masks


def usable_slices(cohort: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the slices that can be used."""
    return cohort[cohort["problem"] == ""].reset_index(drop=True)


def refuse_problems(cohort: pd.DataFrame, on_invalid: str) -> None:
    """Raise when there is nothing to use, or when problems are not to be skipped.

    Raises:
        InputError: No slice is usable, or ``on_invalid`` is ``error`` and there is a problem.
    """
    problems = cohort.loc[cohort["problem"] != "", "problem"].tolist()
    listed = "".join(f"\n  {problem}" for problem in problems[:20])
    if len(problems) > 20:
        listed += f"\n  ... and {len(problems) - 20} more"
    if len(problems) == len(cohort):
        raise InputError(f"The raw cohort holds no usable slice:{listed}")
    if problems and on_invalid == "error":
        raise InputError(
            f"The raw cohort has {len(problems)} problem(s):{listed}\n"
            "Repair these files, or leave them out with --params cohort.on_invalid=skip."
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
        parts = parse_slice_name(name)
        stem = path.removesuffix("_mask")
        problem = ""
        if not name:
            problem = "the folder holds no slice"
        elif not parts:
            problem = "the name is not <patient>_<number> or <patient>_<number>_mask"
        elif parts.volume != patient:
            problem = f"a file of patient {parts.volume} is in another's folder"
        elif homes.setdefault(patient, folder) != folder:
            problem = f"the patient is also in {homes[patient]}"
        elif stems.setdefault((patient, parts.number), stem) != stem:
            problem = f"another file has the same number: {stems[patient, parts.number]}"
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
