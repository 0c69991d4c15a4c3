import fsspec
import numpy as np
import pytest
from kedro.io import DatasetError

from brain_mri_segmentation.datasets.slice_folder_dataset import SliceFolderDataset

IMAGE = np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)
MASK = np.eye(32, dtype=np.uint8) * 255


@pytest.mark.parametrize("protocol", ["", "memory://"])
def test_slices_come_back_as_they_were_on_any_file_system(tmp_path, protocol):
    dataset = SliceFolderDataset(path=f"{protocol}{tmp_path}/slices")
    assert not dataset.exists()
    dataset.save({"A_1": IMAGE, "A_2": lambda: MASK})
    assert dataset.exists()
    loaded = dataset.load()
    assert list(loaded) == ["A_1", "A_2"]
    assert np.array_equal(loaded["A_1"](), IMAGE)
    assert np.array_equal(loaded["A_2"](), MASK)
    if protocol:
        fsspec.filesystem("memory").rm(str(tmp_path), recursive=True)


def test_saving_takes_one_slice_at_a_time(tmp_path):
    path = tmp_path / "slices"

    def second():  # by then the first must be on the disk
        assert (path / "A_1.tif").is_file()
        return MASK

    SliceFolderDataset(path=str(path)).save({"A_1": IMAGE, "A_2": second})


def test_saving_replaces_what_was_there(tmp_path):
    dataset = SliceFolderDataset(path=str(tmp_path))
    dataset.save({"A_1": IMAGE, "B_1": IMAGE})
    dataset.save({"B_1": IMAGE})
    assert list(dataset.load()) == ["B_1"]
    assert not (tmp_path / "A_1.tif").exists()


def test_an_empty_partition_exists(tmp_path):
    dataset = SliceFolderDataset(path=str(tmp_path / "test"))
    dataset.save({})
    assert dataset.exists()
    assert dataset.load() == {}


def test_an_interrupted_folder_is_refused(tmp_path):
    dataset = SliceFolderDataset(path=str(tmp_path))
    dataset.save({"A_1": IMAGE})

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dataset.save({"A_1": IMAGE, "A_2": interrupted})
    assert not dataset.exists()
    with pytest.raises(DatasetError, match="not written to its end. Run the pipeline"):
        dataset.load()


def test_a_missing_folder_says_what_to_run(tmp_path):
    with pytest.raises(DatasetError, match="does not exist.*data_processing"):
        SliceFolderDataset(path=str(tmp_path / "gone")).load()
