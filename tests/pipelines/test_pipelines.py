"""The three pipelines in a row, each on a catalog in memory."""

import numpy as np
import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner
from matplotlib.figure import Figure

from brain_mri_segmentation.datasets import RawSlicesDataset
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.parameters import check_parameters
from brain_mri_segmentation.pipelines import (
    SPLIT_FOLDERS,
    data_processing,
    evaluation,
    robustness,
    training,
)
from brain_mri_segmentation.pipelines.evaluation.nodes import score_predictions, select_split

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def small_parameters(parameter_values):
    values = parameter_values | {
        "preprocessing": parameter_values["preprocessing"] | {"image_size": 32},
        "model": "unet",
        "models": parameter_values["models"] | {"unet": {"channels": [4, 8]}},
        "training": parameter_values["training"]
        | {"epochs": 2, "batch_size": 4, "ema_decay": 0.5, "accelerator": "cpu"},
        "evaluation": parameter_values["evaluation"] | {"bootstrap_samples": 100},
    }
    return check_parameters(values)


class KeptDataset(MemoryDataset):
    """Stays when the runner needs it no more."""

    def _release(self):
        pass


def run(pipeline, parameters, **data):
    """Run a pipeline and return all that it made."""
    for name, value in parameters:
        data[f"params:{name}"] = value
    catalog = DataCatalog({k: MemoryDataset(v, copy_mode="assign") for k, v in data.items()})
    for name in pipeline.all_outputs():
        catalog[name] = KeptDataset(copy_mode="assign")
    SequentialRunner().run(pipeline, catalog)
    return {name: catalog.load(name) for name in pipeline.all_outputs()}


@pytest.fixture(scope="module")
def processed(phantom_folder, small_parameters):
    raw, read = RawSlicesDataset(path=str(phantom_folder)).load(), []
    raw = {name: lambda n=name, r=reader: read.append(n) or r() for name, reader in raw.items()}
    pipeline = data_processing.create_pipeline()
    made = run(pipeline, small_parameters, raw_slices=raw, split_manifest=None)
    for name in SPLIT_FOLDERS:
        for reader in made[name].values():
            reader()
    assert sorted(read) == sorted(raw)  # each file once
    return made


@pytest.fixture(scope="module")
def trained(processed, small_parameters, tmp_path_factory):
    return run(
        training.create_pipeline(),
        small_parameters,
        **processed,
        training_workspace={"path": str(tmp_path_factory.mktemp("workspace"))},
        experiment_logger=None,
    )


@pytest.fixture(scope="module")
def evaluated(processed, trained, small_parameters):
    in_memory = dict(trained)
    pipeline = evaluation.create_pipeline()
    segment = pipeline.only_nodes("select_split", "segment_split")
    made = run(segment, small_parameters, **processed, **in_memory)
    # On a disk the predictions are files; here they become readers of arrays.
    made["predictions"] = {n: lambda m=m: m for n, m in made["predictions"].items()}
    rest = pipeline - segment
    return made | run(rest, small_parameters, **processed, **in_memory, **made)


def test_data_processing_splits_by_patient_and_resizes(processed):
    split = processed["patient_split"]
    assert split["split"].value_counts().to_dict() == {"train": 3, "val": 1, "test": 1}
    for name in ("train", "val", "test"):
        images, masks = processed[f"{name}_images"], processed[f"{name}_masks"]
        assert images.keys() == masks.keys()
        patients = set(split.loc[split["split"] == name, "patient"])
        assert {slice_name.rpartition("_")[0] for slice_name in images} == patients
        first = next(iter(images))
        assert images[first]().shape == (32, 32, 3)
        assert masks[first]().shape == (32, 32)
    assert len(processed["slice_statistics"]) == 30
    assert processed["data_fingerprint"]["train"]["slices"] == 18
    assert len(processed["cohort_problems"]) == 0


def test_training_gives_a_checkpoint_that_knows_its_data(trained, processed):
    metadata = trained["checkpoint"].metadata
    assert metadata["fingerprint"] == processed["data_fingerprint"]
    assert set(metadata["train_patients"]) == set(
        processed["patient_split"].query("split == 'train'")["patient"]
    )
    assert len(trained["training_history"]) == 2


