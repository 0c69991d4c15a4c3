import numpy as np
import pandas as pd
import pytest

from brain_mri_segmentation.cohort.statistics import SliceStatistics, measure_slices
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.intensity import measure_intensities

WITH = (32, 10, 99)


@pytest.fixture
def slices(synthetic_slices):
    return synthetic_slices(patients=2, slices=3)


@pytest.fixture
def table(slices):
    return measure_slices(slices.images, slices.masks, *WITH)


def test_slices_and_their_volumes_are_measured(table, slices, tmp_path):
    table.to_csv(tmp_path / "statistics.csv", index=False)
    names = ["P1_3", "P0_1"]
    found = SliceStatistics.of(pd.read_csv(tmp_path / "statistics.csv"), names, *WITH)
    for place, name in enumerate(names):
        images = [slices.images[f"{name[:2]}_{number}"]() for number in (1, 2, 3)]
        own = measure_intensities([slices.images[name]()], 10, 99)
        volume = measure_intensities(images, 10, 99)
        # To the last bit, so that a training does not depend on where the values come from.
        assert np.array_equal(found.alone[place], own)
        assert np.array_equal(found.volume[place], volume)
        assert found.tumour_pixels[place] == np.count_nonzero(slices.masks[name]())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ((64, 10, 99), "image_size=32, and this run says 64"),
        ((32, 5, 99), "lower_percentile=10, and this run says 5"),
        ((32, 10, 99.5), "upper_percentile=99, and this run says 99.5"),
    ],
)
def test_values_that_were_measured_otherwise_are_refused(table, other, message):
    with pytest.raises(InputError, match=f"{message}.*pipeline data_processing"):
        SliceStatistics.of(table, ["P0_1"], *other)


def test_a_slice_that_was_not_measured_is_refused(table):
    with pytest.raises(InputError, match=r"1 slice\(s\) .* not measured, such as P9_1"):
        SliceStatistics.of(table, ["P0_1", "P9_1"], *WITH)
