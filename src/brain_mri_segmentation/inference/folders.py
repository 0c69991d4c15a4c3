"""From folders of slices, stacks and zips to files with what was found in them.

In the output folder are ``masks`` and ``overlays``, named as what they are of, of volumes with a
geometry ``probabilities`` as well, and ``reports`` on demand. In ``volumes`` is a record of each
volume: the metrics of its slices, its files, and the digest by which a later run sees that volume,
model, engine and version are the same and leaves it as it is; else it replaces its files.
"""

import csv
import hashlib
import io
import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from brain_mri_segmentation import DISCLAIMER, __version__
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.dicom_seg import write_seg
from brain_mri_segmentation.imaging.medical import write_nifti
from brain_mri_segmentation.imaging.readers import Unreadable, read_files
from brain_mri_segmentation.imaging.volume import MOST_SLICES, Volume
from brain_mri_segmentation.imaging.writers import draw, to_files
from brain_mri_segmentation.inference.predictor import BATCH_SIZE, Prediction, Predictor
from brain_mri_segmentation.inference.report import render_report
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.runtime.files import FileReader, Folder

COLUMNS = [
    "slice",
    "volume",
    "tumour_pixels",
    "tumour_fraction",
    "tumour_ml",
    "expected_dice",
    "review",
    "problem",
]

_SUMS = ["tumour_ml_low", "tumour_ml_high", "expected_dice"]

Row = dict[str, Any]  # of a table, by its columns
Record = dict[str, Any]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Outcome:
    """What became of a volume, or of a file that is left out.

    Attributes:
        rows: For each slice, or for the file, its values of ``COLUMNS``.
        files: How many files it is of.
        done_before: Whether an earlier run had segmented it.
        review: Why a person should look at the whole volume; empty when nothing speaks for it.
        notes: Of the volume, what whoever reads the result must know (``Volume.notes``).
        sums: Metrics of the volume by name (``Prediction.in_sum``).
    """

    rows: list[Row]
    files: int = 1
    done_before: bool = False
    review: str = ""
    notes: tuple[str, ...] = ()
    sums: Mapping[str, float | None] = field(default_factory=dict)


def segment_volumes(
    volumes: Mapping[str, Mapping[str, FileReader]],
    predictor: Predictor,
    output: Folder,
    overwrite: bool = False,
    batch_size: int = BATCH_SIZE,
    report: bool = False,
) -> Iterator[Outcome]:
    """Segment volumes one at a time, and write what was found.

    While one is segmented, the next is read and the one before is written. A run that is
    interrupted can be repeated: what is done is left as it is.

    Args:
        volumes: As of ``find_volumes``.
        predictor: The model.
        output: Where to write.
        overwrite: Segment again what is done.
        batch_size: Slices in one forward pass.
        report: Write a report of each volume as well.

    Raises:
        InputError: The output folder cannot be written to.
    """
    options = predictor, output, overwrite, batch_size, report
    unwritten: deque[Future[Outcome]] = deque()
    with ThreadPoolExecutor(1, "writer") as writer:
        for found, name, count in _ahead(_read(volumes)):
            if isinstance(found, Unreadable):
                row: Row = {"slice": found.path, "volume": name, "problem": found.reason}
                unwritten.append(writer.submit(Outcome, [row | {"review": ""}]))
            else:
                unwritten.append(writer.submit(_segment(found, count, *options)))
            if len(unwritten) > 1:
                yield unwritten.popleft().result()
        for last in unwritten:
            yield last.result()


def segment_volume(
    volume: Volume,
    predictor: Predictor,
    output: Folder,
    overwrite: bool = False,
    batch_size: int = BATCH_SIZE,
    report: bool = False,
) -> Outcome:
    """Segment a volume and write what was found, as ``segment_volumes`` does.

    Raises:
        InputError: The output folder cannot be written to.
    """
    return _segment(volume, 1, predictor, output, overwrite, batch_size, report)()


