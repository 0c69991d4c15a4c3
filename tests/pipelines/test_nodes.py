"""Nodes by themselves; test_project.py runs the pipelines as a whole."""

import numpy as np
import pandas as pd
import pytest
import torch

from brain_mri_segmentation.cohort.index import usable_slices
from brain_mri_segmentation.datasets.raw_slices_dataset import RawSlicesDataset
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.evaluation.metrics import SURFACE_SCORES
from brain_mri_segmentation.imaging.intensity import resize_image, resize_mask
from brain_mri_segmentation.pipelines.data_processing.nodes import (
    index_cohort,
    measure_slices,
    split_patients,
    write_split_folders,
)
from brain_mri_segmentation.pipelines.evaluation.nodes import (
    score_predictions,
    score_single_slices,
    segment_split,
    select_split,
    summarise_scores,
)
from brain_mri_segmentation.pipelines.scoring.nodes import select_patients
from brain_mri_segmentation.pipelines.training.nodes import calibrate_model


def test_slices_are_dealt_out_by_a_manifest_and_read_when_they_are_written(
    phantom_folder, parameters
):
    raw, read = RawSlicesDataset(path=str(phantom_folder)).load(), []
    raw = {name: lambda n=name, r=reader: read.append(n) or r() for name, reader in raw.items()}
    cohort, problems = index_cohort(raw, parameters.cohort)
    assert len(usable_slices(cohort)) == 30
    assert len(problems) == 0
    patients = sorted(cohort["patient"].unique())
    wanted = dict(zip(patients, ["val", "train", "train", "train", "train"], strict=True))
    manifest = pd.DataFrame(wanted.items(), columns=["patient", "split"])
    split = split_patients(cohort, manifest, parameters.split)
    assert dict(split.to_numpy()) == wanted
    read.clear()
    smaller = parameters.preprocessing.model_copy(update={"image_size": 32})
    folders = write_split_folders(raw, cohort, split, smaller)
    assert {name: len(slices) for name, slices in folders.items() if name.endswith("images")} == {
        "train_images": 24,
        "val_images": 6,
        "test_images": 0,
    }
    assert not read
    name = f"{patients[0]}_1"
    image, mask = (folders[f"val_{kind}"][name]() for kind in ("images", "masks"))
    path = f"{patients[0]}/{name}"
    assert read == [path, f"{path}_mask"]
    assert np.array_equal(image, resize_image(raw[path](), 32, 32))
    assert np.array_equal(mask, resize_mask(raw[f"{path}_mask"](), 32, 32))
    assert len(measure_slices(smaller, **folders)) == 30


def test_an_empty_partition_names_the_way_out(parameters):
    folders = {f"{s}_{k}": {} for s in ("train", "val", "test") for k in ("images", "masks")}
    with pytest.raises(InputError, match="'test' holds no slices.*evaluation.split=val"):
        select_split(parameters.evaluation, **folders)


def test_masks_of_another_partition_are_not_scored(synthetic_slices, parameters):
    one, other = synthetic_slices(1, 3), synthetic_slices(2, 3)
    with pytest.raises(InputError, match="of other slices than those to score"):
        score_predictions(one.masks, other.masks, parameters.evaluation)


def test_scores_of_another_model_are_not_reported(synthetic_slices, make_checkpoint, parameters):
    slices = synthetic_slices(2, 3)
    given = (slices.images, slices.masks, parameters.evaluation, parameters.training)
    fingerprint = {"split": "abc", "test": {"data": "def"}}
    model, newer = make_checkpoint("unet"), make_checkpoint("unet", threshold=0.9)
    tables = score_predictions(slices.masks, slices.masks, parameters.evaluation)[:2]
    single = score_single_slices(model, *given)
    rest = (fingerprint, parameters.evaluation, 0)
    assert summarise_scores(*tables, single, model, *rest)["digest"] == model.digest
    for old, scored in ((single, newer), (single.drop(columns="digest"), model)):
        with pytest.raises(InputError, match=f"not of the model {scored.digest}.*without --only"):
            summarise_scores(*tables, old, scored, *rest)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_no_pipeline_runs_on_a_cpu_where_a_gpu_is_asked_for(
    synthetic_slices, make_checkpoint, parameters
):
    slices, model = synthetic_slices(1, 3, letter="N"), make_checkpoint("unet")
    gpu = parameters.training.model_copy(update={"accelerator": "gpu"})
    images, settings = slices.images, parameters.evaluation
    with pytest.raises(InputError, match="finds no GPU"):
        segment_split(model, images, settings, gpu)
    with pytest.raises(InputError, match="finds no GPU"):
        score_single_slices(model, images, slices.masks, settings, gpu)
    with pytest.raises(InputError, match="finds no GPU"):
        calibrate_model(model, images, slices.masks, parameters.preprocessing, gpu)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_finished_model_is_scored_on_no_patient_that_it_has_seen(
    make_checkpoint, parameters, split
):
    cohort = pd.DataFrame({"patient": ["P0", "P1", "P2"], "slice": [1, 1, 1]})
    rest = make_checkpoint("unet"), parameters.evaluation.model_copy(update={"split": split})
    for place, count in (((0, 3), 2), ((0, 1), 1), ((1, 3), 1)):  # P0 trained it, P1 selected it
        with pytest.raises(InputError, match=f"trained or selected on {count} of the patients"):
            select_patients(cohort[slice(*place)], None, *rest)
    unseen = cohort[2:]
    table = select_patients(unseen, None, *rest)
    assert table.to_dict("list") == {"patient": ["P2"], "split": [split]}
    assert select_patients(unseen, table, *rest).equals(table)  # a manifest of nobody else


def test_with_a_spacing_patients_have_distances(synthetic_slices, parameters):
    masks = synthetic_slices(2, 3).masks
    beside = {name: lambda read=read: np.roll(read(), 1, axis=0) for name, read in masks.items()}
    _, without, _ = score_predictions(beside, masks, parameters.evaluation)
    assert "hd95_mm" not in without
    measured = parameters.evaluation.model_copy(update={"spacing": (9.0, 1.5, 9.0)})
    _, patients, _ = score_predictions(beside, masks, measured)
    assert patients["hd95_mm"].tolist() == [1.5, 1.5]  # from each row to the next
    assert patients["surface_dice"].tolist() == [1, 1]  # within 2 mm
    assert patients.drop(columns=list(SURFACE_SCORES)).equals(without)
