"""The service runs with what `pip install '.[serving]'` gives, and nothing else."""

import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.slow

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"

# Starts the service in a process that cannot import the names given as its first argument.
SERVICE_WITHOUT = """
import sys

class Absent:
    names = frozenset(sys.argv.pop(1).split(","))

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"{name} is not among serving's dependencies", name=name)

sys.meta_path.insert(0, Absent())
import runpy
runpy.run_module("brain_mri_segmentation.serving", run_name="__main__")
"""


def with_what_they_need(requirements: list[str]) -> set[str]:
    """Return the names of distributions and of all that they require in turn."""
    found, waiting = set(), [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        wanted = (canonicalize_name(requirement.name), *sorted(requirement.extras))
        if wanted in found:
            continue
        found.add(wanted)
        try:
            needed = [Requirement(text) for text in requires(requirement.name) or []]
        except PackageNotFoundError:  # of another platform
            continue
        for extra in ({"extra": name} for name in (*requirement.extras, "")):
            waiting += [n for n in needed if n.marker is None or n.marker.evaluate(extra)]
    return {name for name, *_ in found}


@pytest.fixture(scope="module")
def absent() -> set[str]:
    """What can be imported here, and could not where only serving is installed."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    extras = project["optional-dependencies"]
    present = with_what_they_need(project["dependencies"] + extras["serving"])
    present.add(project["name"])
    return {
        module
        for module, owners in packages_distributions().items()
        if not present & {canonicalize_name(owner) for owner in owners}
    }


def test_the_training_stack_is_none_of_servings_dependencies(absent):
    assert {"lightning", "mlflow", "kedro_mlflow", "kedro_viz", "kedro_datasets"} <= absent
    assert {"matplotlib", "sklearn", "transformers", "tifffile", "pytest"} <= absent


def test_the_service_answers_where_only_its_dependencies_are(
    serve, absent, phantom_folder, tmp_path
):
    slice_file = phantom_folder / "kaggle_3m/PHANTOM_CS_0000/PHANTOM_CS_0000_3.tif"
    content = slice_file.read_bytes()
    service = ("-c", SERVICE_WITHOUT, ",".join(sorted(absent)))
    with serve(tmp_path, *service) as (address, _, _):
        overlay = f"{address}/segment?output=overlay"
        answer = httpx.post(overlay, files={"file": content}, timeout=60)
        assert answer.status_code == 200, answer.text
        stack = [("files", content)] * 2
        answer = httpx.post(f"{address}/segment/volume", files=stack, timeout=60)
        assert answer.status_code == 200, answer.text
        assert httpx.get(f"{address}/ready").json()["model_name"] == "unet"
