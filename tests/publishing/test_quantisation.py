"""A copy in 8 bits is made, carried, and refused when it loses too much."""

import dataclasses
import json

import numpy as np
import pytest

from brain_mri_segmentation.cohort.index import patient_volumes
from brain_mri_segmentation.datasets.exported_model_dataset import ExportedModelDataset
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.inference.engines import OpenVINOEngine
from brain_mri_segmentation.inference.predictor import Predictor, load_model
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.publishing.quantisation import prove, quantise

pytestmark = pytest.mark.slow
pytest.importorskip("openvino")
pytest.importorskip("nncf")


@pytest.fixture
def slices(synthetic_slices):
    return synthetic_slices(2, 4, 64)


@pytest.fixture
def quantised(make_checkpoint, slices):
    return quantise(make_checkpoint("unet", mirroring=False), slices.images)


def test_an_exported_folder_carries_the_copy_and_the_fastest_engine_takes_it(
    quantised, slices, tmp_path
):
    proof = prove(quantised, slices.images, slices.masks, "val")
    dataset = ExportedModelDataset(filepath=str(tmp_path / "model"))
    dataset.save(quantised.folder_files({"int8": proof}))
    folder = dataset.load()
    assert json.loads((folder / "run.json").read_text())["int8"]["patients"] == 2
    predictor = load_model(folder)
    assert predictor.checkpoint.int8 == quantised.int8
    assert predictor.engine.name == "openvino int8"
    assert load_model(folder, engine="openvino").engine.name != "openvino int8"
    inputs = np.random.default_rng(0).standard_normal((2, 3, 64, 64), dtype=np.float32)
    # The same network, but in 8 bits: near, and not the same.
    gap = np.abs(predictor.engine(inputs) - OpenVINOEngine(quantised, "fp32")(inputs))
    assert 0 < gap.mean() < 0.1

    (folder / "model.int8.bin").write_bytes(b"\0" * len(quantised.int8[1]))
    with pytest.raises(InputError, match=r"model\.int8\.bin was changed"):
        load_model(folder)


def test_a_checkpoint_file_leaves_the_copy_out(quantised, tmp_path):
    quantised.save(tmp_path / "best.ckpt")
    assert Checkpoint.load(tmp_path / "best.ckpt").int8 is None


def test_a_copy_that_loses_dice_is_refused(quantised, slices):
    proof = prove(quantised, slices.images, slices.masks, "val")
    assert proof["kept"]
    assert proof["reason"].startswith("The folder holds a copy in 8 bits")

    # The copy of another network, which finds nothing where the model's own masks are the truth.
    weights = {name: -value for name, value in quantised.weights.items()}
    other = quantise(dataclasses.replace(quantised, weights=weights), slices.images)
    found = {}
    for volume in patient_volumes(slices.images):
        found |= zip(volume.names, Predictor(quantised).predict(volume).mask, strict=True)
    masks = {name: lambda mask=mask: mask for name, mask in found.items()}
    proof = prove(dataclasses.replace(quantised, int8=other.int8), slices.images, masks, "val")
    assert (proof["patients"], proof["dice"]) == (2, 1)
    assert (proof["dice_int8"], proof["lost"], proof["most_lost"]) == (0, 1, 1)
    assert not proof["kept"]
    assert proof["reason"].startswith("A copy in 8 bits was refused: on 2 patients of 'val'")
