"""The project as its users run it: through Kedro, on files, with a real MLflow store."""

import base64
import contextlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import nbformat
import numpy as np
import optuna
import pandas as pd
import pytest
import tifffile
import yaml
from hub_server import TOKEN
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from kedro.io import DataCatalog
from nbclient import NotebookClient
from PIL import Image
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from brain_mri_segmentation.cohort.phantom import write_cohort
from brain_mri_segmentation.errors import find_input_error
from brain_mri_segmentation.imaging import Volume
from brain_mri_segmentation.inference.predictor import load_model
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.parameters import check_parameters
from brain_mri_segmentation.pipelines.training.nodes import calibrate_model
from brain_mri_segmentation.runtime.startup import storage_error

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).resolve().parents[1]
SMALL = {
    "preprocessing": {"image_size": 64, "min_component_size": 0},
    "models": {"unet": {"channels": [8, 16]}},
    "training": {"epochs": 2, "batch_size": 4, "ema_decay": 0.5, "accelerator": "cpu"},
    "evaluation": {"bootstrap_samples": 100},
}


class Project:
    """A copy of the project with a small cohort and small parameters."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(SOURCE / "conf", folder / "conf")
        shutil.copytree(SOURCE / "src", folder / "src", ignore=shutil.ignore_patterns("*.egg-info"))
        for name in ("pyproject.toml", ".telemetry"):
            shutil.copy(SOURCE / name, folder)
        shutil.rmtree(folder / "conf/local")
        (folder / "conf/local").mkdir()
        (folder / "conf/local/parameters.yml").write_text(yaml.safe_dump(SMALL))
        (folder / "conf/local/globals.yml").write_text("model: unet\n")
        write_cohort(folder / "data/01_raw", patients=5, slices=6, size=64, seed=1)

    def run(
        self,
        pipelines: str | list[str] = "__default__",
        env: str = "local",
        only_missing_outputs: bool = False,
        **parameters: object,
    ) -> None:
        bootstrap_project(self.folder)
        with (
            contextlib.chdir(self.folder),  # as on the command line: MLflow's paths are relative
            KedroSession.create(self.folder, env=env, runtime_params=parameters) as session,
        ):
            try:
                names = [pipelines] if isinstance(pipelines, str) else pipelines
                session.run(pipeline_names=names, only_missing_outputs=only_missing_outputs)
            finally:  # kedro-mlflow leaves it to the end of the process
                while mlflow.active_run() is not None:
                    mlflow.end_run()

    def refusal(self, *arguments: object, **parameters: object) -> str:
        """Run, and return the message of the error that a user would see."""
        with pytest.raises(Exception) as caught:  # noqa: PT011
            self.run(*arguments, **parameters)
        error = find_input_error(caught.value) or storage_error(caught.value)
        assert error is not None, caught.value
        return str(error)

    def kedro(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kedro", *arguments]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=300)

    def recorded(self, name: str) -> tuple[mlflow.MlflowClient, mlflow.entities.Run]:
        """Return the latest MLflow run of a name, and what gives its history."""
        client = mlflow.MlflowClient(f"sqlite:///{self.folder}/mlflow.db")
        experiment = client.get_experiment_by_name("brain-mri-segmentation")
        order = {"filter_string": f"run_name = '{name}'", "order_by": ["start_time DESC"]}
        return client, client.search_runs([experiment.experiment_id], **order)[0]

    def data(self, place: str) -> Path:
        return self.folder / "data" / place

    def catalog(self) -> DataCatalog:
        bootstrap_project(self.folder)
        with (
            contextlib.chdir(self.folder),
            KedroSession.create(self.folder, env="local") as session,
        ):
            return session.load_context().catalog


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The project after one run of all its pipelines."""
    project = Project(tmp_path_factory.mktemp("project"))
    project.run()
    return project


def test_one_command_turns_raw_slices_into_a_model_and_its_scores(project):
    metrics = json.loads(project.data("08_reporting/unet/metrics.json").read_text())
    assert metrics["split"] == "test"
    assert 0 <= metrics["dice"] <= 1
    for name in ("patient_dice.png", "slice_gallery.png"):
        assert project.data(f"08_reporting/unet/{name}").read_bytes().startswith(b"\x89PNG")
    history = pd.read_csv(project.data("08_reporting/unet/training_history.csv"))
    assert history["epoch"].tolist() == [1, 2]
    predictor = load_model(project.data("06_models/unet/best.ckpt"))
    assert predictor.preprocessing.image_size == 64


