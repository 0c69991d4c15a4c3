import numpy as np
import pytest
from scans import OBLIQUE, ORIENTATIONS, axial_affine, turned

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.geometry import Geometry, crop_or_pad, model_shape, resample

SHAPE, SPACING = (70, 90, 5), (1.0, 1.2, 5.0)  # columns, rows, slices
VOXELS = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)


@pytest.mark.parametrize("rotation", [None, OBLIQUE])
def test_the_axial_view_is_the_same_from_every_orientation_and_leads_back(rotation):
    affine = axial_affine(SHAPE, SPACING, rotation)
    expected = VOXELS.transpose(2, 1, 0)  # slices from the bottom, rows from the front
    for axes, signs in ORIENTATIONS:
        voxels, stored = turned(VOXELS, affine, axes, signs)
        geometry = Geometry(stored, voxels.shape)
        slices = geometry.to_axial(voxels)
        assert np.array_equal(slices, expected)
        assert np.array_equal(geometry.to_source(slices), voxels)
        assert geometry.spacing == pytest.approx((5, 1.2, 1))
        assert geometry.size_mm == pytest.approx((25, 108, 70))
        assert geometry.voxel_ml == pytest.approx(0.006)


def test_the_head_lies_as_in_the_cohort():
    # NIfTI's own order, towards right, front and top: a voxel at the right front top corner.
    voxels = np.zeros((80, 90, 10), np.float32)
    voxels[-1, -1, -1] = 1
    slices = Geometry(np.eye(4), voxels.shape).to_axial(voxels)
    assert np.argwhere(slices).tolist() == [[9, 0, 0]]  # last slice, first row, first column


@pytest.mark.parametrize(
    ("size", "spacing", "expected"),
    [
        ((100, 300), None, (256, 256)),  # pictures fill the square, as they always have
        ((256, 256), (5, 0.86, 0.86), (256, 256)),
        ((240, 200), (1, 1, 1), (240, 200)),
        ((512, 512), (5, 0.43, 0.43), (256, 256)),  # 220 mm fill the square
        ((320, 320), (1, 0.86, 0.86), (256, 256)),  # so do 275 mm
        ((512, 400), (1, 0.9, 0.9), (419, 327)),  # 461 mm would be too small: 1.1 mm
        ((100, 100), (1, 1.8, 1.8), (212, 212)),  # 180 mm would be too large: 0.85 mm
        ((24, 256), (0.9, 5, 0.9), (133, 256)),  # coronal slices of 5 mm: 0.9 mm in both
    ],
)
def test_pixels_become_as_large_as_those_of_the_cohort(size, spacing, expected):
    assert model_shape(*size, 256, spacing) == expected


def test_a_smaller_model_sees_as_much_of_the_head():
    assert model_shape(512, 512, 128, (5, 0.43, 0.43)) == (128, 128)
    assert model_shape(256, 256, 128, (5, 0.86, 0.86)) == (128, 128)


@pytest.mark.parametrize("size", [(5, 8), (8, 5), (7, 7), (6, 9), (12, 1)])
def test_what_is_padded_and_cut_back_is_as_before_and_in_the_middle(size):
    image = np.arange(size[0] * size[1]).reshape(size)
    there = crop_or_pad(image, 7, 7, fill=-1)
    assert there.shape == (7, 7)
    back = crop_or_pad(there, *size, fill=-1)
    kept = back >= 0
    assert np.array_equal(back[kept], image[kept])
    assert kept.sum() == np.prod(np.minimum(size, 7))


def test_a_sequence_comes_to_lie_where_flair_does():
    # A plane wave in space, stored on two grids: the linear one is exact under interpolation.
    def wave(geometry):
        places = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), axis=-1)
        return places @ geometry.affine[:3, :3].T @ (0.3, 0.2, -0.1) + 50

    flair = Geometry(axial_affine((70, 90, 5), SPACING), (70, 90, 5))
    centre = axial_affine((100, 120, 40), (1, 1, 1), OBLIQUE)
    other = Geometry(centre, (100, 120, 40))
    offset = (np.linalg.inv(other.affine) @ flair.affine)[:3, 3]
    moved = resample(wave(other).astype(np.float32), other, flair)
    expected = wave(flair) + other.affine[:3, :3] @ offset @ (0.3, 0.2, -0.1)
    np.testing.assert_allclose(moved[25:45, 35:55, 1:4], expected[25:45, 35:55, 1:4], atol=1e-3)
    assert resample(VOXELS, flair, flair) is VOXELS


def test_a_sequence_of_another_place_is_refused():
    here = Geometry(axial_affine(SHAPE, SPACING), SHAPE)
    away = axial_affine(SHAPE, SPACING)
    away[:3, 3] += 500
    with pytest.raises(InputError, match="lies elsewhere"):
        resample(VOXELS, Geometry(away, SHAPE), here)


@pytest.mark.parametrize(
    ("affine", "reason"),
    [
        (np.diag([1, 1, 0, 1]), "leads nowhere"),
        (np.diag([1, np.nan, 1, 1]), "leads nowhere"),
        (np.diag([0.1, 1, 1, 1]), "90 x 7 mm in the axial plane"),
        (np.diag([20, 1, 1, 1]), "90 x 1400 mm"),
    ],
)
def test_a_header_that_cannot_be_true_is_refused(affine, reason):
    with pytest.raises(InputError, match=reason):
        Geometry(affine.astype(float), SHAPE)
