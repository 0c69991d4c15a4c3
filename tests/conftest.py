"""What many tests share: the project's own parameters, and synthetic cohorts."""

import os
import subprocess
import tempfile
import threading
from pathlib import Path

# Networks are tiny here, so that threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nor may tests fill, or take from, the cache of the person who runs them.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="cache-of-tests-")

import numpy as np
import pytest
import torch
from hub_server import Hub
from kedro.config import OmegaConfigLoader

from brain_mri_segmentation.cohort.phantom import write_cohort
from brain_mri_segmentation.models import Checkpoint, as_arrays, create_model
from brain_mri_segmentation.parameters import ProjectParameters, check_parameters

PROJECT = Path(__file__).resolve().parents[1]
SHARED_COHORT = PROJECT.parent / "shared" / "data" / "lgg"


@pytest.fixture(scope="session")
def parameter_values() -> dict:
    """The values of conf/base, as Kedro gives them, for the smallest model."""
    loader = OmegaConfigLoader(str(PROJECT / "conf"), base_env="base", default_run_env="base")
    return loader["parameters"] | {"model": "unet"}


@pytest.fixture(scope="session")
def parameters(parameter_values) -> ProjectParameters:
    """Those of conf/base, but for the small networks and slices of tests."""
    small = {"context": 0, "min_component_size": 0}
    preprocessing = parameter_values["preprocessing"] | small
    return check_parameters(parameter_values | {"preprocessing": preprocessing})


@pytest.fixture(scope="session")
def shared_cohort() -> Path:
    if not SHARED_COHORT.is_dir():
        pytest.skip("the real cohort is not beside this checkout")
    return SHARED_COHORT


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory) -> Path:
    """Five synthetic patients with six slices of 64 x 64 pixels each; nobody may change them."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_cohort(folder, patients=5, slices=6, size=64, seed=1)
    return folder


class SyntheticSlices:
    """Images with a bright square as tumour, and their masks, as readers by slice name."""

    def __init__(
        self, patients: int, slices: int, size: int = 32, tumour: bool = True, letter: str = "P"
    ) -> None:
        random = np.random.default_rng(0)
        self.images, self.masks = {}, {}
        for patient in range(patients):
            for number in range(1, slices + 1):
                image = random.integers(40, 80, (size, size, 3), dtype=np.uint8)
                mask = np.zeros((size, size), np.uint8)
                if tumour and number % 2:
                    row, column = random.integers(0, size // 2, 2)
                    mask[row : row + size // 3, column : column + size // 3] = 255
                    image[mask > 0] += 120
                name = f"{letter}{patient}_{number}"
                self.images[name] = lambda image=image: image
                self.masks[name] = lambda mask=mask: mask


@pytest.fixture
def synthetic_slices():
    return SyntheticSlices


@pytest.fixture(scope="session")
def model_path(parameters, tmp_path_factory) -> Path:
    """The checkpoint of a small network with random weights, which finds half of a picture."""
    torch.manual_seed(0)
    model = create_model("unet", {"channels": [4, 8]})
    rules = parameters.preprocessing.model_dump() | {"image_size": 32, "min_component_ratio": 0}
    path = tmp_path_factory.mktemp("model") / "best.ckpt"
    Checkpoint("unet", model.config, rules, as_arrays(model.state_dict())).save(path)
    return path


@pytest.fixture
def tiny_segformer(tmp_path):
    """A folder as the hub gives it: a small SegFormer with a head of 150 classes, as of ADE20K."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(0)
    config = SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        num_labels=150,
    )
    folder = tmp_path / "tiny-segformer"
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    return folder


@pytest.fixture
def make_checkpoint(parameters, request):
    """A function that gives a small checkpoint with random weights, the same each time."""
    options = {
        "unet": lambda: {"channels": [4, 8]},
        "unet_efficientnet": lambda: {"pretrained": False},
        "segformer": lambda: {"pretrained": str(request.getfixturevalue("tiny_segformer"))},
    }

    def make(name: str, metadata: dict | None = None, **rules: object) -> Checkpoint:
        preprocessing = parameters.preprocessing.model_dump() | {"image_size": 64} | rules
        chosen = options[name]()  # may draw random weights of its own
        torch.manual_seed(0)
        model = create_model(name, chosen, 3 * (1 + 2 * preprocessing["context"]))
        metadata = metadata or {"epoch": 3, "train_patients": ["P0"], "val_patients": ["P1"]}
        return Checkpoint(
            name, model.config, preprocessing, as_arrays(model.state_dict()), metadata
        )

    return make


class Disk:
    """A small disk of its own, which can become larger or read-only."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mount(self, options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.path]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("a file system can be mounted by root alone")


@pytest.fixture
def disk(tmp_path):
    """A disk of 36 kB."""
    (tmp_path / "disk").mkdir()
    disk = Disk(tmp_path / "disk")
    disk.mount("size=36k")
    yield disk
    subprocess.run(["umount", disk.path], check=True)


@pytest.fixture
def hub(monkeypatch):
    """A hub on loopback, and clients that upload to it without Xet, which it does not speak."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    server = Hub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
