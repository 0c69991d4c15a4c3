"""What surrounds the code: pinned versions, workflow files, hooks, licence."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from brain_mri_segmentation import __version__

PROJECT = Path(__file__).resolve().parents[1]
PINS = {
    canonicalize_name(name): version
    for name, _, version in (
        line.partition("==") for line in (PROJECT / "constraints.txt").read_text().splitlines()
    )
    if version
}
TARGETS = set(re.findall(r"^([a-z]+):.*##", (PROJECT / "Makefile").read_text(), re.MULTILINE))


def project_requirements() -> list[Requirement]:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    found = [Requirement(line) for group in (project["dependencies"], *extras) for line in group]
    return [requirement for requirement in found if requirement.name != project["name"]]


@pytest.mark.parametrize("requirement", project_requirements(), ids=str)
def test_every_dependency_is_pinned_to_a_version_that_is_allowed(requirement):
    version = PINS.get(canonicalize_name(requirement.name))
    assert version is not None, f"add {requirement.name} to constraints.txt"
    assert requirement.specifier.contains(version)


def test_what_the_dependencies_bring_is_pinned_as_well():
    extras = [(requirement.name, requirement.extras) for requirement in project_requirements()]
    seen, missing = {("torch",)}, set()  # with or without CUDA's libraries, by its build
    while extras:
        name, wanted = extras.pop()
        if (canonicalize_name(name), *sorted(wanted)) in seen:
            continue
        seen.add((canonicalize_name(name), *sorted(wanted)))
        for requirement in map(Requirement, requires(name) or []):
            marker = requirement.marker
            if marker and not any(marker.evaluate({"extra": extra}) for extra in {"", *wanted}):
                continue
            if canonicalize_name(requirement.name) not in PINS:
                missing.add(f"{requirement.name} (of {name})")
            extras.append((requirement.name, requirement.extras))
    assert not missing


def test_workflows_run_make_targets_that_exist_and_nothing_else():
    commands = []
    for path in (PROJECT / ".github/workflows").glob("*.yml"):
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            commands += [step["run"] for step in job["steps"] if "run" in step]
    assert commands
    for command in commands:
        assert command.split()[0] == "make", command
        assert command.split()[1] in TARGETS, command


def test_the_workflow_checks_what_the_local_check_does():
    local = set(re.findall(r"^make (\w+)", (PROJECT / ".ci/run").read_text(), re.MULTILINE))
    steps = yaml.safe_load((PROJECT / ".github/workflows/ci.yml").read_text())["jobs"]["check"]
    hosted = {step["run"].split()[1] for step in steps["steps"] if "run" in step}
    assert local <= TARGETS
    assert local <= hosted


def test_citation_and_changelog_name_this_version():
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert citation["license"] == "Apache-2.0"
    assert "## [Unreleased]" in (PROJECT / "CHANGELOG.md").read_text()


@pytest.fixture
def repository(tmp_path):
    """An empty repository with the project's hooks, and this environment as its .venv."""

    def git(*arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init", "--quiet")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / ".git/info/exclude").write_text(".venv\n.cache\n")
    for name in (".pre-commit-config.yaml", "pyproject.toml"):
        shutil.copy(PROJECT / name, tmp_path)

    def check(*hooks: str) -> tuple[int, str]:
        git("add", "--all")
        command = [sys.executable, "-m", "pre_commit", "run", "--all-files", *hooks]
        environment = os.environ | {"PRE_COMMIT_HOME": str(tmp_path / ".cache")}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        return done.returncode, done.stdout + done.stderr

    return tmp_path, check


@pytest.mark.slow
def test_hooks_mend_style_and_strip_notebooks_and_keep_slices_and_large_files_out(repository):
    folder, check = repository
    assert check()[0] == 0, check()[1]

    (folder / "code.py").write_text("import os\nx=1\n")
    output = nbformat.v4.new_output("stream", text="a patient's name")
    cell = nbformat.v4.new_code_cell("1 + 1", outputs=[output], execution_count=3)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), folder / "book.ipynb")
    (folder / "TCGA_1.tif").write_bytes(b"II*\0")
    (folder / "weights.bin").write_bytes(os.urandom(2**20))
    code, said = check()
    assert code != 0
    failed = re.findall(r"^(.*?)\.+.*Failed$", said, re.MULTILINE)
    assert failed == [
        "style (ruff)",
        "formatting (ruff)",
        "notebooks without outputs",
        "no large file",
        "no slices and no runs",
    ]
    assert (folder / "code.py").read_text() == "x = 1\n"
    assert "a patient's name" not in (folder / "book.ipynb").read_text()
