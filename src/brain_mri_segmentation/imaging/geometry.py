"""Where the voxels of a volume lie in the patient, and the way to the grid of the model and back.

Voxels of a source are in its own order (I, J, K), and its affine leads to millimetres in the
patient as NIfTI counts them: towards the right, the front and the top (RAS+). A volume holds them
as the cohort's slices are seen: slices from bottom to top, rows from front to back, columns from
the patient's right to the left. Between the two, axes change their places and directions alone.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from brain_mri_segmentation.errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset

PIXEL_MM = (0.85, 1.1)
"""Pixels that are left as they are, in mm where the model sees 256 x 256: those of the cohort,
whose slices show 220 to 240 mm, and somewhat larger ones."""
_SMALLEST_MM, _LARGEST_MM = 60, 800  # a side of a slice; no head has another
_AXIAL = "LPS"  # where columns, rows and slices lead
LPS_TO_RAS = np.diag([-1.0, -1, 1, 1])
"""DICOM and ITK count towards the left and the back; this is its own inverse."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """The grid of a source in the patient.

    Attributes:
        affine: (4, 4) float64, from voxel (i, j, k) to millimetres, RAS+.
        shape: Voxels along i, j and k.
        headers: Of a DICOM series the data sets without pixels, one for each k; of one multi-frame
            object a single one. Empty for other sources.

    Raises:
        InputError: The affine is none of a grid in space, or no head is of that size.
    """

    affine: np.ndarray
    shape: tuple[int, int, int]
    headers: tuple["Dataset", ...] = ()

    def __post_init__(self) -> None:
        sound = np.isfinite(self.affine).all() and abs(np.linalg.det(self.affine[:3, :3])) > 1e-9
        if not sound:
            raise InputError(
                "The file's affine leads nowhere: it has no inverse. Repair its header."
            )
        _, height, width = self.size_mm
        if not (min(height, width) >= _SMALLEST_MM and max(height, width) <= _LARGEST_MM):
            raise InputError(
                f"By its header, the volume is {height:.0f} x {width:.0f} mm in the axial plane; "
                f"sides of {_SMALLEST_MM} to {_LARGEST_MM} mm are taken. Correct its spacing."
            )

    @cached_property
    def _axes(self) -> np.ndarray:
        """(3, 2): of i, j and k which of columns, rows and slices they are, and 1 or -1."""
        from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

        return ornt_transform(io_orientation(self.affine), axcodes2ornt(_AXIAL))

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres from slice to slice, row to row and column to column of the axial view."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        slices, rows, columns = lengths[np.argsort(self._axes[:, 0])][::-1].tolist()
        return slices, rows, columns

    @property
    def size_mm(self) -> tuple[float, float, float]:
        """Millimetres of the axial view: all slices, height and width."""
        voxels = np.array(self.shape)[np.argsort(self._axes[:, 0])][::-1]
        slices, height, width = (voxels * self.spacing).tolist()
        return slices, height, width

    @property
    def voxel_ml(self) -> float:
        """Millilitres of a voxel."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

    def to_axial(self, voxels: np.ndarray) -> np.ndarray:
        """Turn voxels (I, J, K, ...) of the source into slices (N, H, W, ...); a view."""
        from nibabel.orientations import apply_orientation

        return apply_orientation(voxels, self._axes).swapaxes(0, 2)

    def to_source(self, slices: np.ndarray) -> np.ndarray:
        """Turn slices (N, H, W, ...) back into voxels (I, J, K, ...); a view."""
        turned = slices.swapaxes(0, 2).transpose(
            *self._axes[:, 0].astype(int), *range(3, slices.ndim)
        )
        return turned[tuple(slice(None, None, int(step)) for step in self._axes[:, 1])]


def model_shape(
    height: int, width: int, size: int, spacing: tuple[float, float, float] | None
) -> tuple[int, int]:
    """Say how large slices become for a model, before they are cropped or padded to its square.

    Slices without a spacing fill the square, as those of pictures always have. Others keep their
    pixels where the cohort's are as large; else the longer side fills the square, as in the cohort,
    within ``PIXEL_MM``.

    Args:
        height: Rows of a slice.
        width: Columns of a slice.
        size: Height and width of what the model sees.
        spacing: Millimetres between slices, rows and columns; None where it is not known.

    Returns:
        Height and width in pixels.
    """
    if spacing is None:
        return size, size
    finest, coarsest = (limit * 256 / size for limit in PIXEL_MM)
    pixel = np.array(spacing[1:])
    if max(height, width) <= size and (pixel >= finest).all() and (pixel <= coarsest).all():
        return height, width
    extent = pixel * (height, width)
    rows, columns = np.rint(extent / np.clip(extent.max() / size, finest, coarsest)).astype(int)
    return max(1, int(rows)), max(1, int(columns))


def crop_or_pad(image: np.ndarray, height: int, width: int, fill: float = 0) -> np.ndarray:
    """Cut or widen an image around its middle; cut back to its first shape, it is the same again.

    Args:
        image: (H, W, ...).
        height: Rows of the result.
        width: Columns of the result.
        fill: Value of what is added.

    Returns:
        (height, width, ...); ``image`` itself when it has that size.
    """
    if image.shape[:2] == (height, width):
        return image
    result = np.full((height, width, *image.shape[2:]), fill, image.dtype)
    here, there = zip(*map(_overlap, image.shape, (height, width)), strict=True)
    result[there] = image[here]
    return result


def _overlap(length: int, wanted: int) -> tuple[slice, slice]:
    """Return the part of an axis that is kept, and where it comes to lie in the wanted length."""
    cut, added = max(0, length - wanted) // 2, max(0, wanted - length) // 2
    kept = min(length, wanted)
    return slice(cut, cut + kept), slice(added, added + kept)


def resample(voxels: np.ndarray, source: Geometry, target: Geometry) -> np.ndarray:
    """Bring a sequence onto the grid of another one of the same head, by linear interpolation.

    Args:
        voxels: (I, J, K) float32 on the grid of ``source``.
        source: Where they lie.
        target: Where they are wanted.

    Returns:
        (I', J', K') float32, the least value where the source does not reach.

    Raises:
        InputError: The two have no place in common.
    """
    if source.shape == target.shape and np.allclose(source.affine, target.affine, atol=1e-3):
        return voxels
    from scipy import ndimage

    matrix = np.linalg.inv(source.affine) @ target.affine
    result = ndimage.affine_transform(
        voxels, matrix[:3, :3], matrix[:3, 3], target.shape, order=1, cval=float(voxels.min())
    )
    if result.min() == result.max():
        raise InputError("It lies elsewhere in the patient than FLAIR. Send sequences of one head.")
    return result
