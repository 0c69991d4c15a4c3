"""What users and attackers send, against the running service.

The table at the end of docs/serving.md has a row for each of ``CASES``; a failing test shows what
the row should be.
"""

import gzip
import io
import socket
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from http.client import HTTPResponse
from pathlib import Path

import httpx
import numpy as np
import pytest
import tifffile
from PIL import Image

pytestmark = pytest.mark.slow

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "serving.md"
RGB = np.zeros((64, 80, 3), np.uint8)
RGB[12:52, 15:65] = np.random.default_rng(0).integers(60, 160, (40, 50, 3))
GREY = RGB[..., 1]
CASES: list[tuple[str, int, Callable[[httpx.Client], httpx.Response]]] = []


# --- how it is sent ------------------------------------------------------------------------------


def to_segment(what: str, status: int, content: bytes | Callable[[], bytes], **options) -> None:
    def send(client):
        file = content() if callable(content) else content
        return client.post("/segment", files={"file": ("slice.png", file)}, **options)

    CASES.append((what, status, send))


def to_volume(what: str, status: int, *contents: bytes | Callable[[], bytes]) -> None:
    def send(client):
        files = [("files", content() if callable(content) else content) for content in contents]
        return client.post("/segment/volume", files=files)

    CASES.append((what, status, send))


def request(what: str, status: int, method: str, path: str, **options) -> None:
    CASES.append((what, status, lambda client: client.request(method, path, **options)))


def bare(what: str, status: int, head: str, body: bytes = b"") -> None:
    """Send bytes as they are, then nothing more."""

    def send(client):
        with socket.create_connection((client.base_url.host, client.base_url.port), 20) as line:
            line.sendall(head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body)
            line.shutdown(socket.SHUT_WR)
            answer = HTTPResponse(line)
            answer.begin()
            headers = [(k, v) for k, v in answer.getheaders() if k.lower() != "content-length"]
            return httpx.Response(answer.status, headers=headers, content=answer.read())

    CASES.append((what, status, send))


# --- what is sent --------------------------------------------------------------------------------


