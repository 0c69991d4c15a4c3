"""Connections that ask for nothing, for ever: what the server around the application bears."""

import socket
import time

import httpx
import pytest

# Minutes become seconds, and one route more gives a large answer.
IMPATIENT_SERVER = """
import os
from fastapi import Response
from brain_mri_segmentation.serving import create_app, server
server._SECONDS |= {"head": 1.0, "body": 3.0, "answer": 30.0}
server._SILENCE = 1.5
server.MOST_CONNECTIONS = 8
app = create_app()
app.add_api_route("/large", lambda: Response(bytes(64 * 2**20)))
server.run(app, "127.0.0.1", int(os.environ["UVICORN_PORT"]))
"""
UPLOAD = (
    b"POST /segment HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9999\r\n"
    b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
)


@pytest.fixture(scope="module")
def address(serve, tmp_path_factory):
    with serve(tmp_path_factory.mktemp("server"), "-c", IMPATIENT_SERVER) as (address, _, log):
        yield address
        assert "Traceback" not in log.read_text()


def connect(address):
    url = httpx.URL(address)
    return socket.create_connection((url.host, url.port), 20)


def seconds_until_cut_off(line, drip=b""):
    """Wait until the other side ends a connection, and send a byte twice a second meanwhile."""
    started = time.monotonic()
    line.settimeout(0.5)
    while time.monotonic() - started < 20:
        try:
            if drip:
                line.sendall(drip)
            if not line.recv(2**16):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - started


@pytest.mark.parametrize(
    ("sent", "drip", "least", "most"),
    [
        (b"", b"", 0.9, 4),  # no request at all
        (b"GET / HTTP/1.1\r\nHost: a", b"", 0.9, 4),  # half a head
        (b"GET / HTTP/1.1\r\nX: ", b"x", 0.9, 4),  # a head that comes byte by byte
        (UPLOAD, b"", 1.4, 5),  # half an upload
        (UPLOAD, b"x", 2.9, 7),  # an upload that comes byte by byte
    ],
)
def test_a_request_that_does_not_come_is_cut_off(address, sent, drip, least, most):
    with connect(address) as line:
        line.sendall(sent)
        assert least < seconds_until_cut_off(line, drip) < most
    assert httpx.get(f"{address}/health").status_code == 200


def test_a_head_without_end_is_refused(address):
    with connect(address) as line:
        line.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000)
        assert line.recv(100).startswith(b"HTTP/1.1 400 ")


def test_an_answer_that_nobody_takes_is_cut_off(address):
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        url = httpx.URL(address)
        line.connect((url.host, url.port))
        line.sendall(b"GET /large HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        time.sleep(4)
        line.settimeout(20)
        received = 0
        try:
            while part := line.recv(2**20):
                received += len(part)
        except ConnectionError:
            pass
        assert received < 2**25


def test_an_answer_that_is_taken_slowly_but_steadily_is_not(address):
    with httpx.stream("GET", f"{address}/large", timeout=60) as answer:
        received = 0
        for part in answer.iter_raw(2**22):
            received += len(part)
            time.sleep(0.2)
    assert received == 64 * 2**20


def test_connections_have_a_bound(address):
    lines = [connect(address) for _ in range(9)]
    try:
        answer = httpx.get(f"{address}/health")
        assert answer.status_code == 503
        lines += [connect(address) for _ in range(20)]
        assert seconds_until_cut_off(lines[-1]) < 0.9  # at once, before it could have asked
    finally:
        for line in lines:
            line.close()
    time.sleep(0.5)
    assert httpx.get(f"{address}/health").status_code == 200
