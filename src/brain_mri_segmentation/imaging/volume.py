"""The slices of one head, in order: what is read, segmented and written."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from brain_mri_segmentation.imaging.geometry import Geometry

SEQUENCES = ("pre-contrast", "FLAIR", "post-contrast")
"""What the three channels of a slice hold."""

MOST_SLICES = 512  # of a volume, which is held in memory
BRIGHTEST = 99.9  # percentile that becomes 255 where more than 8 bits are to be looked at
MOST_PIXELS = 64 * 2**20  # of a whole volume: 1,024 slices of 256 x 256


@dataclass(frozen=True, eq=False)
class Volume:
    """Slices that belong together; a single slice is a volume of one.

    Attributes:
        slices: (N, H, W, 3) uint8, in order: pre-contrast, FLAIR, post-contrast; of a source with a
            geometry float32 in its own unit, in the axial view (``Geometry.to_axial``).
        name: What it is called, such as ``patient/patient``.
        names: What its slices are called; by default ``<name>_1``, ``<name>_2`` and so on, or
            ``<name>`` alone.
        in_one_file: Whether the slices came in one file, a stack or a zip, and go back in one.
        digest: Hexadecimal digits that tell the files apart that it was read from.
        geometry: Where its voxels lie; None for pictures, which do not say so.
        missing: The sequences of ``SEQUENCES`` that are not there, in whose channels FLAIR is.
            Of a picture whether its channels differ is all that is known, and not told here.
        notes: What whoever reads the result must know of how it was read, such as which series was
            taken for what.

    Raises:
        ValueError: The slices have another shape or dtype, or there is none.
    """

    slices: np.ndarray
    name: str = "volume"
    names: tuple[str, ...] = ()
    in_one_file: bool = False
    digest: str = ""
    geometry: Geometry | None = None
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape, dtype = self.slices.shape, self.slices.dtype
        expected = np.uint8 if self.geometry is None else np.float32
        if len(shape) != 4 or shape[3] != 3 or not shape[0] or dtype != expected:
            raise ValueError(
                f"the slices of a volume have shape {shape} and dtype {dtype}, expected (slices, "
                f"height, width, 3) {np.dtype(expected)} with at least one slice"
            )
        if not self.names:
            object.__setattr__(self, "names", page_names(self.name, shape[0]))

    def __len__(self) -> int:
        return len(self.slices)

    @property
    def spacing(self) -> tuple[float, float, float] | None:
        """Millimetres from slice to slice, row to row and column to column; None if not known."""
        return self.geometry.spacing if self.geometry else None

    @cached_property
    def pictures(self) -> np.ndarray:
        """The slices to be looked at, (N, H, W, 3) uint8.

        With a geometry, each sequence fills 8 bits from its least value to its 99.9th percentile.
        """
        if self.geometry is None:
            return self.slices
        result = np.empty(self.slices.shape, np.uint8)
        for channel in range(3):
            voxels = self.slices[..., channel]
            low, high = float(voxels.min()), float(np.percentile(voxels[:, ::2, ::2], BRIGHTEST))
            scaled = (voxels - low) * (255 / ((high - low) or 1.0))
            result[..., channel] = np.clip(scaled, 0, 255)
        return result


def page_names(file: str, pages: int) -> tuple[str, ...]:
    """Name the slices of a file: as itself, or ``<file>_1``, ``<file>_2`` and so on."""
    return (file,) if pages == 1 else tuple(f"{file}_{n}" for n in range(1, pages + 1))
