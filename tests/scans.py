"""Phantoms with a place in space, in the formats of scanners and of research."""

import gzip
import io
import itertools

import nibabel
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from brain_mri_segmentation.cohort.phantom import make_volume
from brain_mri_segmentation.inference.predictor import Predictor

SPACING = (0.9, 0.9, 4.0)  # mm along columns, rows and slices
ORIENTATIONS = [
    (axes, signs)
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
OBLIQUE = Rotation.from_euler("xyz", (12, -8, 20), degrees=True).as_matrix()


def phantom(slices=6, size=256, seed=5):
    """Return slices (N, H, W, 3) uint16 of 12 bits from bottom to top, and the mask (N, H, W)."""
    images, masks = zip(*make_volume(slices, size, np.random.default_rng(seed)), strict=True)
    return np.stack(images).astype(np.uint16) * 15 + 200, np.stack(masks)


def axial_affine(shape, spacing=SPACING, rotation=None):
    """Return the affine (RAS+) of voxels (column, row, slice), towards left, back and top."""
    directions = (np.eye(3) if rotation is None else rotation) @ np.diag([-1, -1, 1])
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = (3, -7, 11) - affine[:3, :3] @ ((np.array(shape[:3]) - 1) / 2)
    return affine


def turned(voxels, affine, axes, signs):
    """Store voxels in another order of axes and directions; each stays where it is in space."""
    flips = tuple(slice(None, None, sign) for sign in signs)
    places = np.eye(4)[:, [*axes, 3]]
    for axis, (old, sign) in enumerate(zip(axes, signs, strict=True)):
        if sign < 0:
            places[old, axis] = -1
            places[old, 3] = voxels.shape[old] - 1
    rest = range(3, voxels.ndim)
    return voxels.transpose(*axes, *rest)[flips], affine @ places


def nifti(voxels, affine, packed=False, kind=nibabel.Nifti1Image):
    content = kind(np.ascontiguousarray(voxels), affine).to_bytes()
    return gzip.compress(content, 1) if packed else content


def load(content):
    """Return voxels and affine of a ``.nii.gz``."""
    image = nibabel.Nifti1Image.from_stream(gzip.GzipFile(fileobj=io.BytesIO(content)))
    return np.asarray(image.dataobj), image.affine


def centroid(mask, affine):
    """Return the middle of a mask (I, J, K) in mm."""
    return affine[:3, :3] @ np.argwhere(mask).mean(axis=0) + affine[:3, 3]


def dice(first, second):
    first, second = first > 0, second > 0
    return 2 * np.count_nonzero(first & second) / (np.count_nonzero(first) + second.sum())


class Bright(Predictor):
    """A model that takes what is bright in FLAIR for tumour: cheap, and as exact as its input."""

    def logits(self, inputs: torch.Tensor) -> np.ndarray:
        flair = inputs[:, 3 * self.preprocessing.context + 1]
        return (20 * (flair - 2.5)).numpy()
