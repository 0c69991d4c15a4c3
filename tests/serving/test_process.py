"""The service as a process of its own, as `make serve` starts it."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from pictures import encode

BROKEN_MODEL_AND_LITTLE_PATIENCE = """
import runpy
from brain_mri_segmentation.inference.predictor import Predictor
from brain_mri_segmentation.serving import server
Predictor.logits = lambda *_: 1 / 0
server.GRACE = 1
runpy.run_module("brain_mri_segmentation.serving", run_name="__main__")
"""


PROJECT = Path(__file__).resolve().parents[2]


def stack(image, count):
    return [("files", (f"{n}.png", encode(np.roll(image, n, axis=0)))) for n in range(count)]


def test_it_says_at_start_what_it_serves_in_json(server):
    address, _, log = server
    assert httpx.get(f"{address}/ready").json()["model_name"] == "unet"
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert any(line.get("source", "").endswith("best.ckpt") for line in lines)
    assert any(line["message"] == "request" and line["path"] == "/health" for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("UVICORN_PORT", "abc", "UVICORN_PORT is abc"),
        ("UVICORN_PORT", "99999", "UVICORN_PORT is 99999"),
        ("KEDRO_ENV", "nothere", "conf/nothere. Check KEDRO_ENV and KEDRO_PROJECT"),
    ],
)
def test_what_is_set_wrongly_is_one_line(name, value, said):
    environment = os.environ | {"KEDRO_PROJECT": str(PROJECT), name: value}
    command = [sys.executable, "-m", "brain_mri_segmentation.serving"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    (line,) = done.stderr.split("\n")[1:-1]
    assert line.startswith("Error: ")
    assert said in line


def test_health_answers_while_the_model_works(server, image):
    address, _, _ = server
    large = np.kron(image, np.ones((6, 6, 1), np.uint8))
    busy = threading.Thread(
        target=httpx.post,
        args=(f"{address}/segment/volume",),
        kwargs={"files": stack(large, 60), "timeout": 120},
    )
    busy.start()
    answered = 0
    while busy.is_alive():
        assert httpx.get(f"{address}/health", timeout=10).status_code == 200
        answered += 1
        time.sleep(0.01)
    busy.join()
    assert answered > 5


def test_sigterm_finishes_what_is_in_flight(serve, image, tmp_path):
    with serve(tmp_path) as (address, process, log):
        answers = []

        def post():
            large = np.kron(image, np.ones((6, 6, 1), np.uint8))
            answers.append(
                httpx.post(f"{address}/segment/volume", files=stack(large, 40), timeout=120)
            )

        client = threading.Thread(target=post)
        client.start()
        while "slices_in_progress 40.0" not in httpx.get(f"{address}/metrics").text:
            assert client.is_alive()
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        client.join()
        assert answers[0].status_code == 200
        # uvicorn ends with the signal that ended it, once everything is answered.
        assert process.wait(timeout=30) in (0, -signal.SIGTERM)
        assert "everything that was in flight is answered" in log.read_text()


def test_a_fault_is_logged_under_its_id_and_a_half_sent_upload_stops_no_shutdown(
    serve, image, tmp_path
):
    with serve(tmp_path, "-c", BROKEN_MODEL_AND_LITTLE_PATIENCE) as (address, process, log):
        answer = httpx.post(f"{address}/segment", files={"file": encode(image)}, timeout=60)
        assert answer.status_code == 500
        time.sleep(0.5)  # it is logged after it is answered
        fault = next(json.loads(line) for line in log.read_text().splitlines() if "ERROR" in line)
        assert fault["request_id"] == answer.headers["x-request-id"]
        assert "ZeroDivisionError" in fault["error"]
        url = httpx.URL(address)
        with socket.create_connection((url.host, url.port), 20) as line:
            line.sendall(b"POST /segment HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n")
            line.sendall(b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n")
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) in (0, -signal.SIGTERM)


def test_nothing_of_a_patient_is_logged_or_kept(serve, image, tmp_path):
    kept = tmp_path / "tmp"
    kept.mkdir()
    with serve(tmp_path, TMPDIR=str(kept)) as (address, process, log):
        patient = b"DOE^JANE " * 200_000  # more than stays in memory
        for kind, content in {
            "dcm": bytes(128) + b"DICM" + patient,
            "png": encode(image) + patient,
        }.items():
            named = (f"DOE^JANE.{kind}", content)
            for path, field in (("/segment", "file"), ("/segment/volume", "files")):
                headers = {"X-Patient": "DOE^JANE"}
                httpx.post(
                    f"{address}{path}?name=DOE^JANE", files={field: named}, headers=headers
                ).read()
        assert '"path": "/segment/volume"' in log.read_text()
        assert "DOE" not in log.read_text()
        assert [path for path in kept.rglob("*") if path.is_file()] == []
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
    assert list(kept.iterdir()) == []
