"""The one place where file names are parsed: patients, slice numbers, volumes, sites."""

import itertools
import re
from collections.abc import Sequence

from brain_mri_segmentation.imaging.readers import MOST_SLICES


def patient_of(slice_name: str) -> str:
    """Return the patient of a slice named ``<patient>_<number>``."""
    return slice_name.rpartition("_")[0]


def site_of(patient: str) -> str:
    """Return the site that scanned a patient: ``CS`` of TCGA_CS_4941_19960909, else ``other``."""
    match = re.match(r"[A-Z]+_([A-Z0-9]{2})_", patient)
    return match[1] if match else "other"


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


def group_volumes(paths: Sequence[str]) -> dict[str, list[str]]:
    """Find the volumes in a folder of slices, whose intensities belong together.

    Args:
        paths: Files without ending, such as ``patient/patient_12``. Files of one folder that are
            named ``<volume>_<number>`` are a volume; any other file stands alone.

    Returns:
        Paths by volume, in the order of the numbers, at most 512 in one. A file that is named
        ``<volume>`` alone is its first. What is more is called ``<volume>-2``, ``-3`` and so on,
        or by the next number that no volume of the folder has for itself.
    """
    volumes: dict[str, list[tuple[int, str]]] = {}
    for path in paths:
        match = re.fullmatch(r"(.+)_(\d+)", path)
        volume, number = (match[1], int(match[2])) if match else (path, 0)
        volumes.setdefault(volume, []).append((number, path))
    groups = {}
    for volume, numbered in sorted(volumes.items()):
        ordered = [path for _, path in sorted(numbered)]
        names = itertools.chain([volume], (f"{volume}-{part}" for part in itertools.count(2)))
        free = (name for name in names if name == volume or name not in volumes)
        for start in range(0, len(ordered), MOST_SLICES):
            groups[next(free)] = ordered[start : start + MOST_SLICES]
    return groups
