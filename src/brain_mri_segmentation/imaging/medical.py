"""Files of research that say where their voxels lie: NIfTI (nibabel), NRRD and MetaImage (ITK).

One file is FLAIR, or all three sequences as channels; three files are a sequence each.
"""

import gzip
import io
import math
import re
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.geometry import LPS_TO_RAS, Geometry, resample
from brain_mri_segmentation.imaging.volume import (
    MOST_PIXELS,
    MOST_SLICES,
    SEQUENCES,
    Volume,
    page_names,
)

_NIFTI_1, _NIFTI_2 = (length.to_bytes(4, "little") for length in (348, 540))
_GZIP = b"\x1f\x8b"
_LONGEST_HEADER = 4096  # bytes; of what is packed, no more is unpacked to know what it is
_MOST_EXTRA = 2**24  # bytes between header and voxels of a NIfTI file
_MOST_BEHIND = 2**20  # bytes behind the voxels of a packed one
_DATA_FILE = re.compile(rb"data ?file", re.IGNORECASE)
_LOCAL = re.compile(rb"^ElementDataFile *[=:] *LOCAL\r?\n", re.MULTILINE)
_UNITS = {"meter": 1000.0, "micron": 0.001}  # in mm


@dataclass(frozen=True, eq=False)
class Scan:
    """One file or series: voxels and where they lie.

    Attributes:
        voxels: (I, J, K) float32, or (I, J, K, 3) for the three sequences.
        geometry: Their grid.
        notes: What whoever reads the result must know of them.
    """

    voxels: np.ndarray
    geometry: Geometry
    notes: tuple[str, ...] = ()


def kind_of(content: bytes) -> str | None:
    """Say by a file's own bytes whether it is ``NIfTI``, ``NRRD`` or ``MetaImage``."""
    if content.startswith(_GZIP):
        try:
            content = zlib.decompressobj(wbits=31).decompress(content, _LONGEST_HEADER)
        except zlib.error:
            return None
        return "NIfTI" if _is_nifti(content) else None
    if _is_nifti(content):
        return "NIfTI"
    if content.startswith(b"NRRD000"):
        return "NRRD"
    return "MetaImage" if content[:200].lstrip().startswith(b"ObjectType") else None


def _is_nifti(head: bytes) -> bool:
    """Say whether a file begins with the length of a NIfTI header, in either byte order."""
    first = {head[:4], head[3::-1]}
    return (_NIFTI_1 in first and head[344:347] in (b"n+1", b"ni1")) or (
        _NIFTI_2 in first and head[4:7] in (b"n+2", b"ni2")
    )


def read_scan(content: bytes) -> Scan:
    """Read a file of which ``kind_of`` says that it is one of these.

    Raises:
        InputError: It is broken, too large, of other dimensions than one or three sequences,
            without a place in space, or its voxels are in another file.
    """
    try:
        scan = _read_nifti(content) if kind_of(content) == "NIfTI" else _read_itk(content)
    except (InputError, MemoryError):
        raise
    # The libraries raise many kinds of errors on broken files, and all of them mean the same here.
    except Exception as error:
        raise InputError(f"The {kind_of(content)} file is broken or truncated.") from error
    if not np.isfinite(scan.voxels).all():
        raise InputError(
            "The file holds values that are not finite (NaN or infinity). Write 0 in their places."
        )
    return scan


def assemble(name: str, scans: Mapping[str, Scan], digest: str, notes: tuple[str, ...]) -> Volume:
    """Make a volume of one to three sequences, on the grid of FLAIR.

    Args:
        name: Of the volume.
        scans: By their names in ``SEQUENCES``; a FLAIR of four dimensions holds all three.
        digest: Of what they were read from.
        notes: What was taken for what.

    Raises:
        InputError: There is no FLAIR, or another sequence lies elsewhere.
    """
    if "FLAIR" not in scans:
        raise InputError("There is no FLAIR, without which nothing can be segmented. Add it.")
    flair = scans["FLAIR"]
    missing: tuple[str, ...] = ()
    remarks = [*notes, *(note for scan in scans.values() for note in scan.notes)]
    if flair.voxels.ndim == 4:
        voxels = flair.voxels
    else:
        missing = tuple(sequence for sequence in SEQUENCES if sequence not in scans)
        channels = []
        for sequence in SEQUENCES:
            scan = scans.get(sequence, flair)
            try:
                channels.append(resample(scan.voxels, scan.geometry, flair.geometry))
            except InputError as error:
                raise InputError(f"{sequence}: {error}") from error
            if channels[-1] is not scan.voxels:
                remarks.append(f"{sequence} was resampled onto FLAIR")
        alone = len(missing) == 2  # then no voxel is held three times
        voxels = (
            np.broadcast_to(flair.voxels[..., None], (*flair.voxels.shape, 3))
            if alone
            else np.stack(channels, axis=-1)
        )
    if missing:
        verb = "are" if len(missing) > 1 else "is"
        remarks.append(f"FLAIR stands in for {' and '.join(missing)}, which {verb} not there")
    slices = flair.geometry.to_axial(voxels)
    if len(slices) > MOST_SLICES:
        raise InputError(
            f"The volume has {len(slices)} slices from bottom to top; 1 to {MOST_SLICES} are taken."
        )
    names = page_names(name, len(slices))
    return Volume(slices, name, names, True, digest, flair.geometry, missing, tuple(remarks))


