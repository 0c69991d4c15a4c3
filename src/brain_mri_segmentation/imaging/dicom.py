"""DICOM: which series there are, which sequence each is, and where its voxels lie.

Series are told apart by their UID and slices by their position, never by a file's name.
"""

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.geometry import LPS_TO_RAS, Geometry
from brain_mri_segmentation.imaging.medical import Scan, check_room
from brain_mri_segmentation.imaging.naming import sequence_of
from brain_mri_segmentation.imaging.volume import SEQUENCES

if TYPE_CHECKING:
    from pydicom import Dataset

_DEFLATED = b"1.2.840.10008.1.2.1.99"  # which unpacks to any size before anything can be checked
_DIRECTORY = b"1.2.840.10008.1.3.10"
_PLANE_TOLERANCE = 1e-3  # of unit vectors
_PLACE_TOLERANCE = 0.1  # of the distance between slices, by which one may be off its place
_NO_AGENT = ("", "no", "none", "n/a", "without")


def is_dicom(content: bytes) -> bool:
    """Say whether a file is DICOM by its own bytes, and not the index of a CD (``DICOMDIR``)."""
    return content[128:132] == b"DICM" and _DIRECTORY not in content[:512]


def study_of(content: bytes) -> str:
    """Return what tells the study of a file from others; empty if it says none, or is broken."""
    try:
        uid, patient = _head_of(_read(content, ["StudyInstanceUID", "PatientID"]))
    except Exception:  # of many kinds; what is broken is said when it is read
        return ""
    return f"{uid} {patient}" if uid else ""


def _head_of(image: "Dataset") -> tuple[str, str]:
    return str(image.get("StudyInstanceUID") or ""), str(image.get("PatientID") or "")


