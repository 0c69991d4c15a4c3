import io
import shutil
import subprocess
import sys

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK
from scans import (
    OBLIQUE,
    axial_affine,
    centroid,
    changed,
    dicom_series,
    enhanced,
    nifti,
    phantom,
    study,
    turned,
)

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.dicom_seg import write_seg
from brain_mri_segmentation.imaging.readers import read_volume

FLAIR = phantom(6, 64)[0].transpose(2, 1, 0, 3)[..., 1]
AFFINE = axial_affine(FLAIR.shape, (3.6, 3.6, 4.0), OBLIQUE)
BRIGHT = 1800  # what the tests take for tumour, so that the source itself tells where it is
MODEL = ("unet_efficientnet", "55a61874bfff40d8")
SAID = (
    "321 voxels, 2.50 ml, 1.55 to 4.07 ml (90 % interval), expected Dice 0.87, 0 slices to review"
)
SOURCES = {
    "axial": lambda: dicom_series(FLAIR, AFFINE, study()),
    "sagittal": lambda: dicom_series(*turned(FLAIR, AFFINE, (1, 2, 0), (1, -1, 1)), study()),
    "multi-frame": lambda: [enhanced(FLAIR, AFFINE, study(), [1] * 6)],
}


@pytest.fixture(params=SOURCES, scope="module")
def source(request):
    """Return the files of a series, the volume they make, and a segmentation of what is bright."""
    files = SOURCES[request.param]()
    volume = read_volume(files)
    # The multi-frame source has an intercept of -3.
    mask = np.where(volume.slices[..., 1] > BRIGHT - 3 * (len(files) == 1), 255, 0)
    return files, volume, write_seg(mask.astype(np.uint8), volume.geometry, *MODEL, SAID)


def test_the_segment_says_how_large_it_is(source):
    (segment,) = pydicom.dcmread(io.BytesIO(source[2])).SegmentSequence
    assert segment.SegmentDescription == SAID


def test_dciodvfy_finds_no_error(source, tmp_path):
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed (Debian: dicom3tools)")
    (tmp_path / "seg.dcm").write_bytes(source[2])
    done = subprocess.run(["dciodvfy", tmp_path / "seg.dcm"], capture_output=True, text=True)
    assert "Error" not in done.stderr
    assert done.stdout + done.stderr != ""
    assert "Segmentation" in done.stderr + done.stdout


def test_each_frame_is_the_mask_of_the_slice_it_refers_to(source):
    files, _, content = source
    images = {i.SOPInstanceUID: i for i in (pydicom.dcmread(io.BytesIO(file)) for file in files)}
    seg = hd.seg.segread(io.BytesIO(content))
    seen = set()
    pixels = seg.pixel_array
    for frame, mask in zip(seg.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        (of,) = frame.DerivationImageSequence[0].SourceImageSequence
        image = images[of.ReferencedSOPInstanceUID]
        number = of.get("ReferencedFrameNumber", 1)
        voxels = image.pixel_array if len(files) > 1 else image.pixel_array[number - 1]
        assert np.array_equal(mask, voxels > BRIGHT)
        at = image if len(files) > 1 else image.PerFrameFunctionalGroupsSequence[number - 1]
        at = at if len(files) > 1 else at.PlanePositionSequence[0]
        there = frame.PlanePositionSequence[0].ImagePositionPatient
        assert there == pytest.approx(at.ImagePositionPatient, abs=1e-4)
        seen.add((of.ReferencedSOPInstanceUID, number))
    slices = len(files) if len(files) > 1 else 6
    assert len(seen) == slices == seg.number_of_frames
    assert pixels.any()
    assert not pixels.all(axis=(1, 2)).any()


def test_itk_sees_it_where_the_source_is(source, tmp_path):
    _, volume, content = source
    (tmp_path / "seg.dcm").write_bytes(content)
    image = SimpleITK.ReadImage(tmp_path / "seg.dcm")
    mask = SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0) > 0
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    there = np.diag([-1, -1, 1]) @ centroid(mask, affine)
    bright = (FLAIR > BRIGHT).astype(bool)
    expected = centroid(bright, AFFINE)
    assert np.count_nonzero(mask) == np.count_nonzero(bright)
    assert np.abs(there - expected).max() < min(volume.spacing) / 2


