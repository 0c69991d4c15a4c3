"""Reading and writing one TIF file on any file system that fsspec knows."""

import io

import numpy as np
import tifffile
from fsspec import AbstractFileSystem

TIFF_ENDINGS = (".tif", ".tiff")


def read_tiff(filesystem: AbstractFileSystem, path: str) -> np.ndarray:
    """Return the pixels of a file, (H, W) or (H, W, C)."""
    return tifffile.imread(io.BytesIO(filesystem.cat_file(path)))


def write_tiff(filesystem: AbstractFileSystem, path: str, pixels: np.ndarray) -> None:
    """Write pixels (H, W) or (H, W, 3) uint8, uncompressed."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack")
    filesystem.pipe_file(path, buffer.getvalue())
