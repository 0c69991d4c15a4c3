"""The floors of the house: imports go down only, and domain code knows no framework around it."""

import ast
from pathlib import Path

import pytest
import yaml
from kedro.framework.project import configure_project, pipelines

from brain_mri_segmentation.serving import model as serving_model

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "brain_mri_segmentation"
NAME = PACKAGE.name

GLUE = {"pipelines", "datasets", "serving", "hooks", "settings", "pipeline_registry", "__main__"}
WORK = {"training", "inference", "publishing", "phantom"}
FRAMEWORKS = {"kedro", "kedro_datasets", "kedro_mlflow", "mlflow", "fastapi"}


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


def test_every_catalog_entry_is_used_and_every_input_is_declared():
    configure_project(NAME)
    catalog = yaml.safe_load((PACKAGE.parents[1] / "conf/base/catalog.yml").read_text())
    declared = {name for name in catalog if not name.startswith("_")}
    used = set()
    for pipeline in pipelines.values():
        used |= {n for n in pipeline.datasets() if not n.startswith("params:")}
    assert declared == used | {serving_model.ENTRY}


def test_every_node_is_named_by_its_function():
    configure_project(NAME)
    for pipeline in pipelines.values():
        for node in pipeline.nodes:
            assert node.name == node.func.__name__