def test_the_partitions_hold_the_resized_slices_of_their_patients(project):
    catalog = project.catalog()
    split = catalog.load("patient_split").set_index("patient")["split"]
    assert split.value_counts().to_dict() == {"train": 3, "val": 1, "test": 1}
    for name in ("train", "val", "test"):
        images, masks = catalog.load(f"{name}_images"), catalog.load(f"{name}_masks")
        assert images.keys() == masks.keys()
        patients = {slice_name.rpartition("_")[0] for slice_name in images}
        assert patients == set(split.index[split == name])
        first = next(iter(images))
        assert (images[first]().shape, masks[first]().shape) == ((64, 64, 3), (64, 64))
    assert len(catalog.load("slice_statistics")) == 30
    assert len(catalog.load("cohort_problems")) == 0
    fingerprint, metadata = catalog.load("data_fingerprint"), catalog.load("checkpoint").metadata
    assert fingerprint["train"]["slices"] == 18
    assert metadata["fingerprint"] == fingerprint
    assert set(metadata["train_patients"]) == set(split.index[split == "train"])


def test_scores_are_those_of_the_masks(project):
    catalog = project.catalog()
    truths, predictions = catalog.load("test_masks"), catalog.load("predictions")
    scores, metrics = catalog.load("slice_scores"), catalog.load("metrics")
    assert scores["slice"].tolist() == list(truths)
    assert catalog.load("patient_scores")["slices"].sum() == len(truths)
    tp = fp = fn = 0
    for name, read in truths.items():
        truth, prediction = read() > 0, predictions[name]() > 0
        tp += np.sum(truth & prediction)
        fp += np.sum(~truth & prediction)
        fn += np.sum(truth & ~prediction)
    assert metrics["dice_pooled"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert metrics["fingerprint"]["split"] == catalog.load("data_fingerprint")["split"]


def test_threshold_components_and_mirroring_can_be_chosen_without_training_again(project):
    catalog = project.catalog()
    start, fitted = catalog.load("uncalibrated_checkpoint"), ("temperature", "review_uncertainty")
    values = check_parameters(catalog.load("parameters"))
    chosen = {"threshold": 0.3, "min_component_ratio": 0.9, "mirroring": False}
    preprocessing = values.preprocessing.model_copy(update=chosen | {"image_size": 32})
    slices = (catalog.load("val_images"), catalog.load("val_masks"))
    again, report = calibrate_model(start, *slices, preprocessing, values.training)
    assert again.preprocessing["temperature"] == report["temperature"]
    assert catalog.load("checkpoint").preprocessing.keys() == again.preprocessing.keys()
    # What the network learnt from stays as it was.
    others = {n: v for n, v in again.preprocessing.items() if n not in fitted}
    expected = {n: v for n, v in start.preprocessing.items() if n not in fitted}
    assert others == expected | chosen


def test_robustness_is_scored_on_the_partition(project):
    project.run("robustness")
    table = project.catalog().load("robustness")
    assert table["condition"].iloc[0] == "as it is"
    assert table["lost"].iloc[0] == 0


def test_the_mlflow_run_holds_every_epoch_all_parameters_and_the_reports(project):
    client, run = project.recorded("__default__")
    assert run.info.status == "FINISHED"
    for name in ("train/loss", "val/loss", "val/dice", "val/iou", "val/pixel_accuracy"):
        assert [m.step for m in client.get_metric_history(run.info.run_id, name)] == [1, 2]
    metrics = json.loads(project.data("08_reporting/unet/metrics.json").read_text())
    assert run.data.metrics["test/dice"] == metrics["dice"]
    parameters = run.data.params
    assert parameters["training.epochs"] == "2"
    assert parameters["training.lr.unet"] == "0.0012"
    assert parameters["model"] == "unet"
    assert len(parameters["fingerprint.split"]) == len(parameters["fingerprint.data"]) == 16
    assert parameters["git.commit"]
    artifacts = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"metrics.json", "slice_scores.csv", "patient_dice.png"} <= artifacts


