"""The script with a `kedro` that does nothing but fail where it publishes."""

import os
import subprocess
from pathlib import Path

import pytest

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.parameters import GateParameters
from brain_mri_segmentation.publishing.gate import approve

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/train_everything.sh"


def refusal():
    """What the gate says of a SegFormer that is worse than the baseline."""
    checkpoint = Checkpoint("segformer", {}, {}, {}, {})
    report = {"digest": checkpoint.digest, "split": "val"}
    comparison = report | {
        "main": "segformer",
        "baseline": "unet",
        "patients": 3,
        "difference": -0.1,
        "confidence": 0.95,
        "interval": [-0.2, 0.0],
    }
    gate = GateParameters(minimum_difference=0.0, confidence=0.95, override=None)
    with pytest.raises(InputError) as caught:
        approve(comparison, checkpoint, report, gate)
    return str(caught.value)


def train(folder, says, status):
    """Run the script; return its exit status, what was run and what was said."""
    (folder / "kedro").write_text(
        '#!/bin/sh\necho "$*" >> runs\n'
        f'case "$*" in *publishing*segformer*) cat message >&2; exit {status};; esac\n'
    )
    (folder / "kedro").chmod(0o755)
    (folder / "message").write_text(f"\nError: {says}\n")
    path = {"PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", str(SCRIPT)], cwd=folder, env=os.environ | path, capture_output=True, text=True
    )
    return done.returncode, (folder / "runs").read_text(), done.stderr


def test_a_model_that_the_gate_holds_back_does_not_end_the_others(tmp_path):
    status, runs, said = train(tmp_path, refusal(), 1)
    assert status == 0
    assert runs.splitlines()[-1].endswith("training.resume=auto,model=unet_efficientnet")
    assert "segformer is not published, because it does not beat unet" in said


def test_all_but_what_replaces_earlier_reports_is_done_once(tmp_path):
    _, runs, _ = train(tmp_path, refusal(), 1)
    again = [
        run.split("--pipelines ")[1].split()[0] for run in runs.splitlines() if "only" not in run
    ]
    assert again == ["cross_validation", "final"] * 2 + ["publishing"]


@pytest.mark.parametrize(
    ("says", "status"), [("segformer and unet cannot be compared", 1), ("", 137)]
)
def test_any_other_failure_of_publishing_ends_the_script(tmp_path, says, status):
    found, runs, said = train(tmp_path, says, status)
    assert found != 0
    assert "cross_validation" not in runs
    assert says in said
