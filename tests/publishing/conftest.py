import os
import subprocess
import sys

import pytest
import torch

from brain_mri_segmentation.models import Checkpoint, as_arrays, create_model


@pytest.fixture
def make_checkpoint(parameters, tiny_segformer):
    """A function that gives a small checkpoint with random weights."""
    options = {
        "unet": {"channels": [4, 8]},
        "unet_efficientnet": {"pretrained": False},
        "segformer": {"pretrained": str(tiny_segformer)},
    }

    def make(name: str, **rules: object) -> Checkpoint:
        torch.manual_seed(0)
        preprocessing = parameters.preprocessing.model_dump() | {"image_size": 64} | rules
        channels = 3 * (1 + 2 * preprocessing["context"])
        model = create_model(name, options[name], channels)
        metadata = {"epoch": 3, "train_patients": ["P0"], "val_patients": ["P1"]}
        return Checkpoint(
            name, model.config, preprocessing, as_arrays(model.state_dict()), metadata
        )

    return make


@pytest.fixture
def run_elsewhere(tmp_path):
    """A function that runs Python where this project cannot be imported."""

    def run(code: str, *arguments: object, **environment: str) -> str:
        hidden = "import sys; sys.modules['brain_mri_segmentation'] = None\n"
        command = [sys.executable, "-c", hidden + code, *map(str, arguments)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | environment,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
