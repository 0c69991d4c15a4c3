import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.images import NotAnImage, read_slice, read_slices

RGB = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def encode(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(pixels, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content", [encode(RGB), encode(RGB, "TIFF"), tiff(RGB, photometric="rgb")]
)
def test_rgb_of_8_bits_is_taken_as_it_is(content):
    assert np.array_equal(read_slice(content), RGB)


def test_grey_is_repeated_in_all_channels():
    for content in (encode(GREY), tiff(GREY)):
        assert np.array_equal(read_slice(content), np.repeat(GREY[..., None], 3, axis=2))


def test_a_palette_becomes_its_colours():
    picture = Image.fromarray(RGB).quantize(16)
    assert np.array_equal(read_slice(encode(picture)), np.asarray(picture.convert("RGB")))


def test_opaque_alpha_is_dropped():
    opaque = np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)])
    assert np.array_equal(read_slice(encode(opaque)), RGB)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_more_bits_are_scaled_linearly(dtype):
    ramp = np.arange(40 * 50).reshape(40, 50).astype(dtype)
    pixels = read_slice(tiff(ramp))[..., 0]
    top = np.percentile(ramp, 99.9)
    expected = np.clip(np.rint(ramp.astype(float) / top * 255), 0, 255)
    assert np.array_equal(pixels, expected)


def test_a_black_picture_of_16_bits_stays_black():
    assert read_slice(tiff(np.zeros((40, 50), np.uint16))).max() == 0


def nan_picture():
    values = np.ones((40, 50), np.float32)
    values[3, 3] = np.nan
    return tiff(values)


TRANSPARENT = np.dstack([RGB, np.arange(2000, dtype=np.uint8).reshape(40, 50)])
BOMB = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x01\x00\x00\x00\x01\x00\x00\x08\x02\x00\x00\x00\x00"
)


@pytest.mark.parametrize(
    ("content", "kind", "reason"),
    [
        (b"", InputError, "empty"),
        (b"hello, I am a text", NotAnImage, "no TIFF, PNG or JPEG"),
        (b"GIF89a" + bytes(100), NotAnImage, "no TIFF, PNG or JPEG"),
        (b"%PDF-1.7 slice.png", NotAnImage, "no TIFF, PNG or JPEG"),
        (b"PK\x03\x04" + bytes(50), NotAnImage, "no TIFF, PNG or JPEG"),
        (encode(RGB)[:500], InputError, "broken or truncated"),
        (encode(RGB, "JPEG")[:300], InputError, "broken or truncated"),
        (encode(RGB, "TIFF")[:900], InputError, "broken or truncated"),
        (b"\x89PNG\r\n\x1a\n", InputError, "cannot be read as one"),
        (b"II*\x00" + bytes(20), InputError, "cannot be read as one|broken"),
        (encode(RGB[:8, :8]), InputError, "8 x 8 pixels"),
        (encode(np.zeros((32, 5000), np.uint8)), InputError, "5000 x 32 pixels"),
        (BOMB + bytes(40), InputError, "absurdly large|cannot be read|pixels"),
        (encode(TRANSPARENT), InputError, "transparent"),
        (encode(Image.fromarray(RGB).convert("CMYK"), "JPEG"), InputError, "CMYK"),
        (encode(Image.fromarray(GREY).convert("1")), InputError, "bilevel"),
        (nan_picture(), InputError, "not finite"),
        (tiff(np.full((40, 50), -1.0, np.float32)), InputError, "negative"),
        (tiff(np.stack([GREY, GREY])), InputError, "holds 2 pages.*a volume, not a slice"),
    ],
)
def test_what_cannot_be_a_slice_is_refused_with_the_reason(content, kind, reason):
    with pytest.raises(InputError, match=reason) as caught:
        read_slice(content)
    assert caught.type is kind


def test_pages_of_a_stack_are_read_in_order():
    stack = np.stack([GREY, 255 - GREY, GREY // 2])
    pages = read_slices(tiff(stack, photometric="minisblack"))
    assert [np.array_equal(p[..., 0], s) for p, s in zip(pages, stack, strict=True)] == [True] * 3


def test_too_many_pages_are_refused():
    with pytest.raises(InputError, match="holds 3 pages; at most 2"):
        read_slices(tiff(np.stack([GREY] * 3), photometric="minisblack"), most=2)
