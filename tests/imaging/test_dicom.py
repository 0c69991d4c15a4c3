import io
import re
import shutil
import subprocess

import numpy as np
import pydicom
import pytest
from pictures import zipped
from pydicom.fileset import FileSet
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, RLELossless
from scans import (
    OBLIQUE,
    Bright,
    axial_affine,
    centroid,
    changed,
    dice,
    dicom_series,
    enhanced,
    load,
    phantom,
    saved,
    study,
    turned,
)

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging import Volume, read_volume
from brain_mri_segmentation.imaging.medical import write_nifti
from brain_mri_segmentation.imaging.readers import find_volumes, read_files, read_sequences
from brain_mri_segmentation.inference.predictor import load_model
from brain_mri_segmentation.runtime.files import Folder

SLICES, TRUTH = phantom(6, 128)  # (N, H, W, 3) uint16
VOXELS = SLICES.transpose(2, 1, 0, 3)
SPACING = (1.8, 1.8, 4.0)
AFFINE = axial_affine(VOXELS.shape, SPACING, OBLIQUE)
STUDY = study()
FLAIR = dicom_series(VOXELS[..., 1], AFFINE, STUDY, 3)
SEQUENCES = [
    *dicom_series(VOXELS[..., 0], AFFINE, STUDY, 2, "AX T1"),
    *FLAIR,
    *dicom_series(VOXELS[..., 2], AFFINE, STUDY, 7, "AX T1", ContrastBolusAgent="Gadovist"),
]


def packed(files):
    images = ((f"a/IM_{n * 7 % 11:04}{n}", content) for n, content in enumerate(files))
    return zipped(*images, ("README.txt", "not read"))


@pytest.fixture
def folder(tmp_path):
    """Two studies of one patient in one folder, one of another one, and a text."""
    second = study(date="20270102")
    other = study("PHANTOM_2")
    (tmp_path / "in/first").mkdir(parents=True)
    (tmp_path / "in/second/deep").mkdir(parents=True)
    files = [*SEQUENCES, *dicom_series(VOXELS[..., 1], AFFINE, second)]
    for number, content in enumerate(files):
        (tmp_path / "in/first" / f"{number}").write_bytes(content)
    for number, content in enumerate(dicom_series(VOXELS[..., 1], AFFINE, other)):
        (tmp_path / "in/second/deep" / f"1.2.{number}").write_bytes(content)
    (tmp_path / "in/first/notes").write_text("not read")
    return tmp_path / "in"


@pytest.mark.parametrize("source", [SEQUENCES, SEQUENCES[::-1], packed(SEQUENCES)])
def test_three_series_of_a_study_are_recognised_and_sorted_by_position(source):
    volume = read_volume(source)
    assert np.array_equal(volume.slices, SLICES)
    assert volume.missing == ()
    assert "series 3 'AX T2 FLAIR' (6 images) was taken for FLAIR" in volume.notes
    assert "series 2 'AX T1' (6 images) was taken for pre-contrast" in volume.notes
    assert "series 7 'AX T1' (6 images) was taken for post-contrast" in volume.notes
    np.testing.assert_allclose(volume.geometry.affine, AFFINE, atol=1e-6)
    headers = volume.geometry.headers
    assert len(headers) == 6
    assert headers[0].PatientID == "PHANTOM_1"
    assert "PixelData" not in headers[0]
    place = volume.geometry.affine @ (0, 0, 4, 1) * (-1, -1, 1, 1)
    np.testing.assert_allclose(headers[4].ImagePositionPatient, place[:3], atol=1e-6)