def test_another_partition_is_scored_without_training_again(project):
    before = project.data("06_models/unet/best.ckpt").stat().st_mtime_ns
    project.run("evaluation", **{"evaluation": {"split": "val"}})
    metrics = json.loads(project.data("08_reporting/unet/metrics.json").read_text())
    assert metrics["split"] == "val"
    assert project.data("06_models/unet/best.ckpt").stat().st_mtime_ns == before
    assert len(project.recorded("evaluation")[1].data.params["fingerprint.split"]) == 16


def test_plots_and_tables_have_previews_for_kedro_viz(project):
    catalog = project.catalog()
    for name in ("cohort_overview", "patient_dice", "dice_by_tumour_size", "slice_gallery"):
        assert base64.b64decode(catalog.get(name).preview()).startswith(b"\x89PNG")
    assert "dice" in catalog.get("patient_scores").preview()["columns"]
    curves = {curve["name"]: curve for curve in catalog.get("training_chart").preview()["data"]}
    assert curves.keys() == {"train/loss", "val/loss", "val/dice"}
    assert '"dice"' in catalog.get("metrics").preview()


@pytest.mark.parametrize("path", sorted(SOURCE.glob("notebooks/*.ipynb")), ids=lambda p: p.stem)
def test_a_notebook_runs_from_top_to_bottom(project, path, monkeypatch):
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "strip its outputs"
    (project.folder / "notebooks").mkdir(exist_ok=True)
    place = {"metadata": {"path": str(project.folder / "notebooks")}}
    monkeypatch.setenv("PYTHONPATH", str(project.folder / "src"))
    NotebookClient(notebook, timeout=300, resources=place).execute()
    shown = [
        output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])
    ]
    assert sum("image/png" in data for data in shown) >= 2
    assert not (project.folder / "notebooks/mlflow.db").exists()


def test_a_search_for_parameters_goes_on_to_the_number_of_trials_and_names_the_best(project):
    command = [sys.executable, str(SOURCE / "scripts/sweep.py"), "--model", "unet", "--trials"]
    options = {"cwd": project.folder, "capture_output": True, "text": True, "timeout": 300}
    for trials in (1, 2):
        done = subprocess.run([*command, str(trials)], **options)
        assert done.returncode == 0, done.stderr
    study = project.data("06_models/unet/workspace/sweep/study.db")
    trials = optuna.load_study(study_name="unet", storage=f"sqlite:///{study}").trials
    assert [list(trial.intermediate_values) for trial in trials] == [[0, 1], [0, 1]]
    best = max(trials, key=lambda trial: trial.value)
    assert best.value == max(best.intermediate_values.values())
    assert f"training.lr={best.params['lr']}," in done.stdout


def test_a_model_that_the_catalog_does_not_know_of_is_refused(project, tmp_path):
    other = object.__new__(Project)
    other.folder = shutil.copytree(project.folder, tmp_path / "copy")
    (other.folder / "conf/local/parameters_mine.yml").write_text("model: segformer\n")
    assert "'segformer' in a parameters.yml, but 'unet' for the catalog" in other.refusal(
        "training"
    )


def test_only_missing_outputs_resumes(project):
    project.data("08_reporting/unet/patient_dice.png").unlink()
    done = project.kedro("run", "--only-missing-outputs")
    assert done.returncode == 0, done.stderr
    assert "Completed node: plot_patient_dice" in done.stderr
    assert "Completed node: train_model" not in done.stderr
    assert "Completed node: summarise_scores" not in done.stderr
    assert project.data("08_reporting/unet/patient_dice.png").exists()


def test_runs_go_to_the_server_that_mlflows_own_variable_names(project, tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path}/server.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    done = project.kedro("run", "--pipeline", "data_processing")
    assert done.returncode == 0, done.stderr
    assert mlflow.MlflowClient(uri).get_experiment_by_name("brain-mri-segmentation")


