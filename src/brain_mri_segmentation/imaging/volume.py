"""The slices of one head, in order: what is read, segmented and written."""

from dataclasses import dataclass

import numpy as np

MOST_SLICES = 512  # of a volume, which is held in memory
MOST_PIXELS = 64 * 2**20  # of a whole volume: 1,024 slices of 256 x 256


@dataclass(frozen=True, eq=False)
class Volume:
    """Slices that belong together; a single slice is a volume of one.

    Attributes:
        slices: (N, H, W, 3) uint8, in order: pre-contrast, FLAIR, post-contrast.
        name: What it is called, such as ``patient/patient``.
        names: What its slices are called; by default ``<name>_1``, ``<name>_2`` and so on, or
            ``<name>`` alone.
        in_one_file: Whether the slices came in one file, a stack or a zip, and go back in one.
        digest: Hexadecimal digits that tell the files apart that it was read from.

    Raises:
        ValueError: The slices have another shape or dtype, or there is none.
    """

    slices: np.ndarray
    name: str = "volume"
    names: tuple[str, ...] = ()
    in_one_file: bool = False
    digest: str = ""

    def __post_init__(self) -> None:
        shape, dtype = self.slices.shape, self.slices.dtype
        if len(shape) != 4 or shape[3] != 3 or not shape[0] or dtype != np.uint8:
            raise ValueError(
                f"the slices of a volume have shape {shape} and dtype {dtype}, expected "
                "(slices, height, width, 3) uint8 with at least one slice"
            )
        if not self.names:
            object.__setattr__(self, "names", page_names(self.name, shape[0]))

    def __len__(self) -> int:
        return len(self.slices)


def page_names(file: str, pages: int) -> tuple[str, ...]:
    """Name the slices of a file: as itself, or ``<file>_1``, ``<file>_2`` and so on."""
    return (file,) if pages == 1 else tuple(f"{file}_{n}" for n in range(1, pages + 1))
