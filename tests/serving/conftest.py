import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from brain_mri_segmentation.inference import Segmenter
from brain_mri_segmentation.models import Checkpoint, create_model
from brain_mri_segmentation.serving.app import Service, create_app

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def segmenter(parameters):
    """A small network with random weights, and a threshold at which it finds half a picture."""
    torch.manual_seed(0)
    model = create_model("unet", {"channels": [4, 8]})
    preprocessing = parameters.preprocessing.model_dump() | {"image_size": 64, "threshold": 0.65}
    metadata = {"scores": {"val/dice": 0.25}, "code": "0123456789abcdef"}
    return Segmenter(Checkpoint("unet", model.config, preprocessing, model.state_dict(), metadata))


@pytest.fixture(scope="session")
def settings(parameters):
    return parameters.serving.model_copy(update={"max_upload_bytes": 200_000})


@pytest.fixture
def client(settings, segmenter):
    with TestClient(create_app(Service(settings, segmenter, "best.ckpt"))) as client:
        yield client


@pytest.fixture(scope="session")
def image():
    """A slice of 64 x 80 pixels with a dark border."""
    picture = np.zeros((64, 80, 3), np.uint8)
    picture[12:52, 15:65] = np.random.default_rng(0).integers(60, 160, (40, 50, 3))
    return picture


@pytest.fixture
def start_server(segmenter, tmp_path):
    """Starts the service on loopback with a Python command: its address, process and log."""
    segmenter.checkpoint.save(tmp_path / "best.ckpt")
    with contextlib.ExitStack() as stack:

        def start(*uvicorn):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            environment = os.environ | {
                "SERVING_MODEL": str(tmp_path / "best.ckpt"),
                "KEDRO_PROJECT": str(PROJECT),
            }
            command = [sys.executable, *uvicorn, "--factory"]
            command += ["brain_mri_segmentation.serving:create_app", "--port", str(port)]
            log = stack.enter_context((tmp_path / "log").open("w"))
            process = subprocess.Popen(command, env=environment, stderr=log, stdout=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
            address = f"http://127.0.0.1:{port}"
            for _ in range(300):
                try:
                    httpx.get(f"{address}/health")
                    break
                except httpx.TransportError:
                    assert process.poll() is None, (tmp_path / "log").read_text()
                    time.sleep(0.2)
            return address, process, tmp_path / "log"

        yield start


@pytest.fixture
def server(start_server):
    """A running service on loopback: its address, its process and its log."""
    return start_server("-m", "uvicorn")