@contextmanager
def _one_error() -> Iterator[None]:
    """Let broken files raise what a user can act on, whatever pydicom says of them."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError("The DICOM files are broken, or lack tags that images have.") from error


@_one_error()
def read_study(contents: Iterable[bytes]) -> tuple[dict[str, Scan], tuple[str, ...]]:
    """Read FLAIR and, where they are, pre- and post-contrast of one study.

    Which series is which, the description tells, else contrast agent, echo and inversion time. Of
    several that are the same sequence, axial ones come first, then those with more slices. Of pre-
    and post-contrast, one that is no stack of slices is left out. One series alone is FLAIR, if
    nothing says that it is another.

    Args:
        contents: Its files, in any order; what is no image of MR is left out.

    Returns:
        Scans by their names in ``SEQUENCES``, and what was taken for what.

    Raises:
        InputError: There are several studies, no FLAIR, or it is no stack of slices.
    """
    found = _find_series(contents)
    said = {
        series: series.sequence or ("FLAIR" if len(found) == 1 else None)
        for series in sorted(found, key=_Series.rank, reverse=True)
    }
    if "FLAIR" not in said.values():
        raise InputError(
            f"No series is recognised as FLAIR: {_list(found)}. Name it: --flair NUMBER."
        )
    chosen: dict[str, _Series] = {}
    scans: dict[str, Scan] = {}
    notes = []
    for series, sequence in said.items():
        if sequence not in SEQUENCES or sequence in scans:
            continue
        try:
            scans[sequence] = series.read()
        except InputError as error:
            if sequence == "FLAIR":
                raise
            notes.append(str(error).rstrip("."))
        else:
            chosen[sequence] = series
            notes.append(f"{series} was taken for {sequence}")
    if others := [series for series in found if series not in chosen.values()]:
        notes.append(f"not used: {_list(others)}")
    frame = chosen["FLAIR"].first.get("FrameOfReferenceUID")
    notes += [
        f"{sequence} has another frame of reference than FLAIR; its place was trusted"
        for sequence, series in chosen.items()
        if series.first.get("FrameOfReferenceUID") != frame
    ]
    return scans, tuple(notes)


@_one_error()
def read_sequence(contents: Iterable[bytes], sequence: str, number: int | None = None) -> Scan:
    """Read the series that someone has named: the only one there, or the one that is recognised.

    Args:
        contents: Files, in any order.
        sequence: One of ``SEQUENCES``.
        number: Of the series, where it is named by that.

    Raises:
        InputError: It is not clear which is meant, or it is no stack of slices.
    """
    found = _find_series(contents)
    if number is not None:
        everything, found = found, [series for series in found if series.number == number]
        if not found:
            raise InputError(f"There is no series {number}, but {_list(everything)}. Name another.")
    elif len(found) > 1:
        found = [series for series in found if series.sequence == sequence] or found
    if len(found) > 1:
        raise InputError(f"There are several series: {_list(found)}. Name one by its number.")
    scan = found[0].read()
    return replace(scan, notes=(f"{found[0]} was named as {sequence}", *scan.notes))


@dataclass(frozen=True, eq=False)
class _Series:
    """The images of one series.

    Attributes:
        images: Data sets, in any order.
    """

    images: Sequence["Dataset"]

    @property
    def first(self) -> "Dataset":
        return self.images[0]

    def __str__(self) -> str:
        text = f"series {self.first.get('SeriesNumber', '?')} '{self._description}'"
        return f"{text} ({self._slices} image{'s' if self._slices > 1 else ''})"

    @property
    def _slices(self) -> int:
        return sum(int(image.get("NumberOfFrames") or 1) for image in self.images)

    @property
    def number(self) -> int:
        return int(self.first.get("SeriesNumber") or 0)

    @property
    def _description(self) -> str:
        return str(self.first.get("SeriesDescription") or self.first.get("ProtocolName") or "")

    @property
    def sequence(self) -> str | None:
        """One of ``SEQUENCES``, or ``other``; None where nothing says what it is."""
        first = self.first
        kind = " ".join(map(str, first.get("ImageType", []))).lower()
        if "localizer" in kind:
            return "other"
        said = sequence_of(self._description)
        if said is None:
            echo, inversion, repetition = (
                _number(first, name, 0) for name in ("EchoTime", "InversionTime", "RepetitionTime")
            )
            if echo > 60 and inversion > 1500:
                return "FLAIR"
            said = "pre-contrast" if 0 < echo < 30 and 0 < repetition < 3000 else None
        agent = str(first.get("ContrastBolusAgent") or "").strip().lower() not in _NO_AGENT
        agent = agent or bool(first.get("ContrastBolusAgentSequence"))
        if said == "pre-contrast" and agent:
            return "post-contrast"
        return said

    def rank(self) -> tuple[bool, bool, int]:
        """Order those that are the same sequence: grey ones last, then axial ones, then by size."""
        directions = _orientation(self.first)
        normal = np.cross(directions[:3], directions[3:]) if directions is not None else np.zeros(3)
        return _is_grey(self.first), bool(abs(normal[2]) > 0.7), self._slices

    def read(self) -> Scan:
        """Decode the voxels, sort them by position and say where they lie."""
        try:
            with _one_error():
                frames = [frame for image in self.images for frame in _frames(image)]
                return _stack(frames, self.images)
        except InputError as error:
            raise InputError(f"{self}: {error}") from error


def _read(content: bytes, tags: list[str] | None = None) -> "Dataset":
    import pydicom

    if _DEFLATED in content[:1024]:
        raise InputError(
            "The DICOM file is packed as a whole (deflate). Save it in another syntax."
        )
    return pydicom.dcmread(io.BytesIO(content), specific_tags=tags)


def _find_series(contents: Iterable[bytes]) -> list[_Series]:
    """Return the series of MR images, in the order of their numbers; each image once.

    Raises:
        InputError: They are of several studies or patients, or there is none.
    """
    series: dict[str, dict[tuple[object, ...], Dataset]] = {}
    heads, others = set(), set()
    for content in contents:
        if not is_dicom(content):
            continue
        image = _read(content)
        if "PixelData" not in image or image.get("Modality") != "MR":
            said = " ".join(str(image.get("Modality", "no modality")).split())
            others.add(said[:16])  # as long as it may be; a broken file can say anything
            continue
        heads.add(_head_of(image))
        # The UID does not suffice: anonymisers take it away, or give one to all images.
        known = str(image.get("SOPInstanceUID")), str(image.get("ImagePositionPatient"))
        uid = str(image.get("SeriesInstanceUID", ""))
        series.setdefault(uid, {})[*known, image.PixelData] = image
    if not series:
        what = ", ".join(sorted(others)[:8]) or "nothing"
        raise InputError(f"There is no MR image in the DICOM files, but {what}. Send FLAIR.")
    if len(heads) > 1:
        raise InputError(
            f"There are {len(heads)} studies or patients, and one is expected. "
            "Send them one by one."
        )
    found = [_Series(list(images.values())) for images in series.values()]
    return sorted(found, key=lambda one: one.number)


def _list(series: Iterable[_Series]) -> str:
    return "; ".join(map(str, series))


def _groups(image: "Dataset", frame: int) -> list["Dataset"]:
    """Return where tags of a frame are: in its own groups, in those of all frames, outside."""
    own = image.get("PerFrameFunctionalGroupsSequence") or []
    shared = image.get("SharedFunctionalGroupsSequence") or []
    items = [*own[frame : frame + 1], *shared[:1]]
    inside = [
        sequence[0]
        for item in items
        for element in item
        if element.VR == "SQ" and (sequence := element.value)
    ]
    return [*inside, image]


def _value(image: "Dataset", name: str, frame: int = 0) -> object:
    """Return a tag of a frame, wherever it is; None where there is none."""
    return next((g[name].value for g in _groups(image, frame) if g.get(name) is not None), None)


def _number(image: "Dataset", name: str, default: float, frame: int = 0) -> float:
    value = _value(image, name, frame)
    return default if value is None else float(str(value))


def _orientation(image: "Dataset", frame: int = 0) -> np.ndarray | None:
    value = _value(image, "ImageOrientationPatient", frame)
    return None if value is None else np.array(value, np.float64)


@dataclass(frozen=True, eq=False)
class _Frame:
    """A slice: where its first pixel lies, its directions along columns and rows, its pixels' size.

    ``pixels`` are (rows, columns) float32, NaN where nothing was measured; all else is in mm,
    towards the left and the back (LPS).
    """

    image: "Dataset"
    position: np.ndarray
    directions: np.ndarray
    spacing: np.ndarray
    pixels: np.ndarray


def _is_grey(image: "Dataset") -> bool:
    return image.get("PhotometricInterpretation") == "MONOCHROME2"


def _frames(image: "Dataset") -> list[_Frame]:
    """Decode the slices of a data set, of which an enhanced one has many."""
    if not _is_grey(image):
        raise InputError(
            "Its pixels are no shades of grey of which larger is brighter (MONOCHROME2). "
            "Export the original series."
        )
    count = int(image.get("NumberOfFrames") or 1)
    check_room((int(image.Rows), int(image.Columns), count))
    pixels = _decode(image).reshape(count, image.Rows, image.Columns)
    frames = []
    for number, values in enumerate(pixels):
        position, spacing = (
            _value(image, name, number) for name in ("ImagePositionPatient", "PixelSpacing")
        )
        directions = _orientation(image, number)
        if position is None or directions is None or spacing is None:
            raise InputError("An image does not say where it lies. Export the original series.")
        slope = _number(image, "RescaleSlope", 1, number)
        scaled = values * slope + _number(image, "RescaleIntercept", 0, number)
        scaled = scaled.astype(np.float32)
        scaled[_is_padding(image, values)] = np.nan
        place, size = np.array(position, np.float64), np.array(spacing, np.float64)
        frames.append(_Frame(image, place, directions, size, scaled))
    return frames


def _is_padding(image: "Dataset", values: np.ndarray) -> np.ndarray:
    """Say which pixels fill the picture up (PS3.3, C.7.5.1.1.2): one value, or those of a range."""
    first = image.get("PixelPaddingValue")
    if first is None:
        return np.zeros(values.shape, bool)
    last = image.get("PixelPaddingRangeLimit")
    # Scanners write 63536 for -2000: the bits count.
    ends = np.array([first, first if last is None else last]).astype(values.dtype)
    return (ends.min() <= values) & (values <= ends.max())


def _decode(image: "Dataset") -> np.ndarray:
    from pydicom.pixels import pixel_array

    try:
        return pixel_array(image)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise many kinds of errors
        syntax = image.file_meta.TransferSyntaxUID
        if syntax.is_compressed and "missing" in str(error):
            raise InputError(
                f"Its pixels are packed as {syntax.name}, for which a decoder is missing: "
                "pip install 'brain-mri-segmentation[jpeg]'"
            ) from error
        raise InputError("Its pixels are broken, truncated or of an unknown kind.") from error


def _stack(frames: list[_Frame], images: Sequence["Dataset"]) -> Scan:
    """Sort slices along their normal, and make sure that they are one regular stack."""
    first = frames[0]
    for frame in frames:
        if frame.pixels.shape != first.pixels.shape or not np.allclose(
            frame.spacing, first.spacing, rtol=1e-3
        ):
            raise InputError("Its images differ in size. Export one stack of slices.")
        if not np.allclose(frame.directions, first.directions, atol=_PLANE_TOLERANCE):
            raise InputError(
                "Its images lie in several planes, as a localizer's. Export one stack."
            )
    check_room((*first.pixels.shape, len(frames)))
    along, down = first.directions[:3], first.directions[3:]
    normal = np.cross(along, down)
    frames = sorted(frames, key=lambda frame: float(frame.position @ normal))
    step = _step(np.stack([frame.position for frame in frames]), normal, frames[0].image)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = along * first.spacing[1], down * first.spacing[0]
    affine[:3, 2], affine[:3, 3] = step, frames[0].position
    voxels = np.stack([frame.pixels for frame in frames]).transpose(2, 1, 0)
    voxels[np.isnan(voxels)] = np.nanmin(voxels, initial=0)  # as air, which is 0 or the darkest
    for image in images:
        del image.PixelData
    headers = tuple(images) if len(images) == 1 else tuple(frame.image for frame in frames)
    unknown = len(frames) == 1 and not _thickness(frames[0].image)
    notes = ("the slice does not say how thick it is; it was taken for 1 mm",) if unknown else ()
    return Scan(voxels, Geometry(LPS_TO_RAS @ affine, voxels.shape, headers), notes)


def _thickness(image: "Dataset") -> float:
    """Return how far a slice is from the next in mm; 0 where it does not say so."""
    said = (_number(image, name, 0) for name in ("SpacingBetweenSlices", "SliceThickness"))
    return abs(next(filter(None, said), 0))


def _step(positions: np.ndarray, normal: np.ndarray, image: "Dataset") -> np.ndarray:
    """Return the way from one slice to the next, (3,) in mm.

    Raises:
        InputError: Slices are missing, are at the same place, or are not equally far apart.
    """
    if len(positions) == 1:
        return normal * (_thickness(image) or 1)
    heights = positions @ normal
    distances = np.diff(heights)
    usual = float(np.sort(distances)[(len(distances) - 1) // 2])
    if distances.min() < _PLACE_TOLERANCE * max(usual, 1e-3):
        place = heights[int(distances.argmin())]
        raise InputError(
            f"Several of its slices lie at the same place ({place:.1f} mm), such as echoes or "
            "points in time. Export one of them."
        )
    if distances.max() > 1.5 * usual:
        gap = int(distances.argmax())
        missing = math.ceil(distances[gap] / usual - 1.5)
        raise InputError(
            f"About {missing} slice(s) are missing between {heights[gap]:.1f} and "
            f"{heights[gap + 1]:.1f} mm. Export the whole series."
        )
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    expected = positions[0] + np.arange(len(positions))[:, None] * step
    if np.abs(positions - expected).max() > _PLACE_TOLERANCE * usual:
        raise InputError("Its slices are not equally far apart. Export a regular stack.")
    return step