def check_room(shape: tuple[int, ...]) -> None:
    """Make sure that a grid fits into memory.

    Raises:
        InputError: It has no three axes, or too many voxels.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(f"The file has the shape {shape}, and a grid of three axes is expected.")
    if math.prod(shape) > MOST_PIXELS:
        size = " x ".join(map(str, shape))
        raise InputError(f"The volume has {size} voxels; {MOST_PIXELS} in all are taken at most.")


def write_nifti(voxels: np.ndarray, geometry: Geometry | None) -> bytes:
    """Encode slices of a volume as ``.nii.gz`` on the grid and with the affine of its source.

    Args:
        voxels: (N, H, W) of the axial view, uint8 or float32.
        geometry: Of the volume; None for pictures, whose voxels get sides of 1 without a unit, and
            lie as those of the cohort.
    """
    import nibabel

    if geometry is None:
        image = nibabel.Nifti1Image(voxels.swapaxes(0, 2), LPS_TO_RAS)
        image.header.set_xyzt_units("unknown")
    else:
        image = nibabel.Nifti1Image(geometry.to_source(voxels), geometry.affine)
        image.header.set_xyzt_units("mm")
    image.header["descrip"] = "By a model, not checked. Research use only."
    # Level 1 and no time of day: quick, and the same voxels give the same bytes.
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)


def _read_nifti(content: bytes) -> Scan:
    import nibabel

    stream = gzip.GzipFile(fileobj=io.BytesIO(content)) if content.startswith(_GZIP) else None
    file = stream or io.BytesIO(content)
    head = file.read(540)
    kind = nibabel.Nifti2Image if head[4:6] == b"n+" else nibabel.Nifti1Image
    if b"ni1" in head[344:348] or b"ni2" in head[4:8]:
        raise InputError("The file is a NIfTI header without voxels (.hdr, .img). Save it as .nii.")
    header = kind.header_class.from_fileobj(io.BytesIO(head))
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    channels = _channels(shape, dtype)
    check_room(shape[:3] if len(shape) > 2 else (*shape, 1))
    start = int(header.get_data_offset())
    if start > _MOST_EXTRA:
        raise InputError("The NIfTI file has its voxels absurdly far behind its header.")
    wanted = start + math.prod(shape) * dtype.itemsize
    file.seek(0)
    image = kind.from_bytes(file.read(wanted))
    # At the end of what is packed, gzip compares its checksum with all that was read.
    if stream and len(stream.read(_MOST_BEHIND)) == _MOST_BEHIND:
        raise InputError("The NIfTI file holds far more than its header says. Save it anew.")
    if dtype.names:  # RGB of 8 bits
        raw = np.asarray(image.dataobj)
        voxels = np.stack([raw[name] for name in dtype.names[:3]], axis=-1).astype(np.float32)
    else:
        voxels = np.asarray(image.get_fdata(dtype=np.float32, caching="unchanged"))
    voxels = voxels.reshape((*shape[:3], 1)[:3] if channels == 1 else (*shape[:3], 3))
    affine = np.asarray(image.affine, np.float64)
    affine[:3] *= _UNITS.get(header.get_xyzt_units()[0], 1.0)
    notes: tuple[str, ...] = ()
    if not (header["qform_code"] or header["sform_code"]):
        notes = ("the file does not say how the head lies; it was taken for right, front, top",)
    return Scan(voxels, Geometry(affine, voxels.shape[:3]), notes)


def _channels(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Return 1 or 3, by the shape of a NIfTI file and its type.

    Raises:
        InputError: It has another number of channels, or complex values.
    """
    channels = math.prod(shape[3:])
    if dtype.names and channels == 1:
        channels = 3
    if dtype.kind not in "biufV" or channels not in (1, 3) or not 2 <= len(shape) <= 5:
        raise InputError(
            f"The file has the shape {shape} of {dtype}. Expected: three axes (FLAIR), or a fourth "
            "of 3 (pre-contrast, FLAIR, post-contrast), of real numbers."
        )
    return channels


def _read_itk(content: bytes) -> Scan:
    try:
        import SimpleITK
    except ModuleNotFoundError as error:  # the small image is without it
        raise InputError(
            "NRRD and MetaImage need the package simpleitk, which is not installed here. Save the "
            "file as NIfTI, or install it: pip install simpleitk"
        ) from error

    nrrd = content.startswith(b"NRRD")
    named = len(_DATA_FILE.findall(content))
    # The library would open whatever path is there. How it finds the end of a name, of a line
    # and of the header is its own affair: nothing may be named anywhere.
    if named if nrrd else named != 1 or not _LOCAL.search(content):
        raise InputError("The file says that its voxels are in another one. Save it as one file.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("scan.nrrd" if nrrd else "scan.mha")
        path.write_bytes(content)
        reader = SimpleITK.ImageFileReader()
        # Else it goes by the bytes: HDF5 may begin anywhere in a file, and names others, too.
        reader.SetImageIO("NrrdImageIO" if nrrd else "MetaImageIO")
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        channels = reader.GetNumberOfComponents()
        if channels not in (1, 3):
            raise InputError(f"The file has {channels} values a voxel; FLAIR alone or 3 are taken.")
        check_room(reader.GetSize())
        image = reader.Execute()
    voxels = SimpleITK.GetArrayFromImage(image).swapaxes(0, 2).astype(np.float32)
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return Scan(voxels, Geometry(LPS_TO_RAS @ affine, voxels.shape[:3]))
