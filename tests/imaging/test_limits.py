"""Small files on which a decoder spends minutes or gigabytes."""

import struct
import time

import numpy as np
import pytest
from pictures import RGB, encode, tiff

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.readers import read_slice, read_volume


def jpeg_of_many_scans(count=1000):
    """A progressive picture whose last scan is repeated."""
    content = encode(RGB, "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * count + b"\xff\xd9"


def jpeg_of_many_segments():
    content = encode(RGB, "JPEG")
    return content[:2] + b"\xff\xe5\x00\x02" * 500_000 + content[2:]


def png_of_many_chunks():
    content = encode(RGB)
    empty = struct.pack(">I", 0) + b"teXt" + struct.pack(">I", 0x5D5B1B5D)
    return content[:33] + empty * 200_000 + content[33:]


def tiff_of(tags, big=False, pages=1):
    """A TIFF whose pages hold these (tag, type, count, value) and nothing else."""
    entry, count, offset = ("<HHQQ", "<Q", "<Q") if big else ("<HHII", "<H", "<I")
    head = b"II+\0\x08\0\0\0" if big else b"II*\0"
    content, size = head, len(tags) * struct.calcsize(entry) + struct.calcsize(count + "x") - 1
    size += struct.calcsize(offset)
    place = len(head) + struct.calcsize(offset)
    content += struct.pack(offset, place)
    for page in range(pages):
        place += size
        content += struct.pack(count, len(tags)) + b"".join(struct.pack(entry, *t) for t in tags)
        content += struct.pack(offset, place if page + 1 < pages else 0)
    return content


STRIPS = [(256, 4, 1, 64), (257, 4, 1, 64), (273, 4, 8_000_000, 8), (279, 4, 8_000_000, 8)]
ABSURD = {
    "scans": jpeg_of_many_scans,
    "segments": jpeg_of_many_segments,
    "chunks": png_of_many_chunks,
    "strips": lambda: tiff_of(STRIPS) + bytes(32_000_000),
    "strips of a BigTIFF": lambda: tiff_of(STRIPS, big=True) + bytes(1000),
    "tags": lambda: tiff_of([(40_000 + n, 4, 1, n) for n in range(20_000)]),
    "tags of a BigTIFF": lambda: tiff_of([(256, 4, 1, 1)] * 100_000, big=True),
    "pages": lambda: tiff_of([(256, 4, 1, 64)] * 3, pages=5000),
}


@pytest.mark.parametrize("what", ABSURD)
def test_absurdly_many_parts_are_refused_at_once(what):
    content = ABSURD[what]()
    started = time.process_time()
    with pytest.raises(InputError, match=f"absurdly many {what.split()[0]}"):
        read_slice(content)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(("order", "big"), [("<", False), ("<", True), (">", False)])
def test_sound_files_of_many_parts_are_read(big, order):
    rows = tiff(RGB, photometric="rgb", rowsperstrip=1, bigtiff=big, byteorder=order)
    assert np.array_equal(read_slice(rows).slices[0], RGB)
    pages = np.stack([RGB] * 60)
    stack = tiff(pages, photometric="rgb", bigtiff=big, byteorder=order, rowsperstrip=1)
    assert np.array_equal(read_volume(stack).slices, pages)


def test_a_progressive_jpeg_is_read():
    assert read_slice(encode(RGB, "JPEG", progressive=True)).slices.shape == (1, *RGB.shape)


def test_a_png_in_small_chunks_is_read():
    content = encode(np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8))
    assert content.count(b"IDAT") > 5
    assert len(read_slice(content)) == 1


def test_a_tiff_whose_pages_go_in_a_circle_ends():
    content = bytearray(tiff_of([(256, 4, 1, 64)] * 3, pages=2))
    content[-4:] = struct.pack("<I", 8)
    with pytest.raises(InputError):
        read_slice(bytes(content))
