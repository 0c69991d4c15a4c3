"""What others do with an exported folder, with their own tools."""

import json

import numpy as np
import onnxruntime
import pytest
import torch

from brain_mri_segmentation.datasets.exported_model_dataset import ExportedModelDataset
from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.inference.conversion import ONNX_FILE, to_onnx
from brain_mri_segmentation.inference.predictor import Predictor, load_model
from brain_mri_segmentation.parameters import PreprocessingParameters


@pytest.fixture
def write_export(make_checkpoint, tmp_path):
    """A function that exports a small model, and returns its checkpoint and the folder."""

    def write(name, onnx=False):
        checkpoint = make_checkpoint(name)
        files = checkpoint.folder_files({"metrics": {"dice": 0.5}})
        if onnx:
            files[ONNX_FILE] = to_onnx(checkpoint)
        dataset = ExportedModelDataset(filepath=str(tmp_path / name))
        dataset.save(files)
        return checkpoint, dataset.load()

    return write


def logits(network, image):
    with torch.inference_mode():
        return network(image)


@pytest.mark.parametrize("name", ["unet", "unet_efficientnet", "segformer"])
def test_a_folder_is_loaded_from_its_path_alone_with_the_same_result(write_export, name):
    checkpoint, folder = write_export(name)
    predictor = load_model(folder, engine="torch")
    image = torch.randn(2, 3, 64, 64)
    loaded = predictor.checkpoint.build()
    assert torch.equal(logits(loaded, image), logits(checkpoint.build(), image))
    assert predictor.preprocessing == PreprocessingParameters(**checkpoint.preprocessing)
    assert predictor.checkpoint.metadata == checkpoint.metadata
    assert predictor.checkpoint.digest == checkpoint.digest
    slices = np.random.default_rng(0).integers(0, 256, (3, 70, 60, 3), dtype=np.uint8)
    ours, theirs = (one.predict(Volume(slices)) for one in (predictor, Predictor(checkpoint)))
    assert np.array_equal(ours.probability, theirs.probability)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "unet_efficientnet", "segformer"])
def test_onnx_gives_the_same_logits_for_any_batch(make_checkpoint, name):
    checkpoint = make_checkpoint(name)
    onnx = to_onnx(checkpoint)
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    for count in (1, 2, 5):
        image = torch.randn(count, 3, 64, 64)
        (made,) = session.run(["logits"], {"image": image.numpy()})
        assert np.abs(made - logits(checkpoint.build(), image).numpy()).max() < 1e-5
    # Nothing tells of the machine that exported it.
    assert b"site-packages" not in onnx
    assert b".py" not in onnx


@pytest.mark.slow
def test_exporting_twice_gives_the_same_bytes(write_export):
    _, folder = write_export("unet", onnx=True)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    write_export("unet", onnx=True)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_run_json_says_where_the_model_comes_from(write_export):
    checkpoint, folder = write_export("unet")
    run = json.loads((folder / "run.json").read_text())
    assert run["model_name"] == "unet"
    assert run["metadata"] == checkpoint.metadata
    assert run["metrics"] == {"dice": 0.5}
