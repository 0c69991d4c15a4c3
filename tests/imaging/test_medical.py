import gzip
import subprocess
import sys
import tempfile
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from scans import (
    OBLIQUE,
    ORIENTATIONS,
    Bright,
    axial_affine,
    centroid,
    dice,
    load,
    nifti,
    nrrd,
    phantom,
    turned,
)

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging import Volume, read_volume
from brain_mri_segmentation.imaging.medical import write_nifti
from brain_mri_segmentation.imaging.readers import NotAnImage, find_volumes, read_files
from brain_mri_segmentation.inference.predictor import load_model
from brain_mri_segmentation.runtime.files import Folder

SLICES, TRUTH = phantom()  # (N, H, W, 3) uint16
VOXELS = SLICES.transpose(2, 1, 0, 3)
AFFINE = axial_affine(VOXELS.shape)
SMALL = VOXELS[::2, ::2]  # 128 x 128 x 6
COARSE = (1.8, 1.8, 4.0)
SMALL_AFFINE = axial_affine(SMALL.shape, COARSE)
FLAIR = SMALL[..., 1]
EXPECTED = SMALL.transpose(2, 1, 0, 3)


@pytest.fixture(scope="module")
def shipped():
    return load_model()


@pytest.fixture(scope="module")
def bright(shipped):
    return Bright(shipped.checkpoint)


@pytest.fixture(scope="module")
def small_bright(shipped):
    rules = shipped.checkpoint.preprocessing | {"image_size": 128}
    return Bright(replace(shipped.checkpoint, preprocessing=rules))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_a_nifti_file_is_read_with_all_its_bits(packed, kind):
    volume = read_volume(nifti(SMALL, SMALL_AFFINE, packed, kind), "head")
    assert volume.slices.dtype == np.float32
    assert np.array_equal(volume.slices, EXPECTED)
    assert (volume.missing, volume.notes, volume.in_one_file) == ((), (), True)
    assert volume.names[0] == "head_1"
    assert volume.spacing == pytest.approx((4, 1.8, 1.8))


def test_flair_alone_fills_the_three_channels_and_it_is_said():
    volume = read_volume(nifti(FLAIR, SMALL_AFFINE))
    assert np.array_equal(volume.slices, np.repeat(EXPECTED[..., 1:2], 3, axis=3))
    assert volume.missing == ("pre-contrast", "post-contrast")
    assert "for pre-contrast and post-contrast, which are not there" in volume.notes[0]


