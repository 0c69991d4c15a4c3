"""Three folds of a small cohort, on a catalog in memory."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner

from brain_mri_segmentation.cohort.index import SPLITS
from brain_mri_segmentation.cohort.split import fingerprint
from brain_mri_segmentation.cohort.statistics import measure_slices
from brain_mri_segmentation.datasets.slice_folder_dataset import SliceFolderDataset
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.evaluation.metrics import dice, report, tracked
from brain_mri_segmentation.parameters import check_parameters
from brain_mri_segmentation.pipelines import FOLDS, cross_validation, final
from brain_mri_segmentation.pipelines.cross_validation.nodes import (
    join_folds,
    select_folds,
    summarise_folds,
)
from brain_mri_segmentation.training.resume import check_same_recipe

pytestmark = pytest.mark.slow


class KeptDataset(MemoryDataset):
    """Stays when the runner needs it no more."""

    def _release(self):
        pass


@pytest.fixture(scope="module")
def pipeline():
    before = FOLDS.set(3)
    yield cross_validation.create_pipeline() + final.create_pipeline()
    FOLDS.reset(before)


@pytest.fixture(scope="module")
def catalog(pipeline, parameter_values, tmp_path_factory):
    """The catalog after a run."""
    parameters = check_parameters(
        parameter_values
        | {
            "folds": 3,
            "preprocessing": parameter_values["preprocessing"] | {"image_size": 32},
            "models": parameter_values["models"] | {"unet": {"channels": [4, 8]}},
            "training": parameter_values["training"]
            | {"epochs": 2, "batch_size": 4, "ema_decay": 0.5, "accelerator": "cpu"},
            "evaluation": parameter_values["evaluation"] | {"bootstrap_samples": 100},
        }
    )
    data = {f"params:{name}": value for name, value in parameters}
    data["data_fingerprint"] = {"split": "abc", "data": "def"}
    data["data_fingerprint"] |= {split: {"data": f"of {split}"} for split in SPLITS}
    random = np.random.default_rng(0)
    for split, sites in zip(SPLITS, (["CS", "DU", "CS", "DU"], ["CS", "DU"], ["CS"]), strict=True):
        data[f"{split}_images"], data[f"{split}_masks"] = {}, {}
        for n, site in enumerate(sites):
            for number in range(1, 5):
                image = random.integers(40, 80, (32, 32, 3), dtype=np.uint8)
                image[8:20, 4 + n : 16] += 120
                name = f"TCGA_{site}_{split}{n}_2000_{number}"
                data[f"{split}_images"][name] = lambda image=image: image
                data[f"{split}_masks"][name] = lambda image=image: image[..., 0] // 120 * 255
    images, masks = (
        {name: read for split in SPLITS for name, read in data[f"{split}_{kind}"].items()}
        for kind in ("images", "masks")
    )
    data["slice_statistics"] = measure_slices(images, masks, 32, 10, 99)
    catalog = DataCatalog({k: MemoryDataset(v, copy_mode="assign") for k, v in data.items()})
    for name in pipeline.all_outputs():
        catalog[name] = KeptDataset(copy_mode="assign")
    for fold in ("fold_1", "fold_2", "fold_3", "final"):
        folder = tmp_path_factory.mktemp(fold)
        catalog[f"{fold}.predictions"] = SliceFolderDataset(path=str(folder / "masks"))
        catalog[f"{fold}.training_workspace"] = MemoryDataset({"path": str(folder)})
        catalog[f"{fold}.experiment_logger"] = MemoryDataset(None)
    SequentialRunner().run(pipeline, catalog)
    return catalog


def test_every_patient_of_train_and_val_is_scored_by_a_model_that_never_saw_it(catalog):
    assignment = catalog.load("fold_assignment")
    scores = catalog.load("out_of_fold.patient_scores")
    assert scores["patient"].tolist() == assignment["patient"].tolist()
    assert len(scores) == 6
    assert not scores["patient"].str.contains("test").any()
    for patient, fold in zip(scores["patient"], scores["fold"], strict=True):
        seen = catalog.load(f"fold_{fold}.checkpoint").metadata
        assert patient not in seen["train_patients"]
        assert len(seen["train_patients"]) == 4
        assert seen["val_patients"] == []
        assert seen["epoch"] == 2  # the last one


def test_the_report_is_over_all_patients(catalog):
    report, scores = catalog.load("out_of_fold.metrics"), catalog.load("out_of_fold.patient_scores")
    assert (report["patients"], report["slices"]) == (6, 24)
    counts = scores[["true_positive", "false_positive", "false_negative", "true_negative"]]
    assert report["dice"] == pytest.approx(np.nanmean(dice(counts.to_numpy())))
    assert set(report["dice_by_fold"]) == {"1", "2", "3"}
    assert report["fingerprint"]["data"] == fingerprint("of train", "of val")  # without test
    low, high = report["intervals_95"]["dice"]
    assert low <= report["dice"] <= high
    assert report["single_slices"]["intervals_95"].keys() == report["intervals_95"].keys()


def test_scores_of_another_assignment_are_refused(catalog):
    scores = {f"fold_{n}": catalog.load(f"fold_{n}.slice_scores") for n in (1, 2, 3)}
    with pytest.raises(InputError, match="do not hold every patient once"):
        join_folds(catalog.load("fold_assignment"), **scores | {"fold_3": scores["fold_2"]})


def test_a_table_that_is_cut_is_refused(catalog, tmp_path):
    folds = {f"fold_{n}": catalog.load(f"fold_{n}.slice_scores") for n in (1, 2, 3)}
    folds["fold_2"].to_csv(tmp_path / "whole.csv", index=False)
    whole = (tmp_path / "whole.csv").read_text()
    rows = whole.splitlines(keepends=True)
    in_a_row, in_the_head = "".join(rows[:-1]) + rows[-1][:50], rows[0][:20]
    assert rows[-1][:50].count(",") < rows[0].count(",")
    for cut, named in ((in_a_row, ""), (in_the_head, r"without \[.*'true_negative'")):
        (tmp_path / "cut.csv").write_text(cut)
        cut_folds = folds | {"fold_2": pd.read_csv(tmp_path / "cut.csv")}
        with pytest.raises(InputError, match=f"fold_2 are no whole table of counts.*{named}"):
            join_folds(catalog.load("fold_assignment"), **cut_folds)


def test_a_table_that_lacks_a_row_is_refused(catalog):
    whole = catalog.load("out_of_fold.slice_scores")
    with pytest.raises(InputError, match=f"1 slice.*{whole['slice'].iloc[-1]}, are scored in one"):
        report("unet", "out_of_fold", whole, whole[:-1], 10, 0)


def test_a_patient_that_came_later_is_refused(catalog):
    assignment = catalog.load("fold_assignment")
    folders = {f"{split}_{kind}": {} for split in SPLITS for kind in ("images", "masks")}
    folders["train_images"] = {"TCGA_CS_new_2000_1": None}
    folders["train_images"] |= dict.fromkeys(f"{name}_1" for name in assignment["patient"])
    with pytest.raises(InputError, match="1 patient.*TCGA_CS_new_2000, are in no fold"):
        select_folds(assignment, 3, **folders)
    del folders["train_images"]["TCGA_CS_new_2000_1"]
    select_folds(assignment, 3, **folders)
    folders["train_images"].popitem()  # is test now, or gone
    with pytest.raises(InputError, match="1 patient.*or in one and no longer in train or val"):
        select_folds(assignment, 3, **folders)


def test_a_fold_without_tumour_has_no_dice_and_spoils_no_report(catalog):
    names = ["slice_scores", "single_slice_scores", "patient_scores"]
    slices, singles, patients = (catalog.load(f"out_of_fold.{name}") for name in names)
    arguments = [catalog.load(name) for name in ("fold_assignment", "data_fingerprint")]
    patients = patients.assign(dice=patients["dice"].where(patients["fold"] != 2))
    report = summarise_folds(
        slices, singles, patients, *arguments, "unet", catalog.load("params:evaluation"), 0
    )
    assert set(report["dice_by_fold"]) == {"1", "3"}
    assert "out_of_fold/dice_of_fold_1" in tracked(report)
    assert "out_of_fold/dice_of_fold_2" not in tracked(report)


def test_models_of_another_recipe_than_the_first_fold_are_refused(catalog):
    model = catalog.load("final.checkpoint")
    fold = catalog.load("fold_1.checkpoint")
    check_same_recipe(fold, fold, model)
    longer = {"training": model.metadata["training"] | {"epochs": 9, "patience": 99}}
    with pytest.raises(InputError, match=r"another recipe.*\n  training.epochs: 2 there, 9 now\n"):
        check_same_recipe(fold, dataclasses.replace(model, metadata=model.metadata | longer))
    other = {"fingerprint": model.metadata["fingerprint"] | {"data": "other"}}
    with pytest.raises(InputError, match=r"fingerprint.data: def there, other now"):
        check_same_recipe(fold, model, dataclasses.replace(fold, metadata=fold.metadata | other))


def test_folds_of_several_recipes_are_neither_reported_nor_adopted(catalog, pipeline):
    fold = catalog.load("fold_3.checkpoint")
    longer = {"training": fold.metadata["training"] | {"epochs": 9}}
    other = DataCatalog({name: catalog.get(name) for name in catalog})
    other["fold_3.checkpoint"] = MemoryDataset(
        dataclasses.replace(fold, metadata=fold.metadata | longer), copy_mode="assign"
    )
    report = ["select_folds", "join_folds", "summarise_folds", "calibrate_models"]
    with pytest.raises(InputError, match="epochs: 2 there, 9 now"):
        SequentialRunner().run(pipeline.only_nodes("adopt_results"), other)
    other["out_of_fold.metrics"] = KeptDataset()
    with pytest.raises(InputError, match="epochs: 2 there, 9 now"):
        SequentialRunner().run(pipeline.only_nodes(*report), other)
    assert not other.exists("out_of_fold.metrics")


def test_folds_are_the_nodes_of_training_and_evaluation(pipeline):
    names = {node.name for node in pipeline.nodes}
    for n in (1, 2, 3):
        assert {f"fold_{n}.train_model", f"fold_{n}.segment_split"} <= names
    assert "fold_4.train_model" not in names


def test_the_final_model_learns_from_train_and_val_and_carries_the_scores_of_the_folds(catalog):
    model, report = catalog.load("checkpoint"), catalog.load("metrics")
    assert len(model.metadata["train_patients"]) == 6
    assert not any("test" in patient for patient in model.metadata["train_patients"])
    assert report["split"] == "out_of_fold"
    assert report["dice"] == catalog.load("out_of_fold.metrics")["dice"]
    assert report["digest"] == model.digest  # which publishing demands
    calibration = catalog.load("out_of_fold.calibration")
    assert model.preprocessing["temperature"] == calibration["temperature"]
    assert len(catalog.load("predictions")) == report["slices"]


def test_what_lies_beside_the_report_of_the_final_model_is_of_the_folds(catalog):
    single = catalog.load("single_slice_scores")
    assert set(single["slice"]) == set(catalog.load("slice_scores")["slice"])
    digests = [catalog.load(f"fold_{n}.checkpoint").digest for n in (1, 2, 3)]
    assert single["digest"].unique().tolist() == digests
    assert catalog.load("calibration") == catalog.load("out_of_fold.calibration")
    for name in ("slice_scores", "patient_scores", "site_scores"):
        assert catalog.load(name).equals(catalog.load(f"out_of_fold.{name}"))
    assert catalog.load("training_history")["epoch"].tolist() == [1, 2]


def test_folds_are_calibrated_on_all_patients_together(catalog):
    # The temperature was not known yet when the folds were scored; 0.5 is the same with any.
    calibrated = catalog.load("out_of_fold.calibration")["dice"]
    assert calibrated == pytest.approx(catalog.load("out_of_fold.metrics")["dice"], abs=0.02)
