"""Phantoms with a place in space, in the formats of scanners and of research."""

import gzip
import io
import itertools
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import SimpleITK
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)
from pydicom.valuerep import DS
from scipy.spatial.transform import Rotation

from brain_mri_segmentation.cohort.phantom import make_volume
from brain_mri_segmentation.inference.predictor import Predictor

SPACING = (0.9, 0.9, 4.0)  # mm along columns, rows and slices
ORIENTATIONS = [
    (axes, signs)
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
OBLIQUE = Rotation.from_euler("xyz", (12, -8, 20), degrees=True).as_matrix()


def phantom(slices=6, size=256, seed=5):
    """Return slices (N, H, W, 3) uint16 of 12 bits from bottom to top, and the mask (N, H, W)."""
    images, masks = zip(*make_volume(slices, size, np.random.default_rng(seed)), strict=True)
    return np.stack(images).astype(np.uint16) * 15 + 200, np.stack(masks)


def axial_affine(shape, spacing=SPACING, rotation=None):
    """Return the affine (RAS+) of voxels (column, row, slice), towards left, back and top."""
    directions = (np.eye(3) if rotation is None else rotation) @ np.diag([-1, -1, 1])
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = (3, -7, 11) - affine[:3, :3] @ ((np.array(shape[:3]) - 1) / 2)
    return affine


def turned(voxels, affine, axes, signs):
    """Store voxels in another order of axes and directions; each stays where it is in space."""
    flips = tuple(slice(None, None, sign) for sign in signs)
    places = np.eye(4)[:, [*axes, 3]]
    for axis, (old, sign) in enumerate(zip(axes, signs, strict=True)):
        if sign < 0:
            places[old, axis] = -1
            places[old, 3] = voxels.shape[old] - 1
    rest = range(3, voxels.ndim)
    return voxels.transpose(*axes, *rest)[flips], affine @ places


def nifti(voxels, affine, packed=False, kind=nibabel.Nifti1Image):
    content = kind(np.ascontiguousarray(voxels), affine).to_bytes()
    return gzip.compress(content, 1) if packed else content


def load(content):
    """Return voxels and affine of a ``.nii.gz``."""
    image = nibabel.Nifti1Image.from_stream(gzip.GzipFile(fileobj=io.BytesIO(content)))
    return np.asarray(image.dataobj), image.affine


def frames_of(seg):
    """Return the frames of an axial DICOM SEG, by its path, from bottom to top, 0 and 255."""
    file = pydicom.dcmread(seg)
    groups = file.PerFrameFunctionalGroupsSequence
    heights = [group.PlanePositionSequence[0].ImagePositionPatient[2] for group in groups]
    return file.pixel_array[np.argsort(heights)] * np.uint8(255)


def centroid(mask, affine):
    """Return the middle of a mask (I, J, K) in mm."""
    return affine[:3, :3] @ np.argwhere(mask).mean(axis=0) + affine[:3, 3]


def dice(first, second):
    first, second = first > 0, second > 0
    return 2 * np.count_nonzero(first & second) / (np.count_nonzero(first) + second.sum())


class Bright(Predictor):
    """A model that takes what is bright in FLAIR for tumour: cheap, and as exact as its input."""

    def logits(self, inputs: np.ndarray) -> np.ndarray:
        flair = inputs[:, 3 * self.preprocessing.context + 1]
        return 20 * (flair - 2.5)[:, None]


def study(patient="PHANTOM_1", date="20260102"):
    """Return what all DICOM files of a study have in common."""
    return {
        "PatientID": patient,
        "PatientName": "Phantom^One",
        "StudyDate": date,
        "StudyInstanceUID": generate_uid(entropy_srcs=[patient, date]),
        "FrameOfReferenceUID": generate_uid(entropy_srcs=[patient, date, "frame"]),
    }


def dicom_series(voxels, affine, common, number=1, description="AX T2 FLAIR", **tags):
    """Return one file for each slice of voxels (I, J, K) int16 or uint16, the last slice first."""
    series = generate_uid(entropy_srcs=[common["StudyInstanceUID"], str(number)])
    lps = np.diag([-1, -1, 1]) @ affine[:3]
    spacing = np.linalg.norm(lps[:, :3], axis=0)
    files = []
    for k in reversed(range(voxels.shape[2])):
        file = new_file(voxels, series, f"{number}.{k}", MRImageStorage)
        set_tags(file, common)
        file.SeriesNumber, file.InstanceNumber = number, 1 + k * 7 % 5  # tells nothing
        file.SeriesDescription = description
        file.ImageOrientationPatient = [*(lps[:, 0] / spacing[0]), *(lps[:, 1] / spacing[1])]
        file.ImagePositionPatient = list(lps[:, :3] @ (0, 0, k) + lps[:, 3])
        file.PixelSpacing = [spacing[1], spacing[0]]
        file.SliceThickness = spacing[2]
        file.PixelData = np.ascontiguousarray(voxels[:, :, k].T).tobytes()
        set_tags(file, tags)
        files.append(file)
    return [saved(file) for file in files]


def enhanced(voxels, affine, common, slopes):
    """Return one multi-frame file, its frames from top to bottom, each with a slope of its own."""
    lps = np.diag([-1, -1, 1]) @ affine[:3]
    spacing = np.linalg.norm(lps[:, :3], axis=0)
    file = new_file(voxels, generate_uid(), "enhanced", EnhancedMRImageStorage)
    set_tags(file, common)
    file.SeriesNumber, file.SeriesDescription = 4, "FLAIR 3D"
    plane, measures = Dataset(), Dataset()
    plane.ImageOrientationPatient = decimals([*(lps[:, 0] / spacing[0]), *(lps[:, 1] / spacing[1])])
    measures.PixelSpacing = decimals([spacing[1], spacing[0]])
    (measures.SliceThickness,) = decimals([spacing[2]])
    shared = Dataset()
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [plane], [measures]
    file.SharedFunctionalGroupsSequence = [shared]
    frames, pixels = [], []
    for k in reversed(range(voxels.shape[2])):
        position, values, frame = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = decimals(lps[:, :3] @ (0, 0, k) + lps[:, 3])
        values.RescaleSlope, values.RescaleIntercept = slopes[k], -3
        frame.PlanePositionSequence = [position]
        frame.PixelValueTransformationSequence = [values]
        frames.append(frame)
        pixels.append(voxels[:, :, k].T)
    file.PerFrameFunctionalGroupsSequence = frames
    file.NumberOfFrames = len(frames)
    file.PixelData = np.stack(pixels).tobytes()
    return saved(file)


def decimals(numbers):
    """Return numbers in the 16 characters that DICOM has for them."""
    return [DS(float(number), auto_format=True) for number in numbers]


def new_file(voxels, series, instance, kind):
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = kind
    file.SOPInstanceUID = generate_uid(entropy_srcs=[series, instance])
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID
    file.Modality, file.SeriesInstanceUID = "MR", series
    file.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    file.Columns, file.Rows = voxels.shape[:2]
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, 16, 15
    file.PixelRepresentation = int(voxels.dtype == np.int16)
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    return file


def set_tags(file, tags):
    for name, value in tags.items():
        setattr(file, name, value)


def saved(file):
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, file, enforce_file_format=True)
    return buffer.getvalue()


def changed(content, **tags):
    """Return a DICOM file with other tags, or packed with ``compress``."""
    file = pydicom.dcmread(io.BytesIO(content))
    if syntax := tags.pop("compress", None):
        file.compress(syntax, generate_instance_uid=False)
    set_tags(file, tags)
    return saved(file)


def nrrd(voxels, affine, name="head.nrrd", compressed=False):
    """Return what ITK writes, as NRRD or by the ending of the name as MetaImage."""
    image = SimpleITK.GetImageFromArray(
        np.ascontiguousarray(voxels.swapaxes(0, 2)), isVector=voxels.ndim > 3
    )
    lps = np.diag([-1, -1, 1]) @ affine[:3]
    spacing = np.linalg.norm(lps[:, :3], axis=0)
    image.SetSpacing(spacing)
    image.SetOrigin(lps[:, 3])
    image.SetDirection((lps[:, :3] / spacing).ravel())
    with tempfile.TemporaryDirectory() as folder:
        SimpleITK.WriteImage(image, Path(folder) / name, useCompression=compressed)
        return (Path(folder) / name).read_bytes()
