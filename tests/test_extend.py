"""The page docs/extend.md does what it says: its own code, in a copy of the project."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from brain_mri_segmentation.cohort.phantom import make_volume
from brain_mri_segmentation.models import Checkpoint

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r'^```(\w+) title="(.+?)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
SMALL = {
    "preprocessing": {"image_size": 64},
    "split": {"fraction": 0.4},  # two of five patients, since one has no interval
    "training": {"epochs": 1, "batch_size": 4, "ema_decay": 0.5, "accelerator": "cpu"},
    "evaluation": {"bootstrap_samples": 100},
}


def apply(hunk: str, text: str) -> str:
    """Change a text as a hunk says whose lines begin with a blank, a minus or a plus."""
    lines = hunk.splitlines()
    old = "\n".join(line[1:] for line in lines if line[0] != "+")
    new = "\n".join(line[1:] for line in lines if line[0] != "-")
    assert text.count(f"{old}\n") == 1, f"not once in the file: {old}"
    return text.replace(f"{old}\n", f"{new}\n")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with all that the page adds, after one run."""
    folder = tmp_path_factory.mktemp("extended")
    for name in ("conf", "src"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("local"))
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(PROJECT / name, folder)
    for language, name, content in BLOCK.findall((PROJECT / "docs/extend.md").read_text()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if language == "diff":
            text = path.read_text()
            for hunk in content.split("...\n"):
                text = apply(hunk, text)
            content = text
        path.write_text(content)
    (folder / "conf/local/parameters.yml").write_text(yaml.safe_dump(SMALL))
    (folder / "data/01_raw").mkdir(parents=True)
    for patient in range(5):
        volume = make_volume(5, 64, np.random.default_rng(patient))
        images, masks = (np.stack(pictures) for pictures in zip(*volume, strict=True))
        np.savez(folder / f"data/01_raw/P{patient}.npz", images=images, masks=masks)

    command = [sys.executable, "-m", "kedro", "run", "--params", "model=dilated"]
    environment = os.environ | {"PYTHONPATH": str(folder / "src")}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_the_new_model_is_trained_and_stored(project):
    with pytest.raises(Exception, match="a model 'dilated', which this version does not know"):
        Checkpoint.load(project / "data/06_models/dilated/best.ckpt").build()
    checkpoint = Checkpoint.load(project / "data/06_models/dilated/best.ckpt")
    assert checkpoint.model_config["width"] == 16


def test_the_new_metric_is_in_the_report_with_its_interval(project):
    report = json.loads((project / "data/08_reporting/dilated/metrics.json").read_text())
    scores = pd.read_csv(project / "data/08_reporting/dilated/patient_scores.csv")
    found = scores["true_positive"] / (scores["true_positive"] + scores["false_negative"])
    assert report["sensitivity"] == pytest.approx(found.mean())
    assert report["sensitivity_tumour_slices"] is not None
    assert report["intervals_95"]["sensitivity"][0] <= report["sensitivity"]
    assert scores["sensitivity"].tolist() == pytest.approx(found.tolist())


def test_the_new_dataset_is_read_checked_and_split(project):
    cohort = pd.read_csv(project / "data/02_intermediate/cohort.csv")
    assert sorted(cohort["patient"].unique()) == ["P0", "P1", "P2", "P3", "P4"]
    assert len(cohort) == 25
    split = pd.read_csv(project / "data/02_intermediate/patient_split.csv")
    assert split["split"].value_counts().to_dict() == {"train": 1, "val": 2, "test": 2}


def test_the_new_files_follow_the_projects_style(project):
    command = [sys.executable, "-m", "ruff", "check", "src"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--check", "src"],
        cwd=project,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