def test_the_trained_model_is_calibrated_on_validation(trained):
    report, checkpoint = trained["calibration"], trained["checkpoint"]
    assert checkpoint.preprocessing["temperature"] == report["temperature"]
    assert "temperature of" in trained["reliability_diagram"].axes[0].get_title()


def test_threshold_regions_and_mirror_image_can_be_chosen_without_training_again(
    trained, processed, small_parameters
):
    chosen = {"threshold": 0.3, "min_component_ratio": 0.9, "mirroring": False, "image_size": 64}
    preprocessing = small_parameters.preprocessing.model_copy(update=chosen)
    again = run(
        training.create_pipeline().only_nodes("calibrate_model"),
        small_parameters.model_copy(update={"preprocessing": preprocessing}),
        **processed,
        uncalibrated_checkpoint=trained["uncalibrated_checkpoint"],
    )["checkpoint"]
    expected = trained["checkpoint"].preprocessing | chosen
    fitted = {name: again.preprocessing[name] for name in ("temperature", "review_uncertainty")}
    # What the network learnt from stays as it was.
    assert again.preprocessing == expected | fitted | {"image_size": 32}


def test_robustness_is_scored_on_the_partition(processed, trained, small_parameters):
    made = run(robustness.create_pipeline(), small_parameters, **processed, **trained)
    assert made["robustness"]["condition"].iloc[0] == "as it is"
    assert made["robustness"]["lost"].iloc[0] == 0


def test_evaluation_scores_every_slice_of_the_partition_once(evaluated, processed):
    names = list(processed["test_images"])
    assert evaluated["slice_scores"]["slice"].tolist() == names
    assert evaluated["patient_scores"]["slices"].sum() == len(names)
    metrics = evaluated["metrics"]
    assert (metrics["model"], metrics["split"], metrics["patients"]) == ("unet", "test", 1)
    assert metrics["fingerprint"]["split"] == processed["data_fingerprint"]["split"]


def test_scores_are_those_of_the_masks(evaluated, processed):
    tp = fp = fn = 0
    for name, read in processed["test_masks"].items():
        truth, prediction = read() > 0, evaluated["predictions"][name]() > 0
        tp += np.sum(truth & prediction)
        fp += np.sum(~truth & prediction)
        fn += np.sum(truth & ~prediction)
    assert evaluated["metrics"]["dice_pooled"] == pytest.approx(2 * tp / (2 * tp + fp + fn))


def test_tracked_metrics_carry_the_name_of_the_partition(evaluated):
    tracked = evaluated["tracked_metrics"]
    assert tracked["test/dice"]["value"] == evaluated["metrics"]["dice"]


def test_plots_are_drawn(evaluated):
    for name in ("patient_dice", "dice_by_tumour_size", "slice_gallery"):
        assert isinstance(evaluated[name], Figure)


def test_an_empty_partition_names_the_way_out(small_parameters):
    folders = {f"{s}_{k}": {} for s in ("train", "val", "test") for k in ("images", "masks")}
    with pytest.raises(InputError, match="'test' holds no slices.*evaluation.split=val"):
        select_split(small_parameters.evaluation, **folders)


def test_masks_of_another_partition_are_not_scored(processed):
    with pytest.raises(InputError, match="of other slices than those to score"):
        score_predictions(processed["val_masks"], processed["test_masks"])


def test_a_manifest_is_followed(phantom_folder, small_parameters):
    raw = RawSlicesDataset(path=str(phantom_folder)).load()
    patients = sorted({path.split("/")[0] for path in raw})
    wanted = dict(zip(patients, ["val", "train", "train", "train", "train"], strict=True))
    manifest = pd.DataFrame(wanted.items(), columns=["patient", "split"])
    made = run(
        data_processing.create_pipeline(), small_parameters, raw_slices=raw, split_manifest=manifest
    )
    assert dict(made["patient_split"].to_numpy()) == wanted
    assert made["test_images"] == {}
