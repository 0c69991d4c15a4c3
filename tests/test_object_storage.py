"""The project with its data and models on object storage: a real S3 server on loopback."""

import json
import logging

import fsspec
import mlflow
import numpy as np
import pytest
import yaml
from kedro.io import DatasetError
from test_project import SMALL, Project

from brain_mri_segmentation.datasets.checkpoint_dataset import CheckpointDataset
from brain_mri_segmentation.datasets.exported_model_dataset import ExportedModelDataset
from brain_mri_segmentation.datasets.slice_folder_dataset import SliceFolderDataset
from brain_mri_segmentation.datasets.storage import local_path
from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.inference.predictor import Predictor
from brain_mri_segmentation.serving.model import load_serving_model

pytestmark = pytest.mark.slow

pytest.importorskip("s3fs", reason="the extra s3 is not installed")


@pytest.fixture(scope="module")
def storage():
    """Credentials of an S3 server with an empty bucket called lgg."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    credentials = {"key": "me", "secret": "mine", "endpoint_url": f"http://{host}:{port}"}
    fsspec.filesystem("s3", **credentials).mkdir("lgg")
    yield credentials
    server.stop()


@pytest.fixture(scope="module")
def bucket(storage):
    return fsspec.filesystem("s3", **storage)


@pytest.fixture(scope="module")
def project(storage, bucket, tmp_path_factory):
    """The project after one run of all its pipelines, with an environment called cloud."""
    project = Project(tmp_path_factory.mktemp("cloud"))
    bucket.put(f"{project.data('01_raw/kaggle_3m')}/", "lgg/kaggle_3m/", recursive=True)
    bucket.pipe_file("lgg/split.csv", _manifest(project))
    conf = {
        "globals": {
            "model": "unet",
            "data": "s3://lgg/data",
            "local_data": "scratch",
            "raw_path": "s3://lgg/kaggle_3m",
            "split_manifest": "s3://lgg/split.csv",
            "serving_model": "s3://lgg/data/06_models/unet/best.ckpt",
        },
        "credentials": {"storage": storage},
        # MLflow keeps one store for an address; a relative one may be that of another test.
        "mlflow": {"server": {"mlflow_tracking_uri": f"sqlite:///{project.folder}/mlflow.db"}},
        # Processes that read slices are forked, which connections to a server do not survive.
        "parameters": SMALL | {"training": SMALL["training"] | {"num_workers": 1}},
    }
    for name, values in conf.items():
        path = project.folder / f"conf/cloud/{name}.yml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(values))
    project.run(env="cloud")
    return project


def _manifest(project) -> bytes:
    patients = sorted(path.name for path in project.data("01_raw/kaggle_3m").iterdir())
    rows = zip(patients, ["train", "train", "train", "val", "test"], strict=True)
    return "\n".join(["patient,split", *map(",".join, rows)]).encode()


def test_slices_model_and_reports_are_in_the_bucket_and_nowhere_else(project, bucket):
    places = {
        "05_model_input/train/images/_complete.json",
        "06_models/unet/best.ckpt",
        "06_models/unet/uncalibrated.ckpt",
        "07_model_output/unet/masks/_complete.json",
        "08_reporting/cohort_overview.png",
        "08_reporting/unet/metrics.json",
        "08_reporting/unet/training_history.csv",
        "08_reporting/unet/slice_gallery.png",
    }
    found = {path.removeprefix("lgg/data/") for path in bucket.find("lgg/data")}
    assert places <= found
    assert len(bucket.glob("lgg/data/05_model_input/train/images/*.tif")) == 18
    assert json.loads(bucket.cat_file("lgg/data/08_reporting/unet/metrics.json"))["split"] == "test"
    assert not project.data("05_model_input").exists()
    local = {path.name for path in (project.folder / "scratch").rglob("*") if path.is_file()}
    assert local == {".lock", ".mlflow_runs", "last.ckpt"}


def test_plots_and_tables_are_in_the_mlflow_run_as_well(project):
    client = mlflow.MlflowClient(f"sqlite:///{project.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("brain-mri-segmentation")
    (run,) = client.search_runs([experiment.experiment_id])
    artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"metrics.json", "patient_scores.csv", "slice_gallery.png"} <= artifacts


def test_the_model_segments_and_is_served_from_the_bucket(project, storage, monkeypatch):
    dataset = CheckpointDataset("s3://lgg/data/06_models/unet/best.ckpt", "unet", storage)
    assert dataset.exists()
    images = SliceFolderDataset("s3://lgg/data/05_model_input/test/images", storage).load()
    volume = Volume(np.stack([read() for read in images.values()]))
    found = Predictor(dataset.load()).predict(volume)
    assert len(found.mask) == len(images)
    monkeypatch.setenv("KEDRO_ENV", "cloud")
    model, place = load_serving_model(project.folder)
    assert place == "s3://lgg/data/06_models/unet/best.ckpt"
    assert model.checkpoint.digest == dataset.load().digest
    monkeypatch.setenv("SERVING_MODEL", "s3://lgg/data/06_models/unet/uncalibrated.ckpt")
    model, place = load_serving_model(project.folder)
    assert place.endswith("uncalibrated.ckpt")


def test_an_exported_folder_is_loaded_from_the_bucket(project, storage, bucket, tmp_path):
    checkpoint = CheckpointDataset("s3://lgg/data/06_models/unet/best.ckpt", None, storage).load()
    exported = ExportedModelDataset(str(tmp_path / "exported"))
    exported.save(checkpoint.folder_files({}))
    bucket.put(str(tmp_path / "exported"), "lgg/exported", recursive=True)
    loaded = CheckpointDataset("s3://lgg/exported", None, storage).load()
    assert loaded.digest == checkpoint.digest


def test_a_model_that_is_missing_or_damaged_is_refused_by_its_place(storage, bucket):
    missing = CheckpointDataset("s3://lgg/none.ckpt", None, storage)
    assert not missing.exists()
    with pytest.raises(DatasetError, match="There is no checkpoint at s3://lgg/none.ckpt"):
        missing.load()
    bucket.pipe_file("lgg/half.ckpt", b"half of it")
    with pytest.raises(DatasetError, match="s3://lgg/half.ckpt is no checkpoint"):
        CheckpointDataset("s3://lgg/half.ckpt", None, storage).load()


def test_a_failed_transfer_leaves_the_model_before(project, storage, bucket):
    place = "lgg/data/06_models/unet/best.ckpt"
    before = bucket.cat_file(place)
    checkpoint = CheckpointDataset(f"s3://{place}", None, storage).load()
    refused = CheckpointDataset(
        f"s3://{place}", None, storage | {"endpoint_url": "http://127.0.0.1:9"}
    )
    with pytest.raises(DatasetError):
        refused.save(checkpoint)
    assert bucket.cat_file(place) == before


def test_a_folder_saved_again_is_read_anew(storage):
    dataset = SliceFolderDataset("s3://lgg/again", storage)
    for value in (1, 2):
        dataset.save({"A_1": np.full((32, 32), value, np.uint8)})
        assert int(dataset.load()["A_1"]().max()) == value


def test_what_must_be_on_a_local_disk_says_so():
    for make in (local_path, ExportedModelDataset):
        with pytest.raises(
            ValueError, match=r"s3://lgg/x must be on a local disk.*local_data: data"
        ):
            make("s3://lgg/x")
