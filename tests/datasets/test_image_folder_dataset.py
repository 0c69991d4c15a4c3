import numpy as np
import pytest
import tifffile
from kedro.io import DatasetError
from PIL import Image

from brain_mri_segmentation.datasets import ImageFolderDataset
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.readers import read_slice

RGB = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "patient").mkdir()
    tifffile.imwrite(tmp_path / "patient/patient_1.tif", RGB, photometric="rgb")
    tifffile.imwrite(tmp_path / "patient/patient_1_mask.tif", RGB[..., 0])
    Image.fromarray(RGB).save(tmp_path / "single.PNG")
    (tmp_path / "patient/._patient_1.tif").write_bytes(b"what macOS writes beside a file")
    (tmp_path / "notes.txt").write_text("no slice")
    return tmp_path


def test_slices_are_found_in_any_folder_and_read_when_asked_for(folder):
    found = ImageFolderDataset(str(folder)).load()
    assert list(found) == ["patient/patient_1", "single"]
    assert all(np.array_equal(read_slice(read()).slices[0], RGB) for read in found.values())


def test_a_file_that_cannot_be_opened_is_an_error_of_its_own(folder):
    found = ImageFolderDataset(str(folder)).load()
    (folder / "patient/patient_1.tif").unlink()
    with pytest.raises(InputError, match="cannot be opened"):
        found["patient/patient_1"]()
    assert np.array_equal(read_slice(found["single"]()).slices[0], RGB)


def test_a_single_picture_stands_for_itself(folder):
    found = ImageFolderDataset(str(folder / "patient/patient_1.tif")).load()
    assert list(found) == ["patient_1"]
    assert np.array_equal(read_slice(found["patient_1"]()).slices[0], RGB)


def test_files_that_differ_by_their_ending_alone_are_both_read(folder):
    Image.fromarray(255 - RGB).save(folder / "single.tif")
    found = ImageFolderDataset(str(folder)).load()
    assert list(found) == ["patient/patient_1", "single", "single.tif"]
    assert np.array_equal(read_slice(found["single.tif"]()).slices[0], 255 - RGB)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "does not exist. .*--params input=PATH"),
        (".", "holds no TIFF, PNG or JPEG"),
        ("notes.txt", "holds no TIFF, PNG or JPEG"),
        (None, "Name a folder of slices"),
    ],
)
def test_a_folder_that_is_missing_empty_or_not_named_is_refused(tmp_path, name, message):
    (tmp_path / "notes.txt").write_text("no slice")
    dataset = ImageFolderDataset(name and str(tmp_path / name))
    with pytest.raises(DatasetError, match=message):
        dataset.load()
