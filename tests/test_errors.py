import subprocess
import sys

import pytest
from kedro.io import DatasetError
from kedro_datasets.json import JSONDataset
from kedro_datasets.pandas import CSVDataset
from kedro_datasets.partitions import PartitionedDataset
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from brain_mri_segmentation.errors import InputError, find_input_error
from brain_mri_segmentation.runtime.startup import storage_error

SCRIPT = """
from brain_mri_segmentation.errors import InputError, show_input_errors_without_traceback
show_input_errors_without_traceback()
try:
    raise InputError("the file is missing")
except InputError as error:
    raise {outer}("a framework wraps it") from error
"""


def run(outer):
    command = [sys.executable, "-c", SCRIPT.format(outer=outer)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_an_input_error_is_found_behind_what_wraps_it():
    inner, outer = InputError("inner"), RuntimeError("outer")
    outer.__cause__ = inner
    assert find_input_error(outer) is inner
    assert find_input_error(inner) is inner
    assert find_input_error(KeyError("x")) is None


def test_an_uncaught_input_error_ends_with_its_message_alone():
    done = run("RuntimeError")
    assert done.returncode == 1
    assert done.stderr.strip() == "Error: the file is missing"


def test_other_uncaught_errors_keep_their_traceback():
    script = SCRIPT.format(outer="RuntimeError").replace('InputError("the', 'KeyError("the')
    script = script.replace("except InputError", "except KeyError")
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def as_kedro_wraps(cause):
    try:
        try:
            raise cause
        except type(cause) as error:
            raise DatasetError("masks: Failed while saving") from error
    except DatasetError as error:
        return error


def test_what_a_disk_refuses_is_told_with_the_dataset():
    told = storage_error(as_kedro_wraps(OSError(28, "No space left on device")))
    assert str(told).startswith("masks: Failed while saving")


def test_what_an_object_storage_refuses_is_told_with_the_dataset():
    exceptions = pytest.importorskip("botocore.exceptions", reason="the extra s3 is not installed")
    assert storage_error(as_kedro_wraps(exceptions.NoCredentialsError())) is not None
    told = storage_error(exceptions.NoCredentialsError())  # as segment s3://... meets it
    assert str(told).startswith("Unable to locate credentials\nCheck the path")


def test_a_folder_without_reports_and_a_file_that_is_cut_are_told(tmp_path):
    (tmp_path / "split.csv").write_bytes(b"")
    (tmp_path / "metrics.json").write_text('{"dice": 0.')
    for dataset in (
        PartitionedDataset(path=str(tmp_path / "none"), dataset="json.JSONDataset"),
        CSVDataset(filepath=str(tmp_path / "split.csv")),
        JSONDataset(filepath=str(tmp_path / "metrics.json")),
    ):
        with pytest.raises(DatasetError) as caught:
            dataset.load()
        assert "Check the path" in str(storage_error(caught.value))


def test_an_mlflow_server_that_has_gone_is_told(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(MlflowException) as caught:
        MlflowClient("http://127.0.0.1:9").get_run("0")  # the port of nobody
    assert "Check its server (MLFLOW_TRACKING_URI)" in str(storage_error(caught.value))


def test_a_fault_in_a_dataset_keeps_its_traceback():
    assert storage_error(as_kedro_wraps(KeyError("x"))) is None
    assert storage_error(OSError(28, "not while a dataset was read or written")) is None