def test_a_training_that_is_stopped_or_killed_ends_its_run(project, tmp_path):
    other = object.__new__(Project)
    other.folder = shutil.copytree(project.folder, tmp_path / "copy")
    command = [sys.executable, "-m", "kedro", "run", "--pipeline", "training", "--params"]

    def end(sent):
        """Train until the first epoch is over, then send a signal."""
        with subprocess.Popen(
            [*command, "training.epochs=500"], cwd=other.folder, stderr=subprocess.PIPE, text=True
        ) as process:
            for line in process.stderr:
                if "Epoch 1/500" in line:
                    process.send_signal(sent)
                    break
            said = process.stderr.read()
        return other.recorded("training")[1], said

    stopped, said = end(signal.SIGTERM)
    assert "told to stop after epoch" in said
    killed, _ = end(signal.SIGKILL)
    assert (stopped.info.status, killed.info.status) == ("KILLED", "RUNNING")
    subprocess.run([*command, "training.epochs=1"], cwd=other.folder, check=True)
    client, finished = other.recorded("training")
    assert finished.info.status == "FINISHED"
    assert client.get_run(killed.info.run_id).info.status == "KILLED"


def test_any_folder_is_segmented_and_a_broken_file_is_listed_at_the_end(project, tmp_path):
    volume = project.data("01_raw/kaggle_3m/PHANTOM_CS_0000")
    shutil.copytree(volume, tmp_path / "in/PHANTOM_CS_0000")
    lone = Image.fromarray(tifffile.imread(volume / "PHANTOM_CS_0000_3.tif"))
    lone.save(tmp_path / "in/0012.png")
    (tmp_path / "in/broken.tif").write_bytes(b"II*\0 and no more")
    model = str(project.data("06_models/unet/best.ckpt"))
    message = project.refusal("inference", input=str(tmp_path / "in"), serving_model=model)
    assert "1 file(s) could not be segmented" in message
    assert "broken: " in message

    summary = pd.read_csv(project.data("08_reporting/inference/summary.csv"))
    assert len(summary) == 8  # six slices, one alone, one broken; the masks are no slices
    assert summary["problem"].notna().sum() == 1
    names = pd.read_csv(project.data("08_reporting/inference/summary.csv"), dtype=str)["slice"]
    assert "0012" in set(names)  # and not 12
    volumes = pd.read_csv(project.data("08_reporting/inference/volumes.csv")).set_index("volume")
    assert volumes.loc["PHANTOM_CS_0000/PHANTOM_CS_0000", "slices"] == 6
    assert volumes["problems"].sum() == 1

    output = project.data("07_model_output/inference")
    slices = [tifffile.imread(volume / f"PHANTOM_CS_0000_{n}.tif") for n in range(1, 7)]
    expected = load_model(model).predict(Volume(np.stack(slices))).mask
    for n, mask in enumerate(expected, start=1):
        path = f"PHANTOM_CS_0000/PHANTOM_CS_0000_{n}.png"
        assert np.array_equal(np.asarray(Image.open(output / "masks" / path)), mask)
        assert Image.open(output / "overlays" / path).mode == "RGB"


def test_an_interrupted_run_over_a_folder_is_not_reported_as_the_whole(project, tmp_path):
    slices = project.data("01_raw/kaggle_3m/PHANTOM_CS_0000")
    model = str(project.data("06_models/unet/best.ckpt"))
    done = {"input": str(tmp_path / "in"), "serving_model": model}
    summary = project.data("08_reporting/inference/summary.csv")
    masks = project.data("07_model_output/inference/masks")
    (tmp_path / "in").mkdir()

    def add(name):
        shutil.copy(slices / "PHANTOM_CS_0000_3.tif", tmp_path / f"in/{name}.tif")

    add("a")
    project.run("inference", **done)
    before = (masks / "a.png").stat().st_mtime_ns
    for name in "bcde":
        add(name)
    (masks / "c.png").mkdir()  # which no file can replace
    assert "c.png could not be written" in project.refusal("inference", **done)
    assert (masks / "b.png").exists()
    assert not (masks / "e.png").exists()  # d was segmented while c was written
    (masks / "c.png").rmdir()
    project.run("inference", only_missing_outputs=True, **done)
    assert pd.read_csv(summary)["slice"].tolist() == ["a", "b", "c", "d", "e"]
    assert (masks / "e.png").exists()
    assert (masks / "a.png").stat().st_mtime_ns == before


