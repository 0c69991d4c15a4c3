import numpy as np
import pytest

from brain_mri_segmentation.imaging.volume import Volume


def test_slices_are_named_after_their_volume():
    slices = np.zeros((3, 32, 40, 3), np.uint8)
    assert Volume(slices, "scan").names == ("scan_1", "scan_2", "scan_3")
    assert Volume(slices[:1], "scan").names == ("scan",)
    assert len(Volume(slices)) == 3


@pytest.mark.parametrize(
    "slices",
    [
        np.zeros((32, 32, 3), np.uint8),
        np.zeros((1, 32, 32, 3)),
        np.zeros((1, 32, 32, 4), np.uint8),
        np.zeros((0, 32, 32, 3), np.uint8),
    ],
)
def test_an_array_that_is_no_volume_is_refused(slices):
    with pytest.raises(ValueError, match=r"expected \(slices, height, width, 3\) uint8 with at"):
        Volume(slices)
