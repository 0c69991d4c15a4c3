"""The one place where file names are parsed: patients, slice numbers, volumes, sites, masks."""

import itertools
import os
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from brain_mri_segmentation.imaging.volume import MOST_SLICES

GRID_ENDINGS = (".nii", ".nii.gz", ".nrrd", ".mha")
"""Of files that say where their voxels lie, apart from DICOM."""
ENDINGS = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".zip", *GRID_ENDINGS)
"""Of files that may hold slices, when a folder is searched; what they are, their bytes tell."""

_SLICE = re.compile(r"(.+)_(\d+)(_mask)?", re.DOTALL)
# What names and descriptions call sequences; the first that is found decides. BraTS writes t2f for
# FLAIR, t1n and t1c for T1 without and with contrast medium; scanners write AXT2 for an axial T2,
# and sT1W. BIDS names patient, session and space after a dash, which say nothing of the sequence;
# nor does before or after an operation.
_BIDS_SPACE = r"_space-(?=[^_]+_.*(?:flair|t[12]))"
_START = rf"(?:^|(?<=[^a-z0-9]))(?<!sub-)(?<!ses-)(?<!{_BIDS_SPACE})(?:ax|sag|cor|s)?"
_TOKENS = [
    (sequence, re.compile(rf"{_START}(?:{words})(?![a-z0-9])", re.IGNORECASE))
    for sequence, words in [
        ("FLAIR", r"(?:t[12]w?|[23]d)?flair|t2f|dark[ _-]?fluid|tirm"),
        ("mask", r"mask|d?seg(?:mentation)?|labels?"),
        (
            "other",
            r"t2(?:w|star|\*)?|dwi|adc|trace|swi|perf\w*|diff\w*|dti|tof|mra|pd|scout|survey",
        ),
        ("other", r"localizer|loc"),
        (
            "pre-contrast",
            r"(?:t1w?[ _-]?)?(?:pre(?![ _-]?op)|native|without|w/?o|non[ _-]?contrast|-c)",
        ),
        (
            "post-contrast",
            r"(?:t1w?[ _-]?)?(?:ce|gd|gad\w*|c\+|\+c|km|post(?![ _-]?op)[a-z0-9]*|contrast)|t1c",
        ),
        ("pre-contrast", r"t1w?(?:flair)?|t1n|mp-?rage|f?spgr|bravo"),
    ]
]
_MASK = re.compile(r"(?:^|[^a-z0-9])(?:mask|d?seg(?:mentation)?|labels?)$", re.IGNORECASE)
_T1_FLAIR = re.compile(_START + r"t1(?:(?!t2).)*(?:flair|fluid|tirm)", re.IGNORECASE)  # is a T1
_NUMBERED = re.compile(r"(.*[^0-9])[0-9]+\.[a-z]+", re.IGNORECASE | re.ASCII | re.DOTALL)


class SliceName(NamedTuple):
    """The parts of ``<volume>_<number>`` or ``<volume>_<number>_mask``."""

    volume: str
    number: int
    mask: bool


def parse_slice_name(name: str) -> SliceName | None:
    """Take a file's name without ending apart; None if it has no such parts."""
    match = _SLICE.fullmatch(name)
    return SliceName(match[1], int(match[2]), match[3] is not None) if match else None


def may_be_slice(path: str) -> bool:
    """Say whether a file is neither hidden nor a mask, by its path."""
    name = PurePosixPath(path)
    return not name.name.startswith(".") and not _MASK.search(without_ending(name.name))


def without_ending(path: str) -> str:
    """Take the ending off a path that has one; ``.nii.gz`` is one."""
    return str(PurePosixPath(re.sub(r"(?i)\.nii\.gz$", ".nii", path)).with_suffix(""))


