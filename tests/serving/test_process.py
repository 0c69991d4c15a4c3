"""The service as a process of its own, as `make serve` starts it."""

import io
import json
import signal
import threading
import time

import httpx
import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def stack(image, count):
    return [("files", (f"{n}.png", png(np.roll(image, n, axis=0)))) for n in range(count)]


def test_it_says_at_start_what_it_serves_in_json(server):
    address, _, log = server
    assert httpx.get(f"{address}/ready").json()["model_name"] == "unet"
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    start = next(line for line in lines if line["message"].startswith("serving unet"))
    assert start["source"].endswith("best.ckpt")
    assert start["val_dice"] == 0.25
    assert any(line["message"] == "request" and line["path"] == "/ready" for line in lines)


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
        while "http_requests_in_flight 2.0" not in httpx.get(f"{address}/metrics").text:
            assert client.is_alive()
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        client.join()
        assert answers[0].status_code == 200
        # uvicorn ends with the signal that ended it, once everything is answered.
        assert process.wait(timeout=30) in (0, -signal.SIGTERM)
        assert "everything that was in flight is answered" in log.read_text()
