"""The model that the repository ships."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from brain_mri_segmentation.datasets.raw_slices_dataset import RawSlicesDataset
from brain_mri_segmentation.evaluation.metrics import confusion_counts, dice
from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.inference.predictor import load_model
from brain_mri_segmentation.models.checkpoint import INT8_FILES
from brain_mri_segmentation.serving.model import load_serving_model

PROJECT = Path(__file__).resolve().parents[1]
FOLDER = PROJECT / "data/06_models/pretrained/unet_efficientnet"


@pytest.fixture(scope="module")
def predictor():
    return load_model(FOLDER, engine="torch")  # which gave the reported scores


@pytest.fixture(scope="module")
def patient(shared_cohort, tmp_path_factory):
    """A real patient, of those that it was trained on: 20 images and masks."""
    folder, name = tmp_path_factory.mktemp("lgg"), "TCGA_HT_8107_19980708"
    command = [sys.executable, shared_cohort / "restore.py", folder, name]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    slices = RawSlicesDataset(path=str(folder)).load()
    numbers = range(1, 1 + len(slices) // 2)
    paths = [f"{name}/{name}_{number}" for number in numbers]
    return [slices[path]() for path in paths], [slices[f"{path}_mask"]() for path in paths]


def test_the_shipped_model_is_small_and_names_no_patient_in_its_files():
    sizes = {file.name: file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()}
    copy = [sizes.pop(name) for name in INT8_FILES]
    assert sum(sizes.values()) < 11e6
    assert sum(copy) < 6e6
    run = json.loads((FOLDER / "run.json").read_text())
    assert run["model_name"] == "unet_efficientnet"
    assert len(run["metadata"]["train_patients"]) == 99
    assert run["metadata"]["out_of_fold_dice"] == pytest.approx(0.863, abs=0.001)
    assert "val_dice" not in run["metadata"]
    assert not list(FOLDER.rglob("*TCGA*"))


def test_a_fresh_clone_serves_it(monkeypatch, predictor):
    monkeypatch.delenv("SERVING_MODEL", raising=False)
    monkeypatch.delenv("KEDRO_ENV", raising=False)
    served, source = load_serving_model(PROJECT)
    assert source == str(FOLDER)
    assert served.checkpoint.digest == predictor.checkpoint.digest


def test_a_real_patient_that_it_was_trained_on_is_found(predictor, patient):
    assert score(predictor, patient) == pytest.approx(0.904, abs=0.005)


def score(predictor, patient):
    images, masks = patient
    found = predictor.predict(Volume(np.stack(images))).mask
    return dice(np.sum(confusion_counts(found, np.stack(masks)), axis=0))


def test_a_slice_alone_is_segmented_as_well_as_one_of_a_volume(predictor, patient):
    images, masks = patient
    largest = int(np.argmax([np.count_nonzero(mask) for mask in masks]))
    alone = predictor.predict(Volume(images[largest][None]))
    assert dice(confusion_counts(alone.mask[0], masks[largest])) > 0.85
    assert alone.review == (None,)


def test_the_copy_in_8_bits_finds_what_the_model_finds(predictor, patient):
    pytest.importorskip("openvino")
    quick = load_model(FOLDER)
    assert quick.engine.name == "openvino int8"
    most_lost = json.loads((FOLDER / "run.json").read_text())["int8"]["most_lost"]
    assert score(predictor, patient) - score(quick, patient) <= most_lost + 1e-4