def sequence_of(name: str) -> str | None:
    """Say which sequence a name or description speaks of.

    Returns:
        One of ``SEQUENCES``, ``mask`` or ``other``; None where it says nothing of it.
    """
    tokens = _TOKENS[1:] if _T1_FLAIR.search(name) else _TOKENS
    return next((sequence for sequence, token in tokens if token.search(name)), None)


def group_sequences(paths: Iterable[str]) -> dict[str, list[str]]:
    """Find files that are sequences of one head by their names, such as ``p/p_flair``, ``p/p_t1``.

    Args:
        paths: Without ending.

    Returns:
        Paths by what their names have in common; a path that names no sequence is by itself.
    """
    groups: dict[str, list[str]] = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        if sequence_of(name):
            for _, token in _TOKENS:
                name = token.sub("", name)
            name = (
                re.sub(r"([-_. +])[-_. +]+", r"\1", name).strip("-_. +")
                or PurePosixPath(folder).name
                or "head"
            )
        groups.setdefault(f"{folder}/{name}".lstrip("/"), []).append(path)
    return groups


def group_studies(studies: Mapping[str, Sequence[str]], place: str) -> dict[str, list[str]]:
    """Name studies by the folder that holds all files of each, numbered where it is the same.

    Args:
        studies: Paths of the files of each.
        place: What stands for the folder that was searched itself.
    """
    groups: dict[str, list[str]] = {}
    for paths in studies.values():
        folder = os.path.commonpath([PurePosixPath(path).parent for path in paths])
        groups[free_name(place if folder in ("", ".") else folder, groups)] = sorted(paths)
    return groups


def free_name(name: str, taken: Container[str]) -> str:
    """Return a name, or where it is taken ``<name>-2``, ``-3`` and so on."""
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in taken)


def patient_of(slice_name: str) -> str:
    """Return the patient of a slice named ``<patient>_<number>``."""
    return slice_name.rpartition("_")[0]


def site_of(patient: str) -> str:
    """Return the site that scanned a patient: ``CS`` of TCGA_CS_4941_19960909, else ``other``."""
    match = re.match(r"[A-Z]+_([A-Z0-9]{2})_", patient)
    return match[1] if match else "other"


def by_patient(slice_names: Iterable[str]) -> dict[str, list[str]]:
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


def group_volumes(paths: Sequence[str]) -> dict[str, list[str]]:
    """Find the volumes in a folder of slices, whose intensities belong together.

    Args:
        paths: Files without ending, such as ``patient/patient_12``. Files of one folder that are
            named ``<volume>_<number>`` are a volume; any other file is a volume by itself.

    Returns:
        Paths by volume, in the order of the numbers, at most 512 in one. A file that is named
        ``<volume>`` alone is its first. What is more is called ``<volume>-2``, ``-3`` and so on,
        or by the next number that no volume of the folder has for itself.
    """
    volumes: dict[str, list[tuple[int, str]]] = {}
    for path in paths:
        parts = parse_slice_name(path)
        volume, number = (parts.volume, parts.number) if parts else (path, 0)
        volumes.setdefault(volume, []).append((number, path))
    groups = {}
    for volume, numbered in sorted(volumes.items()):
        ordered = [path for _, path in sorted(numbered)]
        names = itertools.chain([volume], (f"{volume}-{part}" for part in itertools.count(2)))
        free = (name for name in names if name == volume or name not in volumes)
        for start in range(0, len(ordered), MOST_SLICES):
            groups[next(free)] = ordered[start : start + MOST_SLICES]
    return groups


def count_volumes(names: Iterable[str]) -> int:
    """Say how many volumes files are of: those whose names end in numbers, by what comes before."""
    return len({match[1] for name in names if (match := _NUMBERED.fullmatch(name))})


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sort key in which slice_2 comes before slice_10, however long the numbers are."""
    key = []
    for number, part in enumerate(re.split(r"([0-9]+)", name)):
        if number % 2:  # every other part is of digits
            digits = part.lstrip("0")
            key.append((len(digits), digits))
        else:
            key.append((0, part))
    return key