def test_a_finished_model_is_scored_on_another_cohort(project, tmp_path):
    write_cohort(tmp_path, patients=7, slices=6, size=64, seed=2)
    model = str(project.data("06_models/unet/best.ckpt"))
    parameters = {"raw_path": str(tmp_path), "serving_model": model}
    seen = "selected on 4 of the patients to be scored"
    assert seen in project.refusal("scoring", **parameters)
    other = project.refusal("scoring", model="segformer", **parameters)
    assert "holds a 'unet', but this run is for model=segformer" in other

    for folder in project.data("01_raw/kaggle_3m").iterdir():
        if folder.is_dir():
            shutil.rmtree(tmp_path / "kaggle_3m" / folder.name)
    before = project.data("08_reporting/unet/metrics.json").read_bytes()
    project.run("scoring", **parameters)
    metrics = json.loads(project.data("08_reporting/unet/scoring/metrics.json").read_text())
    assert (metrics["split"], metrics["patients"], metrics["slices"]) == ("test", 2, 12)
    assert len(list(project.data("07_model_output/unet/scoring/masks").glob("*.tif"))) == 12
    assert project.data("08_reporting/unet/metrics.json").read_bytes() == before


def test_a_manifest_says_which_patients_a_finished_model_is_scored_on(project):
    split = project.data("02_intermediate/patient_split.csv")
    test = pd.read_csv(split).query("split == 'test'")
    model = str(project.data("06_models/unet/best.ckpt"))
    parameters = {"split_manifest": str(split), "serving_model": model}
    project.run("scoring", **parameters)
    scores = pd.read_csv(project.data("08_reporting/unet/scoring/patient_scores.csv"))
    assert scores["patient"].tolist() == test["patient"].tolist()


@pytest.fixture(scope="module")
def two_models(project, tmp_path_factory):
    """A copy of the project in which a U-Net and a small SegFormer are trained and scored."""
    folder = tmp_path_factory.mktemp("two_models")
    start = folder / "first-weights"
    SegformerForSemanticSegmentation(
        SegformerConfig(
            depths=[1] * 4,
            hidden_sizes=[8, 8, 16, 16],
            num_attention_heads=[1, 1, 2, 2],
            decoder_hidden_size=16,
        )
    ).save_pretrained(start)
    other = object.__new__(Project)
    other.folder = shutil.copytree(project.folder, folder / "project")
    scored = {"evaluation": {"split": "train"}}  # where there is more than one patient
    other.run("evaluation", **scored)
    assert "no metrics.json of segformer (there is one of: unet)" in other.refusal(
        "publishing", model="segformer"
    )
    models = {"segformer": {"pretrained": str(start)}}
    other.run(["training", "evaluation"], model="segformer", models=models, **scored)
    return other


def champion(project):
    client = mlflow.MlflowClient(f"sqlite:///{project.folder}/mlflow.db")
    return client.get_registered_model("brain-mri-segmentation").aliases.get("champion")


def test_a_model_that_does_not_beat_the_baseline_is_not_published(two_models):
    gate = {"minimum_difference": 0.9}
    message = two_models.refusal("publishing", model="segformer", publishing={"gate": gate})
    assert "segformer is not published, because it does not beat unet: on 3 patients" in message
    comparison = two_models.data("08_reporting/segformer/comparison.json")
    assert json.loads(comparison.read_text())["baseline"] == "unet"
    assert comparison.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert not two_models.data("06_models/segformer/exported").exists()


