import dataclasses
from pathlib import Path

import mlflow
import pytest

from brain_mri_segmentation.datasets.checkpoint_dataset import CheckpointDataset, load_checkpoint
from brain_mri_segmentation.datasets.exported_model_dataset import ExportedModelDataset
from brain_mri_segmentation.datasets.registered_model_dataset import RegisteredModelDataset, Release
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.serving.model import MODEL_VARIABLE, load_serving_model

pytestmark = pytest.mark.slow

NAME = "brain-mri-segmentation"
PLACE = f"models:/{NAME}@champion"


@pytest.fixture
def registry(tmp_path):
    """An MLflow store with a run that is open."""
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("e", f"{tmp_path}/artifacts"))
    with mlflow.start_run():
        yield RegisteredModelDataset(NAME)
    mlflow.set_tracking_uri(None)


@pytest.fixture
def folder(make_checkpoint, tmp_path):
    """A model that was exported."""
    dataset = ExportedModelDataset(filepath=str(tmp_path / "exported"))
    dataset.save(make_checkpoint("unet").folder_files({}))
    return dataset.load()


def release(folder, alias):
    tags = {"digest": Checkpoint.load(folder).digest, "gate": "passed"}
    return Release(folder, alias, tags)


def versions():
    found = mlflow.MlflowClient().search_model_versions(f"name='{NAME}'")
    return {int(version.version): version for version in found}


def test_catalog_and_service_load_the_model_that_was_registered(registry, folder, monkeypatch):
    registry.save(release(folder, "champion"))
    digest = Checkpoint.load(folder).digest
    assert registry.load().digest == digest
    assert CheckpointDataset(filepath=PLACE, model="unet").load().digest == digest
    monkeypatch.setenv(MODEL_VARIABLE, PLACE)
    predictor, source = load_serving_model(Path.cwd())
    assert (predictor.checkpoint.digest, source) == (digest, PLACE)
    (version,) = versions().values()
    assert version.tags == {"gate": "passed", "digest": digest}
    assert version.run_id == mlflow.active_run().info.run_id


def test_a_model_that_did_not_pass_leaves_the_champion(registry, folder):
    registry.save(release(folder, "champion"))
    first = Checkpoint.load(folder)
    stricter = dataclasses.replace(first, preprocessing=first.preprocessing | {"threshold": 0.9})
    ExportedModelDataset(filepath=str(folder)).save(stricter.folder_files({}))
    registry.save(release(folder, None))
    assert registry.load().digest == first.digest
    assert versions().keys() == {1, 2}
    assert not registry.exists()  # so that --only-missing-outputs registers the next model, too


def test_an_alias_that_points_nowhere_is_an_error_that_says_what_to_run(registry, folder):
    registry.save(release(folder, "champion"))
    with pytest.raises(InputError, match="does not give models:/.*@nobody.*pipeline publishing"):
        load_checkpoint(f"models:/{NAME}@nobody")