def encode(pixels, kind="PNG", **options):
    buffer = io.BytesIO()
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(pixels, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def png(width, height, depth=8, colour=2, rows=b""):
    """A PNG that says these sizes of itself, whatever it holds."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def zipped(*members, **options):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        for member in members:
            archive.writestr(*member)
    return buffer.getvalue()


def with_value(value):
    pixels = GREY.astype(np.float32)
    pixels[30, 30] = value
    return tiff(pixels)


def damaged(content, start, length=20):
    return content[:start] + b"\xff" * length + content[start + length :]


def encrypted_zip():
    content = bytearray(zipped(("slice.png", encode(RGB))))
    content[6] |= 1  # the flag alone makes any reader ask for a password
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def symlink_zip():
    link = zipfile.ZipInfo("slice.png")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    return zipped((link, "/etc/passwd"))


def plain_tiff(width, height, bits, data):
    """A TIFF of grey pixels that says these sizes of itself, whatever it holds."""
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 200)]
    tags += [(277, 1), (278, height), (279, len(data))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    content = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    return content.ljust(200, b"\0") + data


def lying_zip():
    content = bytearray(zipped(("slice.png", encode(RGB))))
    place = content.rindex(b"PK\x01\x02") + 24
    content[place : place + 4] = b"\xfe\xff\xff\xff"
    return bytes(content)


def modest_bomb():
    content = bytearray(zipped(("a.png", bytes(400 * 2**20)), compression=zipfile.ZIP_DEFLATED))
    struct.pack_into("<I", content, content.rindex(b"PK\x01\x02") + 24, 100)
    return bytes(content)


def large_stack():
    """Five pages of 4,096 x 4,096 pixels, packed to some kilobytes."""
    page = np.zeros((4096, 4096), np.uint8)
    pages = (page for _ in range(5))
    return tiff(pages, shape=(5, *page.shape), dtype=np.uint8, compression="zlib")


MULTIPART = "multipart/form-data"
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
SOUND = PART + encode(RGB) + b"\r\n--b--\r\n"
FORM = {"Content-Type": f"{MULTIPART}; boundary=b"}

# Other formats
to_segment("nothing: a file of no bytes", 422, b"")
to_segment("a text", 415, b"hello, I am a text")
to_segment("DICOM", 415, bytes(128) + b"DICM" + bytes(500))
to_segment("NIfTI", 415, bytes(344) + b"n+1\0" + bytes(500))
to_segment("NIfTI, packed (`.nii.gz`)", 415, gzip.compress(bytes(344) + b"n+1\0" + bytes(500)))
to_segment("NRRD", 415, b"NRRD0004\ntype: short\n")
to_segment("MetaImage (`.mha`)", 415, b"ObjectType = Image\nNDims = 3\n")
to_segment("GIF", 415, lambda: encode(GREY, "GIF"))
to_segment("WebP", 415, lambda: encode(RGB, "WEBP"))
to_segment("BMP", 415, lambda: encode(RGB, "BMP"))
to_segment("JPEG 2000", 415, lambda: encode(RGB, "JPEG2000"))
to_segment("SVG with a script", 415, b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>")
to_segment("HTML", 415, b"<!doctype html><script>alert(1)</script>")
to_segment("PDF", 415, b"%PDF-1.7\n%slice")
to_segment("a program (ELF)", 415, b"\x7fELF" + bytes(500))
to_segment("pickled Python", 415, b"\x80\x04\x95\x10cos\nsystem\n")
to_segment("a NumPy array (`.npy`)", 415, b"\x93NUMPY\x01\0v\0{'descr': '|u1'}")
to_segment("a zip where one slice is expected", 415, zipped(("a.png", encode(RGB))))
to_segment("zeros", 415, bytes(5000))

# Broken and truncated
to_segment("the first bytes of a PNG alone", 422, b"\x89PNG\r\n\x1a\n")
to_segment("the first bytes of a TIFF alone", 422, b"II*\0")
to_segment("the first bytes of a JPEG alone", 422, b"\xff\xd8\xff")
to_segment("a truncated PNG", 422, encode(RGB)[:2000])
to_segment("a truncated JPEG", 422, encode(RGB, "JPEG")[:900])
to_segment("a truncated TIFF", 422, encode(RGB, "TIFF")[:2000])
to_segment("a truncated TIFF with LZW", 422, encode(RGB, "TIFF", compression="tiff_lzw")[:-3000])
to_segment("a PNG with damaged pixels", 422, damaged(encode(RGB), 900))
to_segment(
    "a TIFF whose directory lies outside the file", 422, b"II*\0\xff\xff\xff\x7f" + bytes(99)
)
to_segment("a TIFF of random bytes", 422, b"II*\0" + np.random.default_rng(1).bytes(3000))
to_segment("a BigTIFF of random bytes", 422, b"II+\0" + np.random.default_rng(1).bytes(3000))
to_segment("TIFF's head on HTML", 422, b"II*\0<!doctype html><script>alert(1)</script>")

# Sizes
to_segment("a PNG of 0 x 0 pixels", 422, png(0, 0))
to_segment("1 x 1 pixel", 422, encode(RGB[:1, :1]))
to_segment("31 x 31 pixels", 422, encode(RGB[:31, :31]))
to_segment("4,097 x 32 pixels", 422, lambda: encode(np.zeros((32, 4097), np.uint8)))
to_segment("a bomb: PNG of 20,000 x 20,000 pixels", 422, png(20_000, 20_000, rows=bytes(10**7)))
to_segment("a bomb: PNG of 2,147,483,647 pixels a side", 422, png(2**31 - 1, 2**31 - 1))
to_segment("a bomb: TIFF of 60,000 x 60,000 pixels", 422, plain_tiff(60_000, 60_000, 8, bytes(9)))

# Pixels that are no slice
to_segment("NaN in a float TIFF", 422, with_value(np.nan))
to_segment("infinity in a float TIFF", 422, with_value(np.inf))
to_segment("negative values in a float TIFF", 422, with_value(-1))
to_segment(
    "negative values in a TIFF of 16 bits (Hounsfield units)",
    422,
    tiff(GREY.astype(np.int16) - 1000),
)
to_segment("signed TIFF of 8 bits", 422, tiff(GREY.astype(np.int8)))
to_segment("TIFF of 64-bit floats", 422, tiff(GREY.astype(np.float64)))
to_segment("TIFF of 64-bit integers", 422, tiff(GREY.astype(np.uint64)))
to_segment("complex TIFF (k-space)", 422, tiff(GREY.astype(np.complex64)))
to_segment("RGB TIFF of 16 bits", 422, tiff(RGB.astype(np.uint16) * 16, photometric="rgb"))
to_segment("RGB PNG of 16 bits", 422, png(64, 64, 16, 2, bytes((1 + 64 * 6) * 64)))
to_segment("PNG of 16 bits with alpha", 422, png(64, 64, 16, 4, bytes((1 + 64 * 4) * 64)))
to_segment(
    "TIFF of four sequences", 422, tiff(np.dstack([RGB, GREY]), photometric="rgb", extrasamples=[0])
)
to_segment(
    "TIFF of two channels", 422, tiff(RGB[..., :2], photometric="minisblack", planarconfig="contig")
)
to_segment(
    "TIFF in which white is zero, 16 bits",
    422,
    tiff(GREY.astype(np.uint16), photometric="miniswhite"),
)
to_segment("CMYK JPEG", 422, lambda: encode(Image.fromarray(RGB).convert("CMYK"), "JPEG"))
to_segment("CMYK TIFF", 422, lambda: encode(Image.fromarray(RGB).convert("CMYK"), "TIFF"))
to_segment("L*a*b* TIFF", 422, lambda: encode(Image.new("LAB", (64, 64)), "TIFF"))
to_segment("bilevel PNG: a mask", 422, lambda: encode(Image.fromarray(GREY).convert("1")))
to_segment("transparent PNG", 422, lambda: encode(np.dstack([RGB, GREY])))
to_segment(
    "transparent grey PNG", 422, lambda: encode(Image.merge("LA", [Image.fromarray(GREY)] * 2))
)
to_segment(
    "palette PNG with a transparent colour",
    422,
    lambda: encode(Image.fromarray(RGB).quantize(8), transparency=0),
)
to_segment(
    "JPEG to be turned by its EXIF tag",
    422,
    lambda: encode(
        RGB, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    ),
)
to_segment(
    "a TIFF of three slices where one is expected",
    422,
    tiff(np.stack([GREY] * 3), photometric="minisblack"),
)
to_segment(
    "an animated PNG",
    422,
    lambda: encode(Image.fromarray(RGB), save_all=True, append_images=[Image.fromarray(255 - RGB)]),
)

# Requests
request("no file", 422, "POST", "/segment")
request(
    "the file in a field of another name", 422, "POST", "/segment", files={"image": encode(RGB)}
)
request("a text in the field `file`", 422, "POST", "/segment", data={"file": "slice.png"})
request(
    "two files where one is expected", 422, "POST", "/segment", files=[("file", encode(RGB))] * 2
)
request(
    "the picture itself as the body",
    422,
    "POST",
    "/segment",
    content=encode(RGB),
    headers={"Content-Type": "image/png"},
)
request("JSON", 422, "POST", "/segment", json={"file": "slice.png"})
request(
    "an output that does not exist",
    422,
    "POST",
    "/segment?output=hologram",
    files={"file": encode(RGB)},
)
request(
    "a form without a boundary",
    400,
    "POST",
    "/segment",
    content=SOUND,
    headers={"Content-Type": MULTIPART},
)
request(
    "a form with another boundary than it says",
    400,
    "POST",
    "/segment",
    content=SOUND,
    headers={"Content-Type": f"{MULTIPART}; boundary=c"},
)
request(
    "a form that stops in the middle of the file",
    422,
    "POST",
    "/segment",
    content=PART + encode(RGB)[:500],
    headers=FORM,
)
request(
    "a part without a name",
    400,
    "POST",
    "/segment",
    content=b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
    headers=FORM,
)
request("1,001 files", 400, "POST", "/segment/volume", files=[("files", b"")] * 1001)
request(
    "1,001 fields",
    400,
    "POST",
    "/segment",
    data={f"f{n}": "x" for n in range(1001)},
    files={"file": encode(RGB)},
)
request(
    "a body packed with gzip",
    400,
    "POST",
    "/segment",
    content=gzip.compress(SOUND),
    headers=FORM | {"Content-Encoding": "gzip"},
)
request("GET instead of POST", 405, "GET", "/segment")
request("DELETE", 405, "DELETE", "/segment")
request("a path that does not exist", 404, "GET", "/segment/../../etc/passwd")
request("a path with NUL", 404, "GET", "/segment%00.png")
request(
    "more bytes than `max_upload_bytes`, announced",
    413,
    "POST",
    "/segment",
    content=bytes(65 * 2**20),
    headers=FORM,
)
request(
    "more bytes than `max_upload_bytes`, streamed without a length",
    413,
    "POST",
    "/segment",
    content=(part for part in [PART, *[bytes(2**20)] * 65]),
    headers=FORM,
)
bare("a length that is no number", 400, "POST /segment HTTP/1.1\nHost: a\nContent-Length: many")
bare("a negative length", 400, "POST /segment HTTP/1.1\nHost: a\nContent-Length: -5")
bare("no HTTP", 400, "MZ\x90 hello")

# Volumes
to_volume("a volume with a text in it", 415, encode(RGB), b"text", encode(RGB))
to_volume("a volume with a truncated slice", 422, encode(RGB), encode(RGB)[:2000])
to_volume(
    "513 slices", 422, lambda: tiff(np.zeros((513, 32, 32), np.uint8), photometric="minisblack")
)
to_volume("a bomb: pages of 4,096 x 4,096 pixels", 422, large_stack)
to_volume("an empty zip", 422, zipped())
to_volume("a zip of folders alone", 422, zipped(("patient/", b"")))
to_volume("a zip with damaged pixels", 422, damaged(zipped(("a.png", encode(RGB))), 900))
to_volume("a truncated zip", 422, zipped(("a.png", encode(RGB)))[:3000])
to_volume("an encrypted zip", 422, encrypted_zip())
to_volume("a zip with a link to /etc/passwd", 415, symlink_zip())
to_volume("a zip in a zip", 415, zipped(("inner.zip", zipped(("a.png", encode(RGB))))))
to_volume(
    "a zip bomb: 400 MB of zeros",
    422,
    lambda: zipped(("a.png", bytes(400 * 2**20)), compression=zipfile.ZIP_DEFLATED),
)
to_volume("a zip bomb that says it is small", 422, modest_bomb)
to_volume("a zip of 600 slices", 422, zipped(*((f"{n}.png", encode(RGB)) for n in range(600))))
to_volume(
    "a zip of two patients",
    422,
    zipped(*((f"{patient}/{patient}_{n}.png", encode(RGB)) for patient in "ab" for n in (1, 2))),
)
to_volume("a zip with LZMA", 422, zipped(("a.png", encode(RGB)), compression=zipfile.ZIP_LZMA))
to_volume("a zip with bzip2", 422, zipped(("a.png", encode(RGB)), compression=zipfile.ZIP_BZIP2))
to_volume("a zip that says it holds 4 GB", 422, lying_zip())
to_volume("a zip that lists 10,000 files", 422, zipped(("a.png", encode(RGB))) + b"PK\1\2" * 10_000)

# Odd, but sound: a mask comes back
to_segment(
    "a PNG with a zip behind it (polyglot)", 200, encode(RGB) + zipped(("a.html", "<script/>"))
)
to_segment("grey TIFF of 16 bits, of which 12 are used", 200, tiff(GREY.astype(np.uint16) * 16))
to_segment("TIFF of 32-bit integers", 200, tiff(GREY.astype(np.uint32)))
to_segment("BigTIFF", 200, tiff(RGB, photometric="rgb", bigtiff=True))
to_segment("a black slice", 200, encode(RGB * 0))
to_segment("`Accept` of something else", 200, encode(RGB), headers={"Accept": "application/dicom"})
request(
    "a file name of 3,000 characters",
    200,
    "POST",
    "/segment",
    files={"file": ("x" * 3000, encode(RGB))},
)
request(
    "a file name `../../etc/passwd`",
    200,
    "POST",
    "/segment",
    files={"file": ("../../etc/passwd", encode(RGB))},
)
request("a file name with NUL", 200, "POST", "/segment", files={"file": ("a\0b.png", encode(RGB))})
to_volume(
    "a zip with names `../../a.png`, `/etc/b.png` and `²`",
    200,
    zipped(("../../a.png", encode(RGB)), ("/etc/b.png", encode(RGB)), ("²", encode(RGB))),
)
to_volume(
    "a zip with a mask beside its slice, which is left out",
    200,
    zipped(("p_1.png", encode(RGB)), ("p_1_mask.png", b"not read")),
)
to_volume("a zip with a number of 5,000 digits as name", 200, zipped(("1" * 5000, encode(RGB))))


@pytest.fixture(scope="module")
def service(server):
    """A client of the service, and the service's log."""
    address, _, log = server
    with httpx.Client(base_url=address, timeout=60) as client:
        yield client, log


@pytest.fixture(scope="module")
def rows():
    return DOCUMENT.read_text().splitlines()


@pytest.mark.parametrize(("what", "status", "send"), CASES, ids=[case[0] for case in CASES])
def test_every_bad_input_gets_the_documented_answer(service, rows, what, status, send):
    client, log = service
    answer = send(client)
    assert answer.status_code == status, answer.text
    if status == 200:
        detail = "a mask"
        assert answer.headers["content-type"] in ("image/png", "image/tiff")
    elif answer.headers["content-type"] == "application/problem+json":
        detail = answer.json()["detail"]
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
    else:  # what is no HTTP never reaches the application
        detail = answer.text
    assert f"| {what} | {status} | {detail} |" in rows
    assert "unexpected error" not in log.read_text()


def test_the_document_has_no_row_that_is_not_tried(rows):
    start = rows.index("| what is sent | status | answer |") + 2
    written = [row.split(" | ")[0].removeprefix("| ") for row in rows[start:] if row]
    assert written == [what for what, _, _ in CASES]
    assert len(written) > 40


def test_a_client_that_goes_away_leaves_no_error_behind(service):
    client, log = service
    head = b"POST /segment HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\n"
    head += f"Content-Type: {FORM['Content-Type']}\r\n\r\n".encode()
    with socket.create_connection((client.base_url.host, client.base_url.port), 20) as line:
        line.sendall(head + SOUND[:500])
    assert client.get("/health").status_code == 200
    time.sleep(0.5)
    assert "Traceback" not in log.read_text()
