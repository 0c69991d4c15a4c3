"""What the hooks do around a run, with a real MLflow store."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import mlflow
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node
from kedro_datasets.json import JSONDataset

from brain_mri_segmentation.errors import InputError, StoppedError
from brain_mri_segmentation.hooks import TrackRun


@pytest.fixture
def run(tmp_path):
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.set_experiment("test")
    with mlflow.start_run() as run:
        yield run
    mlflow.set_tracking_uri(None)


REPORT = {"split": "out_of_fold", "dice": 0.5, "hd95_mm": 3.0, "undefined_patients": 0.0}
REPORT |= {"intervals_95": {"dice": [0.4, 0.6]}, "dice_by_fold": {"1": 0.75}}
REPORT |= {"single_slices": REPORT | {"dice": None}}


@pytest.fixture
def tracker(run, tmp_path):
    reported = {"filepath": str(tmp_path / "metrics.json"), "metadata": {"mlflow": "artifact"}}
    kept = {"filepath": str(tmp_path / "kept.json")}
    catalog = DataCatalog(
        {"out_of_fold.metrics": JSONDataset(**reported), "kept": JSONDataset(**kept)}
    )
    tracker = TrackRun()
    tracker.before_pipeline_run(catalog)
    for name in ("out_of_fold.metrics", "kept"):
        catalog.save(name, REPORT)
        tracker.after_dataset_saved(name, REPORT)
    return tracker


def logger_of(tracker, namespace):
    name = f"{namespace}.experiment_logger" if namespace else "experiment_logger"
    node = Node(print, name, None, name="train_model", namespace=namespace)
    return tracker.before_node_run(node)[name]


def test_a_training_writes_each_epoch_to_the_run_and_leaves_it_open(tracker, run):
    logger = logger_of(tracker, None)
    logger.log_metrics({"val/dice": 0.25}, step=1)
    logger.log_metrics({"val/dice": 0.5}, step=2)
    logger.finalize("success")
    client = mlflow.MlflowClient()
    assert client.get_run(run.info.run_id).info.status == "RUNNING"
    history = client.get_metric_history(run.info.run_id, "val/dice")
    assert [(m.step, m.value) for m in history] == [(1, 0.25), (2, 0.5)]


def test_a_fold_has_a_run_of_its_own_in_the_run(tracker, run):
    logger = logger_of(tracker, "fold_1")
    logger.log_metrics({"val/dice": 0.25}, step=1)
    logger.finalize("success")
    fold = mlflow.MlflowClient().get_run(logger.run_id)
    assert (fold.info.run_name, fold.info.status) == ("fold_1", "FINISHED")
    assert fold.data.tags["mlflow.parentRunId"] == run.info.run_id


def test_reports_are_artifacts_and_other_files_are_not(tracker, run):
    found = mlflow.artifacts.list_artifacts(run_id=run.info.run_id)
    assert [item.path for item in found] == ["out_of_fold"]
    place = f"runs:/{run.info.run_id}/out_of_fold/metrics.json"
    assert mlflow.artifacts.load_dict(place) == REPORT


def test_two_cohorts_of_one_run_have_each_its_fingerprint(tracker, run):
    for name, split in (("data_fingerprint", "abc"), ("scoring.data_fingerprint", "def")) * 2:
        tracker.after_dataset_loaded(name, {"split": split})
    params = mlflow.MlflowClient().get_run(run.info.run_id).data.params
    assert (params["fingerprint.split"], params["scoring.fingerprint.split"]) == ("abc", "def")


def test_defined_metrics_are_metrics_of_the_run(tracker, run):
    assert mlflow.MlflowClient().get_run(run.info.run_id).data.metrics == {
        "out_of_fold/dice": 0.5,
        "out_of_fold/undefined_patients": 0,
        "out_of_fold/single_slices/undefined_patients": 0,
        "out_of_fold/dice_of_fold_1": 0.75,
    }


def test_without_a_run_nothing_is_logged():
    tracker = TrackRun()
    tracker.before_pipeline_run(DataCatalog())
    node = Node(print, "experiment_logger", None, name="train_model")
    assert tracker.before_node_run(node) is None


@pytest.mark.slow
@pytest.mark.parametrize("what", ["SIGTERM", "SIGINT"])
def test_a_run_that_is_told_to_stop_anywhere_ends_as_killed(tmp_path, what):
    code = """
