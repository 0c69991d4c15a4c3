import numpy as np
import tifffile

from brain_mri_segmentation.cohort.index import index_slices
from brain_mri_segmentation.cohort.phantom import write_cohort
from brain_mri_segmentation.datasets.raw_slices_dataset import RawSlicesDataset


def test_phantoms_are_a_sound_cohort_with_empty_and_tumour_slices(phantom_folder):
    table = index_slices(RawSlicesDataset(path=str(phantom_folder)).load())
    assert len(table) == 30
    assert (table["problem"] == "").all()
    tumour = table.groupby("patient")["tumour_pixels"].agg(lambda pixels: (pixels > 0).sum())
    assert tumour.between(1, 5).all()
    assert table["digest"].nunique() == 30
    assert table["patient"].str.startswith("PHANTOM_").all()  # never the name of a real patient


def test_the_seed_decides_every_pixel(tmp_path, phantom_folder):
    write_cohort(tmp_path / "same", patients=1, slices=6, size=64, seed=1)
    write_cohort(tmp_path / "other", patients=1, slices=6, size=64, seed=2)
    place = "kaggle_3m/PHANTOM_CS_0000/PHANTOM_CS_0000_3.tif"
    first = tifffile.imread(phantom_folder / place)
    assert np.array_equal(first, tifffile.imread(tmp_path / "same" / place))
    assert not np.array_equal(first, tifffile.imread(tmp_path / "other" / place))


def test_the_tumour_is_bright_in_flair(phantom_folder):
    home = phantom_folder / "kaggle_3m" / "PHANTOM_CS_0000"
    image = tifffile.imread(home / "PHANTOM_CS_0000_3.tif")
    mask = tifffile.imread(home / "PHANTOM_CS_0000_3_mask.tif")
    flair = image[..., 1].astype(float)
    assert flair[mask > 0].mean() > flair[mask == 0].mean() + 40
