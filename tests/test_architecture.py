"""The floors of the house: imports go down only, and domain code knows no framework around it."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml
from kedro.framework.project import configure_project, pipelines
from parse import parse

from brain_mri_segmentation.serving import model as serving_model

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "brain_mri_segmentation"
NAME = PACKAGE.name

GLUE = {"pipelines", "datasets", "serving", "hooks", "settings", "pipeline_registry", "__main__"}
WORK = {"ensembling", "training", "inference", "calibration", "robustness", "publishing", "phantom"}
FRAMEWORKS = {
    *("kedro", "kedro_datasets", "kedro_mlflow", "mlflow"),
    *("fastapi", "starlette", "uvicorn", "prometheus_client"),
}


def floor(room: str) -> int:
    return 2 if room in GLUE else 1 if room in WORK else 0


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FILES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem != "__init__"
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_and_stay_out_of_other_rooms_files(path):
    room = room_of(path)
    for name in imports(path):
        parts = name.split(".")
        if floor(room) < 2:
            assert parts[0] not in FRAMEWORKS, f"{path} imports {name}"
        if parts[0] == NAME and len(parts) > 1 and parts[1] != room:
            assert floor(parts[1]) <= floor(room), f"{path} imports upwards: {name}"
            # Another room is used through its __init__ alone.
            inside = PACKAGE / parts[1] / f"{parts[2]}.py" if len(parts) > 2 else None
            assert inside is None or not inside.is_file(), f"{path} reaches into {name}"


def test_work_and_ground_bring_no_framework_with_them():
    """A library in between could import one, too."""
    rooms = sorted({room_of(path) for path in FILES if floor(room_of(path)) < 2})
    code = f"""
import importlib, sys
for room in {rooms}:
    importlib.import_module("{NAME}." + room)
print(*sorted({sorted(FRAMEWORKS)} & sys.modules.keys()))
""".replace("[", "{", 2).replace("]", "}", 2)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def names(*, parameters: bool) -> set[str]:
    """Return what the pipelines read and write: datasets, or parameters without ``params:``."""
    configure_project(NAME)
    found = set().union(*(pipeline.datasets() for pipeline in pipelines.values()))
    return {n.removeprefix("params:") for n in found if n.startswith("params:") == parameters}


@cache  # a pattern takes longer to compile than all else here
def declared_as(name: str) -> str:
    """Return the entry of catalog.yml that a dataset's name falls under."""
    entries = configured("catalog.yml")
    patterns = (entry for entry in entries if "{" in entry and parse(entry, name))
    return name if name in entries else next(patterns, name)


@cache
def configured(file: str) -> set[str]:
    entries = yaml.safe_load((PACKAGE.parents[1] / "conf/base" / file).read_text())
    return {name for name in entries if not name.startswith("_")}


def test_every_catalog_entry_is_used_and_every_input_is_declared():
    used = {declared_as(name) for name in names(parameters=False)}
    unused = {serving_model.ENTRY, "pretrained_unet"}  # for the service, and for users
    assert configured("catalog.yml") == used | unused


def test_layers_go_one_way():
    """Kedro-Viz shows no layers at all where one lies both above and below another."""
    entries = yaml.safe_load((PACKAGE.parents[1] / "conf/base/catalog.yml").read_text())
    configure_project(NAME)
    for pipeline in pipelines.values():
        above: dict[str, set[str]] = {}  # layers that a dataset is made from, by dataset
        order: dict[str, set[str]] = {}  # the same by layer
        for node in pipeline.nodes:
            sources = set().union(*(above.get(name, set()) for name in node.inputs))
            sources |= {layer for name in node.inputs if (layer := layer_of(name, entries))}
            for name in node.outputs:
                above[name] = sources
                if layer := layer_of(name, entries):
                    order[layer] = order.get(layer, set()) | sources - {layer}
        TopologicalSorter(order).prepare()  # raises CycleError


def layer_of(name: str, entries: dict) -> str | None:
    metadata = entries.get(declared_as(name), {}).get("metadata", {})
    return metadata.get("kedro-viz", {}).get("layer")


def test_every_parameter_is_used_and_every_one_that_a_node_takes_is_declared():
    assert configured("parameters.yml") == names(parameters=True) | {"serving"}


def test_every_node_is_named_by_its_function():
    configure_project(NAME)
    for pipeline in pipelines.values():
        for node in pipeline.nodes:
            assert node.name.rpartition(".")[2] == node.func.__name__
