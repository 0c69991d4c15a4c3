import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from brain_mri_segmentation.imaging.overlay import overlay
from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.imaging.writers import draw, to_files

SLICES = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8)
PROBABILITY = np.random.default_rng(1).random((3, 40, 50), dtype=np.float32)
MASK = np.where(PROBABILITY > 0.5, 255, 0).astype(np.uint8)
OVERLAYS = [overlay(*of) for of in zip(SLICES, MASK, strict=True)]


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        ("mask", MASK),
        ("overlay", np.stack(OVERLAYS)),
        ("probability", np.rint(PROBABILITY * 255)),
        ("image", SLICES[..., 1]),
    ],
)
def test_each_picture_comes_back_from_png_and_tiff(picture, expected):
    volume = Volume(SLICES, "p/scan")
    pages = draw(picture, volume, MASK, PROBABILITY)
    files = dict(to_files(volume, pages))
    assert list(files) == ["p/scan_1.png", "p/scan_2.png", "p/scan_3.png"]
    read = [np.asarray(Image.open(io.BytesIO(content))) for content in files.values()]
    assert np.array_equal(np.stack(read), expected)

    stack = Volume(SLICES, "p/scan", in_one_file=True)
    ((name, content),) = to_files(stack, draw(picture, stack, MASK, PROBABILITY))
    assert name == "p/scan.tif"
    assert np.array_equal(tifffile.imread(io.BytesIO(content)), expected)
