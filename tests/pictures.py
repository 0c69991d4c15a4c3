"""A slice, and what it takes to send it as a file of any kind."""

import io
import zipfile

import numpy as np
import tifffile
from PIL import Image

RGB = np.zeros((64, 80, 3), np.uint8)
RGB[12:52, 15:65] = np.random.default_rng(0).integers(60, 160, (40, 50, 3))
GREY = RGB[..., 1]


def encode(pixels, kind="PNG", **options):
    buffer = io.BytesIO()
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def converted(mode, kind="PNG", pixels=RGB):
    return encode(Image.fromarray(pixels).convert(mode), kind)


def tiff(pixels, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def zipped(*members, method=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()
