"""What the hooks do around a run, with a real MLflow store."""

import mlflow
import pytest
from kedro.io import DataCatalog
from kedro.pipeline import Node
from kedro_datasets.json import JSONDataset

from brain_mri_segmentation.hooks import TrackRun


@pytest.fixture
def run(tmp_path):
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.set_experiment("test")
    with mlflow.start_run() as run:
        yield run
    mlflow.set_tracking_uri(None)


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
        catalog.save(name, {"dice": 0.5})
        tracker.after_dataset_saved(name, {"dice": 0.5})
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
    assert mlflow.artifacts.load_dict(place) == {"dice": 0.5}


def test_without_a_run_nothing_is_logged():
    tracker = TrackRun()
    tracker.before_pipeline_run(DataCatalog())
    node = Node(print, "experiment_logger", None, name="train_model")
    assert tracker.before_node_run(node) is None