def test_a_mask_from_dicom_is_that_from_a_picture_and_lies_on_the_tumour():
    checkpoint = load_model().checkpoint
    checkpoint.preprocessing["image_size"] = 128
    bright = Bright(checkpoint)
    picture = bright.predict(Volume(((SLICES - 200) // 15).astype(np.uint8)))  # as of a TIFF
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):  # axial, coronal or sagittal slices
        voxels, affine = turned(VOXELS[..., 1].astype(np.int16), AFFINE, order, (1, -1, 1))
        volume = read_volume(dicom_series(voxels, affine, STUDY))
        prediction = bright.predict(volume)
        assert dice(prediction.mask, picture.mask) >= 0.99
        mask, placed = load(write_nifti(prediction.mask // 255, volume.geometry))
        truth = centroid(TRUTH.transpose(2, 1, 0), AFFINE)
        assert mask.shape == voxels.shape
        offset = np.linalg.inv(placed[:3, :3]) @ (centroid(mask, placed) - truth)
        assert (np.abs(offset) < 0.5).all()


def test_sign_slope_and_intercept_of_each_slice_count():
    signed = VOXELS[..., 1].astype(np.int16) - 1000
    files = dicom_series(signed, AFFINE, STUDY)
    slopes = [1 + 0.5 * n for n in range(6)]  # of the files, whose last slice is first
    files = [
        changed(file, RescaleSlope=slope, RescaleIntercept=-7)
        for file, slope in zip(files, slopes, strict=True)
    ]
    expected = signed.transpose(2, 1, 0) * np.array(slopes[::-1])[:, None, None] - 7
    np.testing.assert_allclose(read_volume(files).slices[..., 1], expected)


@pytest.mark.parametrize(
    ("kind", "values"), [(np.int16, [-2000]), (np.uint16, [65535]), (np.int16, [-4, -3, -2])]
)
@pytest.mark.parametrize("vr", [b"SS", b"US"])  # some write the wrong one
def test_what_fills_a_picture_up_is_as_dark_as_air(kind, values, vr):
    stored = VOXELS[..., 1].astype(kind)
    expected = SLICES[..., 1].astype(float) * 2 - 7
    tags = {"PixelPaddingValue": values[0]}
    if len(values) > 1:
        tags["PixelPaddingRangeLimit"] = values[-1]
    for place, value in enumerate(values):
        stored[place], expected[:, :, place] = value, min(0, VOXELS[3:, ..., 1].min() * 2.0 - 7)
    stored[..., 5], expected[5] = values[0], expected[0, 0, 0]  # also a whole slice
    files = dicom_series(stored, AFFINE, STUDY, RescaleSlope=2, RescaleIntercept=-7, **tags)
    tag = re.compile(rb"(\x28\0[\x20\x21]\x01)(?:SS|US)")
    files = [tag.sub(lambda found: found[1] + vr, file) for file in files]
    np.testing.assert_allclose(read_volume(files).slices[..., 1], expected)


def test_an_enhanced_multi_frame_object_is_a_series():
    slopes = [2, 1, 0.5, 1, 2, 3]
    volume = read_volume(enhanced(VOXELS[..., 1], AFFINE, STUDY, slopes))
    expected = SLICES[..., 1] * np.array(slopes)[:, None, None] - 3
    np.testing.assert_allclose(volume.slices[..., 1], expected)
    np.testing.assert_allclose(volume.geometry.affine, AFFINE, atol=1e-6)
    assert len(volume.geometry.headers) == 1
    assert "series 4 'FLAIR 3D' (6 images) was taken for FLAIR" in volume.notes


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_pixels_are_the_same(syntax):
    files = [changed(file, compress=syntax) for file in FLAIR]
    assert np.array_equal(read_volume(files).slices[..., 1], SLICES[..., 1])


def test_jpeg_lossless_of_dcmtk_is_the_same(tmp_path):
    if shutil.which("dcmcjpeg") is None:
        pytest.skip("dcmcjpeg is not installed (Debian: dcmtk)")
    pytest.importorskip("libjpeg", reason="the extra jpeg is not installed")
    files = []
    for number, content in enumerate(FLAIR):
        (tmp_path / "raw").write_bytes(content)
        packed = tmp_path / f"{number}"
        subprocess.run(["dcmcjpeg", "+e1", tmp_path / "raw", packed], check=True)
        assert pydicom.dcmread(packed).file_meta.TransferSyntaxUID == JPEGLosslessSV1
        files.append(packed.read_bytes())
    assert np.array_equal(read_volume(files).slices[..., 1], SLICES[..., 1])


def test_series_are_named_by_their_numbers(tmp_path):
    for number, content in enumerate(SEQUENCES):
        (tmp_path / f"{number}").write_bytes(content)
    swapped = dict.fromkeys(["FLAIR", "post-contrast"], tmp_path)
    volume = read_sequences(swapped, series={"FLAIR": 7, "post-contrast": 2})
    assert np.array_equal(volume.slices[..., 1:], SLICES[..., [2, 0]])
    assert volume.missing == ("pre-contrast",)
    other = read_sequences(swapped, series={"FLAIR": 3, "post-contrast": 2})
    assert other.digest != volume.digest
    with pytest.raises(InputError, match="FLAIR: There is no series 4, but series 2 .*series 7"):
        read_sequences({"FLAIR": tmp_path}, series={"FLAIR": 4})


@pytest.mark.parametrize(
    ("description", "tags", "sequence"),
    [
        ("t2_tirm_tra_dark-fluid", {}, "FLAIR"),
        ("AX T2 FLAIR FS +C", {"ContrastBolusAgent": "Gd"}, "FLAIR"),
        ("", {"EchoTime": 120, "InversionTime": 2500, "RepetitionTime": 9000}, "FLAIR"),
        ("Sag T1 FLAIR", {}, "pre-contrast"),
        ("AX T1 PRE", {"ContrastBolusAgent": "Gd"}, "post-contrast"),  # the agent was given
        ("t1_mprage_sag_p2_iso", {"ContrastBolusAgent": "NONE"}, "pre-contrast"),
        ("AX T1 POST GD", {}, "post-contrast"),
        ("3D SPGR +C", {}, "post-contrast"),
        ("", {"EchoTime": 9, "RepetitionTime": 500}, "pre-contrast"),
        ("", {"EchoTime": 9, "RepetitionTime": 500, "ContrastBolusAgent": "x"}, "post-contrast"),
        ("AX T2 FSE", {}, None),
        ("ep2d_diff_ADC", {}, None),
        ("AX FLAIR", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, None),
        ("", {"EchoTime": 100, "RepetitionTime": 4000}, None),
    ],
)
def test_a_series_is_recognised_by_its_description_else_by_its_times(description, tags, sequence):
    other = dicom_series(VOXELS[..., 0], AFFINE, STUDY, 9, description, **tags)
    if sequence == "FLAIR":
        volume = read_volume([*other, *dicom_series(VOXELS[..., 1], AFFINE, STUDY, 1, "T2")])
    else:
        volume = read_volume([*other, *FLAIR])
    said = f"series 9 '{description}' (6 images) was taken for {sequence}"
    assert (said in volume.notes) == (sequence is not None)
    if sequence is None:
        assert any("not used: series 9" in note for note in volume.notes)


def test_of_several_flairs_the_axial_one_with_most_slices_is_taken():
    sagittal, affine = turned(VOXELS[..., 0], AFFINE, (1, 2, 0), (1, 1, 1))
    few = dicom_series(VOXELS[:, :, :3, 0], AFFINE, STUDY, 1)
    volume = read_volume([*few, *dicom_series(sagittal, affine, STUDY, 2), *FLAIR])
    assert np.array_equal(volume.slices[..., 1], SLICES[..., 1])


def test_a_slice_alone_is_one_image():
    assert "series 3 'AX T2 FLAIR' (1 image) was taken for FLAIR" in read_volume(FLAIR[2]).notes


def test_a_slice_alone_is_as_thick_as_it_says_and_else_it_is_said():
    note = "the slice does not say how thick it is; it was taken for 1 mm"
    thin, thick = changed(FLAIR[2], SliceThickness=None), changed(FLAIR[2], SpacingBetweenSlices=6)
    for file, millimetres in ((thin, 1), (FLAIR[2], 4), (thick, 6)):
        for volume in (read_volume(file), read_sequences({"FLAIR": file})):
            assert volume.spacing[0] == pytest.approx(millimetres)
            assert (note in volume.notes) == (file is thin)


def test_one_series_alone_is_flair_unless_it_says_otherwise():
    volume = read_volume(dicom_series(VOXELS[..., 1], AFFINE, STUDY, 5, "No. 5"))
    assert "series 5 'No. 5' (6 images) was taken for FLAIR" in volume.notes
    assert volume.missing == ("pre-contrast", "post-contrast")
    for description in ("AX T2 TSE", "sT1W_3D_TFE", "AXT1 POST"):
        with pytest.raises(InputError, match="No series is recognised as FLAIR"):
            read_volume(dicom_series(VOXELS[..., 1], AFFINE, STUDY, 5, description))


def test_a_slice_that_came_twice_counts_once():
    assert np.array_equal(read_volume([*FLAIR, FLAIR[2]]).slices[..., 1], SLICES[..., 1])


def test_slices_without_uids_of_their_own_are_told_apart():
    for uid in ("", "1.2.3"):
        files = [changed(file, SOPInstanceUID=uid) for file in FLAIR]
        assert np.array_equal(read_volume([*files, files[2]]).slices[..., 1], SLICES[..., 1])
    twice = [*files, changed(files[2], PixelData=bytes(2 * 128 * 128))]
    with pytest.raises(InputError, match="lie at the same place"):
        read_volume(twice)


def test_of_several_contrast_series_one_that_is_no_stack_is_left_out_and_it_is_said():
    clean = dicom_series(VOXELS[..., 2], AFFINE, STUDY, 7, "AX T1 POST")
    dynamic = [
        changed(file, SOPInstanceUID=f"1.2.{time}.{number}", RescaleSlope=time)
        for time in (1, 2)
        for number, file in enumerate(dicom_series(VOXELS[..., 2], AFFINE, STUDY, 9, "T1 POST DYN"))
    ]
    broken = [file[:-100] for file in dicom_series(VOXELS[..., 0], AFFINE, STUDY, 2, "AX T1")]
    volume = read_volume([*FLAIR, *clean, *dynamic, *broken])
    assert np.array_equal(volume.slices[..., 1:], SLICES[..., 1:])
    assert volume.missing == ("pre-contrast",)
    assert any("9 'T1 POST DYN' (12 images): Several of its slices" in n for n in volume.notes)
    assert any("2 'AX T1' (6 images): Its pixels are broken" in n for n in volume.notes)
    assert read_volume([*FLAIR, *dynamic]).missing == ("pre-contrast", "post-contrast")


def moved(content, millimetres, uid="1.2.3"):
    file = pydicom.dcmread(io.BytesIO(content))
    position = np.array(file.ImagePositionPatient) + OBLIQUE_NORMAL * millimetres
    return changed(content, ImagePositionPatient=list(position), SOPInstanceUID=uid)


OBLIQUE_NORMAL = np.diag([-1, -1, 1]) @ AFFINE[:3, 2] / 4


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([*FLAIR[:2], *FLAIR[3:]], r"About 1 slice\(s\) are missing between"),
        ([*FLAIR[:1], *FLAIR[4:]], r"About 3 slice\(s\) are missing between"),
        ([*FLAIR, changed(FLAIR[2], SOPInstanceUID="1.2.3")], "lie at the same place"),
        ([*FLAIR[:2], moved(FLAIR[2], 1.5), *FLAIR[3:]], "not equally far apart"),
        (
            [*FLAIR[:5], changed(FLAIR[5], ImageOrientationPatient=[0, 1, 0, 0, 0, -1])],
            "several planes",
        ),
        ([*FLAIR[:5], changed(FLAIR[5], PixelSpacing=[1, 1])], "differ in size"),
        (
            [changed(f, SeriesDescription="T2") for f in SEQUENCES],
            "No series is recognised as FLAIR",
        ),
        ([*FLAIR, *dicom_series(VOXELS[..., 1], AFFINE, study("P2"))], "There are 2 studies"),
        # Anonymisers may give one UID to all: to studies, and even to series.
        ([*FLAIR[:3], *(changed(file, PatientID="P2") for file in FLAIR[3:])], "2 studies or pat"),
        (
            [changed(file, Modality="CT") for file in FLAIR],
            "no MR image in the DICOM files, but CT",
        ),
        ([FLAIR[0].replace(b"CS\2\0MR", b"LT\x88\x13MR")], r"but MR.{,14}\. Send"),  # 5,000 bytes
        ([file[:1500] for file in FLAIR], "broken"),
        # Modality is of a kind that does not exist; so is the way in which pixels are packed.
        ([FLAIR[0].replace(b"\x08\0\x60\0CS", b"\x08\0\x60\0BS")], "broken"),
        ([FLAIR[0].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0")], "broken"),
        ([FLAIR[0].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")], "deflate"),
        (changed(FLAIR[0], Rows=60000, Columns=60000), "in all are taken at most"),
    ],
)
def test_what_is_no_stack_is_one_clear_error(files, reason):
    with pytest.raises(InputError, match=reason):
        read_volume(files)


def test_named_series_of_two_studies_are_no_head(tmp_path):
    other = dicom_series(VOXELS[..., 2], AFFINE, study("PHANTOM_2"), 9)
    for number, content in enumerate([*FLAIR, *other]):
        (tmp_path / f"{number}").write_bytes(content)
    with pytest.raises(InputError, match="2 studies or patients, and one is expected"):
        read_sequences(
            dict.fromkeys(["FLAIR", "post-contrast"], tmp_path),
            series={"FLAIR": 3, "post-contrast": 9},
        )


def test_series_are_named_by_the_user(tmp_path):
    for number, content in enumerate(SEQUENCES):
        place = tmp_path / ("all", "only")[6 <= number < 12] / str(number)
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(changed(content, SeriesDescription="T2"))
    volume = read_sequences({"FLAIR": tmp_path / "only"})
    assert np.array_equal(volume.slices[..., 1], SLICES[..., 1])
    assert "series 3 'T2' (6 images) was named as FLAIR" in volume.notes
    with pytest.raises(InputError, match="FLAIR: There are several series: series 2 'T2'"):
        read_sequences({"FLAIR": tmp_path / "all"})


@pytest.mark.parametrize("kind", ["MONOCHROME1", "YBR_FULL"])
def test_a_series_of_other_pixels_than_grey_is_refused(kind, tmp_path):
    for number, content in enumerate(FLAIR):
        (tmp_path / f"{number}").write_bytes(changed(content, PhotometricInterpretation=kind))
    with pytest.raises(InputError, match="series 3 .*no shades of grey.*MONOCHROME2"):
        read_sequences({"FLAIR": tmp_path})
    with pytest.raises(InputError, match="series 3 .*no shades of grey.*MONOCHROME2"):
        read_volume(tmp_path)
    few = dicom_series(VOXELS[:, :, :3, 1], AFFINE, STUDY, 4)
    coloured = [file.read_bytes() for file in tmp_path.iterdir()]
    assert np.array_equal(read_volume([*coloured, *few]).slices[..., 1], SLICES[:3, ..., 1])


def test_each_study_of_a_folder_is_a_volume(folder):
    found = find_volumes(Folder.at(str(folder)))
    assert {name: len(files) for name, files in found.items()} == {
        "first": 18,
        "first-2": 6,
        "second/deep": 6,
    }
    volumes = [volume for name, files in found.items() for volume in read_files(files, name)]
    assert [volume.name for volume in volumes] == list(found)
    assert sorted(len(volume.missing) for volume in volumes) == [0, 2, 2]
    assert all(np.array_equal(volume.slices[..., 1], SLICES[..., 1]) for volume in volumes)


@pytest.mark.parametrize(
    "tags", [{"StudyInstanceUID": ""}, {"StudyInstanceUID": "1.2", "PatientID": "PHANTOM_2"}]
)
def test_who_has_no_study_of_their_own_are_told_apart(tmp_path, tags):
    first = {"StudyInstanceUID": tags["StudyInstanceUID"]}
    for name, own in (("a", first), ("b", tags)):
        (tmp_path / name).mkdir()
        for number, content in enumerate(FLAIR):
            (tmp_path / name / f"{number}").write_bytes(changed(content, **own))
    places = [[tmp_path], [tmp_path / "a", *(tmp_path / "b").iterdir()]]
    for found in (find_volumes(*(Folder.at(str(place)) for place in some)) for some in places):
        assert {name: len(files) for name, files in found.items()} == {"a": 6, "b": 6}
        volumes = [volume for name, files in found.items() for volume in read_files(files, name)]
        assert all(np.array_equal(volume.slices[..., 1], SLICES[..., 1]) for volume in volumes)


def test_the_index_of_a_cd_is_no_study(tmp_path):
    index = FileSet()
    for content in FLAIR:
        file = changed(content, StudyTime="101010", StudyID="1")
        index.add(pydicom.dcmread(io.BytesIO(file)))
    index.write(tmp_path / "cd")
    assert (tmp_path / "cd/DICOMDIR").exists()
    found = find_volumes(Folder.at(str(tmp_path / "cd")))
    assert [len(files) for files in found.values()] == [6]
    assert np.array_equal(read_volume(tmp_path / "cd").slices[..., 1], SLICES[..., 1])


def test_a_study_of_single_files_is_named_by_their_folder(folder):
    places = [folder / "first", *(folder / "second/deep").iterdir()]
    found = find_volumes(*map(Folder.at, map(str, places)))
    assert {name: len(files) for name, files in found.items()} == {
        "first": 18,
        "first-2": 6,
        "deep": 6,
    }
    one = find_volumes(Folder.at(str(folder / "second/deep/1.2.3")))
    assert list(one) == ["deep"]


@pytest.mark.parametrize("tag", ["Rows", "PixelSpacing", "ImagePositionPatient", "BitsAllocated"])
def test_an_image_that_lacks_a_tag_is_one_clear_error(tag):
    files = [pydicom.dcmread(io.BytesIO(content)) for content in FLAIR]
    for file in files:
        delattr(file, tag)
    with pytest.raises(InputError, match="lack tags|does not say where it lies|pixels are broken"):
        read_volume([saved(file) for file in files])