def test_scaling_sign_rgb_and_units_are_those_of_the_header():
    image = nibabel.Nifti1Image(FLAIR.astype(np.int16) - 1000, SMALL_AFFINE)
    image.header.set_slope_inter(0.5, 7)
    scaled = read_volume(image.to_bytes()).slices[..., 1]
    np.testing.assert_allclose(scaled, (EXPECTED[..., 1] - 1000.0) * 0.5 + 7, atol=1e-3)
    rgb = np.dtype([(name, "u1") for name in "RGB"])
    colours = np.ascontiguousarray((SMALL // 16).astype(np.uint8)).view(rgb)[..., 0]
    assert np.array_equal(read_volume(nifti(colours, SMALL_AFFINE)).slices, EXPECTED // 16)
    metres = nibabel.Nifti1Image(FLAIR, np.diag([1e-3, 1e-3, 1e-3, 1]) @ SMALL_AFFINE)
    metres.header.set_xyzt_units("meter")
    assert read_volume(metres.to_bytes()).spacing == pytest.approx((4, 1.8, 1.8))


def test_a_header_without_orientation_is_read_and_it_is_said():
    image = nibabel.Nifti1Image(FLAIR, None)
    image.header.set_zooms(COARSE)
    assert any(
        "does not say how the head lies" in note for note in read_volume(image.to_bytes()).notes
    )


@pytest.mark.parametrize("ending", ["nrrd", "mha"])
@pytest.mark.parametrize("compressed", [False, True])
def test_nrrd_and_metaimage_are_the_same_volume_as_nifti(ending, compressed):
    affine = axial_affine(SMALL.shape, COARSE, OBLIQUE)
    volume = read_volume(nrrd(SMALL, affine, f"head.{ending}", compressed))
    assert np.array_equal(volume.slices, EXPECTED)
    np.testing.assert_allclose(volume.geometry.affine, affine, atol=1e-4)


def test_a_mask_from_each_of_48_orientations_is_the_same_and_lies_on_the_tumour(small_bright):
    marked = TRUTH[:, ::2, ::2]
    truth = centroid(marked.transpose(2, 1, 0), SMALL_AFFINE)
    picture = small_bright.predict(
        Volume(((EXPECTED - 200) // 15).astype(np.uint8))
    )  # as of a TIFF
    assert dice(picture.mask, marked) > 0.95
    for axes, signs in ORIENTATIONS:
        voxels, affine = turned(SMALL, SMALL_AFFINE, axes, signs)
        volume = read_volume(nifti(voxels, affine))
        prediction = small_bright.predict(volume)
        assert dice(prediction.mask, picture.mask) >= 0.99
        mask, placed = load(write_nifti(prediction.mask // 255, volume.geometry))
        assert mask.shape == voxels.shape[:3]
        np.testing.assert_allclose(placed, affine, atol=1e-4)
        assert (np.abs(centroid(mask, placed) - truth) < np.array(COARSE) / 2).all()


@pytest.mark.parametrize(
    ("size", "spacing"),
    [
        ((512, 512), (0.45, 0.45)),
        ((512, 512), (0.43, 0.43)),
        ((250, 200), (1.0, 1.0)),
        ((181, 163), (1.4, 1.4)),
        ((320, 320), (0.9, 0.9)),  # more than the square holds
        ((256, 128), (0.9, 1.8)),
        ((65, 255), (4.0, 0.9)),
    ],
)
def test_the_mask_lies_on_the_tumour_at_any_resolution(bright, size, spacing):
    # An ellipsoid of known place, drawn on each grid, with a brain around it.
    slices, rows, columns = np.mgrid[:12, : size[0], : size[1]].astype(float)
    x = (columns - (size[1] - 1) / 2) * spacing[1]
    y = (rows - (size[0] - 1) / 2) * spacing[0]
    brain = np.hypot(x / 70, y / 85) < 1
    tumour = ((x - 31) / 20) ** 2 + ((y + 22) / 24) ** 2 + ((slices - 5) / 5) ** 2 < 1
    voxels = (100 + 500 * brain + 900 * tumour).T.astype(np.int16)
    affine = axial_affine(voxels.shape, (spacing[1], spacing[0], 4.0), OBLIQUE)
    volume = read_volume(nifti(voxels, affine))
    prediction = bright.predict(volume)
    mask, placed = load(write_nifti(prediction.mask // 255, volume.geometry))
    assert dice(mask, tumour.T) > 0.93
    offset = np.linalg.inv(placed[:3, :3]) @ (centroid(mask, placed) - centroid(tumour.T, affine))
    assert (np.abs(offset) < 0.5).all()
    assert prediction.tumour_ml == pytest.approx(4 / 3 * np.pi * 20 * 24 * 20 / 1000, rel=0.1)


@pytest.mark.slow
def test_the_shipped_model_finds_the_same_in_a_picture_and_in_a_nifti(shipped):
    picture = shipped.predict(Volume(((SLICES - 200) // 15).astype(np.uint8)))
    for axes, signs in ORIENTATIONS[::17]:
        volume = read_volume(nifti(*turned(VOXELS, AFFINE, axes, signs)))
        assert dice(shipped.predict(volume).mask, picture.mask) >= 0.99


def test_three_files_are_the_three_sequences_by_order_or_by_name(tmp_path):
    contents = [nifti(SMALL[..., channel], SMALL_AFFINE, packed=True) for channel in range(3)]
    volume = read_volume(contents)
    assert np.array_equal(volume.slices, EXPECTED)
    assert volume.missing == ()
    (tmp_path / "p").mkdir()
    names = ("p/x_t1.nii.gz", "p/x_flair.nii.gz", "p/x_t1ce.nii.gz", "p/x_t2.nii.gz", "p/x_seg.nii")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, content in zip(names, [*contents, contents[0], b"not read"], strict=True):
            archive.writestr(name, content)
            (tmp_path / name).write_bytes(content)
    found = find_volumes(Folder.at(str(tmp_path / "p")))
    assert list(found) == ["x"]
    for volume in (
        read_volume(tmp_path / "p"),
        read_volume(tmp_path / "x.zip"),
        *read_files(found["x"], "x"),
    ):
        assert np.array_equal(volume.slices, EXPECTED)
        assert any("x_flair was taken for FLAIR" in note for note in volume.notes)
    (tmp_path / "p/x_t1.nii.gz").rename(tmp_path / "p/y_t1.nii.gz")
    with pytest.raises(InputError, match="several heads by their names: x, y"):
        read_volume(tmp_path / "p")
    with pytest.raises(InputError, match="2 files with a volume each. Send FLAIR alone, or three"):
        read_volume(contents[:2])


def test_sequences_of_other_grids_are_resampled_onto_flair_and_it_is_said():
    fine = axial_affine((*VOXELS.shape[:2], 12), (0.9, 0.9, 2.0))
    pre = np.repeat(VOXELS[..., 0], 2, axis=2)
    contents = [nifti(pre, fine), nifti(VOXELS[..., 1], AFFINE), nifti(VOXELS[..., 2], AFFINE)]
    volume = read_volume(contents)
    assert np.array_equal(volume.slices[..., 0], SLICES[..., 0])  # between two equal slices
    assert volume.notes == (
        "file 1 was taken for pre-contrast",
        "file 2 was taken for FLAIR",
        "file 3 was taken for post-contrast",
        "pre-contrast was resampled onto FLAIR",
    )


def test_numbered_files_are_volumes_of_their_own_and_files_without_flair_are_left_out(tmp_path):
    for name in ("s_1", "s_2", "a_t1", "b_t1", "b_flair"):
        (tmp_path / f"{name}.nii.gz").write_bytes(nifti(FLAIR, SMALL_AFFINE, packed=True))
    found = find_volumes(Folder.at(str(tmp_path)))
    assert {name: len(files) for name, files in found.items()} == {
        "s_1": 1,
        "s_2": 1,
        "a": 1,
        "b": 2,
    }
    (problem,) = read_files(found["a"], "a")
    assert "No file is FLAIR by its name (a_t1)" in problem.reason


def patched(content, place, data):
    return content[:place] + data + content[place + len(data) :]


PLAIN = nifti(FLAIR, SMALL_AFFINE)


def hdf5(start):
    """Return what begins as another kind of file, and is HDF5, which can name any other file."""
    with tempfile.TemporaryDirectory() as folder:
        SimpleITK.WriteImage(SimpleITK.Image(64, 64, 6, SimpleITK.sitkUInt16), f"{folder}/head.h5")
        return start.ljust(512, b"\0") + Path(folder, "head.h5").read_bytes()


META = b"ObjectType = Image\nNDims = 3\nComment = datafile=LOCAL\nElementDataFile"


def bomb():
    """Many zeros behind a small volume, and a header that says that the volume is large."""
    return gzip.compress(PLAIN + bytes(2**27), 1), gzip.compress(
        patched(PLAIN, 42, b"\xff\x7f" * 3)
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (PLAIN[:5000], "NIfTI file is broken or truncated"),
        (gzip.compress(PLAIN)[:5000], "NIfTI file is broken or truncated"),
        # Stored as they are, voxels can be spoilt without a trace but the checksum.
        (patched(gzip.compress(PLAIN, 0), 5000, b"spoilt"), "NIfTI file is broken or truncated"),
        (nifti(FLAIR.astype(np.complex64), SMALL_AFFINE), "of real numbers"),
        (nifti(SMALL[..., :2], SMALL_AFFINE), r"shape \(128, 128, 6, 2\)"),
        (nifti(np.full(FLAIR.shape, np.nan, np.float32), SMALL_AFFINE), "not finite"),
        (nifti(FLAIR, np.diag([1e-3, 1e-3, 1, 1])), "0 x 0 mm in the axial plane"),
        (patched(PLAIN, 344, b"ni1\0"), "without voxels"),
        (patched(PLAIN, 42, b"\xff\x7f" * 3), "voxels; 67108864 in all are taken at most"),
        (nifti(np.zeros((80, 80, 600), np.uint8), np.eye(4)), "600 slices from bottom to top"),
        (b"NRRD0004\ntype: short\ndata file: /etc/passwd\n\n", "in another one"),
        (
            b"ObjectType = Image\nComment = ElementDataFile = LOCAL\n"
            b"ElementDataFile = /etc/passwd\n",
            "in another one",
        ),
        # ITK takes the sign on the next line as well.
        (META + b"\n= /etc/passwd\n", "in another one"),
        (META + b"\r= /etc/passwd\n", "in another one"),
        (META + b"\n= /etc/passwd\nElementDataFile = LOCAL\n", "in another one"),
        (hdf5(b"ObjectType = Image\nElementDataFile = LOCAL\n"), "MetaImage file is broken"),
        (hdf5(b"NRRD0004\n"), "NRRD file is broken"),
        (
            b"NRRD0004\ntype: short\ndimension: 3\nsizes: 90 90\n\n" + bytes(99),
            "NRRD file is broken",
        ),
        (
            b"NRRD0004\ntype: short\ndimension: 3\nsizes: 9000 9000 9000\nencoding: raw\n"
            b"endian: little\n\n" + bytes(99),
            "9000 x 9000 x 9000 voxels",
        ),
    ],
)
def test_what_is_no_head_is_refused_with_the_reason(content, reason):
    with pytest.raises(InputError, match=reason):
        read_volume(content)


def test_little_more_of_a_bomb_is_unpacked_than_its_header_says():
    small, large = bomb()
    tracemalloc.start()
    with pytest.raises(InputError, match="far more than its header says"):
        read_volume(small)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    with pytest.raises(InputError, match="in all are taken at most"):
        read_volume(large)


def test_a_volume_and_pictures_do_not_go_together():
    with pytest.raises(NotAnImage, match="FLAIR: It is no NIfTI, NRRD, MetaImage or DICOM"):
        read_volume([PLAIN, b"text", PLAIN])


@pytest.mark.parametrize("ending", ["nrrd", "mha"])
@pytest.mark.parametrize("compressed", [False, True])
def test_half_of_a_file_is_refused(ending, compressed):
    content = nrrd(FLAIR, SMALL_AFFINE, f"head.{ending}", compressed)
    with pytest.raises(InputError, match="broken or truncated"):
        read_volume(content[: len(content) // 2])


def test_who_reads_pictures_alone_does_not_wait_for_the_libraries_of_other_formats():
    loaded = "import brain_mri_segmentation.command, sys; print(*sys.modules)"
    command = [sys.executable, "-c", loaded]
    modules = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
    assert "numpy" in modules
    assert not {"nibabel", "pydicom", "SimpleITK"} & set(modules)
