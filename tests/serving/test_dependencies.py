"""Service and command run with what `pip install` of an extra gives, and nothing else."""

import io
import os
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import httpx
import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from brain_mri_segmentation.cohort.phantom import make_volume
from brain_mri_segmentation.imaging.readers import read_volume
from brain_mri_segmentation.inference.predictor import load_model
from brain_mri_segmentation.models import SHIPPED_MODEL

pytestmark = pytest.mark.slow

# Runs a program in a process that cannot import the names given as its first argument.
WITHOUT = """
import sys

class Absent:
    names = frozenset(sys.argv.pop(1).split(","))

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"{name} is not among the dependencies", name=name)

sys.meta_path.insert(0, Absent())
exec(sys.argv.pop(1))
"""
SERVICE = "import runpy; runpy.run_module('brain_mri_segmentation.serving', run_name='__main__')"
COMMAND = "from brain_mri_segmentation.command import app; app()"


PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
PROJECT = tomllib.loads(PYPROJECT.read_text())["project"]


def required_by(requirement: Requirement) -> list[Requirement]:
    """Return what a distribution requires with its extras; of this project as its file has it."""
    if requirement.name == PROJECT["name"]:
        extras = (PROJECT["optional-dependencies"][name] for name in requirement.extras)
        return [Requirement(text) for text in sum(extras, PROJECT["dependencies"])]
    try:
        needed = [Requirement(text) for text in requires(requirement.name) or []]
    except PackageNotFoundError:  # of another platform
        return []
    places = [{"extra": name} for name in (*requirement.extras, "")]
    return [n for n in needed if n.marker is None or any(map(n.marker.evaluate, places))]


def absent_with(extra: str) -> set[str]:
    """Return what can be imported here, and could not where only an extra is installed."""
    found, waiting = set(), [Requirement(f"{PROJECT['name']}[{extra}]")]
    while waiting:
        requirement = waiting.pop()
        wanted = (canonicalize_name(requirement.name), *sorted(requirement.extras))
        if wanted not in found:
            found.add(wanted)
            waiting += required_by(requirement)
    present = {name for name, *_ in found}
    return {
        module
        for module, owners in packages_distributions().items()
        if not present & {canonicalize_name(owner) for owner in owners}
    }


def test_the_training_stack_is_none_of_servings_dependencies():
    absent = absent_with("serving")
    assert {"lightning", "mlflow", "kedro_mlflow", "kedro_viz", "kedro_datasets"} <= absent
    assert {"matplotlib", "sklearn", "transformers", "tifffile", "pytest"} <= absent


@pytest.fixture
def slice_file(tmp_path):
    """A slice of a phantom in which the shipped model finds something."""
    image, mask = make_volume(8, 256, np.random.default_rng(0))[4]
    assert mask.any()
    Image.fromarray(image).save(tmp_path / "slice.tif")
    return tmp_path / "slice.tif"


def test_the_service_answers_where_only_its_dependencies_are(serve, slice_file, tmp_path):
    content = slice_file.read_bytes()
    service = ("-c", WITHOUT, ",".join(sorted(absent_with("serving"))), SERVICE)
    with serve(tmp_path, *service) as (address, _, _):
        overlay = f"{address}/segment?output=overlay"
        answer = httpx.post(overlay, files={"file": content}, timeout=60)
        assert answer.status_code == 200, answer.text
        stack = [("files", content)] * 2
        answer = httpx.post(f"{address}/segment/volume", files=stack, timeout=60)
        assert answer.status_code == 200, answer.text
        assert httpx.get(f"{address}/ready").json()["model_name"] == "unet"


@pytest.fixture(scope="module")
def without_torch():
    """The start of a command line for what `serving-openvino` gives, which has no PyTorch."""
    absent = absent_with("serving-openvino")
    assert {"torch", "transformers", "huggingface_hub", "onnxruntime", "pandas"} <= absent
    return "-c", WITHOUT, ",".join(sorted(absent))


@pytest.fixture
def expected(slice_file):
    """The mask that OpenVINO gives beside PyTorch."""
    mask = load_model().predict(read_volume(str(slice_file))).mask[0]
    assert np.count_nonzero(mask) > 100
    return mask


def test_the_service_gives_the_same_mask_without_torch(
    serve, without_torch, slice_file, expected, tmp_path
):
    files = {"file": slice_file.read_bytes()}
    command = (*without_torch, SERVICE)
    with serve(tmp_path, *command, SERVING_MODEL=str(SHIPPED_MODEL)) as (address, _, _):
        answer = httpx.post(f"{address}/segment", files=files, timeout=60)
    assert answer.status_code == 200, answer.text
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), expected)


def run_command(without_torch, *arguments):
    command = [sys.executable, *without_torch, COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ)


def test_the_command_gives_the_same_mask_without_torch(
    without_torch, slice_file, expected, tmp_path
):
    done = run_command(without_torch, "segment", slice_file, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    (mask,) = (tmp_path / "out/masks").iterdir()
    assert np.array_equal(np.asarray(Image.open(mask)), expected)


def test_what_needs_torch_says_so_in_one_line(
    without_torch, slice_file, model_path, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # where no other test converted a model
    for option, value, purpose in (
        ("--engine", "torch", "For engine=torch"),
        ("--engine", "openvino", "To convert a model"),
        ("--model", model_path, "To read a checkpoint"),
    ):
        asked = ("segment", slice_file, "-o", tmp_path / "out", option, value)
        done = run_command(without_torch, *asked)
        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"Error: {purpose}")
        assert "pip install 'brain-mri-segmentation[torch]'" in line
