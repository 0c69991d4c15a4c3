"""What users and attackers send, against the running service.

What it answers to each is in the table at the end of docs/serving.md; a failing test shows what
the row should be.
"""

import gzip
import socket
import time
from http.client import HTTPResponse

import httpx
import pytest
from bad_inputs import DOCUMENTED, FILES, VOLUMES
from pictures import RGB, encode

FORM = {"Content-Type": "multipart/form-data; boundary=b"}
NAMES = b'; name="file"; filename="a.png"'
PART = b"--b\r\nContent-Disposition: form-data" + NAMES + b"\r\n\r\n"
SOUND = PART + encode(RGB) + b"\r\n--b--\r\n"
MEGABYTE = bytes(2**20)


def body(content, **headers):
    return {"content": content, "headers": FORM | headers}


def named(name):
    return {"files": {"file": (name, encode(RGB))}}


REQUESTS = {  # POST /segment, unless they say otherwise
    "no file": {},
    "the file in a field of another name": {"files": {"image": encode(RGB)}},
    "a text in the field `file`": {"data": {"file": "slice.png"}},
    "two files where one is expected": {"files": [("file", encode(RGB))] * 2},
    "the picture itself as the body": body(encode(RGB), **{"Content-Type": "image/png"}),
    "JSON": {"json": {"file": "slice.png"}},
    "an output that does not exist": {"params": {"output": "hologram"}} | named("slice.png"),
    "a form without a boundary": body(SOUND, **{"Content-Type": "multipart/form-data"}),
    "a form with another boundary than it says": body(SOUND.replace(b"--b", b"--c")),
    "a form that stops in the middle of the file": body(SOUND[:500]),
    "a part without a name": body(SOUND.replace(NAMES, b"")),
    "1,001 files": {"files": [("file", b"")] * 1001},
    "1,001 fields": {"data": {f"f{n}": "" for n in range(1001)}} | named("slice.png"),
    "a body packed with gzip": body(gzip.compress(SOUND), **{"Content-Encoding": "gzip"}),
    "GET instead of POST": {"method": "GET"},
    "a path that does not exist": {"method": "GET", "url": "/segment/../../etc/passwd"},
    "a path with NUL": {"method": "GET", "url": "/segment%00.png"},
    "more bytes than `max_upload_bytes`, announced": body(MEGABYTE * 65),
    "more bytes than `max_upload_bytes`, streamed without a length": body(
        part for part in [PART, *[MEGABYTE] * 65]
    ),
    "`Accept` of something else": named("slice.png") | {"headers": {"Accept": "application/dicom"}},
    "a file name of 3,000 characters": named("x" * 3000),
    "a file name `../../etc/passwd`": named("../../etc/passwd"),
    "a file name with NUL": named("a\0b.png"),
}

LINES = {  # sent as they are, then nothing more
    "a length that is no number": b"POST /segment HTTP/1.1\r\nHost: a\r\nContent-Length: many",
    "a negative length": b"POST /segment HTTP/1.1\r\nHost: a\r\nContent-Length: -5",
    "no HTTP": b"MZ\x90 hello",
}

CASES = [*FILES, *VOLUMES, *REQUESTS, *LINES]


def send(client, what):
    if what in FILES:
        return client.post("/segment", files={"file": FILES[what]})
    if what in VOLUMES:
        content = VOLUMES[what]() if callable(VOLUMES[what]) else VOLUMES[what]
        contents = content if isinstance(content, list) else [content]
        return client.post("/segment/volume", files=[("files", content) for content in contents])
    if what in REQUESTS:
        return client.request(**{"method": "POST", "url": "/segment"} | REQUESTS[what])
    with connect(client) as line:
        line.sendall(LINES[what] + b"\r\n\r\n")
        line.shutdown(socket.SHUT_WR)
        answer = HTTPResponse(line)
        answer.begin()
        return httpx.Response(answer.status, content=answer.read())


def connect(client):
    return socket.create_connection((client.base_url.host, client.base_url.port), 20)


@pytest.fixture(scope="module")
def service(server):
    """A client of the service, and the service's log."""
    address, _, log = server
    with httpx.Client(base_url=address, timeout=60) as client:
        yield client, log


@pytest.mark.parametrize("what", CASES)
def test_every_bad_input_gets_the_documented_answer(service, what):
    client, log = service
    answer = send(client, what)
    detail = answer.text  # of what is no HTTP, which never reaches the application
    if answer.status_code == 200:
        detail = "a mask"
        assert answer.headers["content-type"] in ("image/png", "image/tiff")
    elif answer.headers.get("content-type") == "application/problem+json":
        detail = answer.json()["detail"]
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert (answer.status_code, detail) == DOCUMENTED[what]
    assert "ERROR" not in log.read_text()


def test_the_document_has_no_row_that_is_not_tried():
    assert DOCUMENTED.keys() == set(CASES)


def test_a_client_that_goes_away_leaves_no_error_behind(service):
    client, log = service
    with connect(client) as line:
        line.sendall(b"POST /segment HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\n")
        line.sendall(f"Content-Type: {FORM['Content-Type']}\r\n\r\n".encode() + SOUND[:500])
    assert client.get("/health").status_code == 200
    time.sleep(0.5)
    assert "Traceback" not in log.read_text()