def tabulate(outcomes: Iterable[Outcome]) -> tuple[list[Row], list[Row]]:
    """Return the rows of a table of the slices (``COLUMNS``), and of one of the volumes.

    What is not known is None.
    """
    of_volumes: dict[str, list[Outcome]] = {}  # a file that is left out is an outcome by itself
    for outcome in outcomes:
        of_volumes.setdefault(outcome.rows[0]["volume"], []).append(outcome)
    slices = [
        {column: row.get(column) for column in COLUMNS}
        for found in of_volumes.values()
        for outcome in found
        for row in outcome.rows
    ]
    return slices, [_sum_up(name, found) for name, found in of_volumes.items()]


def to_csv(rows: list[Row]) -> bytes:
    """Write a table down, with nothing where a value is not known."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _sum_up(name: str, outcomes: list[Outcome]) -> Row:
    """Return the row of a volume."""
    rows = [row for outcome in outcomes for row in outcome.rows]
    whole = next((o for o in reversed(outcomes) if not o.rows[0]["problem"]), Outcome([]))
    pixels = [row["tumour_pixels"] for row in rows if not row["problem"]]
    millilitres = [ml for row in rows if (ml := row.get("tumour_ml")) is not None]
    sums = {"tumour_ml": sum(millilitres) if millilitres else None}
    sums |= {name: whole.sums.get(name) for name in _SUMS}
    return {
        "volume": name,
        "slices": len(pixels),
        "tumour_pixels": sum(pixels),
        **{name: None if value is None else round(value, 2) for name, value in sums.items()},
        "slices_with_tumour": sum(count > 0 for count in pixels),
        "slices_to_review": sum(row["review"] != "" for row in rows),
        "problems": len(rows) - len(pixels),
        "review": whole.review,
        "notes": "; ".join(whole.notes),
    }


def _read(
    volumes: Mapping[str, Mapping[str, FileReader]],
) -> Iterator[tuple[Volume | Unreadable, str, int]]:
    """Read volumes; with their names, and how many files each is of."""
    for name, files in volumes.items():
        left = len(files)
        for found in read_files(files, name):
            # What is called as all are is made of all that are left.
            count = left if isinstance(found, Volume) and found.name == name else 1
            left -= count
            yield found, name, count


def _ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Take each item in a thread while the one before is in use."""
    with ThreadPoolExecutor(1, "reader") as reader:
        coming = reader.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = reader.submit(next, items, None)
            yield item


def _segment(
    volume: Volume,
    files: int,
    predictor: Predictor,
    output: Folder,
    overwrite: bool,
    batch_size: int,
    report: bool,
) -> Callable[[], Outcome]:
    """Segment a volume that is not done, and return what writes it and says what became of it."""
    settings = f"{__version__} {predictor.checkpoint.digest} {predictor.engine.name}"
    digest = hashlib.blake2b(f"{settings} {volume.digest}".encode()).hexdigest()[:32]
    asked_for = [_report_of(volume)] if report else []
    before = _read_record(output, volume)
    if not overwrite and _is_done(before, digest, asked_for, output):
        return partial(_outcome_of, before, files, done_before=True)
    prediction = predictor.predict(volume, batch_size)

    def write() -> Outcome:
        found = _write(volume, digest, prediction, predictor.checkpoint, output, report, before)
        return _outcome_of(found, files, done_before=False)

    return write


def _outcome_of(record: Record, files: int, *, done_before: bool) -> Outcome:
    return Outcome(
        record["slices"],
        files,
        done_before=done_before,
        review=record["review"] or "",
        notes=tuple(record["notes"]),
        sums={name: record[name] for name in _SUMS},
    )


