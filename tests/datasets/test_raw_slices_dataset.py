import shutil

import numpy as np
import pytest
import tifffile
from kedro.io import DatasetError

from brain_mri_segmentation.cohort.index import index_slices
from brain_mri_segmentation.datasets.raw_slices_dataset import RawSlicesDataset


@pytest.fixture
def cohort_folder(phantom_folder, tmp_path):
    return shutil.copytree(phantom_folder, tmp_path / "raw")


@pytest.mark.parametrize("place", [".", "kaggle_3m"])
def test_the_cohort_is_found_in_its_folder_or_in_the_one_above(phantom_folder, place):
    files = RawSlicesDataset(path=str(phantom_folder / place)).load()
    assert len(files) == 60
    image = files["PHANTOM_CS_0000/PHANTOM_CS_0000_1"]()
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8


def test_the_second_copy_in_the_download_is_left_alone(cohort_folder):
    shutil.copytree(cohort_folder / "kaggle_3m", cohort_folder / "lgg-mri-segmentation/kaggle_3m")
    assert len(RawSlicesDataset(path=str(cohort_folder)).load()) == 60


def test_nothing_is_read_before_a_reader_is_called(cohort_folder):
    file = cohort_folder / "kaggle_3m/PHANTOM_CS_0000/PHANTOM_CS_0000_1.tif"
    file.write_bytes(b"no TIF at all")
    files = RawSlicesDataset(path=str(cohort_folder)).load()
    with pytest.raises(tifffile.TiffFileError):
        files["PHANTOM_CS_0000/PHANTOM_CS_0000_1"]()


def test_an_empty_patient_and_a_truncated_file_are_found_by_the_index(cohort_folder):
    (cohort_folder / "kaggle_3m/PHANTOM_ZZ_9999").mkdir()
    (cohort_folder / "kaggle_3m/PHANTOM_ZZ_9999/.DS_Store").touch()
    file = cohort_folder / "kaggle_3m/PHANTOM_CS_0000/PHANTOM_CS_0000_1.tif"
    file.write_bytes(file.read_bytes()[:5000])
    table = index_slices(RawSlicesDataset(path=str(cohort_folder)).load())
    problems = sorted(table.loc[table["problem"] != "", "problem"])
    assert problems[0].startswith("PHANTOM_CS_0000/PHANTOM_CS_0000_1: cannot be read")
    assert problems[1] == "PHANTOM_ZZ_9999/: the folder holds no slice"


@pytest.mark.parametrize(
    ("place", "message"), [("gone", "does not exist"), (".", "holds no TIF file")]
)
def test_a_missing_or_empty_folder_says_how_to_bring_the_cohort_in(tmp_path, place, message):
    with pytest.raises(DatasetError, match=f"(?s){message}.*sync_data.sh"):
        RawSlicesDataset(path=str(tmp_path / place)).load()


def test_raw_data_is_read_only(phantom_folder):
    with pytest.raises(DatasetError, match="read-only"):
        RawSlicesDataset(path=str(phantom_folder)).save({})


def test_what_would_be_left_out_in_silence_is_refused(cohort_folder):
    patient = cohort_folder / "kaggle_3m/PHANTOM_CS_0000"
    twice = patient / "PHANTOM_CS_0000_1.TIFF"
    shutil.copy(patient / "PHANTOM_CS_0000_1.tif", twice)
    with pytest.raises(DatasetError, match="PHANTOM_CS_0000_1 is there twice"):
        RawSlicesDataset(path=str(cohort_folder)).load()
    twice.unlink()
    (cohort_folder / "kaggle_3m/PHANTOM_XX_0001").symlink_to(patient)
    with pytest.raises(DatasetError, match="PHANTOM_XX_0001 is a link to a folder"):
        RawSlicesDataset(path=str(cohort_folder)).load()