def test_a_model_that_passes_is_pushed_and_becomes_the_champion(two_models, hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")  # which the hub of the tests does not speak
    parameters = {
        "model": "segformer",
        "publishing.onnx": "false",
        "publishing.gate.minimum_difference": "-1",
        "publishing.destination": "hub",
        "publishing.repo_id": "somebody/glioma",
    }
    given = ",".join(f"{name}={value}" for name, value in parameters.items())
    done = two_models.kedro("run", "--pipeline", "publishing", "--params", given)
    assert done.returncode == 0, done.stderr
    assert "model.safetensors: 100%" in done.stderr
    assert TOKEN not in done.stdout + done.stderr
    folder = two_models.data("06_models/segformer/exported")
    release = json.loads(two_models.data("08_reporting/segformer/hub_release.json").read_text())
    repository = hub.repositories["somebody/glioma"]
    assert release["commit"] == f"{repository.branches['main']:040x}"
    pushed = {n: c for n, c in repository.commits[-1].items() if n != ".gitattributes"}
    assert pushed == {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert {path.name for path in (folder / "pictures").iterdir()} == {
        "patient_dice.png",
        "comparison.png",
        "slice_gallery.png",
    }
    assert int(champion(two_models)) == 1


def test_the_baseline_is_published_as_such_and_can_be_shipped(two_models):
    folder = two_models.data("06_models/pretrained/unet")
    two_models.run(
        "publishing", exported_model=str(folder), publishing={"onnx": False, "pictures": False}
    )
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "config.json",
        "model.int8.bin",  # it loses nothing
        "model.int8.xml",
        "model.safetensors",
        "pictures",
        "preprocessor_config.json",
        "run.json",
    }
    assert [path.name for path in (folder / "pictures").iterdir()] == ["patient_dice.png"]
    trained = Checkpoint.load(two_models.data("06_models/unet/best.ckpt"))
    assert Checkpoint.load(folder).digest == trained.digest


def test_the_gpu_environment_changes_a_few_keys_and_inherits_the_rest(project):
    bootstrap_project(project.folder)
    with KedroSession.create(project.folder, env="gpu") as session:
        values = session.load_context().config_loader["parameters"]
    chosen = {"model": "unet"}
    with KedroSession.create(project.folder, env="gpu", runtime_params=chosen) as session:
        assert session.load_context().config_loader["parameters"]["model"] == "unet"
        assert "unet/best.ckpt" in str(session.load_context().catalog.get("checkpoint"))
    with KedroSession.create(project.folder, env="base") as session:
        base = session.load_context().config_loader["parameters"]
    assert values["model"] == "segformer"
    assert values["models"]["segformer"] == base["models"]["segformer"]
    assert values["training"]["accelerator"] == "gpu"
    assert values["training"]["augmentation"] == base["training"]["augmentation"]
    assert values["training"]["epochs"] == base["training"]["epochs"]


def test_several_processes_make_one_run_one_checkpoint_and_one_report(project):
    client = mlflow.MlflowClient(f"sqlite:///{project.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("brain-mri-segmentation").experiment_id
    before = {run.info.run_id for run in client.search_runs([experiment])}
    reports = set(project.data("08_reporting").rglob("*"))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "-m", "kedro", "run"]
    command += ["--pipeline", "training"]
    done = subprocess.run(command, cwd=project.folder, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Epoch 2/2") == 1
    (run,) = (run for run in client.search_runs([experiment]) if run.info.run_id not in before)
    assert run.info.status == "FINISHED"
    assert [m.step for m in client.get_metric_history(run.info.run_id, "val/dice")] == [1, 2]
    assert set(project.data("08_reporting").rglob("*")) == reports


def test_a_faulty_cohort_is_refused_and_leaves_nothing_behind(project, tmp_path):
    write_cohort(tmp_path / "raw", patients=4, slices=3, size=64)
    first = next((tmp_path / "raw").rglob("*_0000_1.tif"))
    first.write_bytes(first.read_bytes()[:3000])
    before = project.data("02_intermediate/patient_split.csv").read_bytes()
    message = project.refusal("data_processing", raw_path=str(tmp_path / "raw"))
    assert "_1: cannot be read" in message
    assert project.data("02_intermediate/patient_split.csv").read_bytes() == before


def test_a_wrong_parameter_is_one_message_before_any_node_runs(project):
    done = project.kedro("run", "--params", "training.epoch=3")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "node:" not in done.stderr
    assert done.stderr.rstrip().endswith("on the command line (--params).")
    assert "unknown: 'epoch' (did you mean 'epochs'?)" in done.stderr


def test_an_unknown_pipeline_is_refused_with_the_known_ones(project):
    done = project.kedro("run", "--pipeline", "trainin")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert (
        "pipelines.trainin' module.). There are: cross_validation, data_processing, ensemble, "
        "evaluation, final, inference, publishing, robustness, scoring, training." in done.stderr
    )
