"""What others do with an exported folder, with their own tools."""

import json

import numpy as np
import onnxruntime
import pytest
import torch

from brain_mri_segmentation.datasets import ExportedModelDataset
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.intensity import resize_image
from brain_mri_segmentation.inference.predictor import Predictor, load_model, segment_volume
from brain_mri_segmentation.models.unet import UNet
from brain_mri_segmentation.parameters import PreprocessingParameters
from brain_mri_segmentation.publishing import export
from brain_mri_segmentation.publishing.export import to_onnx, typical_intensities


@pytest.fixture
def write_export(make_checkpoint, synthetic_slices, tmp_path):
    """A function that exports a small model, and returns its checkpoint and the folder."""

    def write(name, onnx=False):
        checkpoint = make_checkpoint(name)
        files = export(checkpoint, synthetic_slices(2, 3).images, {"metrics": {"dice": 0.5}}, onnx)
        dataset = ExportedModelDataset(filepath=str(tmp_path / name))
        dataset.save(files)
        return checkpoint, dataset.load()

    return write


def logits(network, image):
    with torch.inference_mode():
        return network(image)


@pytest.mark.parametrize("name", ["unet", "unet_large", "segformer"])
def test_a_folder_is_loaded_from_its_path_alone_with_the_same_result(write_export, name):
    checkpoint, folder = write_export(name)
    predictor = load_model(folder)
    image = torch.randn(2, 3, 64, 64)
    assert torch.equal(logits(predictor.network, image), logits(checkpoint.build(), image))
    assert predictor.preprocessing == PreprocessingParameters(**checkpoint.preprocessing)
    assert predictor.checkpoint.metadata == checkpoint.metadata
    assert predictor.checkpoint.digest == checkpoint.digest
    slices = list(np.random.default_rng(0).integers(0, 256, (3, 70, 60, 3), dtype=np.uint8))
    for ours, theirs in zip(
        segment_volume(predictor, slices),
        segment_volume(Predictor(checkpoint), slices),
        strict=True,
    ):
        assert np.array_equal(ours.probability, theirs.probability)


TRANSFORMERS = """
import numpy as np, torch
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation
model = AutoModelForSemanticSegmentation.from_pretrained(sys.argv[1])
processor = AutoImageProcessor.from_pretrained(sys.argv[1])
assert model.config.id2label == {0: "background", 1: "tumour"}, model.config.id2label
values = np.load(sys.argv[2])
with torch.inference_mode():
    logits = model(pixel_values=torch.from_numpy(values["image"])).logits
    logits = torch.nn.functional.interpolate(logits, size=(64, 64), mode="bilinear")
inputs = processor(images=list(values["slices"]), return_tensors="np")["pixel_values"]
np.savez(sys.argv[3], logits=logits.numpy(), inputs=inputs)
"""


@pytest.mark.slow
def test_transformers_loads_the_segformer_without_this_project(
    write_export, run_elsewhere, tmp_path
):
    checkpoint, folder = write_export("segformer")
    image = torch.randn(2, 3, 64, 64)
    slices = np.random.default_rng(0).integers(0, 256, (2, 100, 80, 3), dtype=np.uint8)
    np.savez(tmp_path / "in.npz", image=image.numpy(), slices=slices)
    run_elsewhere(TRANSFORMERS, folder, tmp_path / "in.npz", tmp_path / "out.npz")
    made = np.load(tmp_path / "out.npz")
    expected = logits(checkpoint.build(), image).numpy()
    assert np.abs(made["logits"] - expected).max() < 1e-5
    # Its image processor resizes as we do, and scales by the usual figures of the training data.
    rules = json.loads((folder / "preprocessor_config.json").read_text())
    mean, std = (np.array(rules[key])[:, None, None] for key in ("image_mean", "image_std"))
    resized = np.stack([resize_image(s, 64) for s in slices]).transpose(0, 3, 1, 2)
    assert np.allclose(made["inputs"], (resized - mean) / std, atol=1e-4)


def test_the_hub_mixin_loads_the_unet(write_export):
    checkpoint, folder = write_export("unet")
    network = UNet.from_pretrained(folder)
    image = torch.randn(2, 3, 64, 64)
    assert torch.equal(logits(network, image), logits(checkpoint.build(), image))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "unet_large", "segformer"])
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


def test_typical_intensities_are_means_over_volumes(parameters):
    # The first volume has grey levels 0 and 20 in equal parts, the second 40 everywhere.
    half = np.zeros((32, 32, 3), np.uint8)
    half[:16] = 20
    images = {"A_1": lambda: half, "A_2": lambda: half, "B_1": lambda: np.full_like(half, 40)}
    mean, deviation = typical_intensities(images, parameters.preprocessing)
    assert mean == [25.0] * 3  # of 10 and 40
    assert deviation == [5.5] * 3  # of 10 and, for a constant channel, 1
    with pytest.raises(InputError, match="no training slices"):
        typical_intensities({}, parameters.preprocessing)


def test_run_json_says_where_the_model_comes_from(write_export):
    checkpoint, folder = write_export("unet")
    run = json.loads((folder / "run.json").read_text())
    assert run["model_name"] == "unet"
    assert run["metadata"] == checkpoint.metadata
    assert run["metrics"] == {"dice": 0.5}
