"""The datasets that are a few lines each."""

from pathlib import Path

import pytest
from kedro.io import DatasetError

from brain_mri_segmentation.datasets.checkpoint_dataset import CheckpointDataset
from brain_mri_segmentation.datasets.exported_model_dataset import ExportedModelDataset
from brain_mri_segmentation.datasets.folder_dataset import FolderDataset


@pytest.fixture
def checkpoint(make_checkpoint):
    return make_checkpoint("unet")


def test_a_checkpoint_is_saved_and_loaded(checkpoint, tmp_path):
    dataset = CheckpointDataset(filepath=str(tmp_path / "best.ckpt"), model="unet")
    assert not dataset.exists()
    dataset.save(checkpoint)
    assert dataset.exists()
    assert dataset.load().describe() == checkpoint.describe()


def test_a_checkpoint_of_another_architecture_is_refused_naming_both(checkpoint, tmp_path):
    path = str(tmp_path / "best.ckpt")
    CheckpointDataset(filepath=path).save(checkpoint)
    with pytest.raises(DatasetError, match="holds a 'unet', but this run is for model=segformer"):
        CheckpointDataset(filepath=path, model="segformer").load()


def test_an_exported_model_replaces_the_one_before_as_a_whole(checkpoint, tmp_path):
    dataset = ExportedModelDataset(filepath=str(tmp_path / "a/exported"))
    assert not dataset.exists()
    files = checkpoint.folder_files({})
    dataset.save(files | {"README.md": b"card", "pictures/failures.png": b"picture"})
    assert dataset.exists()
    assert (dataset.load() / "pictures/failures.png").read_bytes() == b"picture"
    dataset.save(files)
    assert {file.name for file in dataset.load().iterdir()} == files.keys()
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["exported"]
    loaded = CheckpointDataset(filepath=str(dataset.load()), model="unet").load()
    assert loaded.digest == checkpoint.digest


@pytest.mark.parametrize("at", ["writing", "putting in place"])
def test_a_failed_export_leaves_the_one_before(checkpoint, tmp_path, monkeypatch, at):
    dataset = ExportedModelDataset(filepath=str(tmp_path / "exported"))
    files = checkpoint.folder_files({})
    dataset.save(files)
    rename = Path.rename

    def refuse_new(self, target):
        if self.name == "new":
            raise OSError("the system refuses")
        return rename(self, target)

    if at == "putting in place":
        monkeypatch.setattr(Path, "rename", refuse_new)
    too_long = {"x" * 300: b""} if at == "writing" else {}  # as the system refuses
    with pytest.raises(DatasetError, match="could not be written.*untouched"):
        dataset.save(files | {"README.md": b"another"} | too_long)
    assert dataset.load() == tmp_path / "exported"
    assert not (tmp_path / "exported/README.md").exists()
    assert list(tmp_path.iterdir()) == [tmp_path / "exported"]


def test_a_folder_is_a_place_and_one_that_is_not_named_is_asked_for(tmp_path):
    (tmp_path / "a.png").write_bytes(b"picture")
    assert FolderDataset(str(tmp_path)).load().read("a.png") == b"picture"
    with pytest.raises(DatasetError, match="Name a folder of slices.*--params input=PATH"):
        FolderDataset(None).load()
