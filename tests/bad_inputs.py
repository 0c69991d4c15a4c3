"""Files that users and attackers send, and what the table in docs/serving.md says to each."""

import gzip
import re
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from pictures import GREY, RGB, converted, encode, tiff, zipped
from PIL import Image

_DOCUMENT = (Path(__file__).resolve().parents[1] / "docs/serving.md").read_text()
_TABLE = _DOCUMENT.partition("| what is sent | status | answer |\n|---|---|---|\n")[2]
DOCUMENTED = {
    what: (int(status), answer)
    for what, status, answer in re.findall(r"^\| (.+) \| (\d+) \| (.+) \|$", _TABLE, re.MULTILINE)
}
"""Status and answer by what is sent."""


def pages(count, side):
    return tiff(np.zeros((count, side, side), np.uint8), photometric="minisblack")


def with_value(value):
    pixels = GREY.astype(np.float32)
    pixels[30, 30] = value
    return tiff(pixels)


def large_stack():
    """Five pages of 4,096 x 4,096 pixels, packed to some kilobytes."""
    page = np.zeros((4096, 4096), np.uint8)
    stack = (page for _ in range(5))
    return tiff(stack, shape=(5, *page.shape), dtype=np.uint8, compression="zlib")


def png(width, height, depth=8, colour=2, rows=b""):
    """A PNG that says these sizes of itself, whatever it holds."""

    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def plain_tiff(width, height, bits, data):
    """A TIFF of grey pixels that says these sizes of itself, whatever it holds."""
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 200)]
    tags += [(277, 1), (278, height), (279, len(data))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    content = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    return content.ljust(200, b"\0") + data


def patched(content, *patches):
    """Write bytes at places, which count from the zip's list of files where they are negative."""
    patched = bytearray(content)
    for place, data in patches:
        start = place if place >= 0 else patched.rindex(b"PK\x01\x02") - place
        patched[start : start + len(data)] = data
    return bytes(patched)


def zip_bomb():
    return zipped(("a.png", bytes(400 * 2**20)), method=zipfile.ZIP_DEFLATED)


def link():
    link = zipfile.ZipInfo("slice.png")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    return link


TURNED = Image.Exif()
TURNED[274] = 6  # a quarter turn
RANDOM = np.random.default_rng(1).bytes(3000)
ONE = zipped(("a.png", encode(RGB)))
NIFTI = (348).to_bytes(4, "little") + bytes(340) + b"n+1\0" + bytes(500)
SIZE = -24  # of a file, in the zip's list

FILES = {  # sent to /segment; what is large is made when it is sent
    "nothing: a file of no bytes": b"",
    "a text": b"hello, I am a text",
    "DICOM": bytes(128) + b"DICM" + bytes(500),
    "NIfTI": NIFTI,
    "NIfTI, packed (`.nii.gz`)": gzip.compress(NIFTI),
    "gzip of a text": gzip.compress(b"text"),
    "GIF": encode(GREY, "GIF"),
    "WebP": encode(RGB, "WEBP"),
    "SVG with a script": b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>",
    "pickled Python": b"\x80\x04\x95\x10cos\nsystem\n",
    "a zip where one slice is expected": ONE,
    "zeros": bytes(5000),
    "the first bytes of a PNG alone": b"\x89PNG\r\n\x1a\n",
    "the first bytes of a TIFF alone": b"II*\0",
    "the first bytes of a JPEG alone": b"\xff\xd8\xff",
    "a truncated PNG": encode(RGB)[:2000],
    "a truncated JPEG": encode(RGB, "JPEG")[:900],
    "a truncated TIFF": encode(RGB, "TIFF")[:2000],
    "a truncated TIFF with LZW": encode(RGB, "TIFF", compression="tiff_lzw")[:-3000],
    "a PNG with damaged pixels": patched(encode(RGB), (900, b"\xff" * 20)),
    "a TIFF whose directory lies outside the file": b"II*\0\xff\xff\xff\x7f" + bytes(99),
    "a TIFF of random bytes": b"II*\0" + RANDOM,
    "a BigTIFF of random bytes": b"II+\0" + RANDOM,
    "TIFF's head on HTML": b"II*\0<!doctype html><script>alert(1)</script>",
    "a PNG of 0 x 0 pixels": png(0, 0),
    "1 x 1 pixel": encode(RGB[:1, :1]),
    "31 x 31 pixels": encode(RGB[:31, :31]),
    "4,097 x 32 pixels": encode(np.zeros((32, 4097), np.uint8)),
    "a bomb: PNG of 20,000 x 20,000 pixels": png(20_000, 20_000, rows=bytes(10**7)),
    "a bomb: PNG of 2,147,483,647 pixels a side": png(2**31 - 1, 2**31 - 1),
    "a bomb: TIFF of 60,000 x 60,000 pixels": plain_tiff(60_000, 60_000, 8, bytes(9)),
    "NaN in a float TIFF": with_value(np.nan),
    "infinity in a float TIFF": with_value(np.inf),
    "negative values in a float TIFF": with_value(-1),
    "negative values in a TIFF of 16 bits (Hounsfield units)": tiff(GREY.astype(np.int16) - 1000),
    "signed TIFF of 8 bits": tiff(GREY.astype(np.int8)),
    "TIFF of 64-bit floats": tiff(GREY.astype(np.float64)),
    "TIFF of 64-bit integers": tiff(GREY.astype(np.uint64)),
    "complex TIFF (k-space)": tiff(GREY.astype(np.complex64)),
    "RGB TIFF of 16 bits": tiff(RGB.astype(np.uint16) * 16, photometric="rgb"),
    "RGB PNG of 16 bits": png(64, 64, 16, 2, bytes((1 + 64 * 6) * 64)),
    "PNG of 16 bits with alpha": png(64, 64, 16, 4, bytes((1 + 64 * 4) * 64)),
    "RGB PNG of 16 bits with alpha": png(64, 64, 16, 6, bytes((1 + 64 * 8) * 64)),
    "TIFF of four sequences": tiff(np.dstack([RGB, GREY]), photometric="rgb", extrasamples=[0]),
    "TIFF of two channels": tiff(RGB[..., :2], photometric="minisblack", planarconfig="contig"),
    "TIFF in which white is zero, 16 bits": tiff(GREY.astype(np.uint16), photometric="miniswhite"),
    "CMYK JPEG": converted("CMYK", "JPEG"),
    "CMYK TIFF": converted("CMYK", "TIFF"),
    "L*a*b* TIFF": encode(Image.new("LAB", (64, 64)), "TIFF"),
    "bilevel PNG: a mask": converted("1", pixels=GREY),
    "transparent PNG": encode(np.dstack([RGB, GREY])),
    "transparent grey PNG": encode(Image.merge("LA", [Image.fromarray(GREY)] * 2)),
    "palette PNG with a transparent colour": encode(
        Image.fromarray(RGB).quantize(8), transparency=0
    ),
    "JPEG to be turned by its EXIF tag": encode(RGB, "JPEG", exif=TURNED),
    "PNG to be turned": encode(RGB, exif=TURNED),
    "TIFF to be turned": encode(RGB, "TIFF", exif=TURNED),
    "a TIFF of three slices where one is expected": pages(3, 64),
    "an animated PNG": encode(RGB, save_all=True, append_images=[Image.fromarray(255 - RGB)]),
    # Odd, but sound: a mask comes back.
    "a PNG with a zip behind it (polyglot)": encode(RGB) + zipped(("a.html", "<script/>")),
    "grey TIFF of 16 bits, of which 12 are used": tiff(GREY.astype(np.uint16) * 16),
    "TIFF of 32-bit integers": tiff(GREY.astype(np.uint32)),
    "BigTIFF": tiff(RGB, photometric="rgb", bigtiff=True),
    "a black slice": encode(RGB * 0),
}

VOLUMES = {  # sent to /segment/volume, one file or several
    "a volume with a text in it": [encode(RGB), b"text", encode(RGB)],
    "a volume with a truncated slice": [encode(RGB), encode(RGB)[:2000]],
    "513 slices": pages(513, 32),
    "a bomb: pages of 4,096 x 4,096 pixels": large_stack,
    "an empty zip": zipped(),
    "a zip of folders alone": zipped(("patient/", b"")),
    "a zip without any slice, volume or zip": zipped(("README", "text"), ("a.txt", "text")),
    "a zip with damaged pixels": patched(ONE, (900, b"\xff" * 20)),
    "a truncated zip": ONE[:3000],
    # The flag alone makes any reader ask for a password.
    "an encrypted zip": patched(ONE, (6, b"\1"), (-8, b"\1")),
    "a zip with a link to /etc/passwd": zipped((link(), "/etc/passwd")),
    "a zip in a zip": zipped(("inner.zip", ONE)),
    "a zip bomb: 400 MB of zeros": zip_bomb,
    "a zip bomb that says it is small": lambda: patched(zip_bomb(), (SIZE, b"\x64\0\0\0")),
    "a zip of 600 slices": zipped(*((f"{n}.png", encode(RGB)) for n in range(600))),
    "a zip of two patients": zipped(("a/a_1.png", encode(RGB)), ("b/b_1.png", encode(RGB))),
    "a zip with LZMA": zipped(("a.png", encode(RGB)), method=zipfile.ZIP_LZMA),
    "a zip with bzip2": zipped(("a.png", encode(RGB)), method=zipfile.ZIP_BZIP2),
    "a zip that says it holds 4 GB": patched(ONE, (SIZE, b"\xfe\xff\xff\xff")),
    "a zip that lists 10,000 files": ONE + b"PK\1\2" * 10_000,
    "a zip with names `../../a.png`, `/etc/b.png` and `²`": zipped(
        ("../../a.png", encode(RGB)), ("/etc/b.png", encode(RGB)), ("²", encode(RGB))
    ),
    "a zip with a mask beside its slice, which is left out": zipped(
        ("p_1.png", encode(RGB)), ("p_1_mask.png", b"not read")
    ),
    "a zip with a text beside its slices, which is left out": zipped(
        ("p_1.png", encode(RGB)), ("p_2.png", encode(RGB)), ("README.txt", "text")
    ),
    "a zip with a number of 5,000 digits as name": zipped(("1" * 5000, encode(RGB))),
}
