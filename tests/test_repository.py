"""What surrounds the code: versions, pinned and said alike everywhere."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from brain_mri_segmentation import __version__

PROJECT = Path(__file__).resolve().parents[1]
PROJECT_TABLE = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [
    Requirement(line)
    for group in (PROJECT_TABLE["dependencies"], *PROJECT_TABLE["optional-dependencies"].values())
    for line in group
]
LOCKED = dict(
    re.findall(r"^(\S+)==(\S+)", (PROJECT / "requirements.txt").read_text(), re.MULTILINE)
)


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_every_dependency_is_locked_to_a_version_that_is_allowed(requirement):
    if requirement.name not in ("brain-mri-segmentation", "torch"):
        version = LOCKED.get(canonicalize_name(requirement.name))
        assert version is not None, "make lock"
        assert requirement.specifier.contains(version)


def test_citation_and_changelog_name_this_version():
    assert yaml.safe_load((PROJECT / "CITATION.cff").read_text())["version"] == __version__
    headings = re.findall(r"^## \[(.+?)\]", (PROJECT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[:2] == ["Unreleased", __version__]