def test_it_says_of_whom_it_is_and_by_what(source):
    _, volume, content = source
    seg = pydicom.dcmread(io.BytesIO(content))
    header = volume.geometry.headers[0]
    for tag in ("PatientID", "PatientName", "StudyInstanceUID", "StudyDate", "FrameOfReferenceUID"):
        assert seg[tag].value == header[tag].value
    assert seg.SeriesInstanceUID != header.SeriesInstanceUID
    assert "research use only" in seg.SeriesDescription.lower()
    (segment,) = seg.SegmentSequence
    kind = segment.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("126952004", "SCT")
    assert segment.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmName == "brain-mri-segmentation unet_efficientnet"
    assert algorithm.AlgorithmVersion == MODEL[1]


def test_the_same_source_model_and_mask_give_the_same_uids_and_others_give_others():
    files = dicom_series(FLAIR, AFFINE, study())
    geometry, again = read_volume(files).geometry, read_volume(files[::-1]).geometry
    other = read_volume(dicom_series(FLAIR, AFFINE, study(), number=2)).geometry
    mask = np.zeros((6, 64, 64), np.uint8)
    first, second, *others = (
        pydicom.dcmread(io.BytesIO(write_seg(found, of, "unet", digest)))
        for found, of, digest in [
            (mask, geometry, "a"),
            (mask, again, "a"),
            (mask + 255, geometry, "a"),
            (mask, geometry, "b"),
            (mask, other, "a"),
        ]
    )
    for tag in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert first[tag].value == second[tag].value
        assert len({seg[tag].value for seg in (first, *others)}) == 4
    assert first.SOPInstanceUID.is_valid
    assert first.NumberOfFrames == 6  # nothing was found, and all slices were looked at


@pytest.mark.parametrize(
    ("characters", "name"),
    [
        ("", "Phantom^One"),
        ("ISO_IR 100", "Müller^Jörg"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    ],
)
def test_names_in_any_characters_are_kept_and_the_source_as_well(characters, name):
    tags = {"PatientName": name, "SpecificCharacterSet": characters}
    files = dicom_series(FLAIR, AFFINE, study() | tags)
    volume, again = read_volume(files), read_volume(files)
    seg = write_seg(np.zeros((6, 64, 64), np.uint8), volume.geometry, *MODEL)
    assert str(pydicom.dcmread(io.BytesIO(seg)).PatientName) == name
    assert volume.geometry.headers == again.geometry.headers


def test_what_it_cannot_be_made_of():
    mask = np.zeros((6, 64, 64), np.uint8)
    voxels = read_volume(nifti(FLAIR, AFFINE))
    with pytest.raises(InputError, match="does not come from DICOM"):
        write_seg(mask, voxels.geometry, *MODEL)
    for tag, value, reason in [
        ("FrameOfReferenceUID", "", "no FrameOfReferenceUID"),
        ("SOPInstanceUID", "", "no SOPInstanceUID"),
        ("SOPInstanceUID", "1.2.3", "several images have the same SOPInstanceUID"),
    ]:
        files = [changed(file, **{tag: value}) for file in dicom_series(FLAIR, AFFINE, study())]
        with pytest.raises(InputError, match=f"headers of the series do not suffice .*{reason}"):
            write_seg(mask, read_volume(files).geometry, *MODEL)


def test_the_package_that_is_missing_is_named(monkeypatch):
    geometry = read_volume(dicom_series(FLAIR, AFFINE, study())).geometry
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(InputError, match=r"pip install 'brain-mri-segmentation\[dicom\]'"):
        write_seg(np.zeros((6, 64, 64), np.uint8), geometry, *MODEL)