def _write(
    volume: Volume,
    digest: str,
    prediction: Prediction,
    checkpoint: Checkpoint,
    output: Folder,
    report: bool,
    before: Record,
) -> Record:
    """Write the pictures of a volume in place of those of the record before, and at last its own.

    A run that is killed meanwhile leaves a record by which the next one knows what to replace, and
    no earlier model takes what is here for its own.
    """
    replaced = _replaced_by(volume, before)
    if before:
        _write_record(output, volume, {"replaced": replaced})
    written = []
    for name, content in _files(volume, prediction):
        output.write(name, content)
        written.append(name)
    volume, seg = seg_or_note(volume, prediction, checkpoint)
    if seg:
        output.write(seg_of(volume), seg)
        written.append(seg_of(volume))
    if report:
        page = render_report(volume, prediction, checkpoint)
        output.write(_report_of(volume), page.encode())
        written.append(_report_of(volume))
    rows = [
        {"slice": name, "volume": volume.name} | metrics | {"problem": ""}
        for name, metrics in zip(volume.names, prediction.of_slices(), strict=True)
    ]
    for row in rows:
        row["review"] = row["review"] or ""
    for name in set(replaced).difference(written):
        output.remove(name)
    record: Record = {
        "research_use_only": DISCLAIMER,
        "digest": digest,
        "files": written,
        **prediction.in_sum(),
        "missing": volume.missing,
        "notes": volume.notes,
        "slices": rows,
    }
    _write_record(output, volume, record)
    return record


def seg_or_note(
    volume: Volume, prediction: Prediction, checkpoint: Checkpoint
) -> tuple[Volume, bytes | None]:
    """Return the DICOM SEG of DICOM; where none can be made, the volume with a note of why."""
    if volume.geometry is None or not volume.geometry.headers:
        return volume, None
    model = checkpoint.model_name, checkpoint.digest
    try:
        seg = write_seg(prediction.mask, volume.geometry, *model, prediction.describe())
    except InputError as error:  # the other files are as good without it
        note = f"no DICOM SEG: {str(error).rstrip('.')}"
        return replace(volume, notes=(*volume.notes, note)), None
    return volume, seg


def _files(volume: Volume, prediction: Prediction) -> Iterator[tuple[str, bytes]]:
    """Encode mask and overlay as the volume came; on its own grid where there is one."""
    mask, probability = prediction.mask, prediction.probability
    if volume.geometry is None:
        for name, content in to_files(volume, draw("mask", volume, mask, probability)):
            yield f"masks/{name}", content
    else:
        yield f"masks/{volume.name}.nii.gz", write_nifti(prediction.labels, volume.geometry)
        yield f"probabilities/{volume.name}.nii.gz", write_nifti(probability, volume.geometry)
    for name, content in to_files(volume, draw("overlay", volume, mask, probability)):
        yield f"overlays/{name}", content


def _read_record(output: Folder, volume: Volume) -> Record:
    """Return the record of a volume of this name; empty if there is none, or it is not ours."""
    if not output.exists(_record_of(volume)):
        return {}
    try:
        record: Record = json.loads(output.read(_record_of(volume)))
        names = [*record.get("files", []), *record.get("replaced", [])]
    except (ValueError, AttributeError, TypeError):
        return {}
    return record if all(isinstance(name, str) for name in names) else {}


def _write_record(output: Folder, volume: Volume, record: Record) -> None:
    output.write(_record_of(volume), (json.dumps(record, indent=1) + "\n").encode())


def _is_done(record: Record, digest: str, asked_for: list[str], output: Folder) -> bool:
    return (
        record.get("digest") == digest
        and {"files", "slices", "review", "notes", *_SUMS} <= record.keys()
        and set(asked_for) <= set(record["files"])
        and all(map(output.exists, record["files"]))
    )


def _replaced_by(volume: Volume, record: Record) -> list[str]:
    """Return those files of a record that nothing but this volume can have by their names.

    Records may come from anywhere: no other file must be removed because one lists it. Slices move
    between the parts of a volume of more than 512 (``a``, ``a-2``), so those of parts all stay.
    """
    of_slices = r"_\d+\.png|" if len(volume.names) < MOST_SLICES else ""
    folders, endings = "masks|overlays|probabilities|reports", r"png|tif|nii\.gz|dcm|html"
    ours = rf"({folders})/{re.escape(volume.name)}({of_slices}\.({endings}))"
    names: list[str] = record.get("files") or record.get("replaced", [])
    return [name for name in names if re.fullmatch(ours, name)]


def seg_of(volume: Volume) -> str:
    """Say where in the output folder the DICOM SEG of a volume is."""
    return f"masks/{volume.name}.dcm"


def _record_of(volume: Volume) -> str:
    return f"volumes/{volume.name}.json"


def _report_of(volume: Volume) -> str:
    return f"reports/{volume.name}.html"
