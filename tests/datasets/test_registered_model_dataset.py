"""Registering with a real MLflow server in a process of its own."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

from brain_mri_segmentation.datasets import (
    CheckpointDataset,
    RegisteredModelDataset,
    Release,
    load_checkpoint,
)
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.inference.predictor import (
    Predictor,
    load_model,
    segment_batch,
    segment_volume,
)
from brain_mri_segmentation.models import Checkpoint, create_model
from brain_mri_segmentation.serving.model import MODEL_VARIABLE, load_serving_model

pytestmark = pytest.mark.slow

NAME = "brain-mri-segmentation"
SLICES = np.random.default_rng(0).integers(0, 256, (3, 40, 48, 3), dtype=np.uint8)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def postgres():
    """The address of an empty PostgreSQL database on loopback."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), shutil.which("pg_ctl")]
    if found[0] is None:
        pytest.skip("PostgreSQL is not installed")
    programs, port = Path(found[0]).parent, free_port()
    # PostgreSQL refuses to run as root, and pytest's folders are open to their owner alone.
    user = "postgres" if os.geteuid() == 0 else None
    folder = tempfile.mkdtemp(prefix="postgres")

    def run(*command: str) -> None:
        subprocess.run(command, check=True, user=user, cwd=folder, capture_output=True, timeout=120)

    try:
        if user is not None:
            shutil.chown(folder, user)
        run(f"{programs}/initdb", "-D", "data", "-U", "mlflow", "--auth=trust", "--no-sync")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder} -c fsync=off"
        run(f"{programs}/pg_ctl", "-D", "data", "-l", "log", "-w", "-o", options, "start")
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
        run(f"{programs}/pg_ctl", "-D", "data", "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def mlflow_server(store: str, folder: Path):
    """Run a server, which this process and the ones it starts talk to."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", store]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, cwd=folder
        )
    before = mlflow.get_tracking_uri()
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5)
                break
            except OSError:
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.2)
        mlflow.set_tracking_uri(address)
        mlflow.set_experiment("registry")  # this process may remember one of another server
        yield address
    finally:
        mlflow.set_tracking_uri(before)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, 15)  # the server and its workers, which are a group of their own
        server.wait(timeout=60)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlflow")
    with mlflow_server(f"sqlite:///{folder}/mlflow.db", folder) as address:
        yield address


@pytest.fixture(scope="module")
def write_export(parameters, tmp_path_factory):
    """A function that writes an exported U-Net with random weights."""

    def write(seed: int) -> Path:
        torch.manual_seed(seed)
        model = create_model("unet", {"channels": [4, 8]})
        rules = parameters.preprocessing.model_dump() | {"image_size": 32, "min_component_ratio": 0}
        checkpoint = Checkpoint("unet", model.config, rules, model.state_dict())
        found = [r.probability for r in segment_batch(Predictor(checkpoint), list(SLICES))]
        rules["threshold"] = float(np.median(found))  # half of the picture
        folder = tmp_path_factory.mktemp("model") / "exported"
        folder.mkdir()
        for name, content in checkpoint.folder_files([20.0] * 3, [30.0] * 3, {}).items():
            (folder / name).write_bytes(content)
        return folder

    return write


@pytest.fixture(scope="module")
def champion(registry, write_export):
    """The folder of a model that has become the champion."""
    folder = write_export(0)
    tags = {"gate": "passed", "test/dice": "0.7000"}
    RegisteredModelDataset(NAME).save(Release(folder, "champion", "It passed.", tags))
    return folder


def versions():
    client = mlflow.MlflowClient()
    return {v.version: v for v in client.search_model_versions(f"name = '{NAME}'")}


def test_the_registry_gives_the_masks_of_the_exported_folder(champion):
    model = RegisteredModelDataset(NAME).load()
    predictor = load_model(champion)
    alone = np.stack([result.mask for result in segment_batch(predictor, list(SLICES))])
    assert np.array_equal(model.predict(SLICES), alone)
    volume = np.stack([result.mask for result in segment_volume(predictor, list(SLICES))])
    assert np.array_equal(model.predict(SLICES, params={"volume": True}), volume)
    assert not np.array_equal(alone, volume)


def test_the_version_says_what_it_takes_gives_and_needs(champion):
    version = mlflow.MlflowClient().get_model_version_by_alias(NAME, "champion")
    assert version.description == "It passed."
    assert version.tags["gate"] == "passed"
    info = mlflow.models.get_model_info(f"models:/{NAME}@champion")
    (tensor,) = info.signature.inputs.inputs
    assert (tensor.shape, str(tensor.type)) == ((-1, -1, -1, 3), "uint8")
    assert info.signature.outputs.inputs[0].shape == (-1, -1, -1)
    example = mlflow.pyfunc.load_model(f"models:/{NAME}@champion").input_example
    assert example.shape == (1, 64, 64, 3)
    listed = Path(mlflow.pyfunc.get_model_dependencies(f"models:/{NAME}@champion")).read_text()
    required = dict(line.split("==") for line in listed.splitlines())  # each is pinned
    assert required["mlflow"] == mlflow.__version__
    assert required["torch"] == torch.__version__.partition("+")[0]


def test_slices_of_another_type_are_refused(champion):
    with pytest.raises(mlflow.MlflowException, match="float"):
        RegisteredModelDataset(NAME).load().predict(SLICES.astype(np.float32))


ELSEWHERE = """
import sys
sys.path = [place for place in sys.path if not place.endswith("/src")]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
import mlflow, numpy as np
model = mlflow.pyfunc.load_model(sys.argv[1])
np.save(sys.argv[3], model.predict(np.load(sys.argv[2])))
import brain_mri_segmentation
print(brain_mri_segmentation.__file__)
"""


def test_it_is_loaded_where_this_project_is_not_installed(champion, registry, tmp_path):
    np.save(tmp_path / "slices.npy", SLICES)
    arguments = [f"models:/{NAME}@champion", tmp_path / "slices.npy", tmp_path / "masks.npy"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *map(str, arguments)],
        env=environment | {"MLFLOW_TRACKING_URI": registry},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "/code/brain_mri_segmentation/" in done.stdout  # as the version brought it
    expected = [result.mask for result in segment_batch(load_model(champion), list(SLICES))]
    assert np.array_equal(np.load(tmp_path / "masks.npy"), np.stack(expected))


def test_the_same_folder_is_not_registered_twice(champion):
    before = versions()
    RegisteredModelDataset(NAME).save(Release(champion, "champion", "It passed."))
    assert versions().keys() == before.keys()


def test_a_model_that_did_not_pass_leaves_the_champion(champion, write_export):
    before = mlflow.MlflowClient().get_model_version_by_alias(NAME, "champion").version
    RegisteredModelDataset(NAME).save(Release(write_export(1), None, "It did not pass."))
    assert mlflow.MlflowClient().get_model_version_by_alias(NAME, "champion").version == before
    latest = max(versions().values(), key=lambda version: int(version.version))
    assert latest.description == "It did not pass."
    assert not latest.aliases


def test_the_catalog_and_the_service_load_the_champion(champion, monkeypatch):
    place, digest = f"models:/{NAME}@champion", Checkpoint.load(champion).digest
    assert CheckpointDataset(filepath=place, model="unet").load().digest == digest
    monkeypatch.setenv(MODEL_VARIABLE, place)
    predictor, source = load_serving_model(Path.cwd())
    assert (predictor.checkpoint.digest, source) == (digest, place)


def test_an_alias_that_points_nowhere_is_an_error_that_says_what_to_run(champion):
    with pytest.raises(InputError, match="does not give models:/.*@nobody.*pipeline publishing"):
        load_checkpoint(f"models:/{NAME}@nobody")


def test_the_round_trip_with_postgresql_behind_the_server(postgres, write_export, tmp_path):
    folder = write_export(2)
    with mlflow_server(postgres, tmp_path):
        dataset = RegisteredModelDataset(NAME)
        dataset.save(Release(folder, "champion", "It passed."))
        dataset.save(Release(folder, "champion", "It passed."))
        assert len(versions()) == 1
        expected = [result.mask for result in segment_batch(load_model(folder), list(SLICES))]
        assert np.array_equal(dataset.load().predict(SLICES), np.stack(expected))
