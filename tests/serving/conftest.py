import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import torch
from fastapi.testclient import TestClient
from pictures import RGB

from brain_mri_segmentation.inference.predictor import Predictor
from brain_mri_segmentation.models import Checkpoint, as_arrays, create_model
from brain_mri_segmentation.serving.app import Service, build_app

LOCALHOST = "http://localhost"  # a name that is allowed
PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def predictor(parameters):
    """A small network with random weights, and a threshold at which it finds half a picture."""
    torch.manual_seed(0)
    model = create_model("unet", {"channels": [4, 8]})
    preprocessing = parameters.preprocessing.model_dump() | {"image_size": 64, "threshold": 0.65}
    weights, metadata = as_arrays(model.state_dict()), {"val_dice": 0.25}
    return Predictor(Checkpoint("unet", model.config, preprocessing, weights, metadata))


@pytest.fixture(scope="session")
def settings(parameters):
    limits = {"max_upload_bytes": 200_000, "max_slice_bytes": 100_000}
    return parameters.serving.model_copy(update=limits)


@pytest.fixture
def client(settings, predictor):
    with TestClient(build_app(Service(settings, predictor)), LOCALHOST) as client:
        yield client


@pytest.fixture(scope="session")
def image():
    """A slice of 64 x 80 pixels with a dark border."""
    return RGB


@pytest.fixture(scope="session")
def serve(predictor):
    """Runs the service on loopback while a context lasts: its address, its process and its log."""

    @contextlib.contextmanager
    def running(folder, *python, **variables):
        predictor.checkpoint.save(folder / "best.ckpt")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = os.environ | {
            "SERVING_MODEL": str(folder / "best.ckpt"),
            "KEDRO_PROJECT": str(PROJECT),
            **variables,
        }
        environment |= {"UVICORN_PORT": str(port)}
        command = [sys.executable, *(python or ("-m", "brain_mri_segmentation.serving"))]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(command, env=environment, stderr=log, stdout=log)
            address = f"http://127.0.0.1:{port}"
            try:
                for _ in range(300):
                    try:
                        httpx.get(f"{address}/health")
                        break
                    except httpx.TransportError:
                        assert process.poll() is None, (folder / "log").read_text()
                        time.sleep(0.2)
                yield address, process, folder / "log"
            finally:
                process.kill()
                process.wait()

    return running


@pytest.fixture(scope="session")
def server(serve, tmp_path_factory):
    """A running service that all tests share: its address, its process and its log."""
    with serve(tmp_path_factory.mktemp("server")) as running:
        yield running