import os, signal, sys
import mlflow
from kedro.io import DataCatalog
from brain_mri_segmentation.hooks import TrackRun

# What was started in the background may have inherited that it is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
mlflow.set_tracking_uri("sqlite:///mlflow.db")
mlflow.start_run()
mlflow.start_run(nested=True)
TrackRun().before_pipeline_run(DataCatalog())
os.kill(os.getpid(), getattr(signal, sys.argv[1]))
"""
    command = [sys.executable, "-c", code, what]
    environment = {n: value for n, value in os.environ.items() if not n.startswith("MLFLOW_")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, timeout=100)
    assert done.returncode == {"SIGTERM": 128 + 15, "SIGINT": -signal.SIGINT}[what]
    runs = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["0"])
    assert [run.info.status for run in runs] == ["KILLED", "KILLED"]


def test_a_training_that_was_told_to_stop_did_not_fail(tracker, run):
    client = mlflow.MlflowClient()
    for error, status in (
        (InputError("no such file"), "RUNNING"),  # kedro-mlflow does the rest
        (StoppedError("told to stop"), "KILLED"),
    ):
        tracker.on_pipeline_error(error)
        assert client.get_run(run.info.run_id).info.status == status


def test_what_a_killed_training_left_running_is_ended_by_the_next_one(run, tmp_path):
    client, workspace = mlflow.MlflowClient(), tmp_path / "workspace"
    places = {"fold_1.training_workspace": MemoryDataset({"path": str(workspace)})}
    inputs = ["fold_1.training_workspace", "fold_1.experiment_logger"]
    node = Node(print, inputs, None, name="train_model", namespace="fold_1")

    def start():
        """Start a training, and return the ids of its run and of its fold's."""
        own, tracker = mlflow.start_run(nested=True), TrackRun()
        tracker.before_pipeline_run(DataCatalog(places))
        fold = tracker.before_node_run(node)["fold_1.experiment_logger"].run_id
        mlflow.tracking.fluent._active_run_stack.get().remove(own)  # as if it were killed
        tracker.after_pipeline_run()
        return own.info.run_id, fold

    def statuses(ids):
        return [client.get_run(run_id).info.status for run_id in ids]

    killed = start()
    assert statuses(killed) == ["RUNNING", "RUNNING"]
    other = client.create_run("0").info.run_id
    running = start()
    assert statuses(killed) == ["KILLED", "KILLED"]
    assert statuses([*running, other]) == ["RUNNING", "RUNNING", "RUNNING"]
    client.set_terminated(running[0], "FINISHED")
    client.delete_run(running[1])
    start()
    assert client.get_run(running[0]).info.status == "FINISHED"


@pytest.mark.slow
def test_a_training_goes_on_without_its_server_and_tells_it_later(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"

    @contextlib.contextmanager
    def server():
        code = """
import os, sys
from mlflow import server
os.environ[server.BACKEND_STORE_URI_ENV_VAR] = "sqlite:///mlflow.db"
os.environ[server.ARTIFACT_ROOT_ENV_VAR] = "."
from werkzeug.serving import run_simple
run_simple("127.0.0.1", int(sys.argv[1]), server.app)
"""
        command = [sys.executable, "-c", code, address.rpartition(":")[2]]
        with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
            for _ in range(600):
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{address}/health").is_success:
                        break
                time.sleep(0.2)
            yield
            process.kill()

    mlflow.set_tracking_uri(address)
    try:
        with server():
            monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", mlflow.create_experiment("test"))
            run, tracker = mlflow.start_run(), TrackRun()
            tracker.before_pipeline_run(DataCatalog())
            tracker.after_pipeline_run()
            logger = logger_of(tracker, "fold_1")
            logger.log_metrics({"val/dice": 0.25}, step=1)
        for step in (2, 3):
            logger.log_metrics({"val/dice": 0.25 * step}, step=step)
        assert len(logger.unsent) == 2
        with server():
            logger.log_metrics({"val/dice": 1.0}, step=4)
            client = mlflow.MlflowClient()
            history = client.get_metric_history(logger.run_id, "val/dice")
            mlflow.end_run()
            assert client.get_run(run.info.run_id).info.status == "FINISHED"
        assert [(m.step, m.value) for m in history] == [(1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)]
    finally:
        mlflow.set_tracking_uri(None)
