import os
import signal
import sys
from functools import partial

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from brain_mri_segmentation.command import app
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.readers import find_volumes
from brain_mri_segmentation.inference.folders import segment_volumes
from brain_mri_segmentation.inference.on_ray import segment_on_ray
from brain_mri_segmentation.inference.predictor import load_model
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.runtime.files import Folder


@pytest.fixture
def volumes(tmp_path):
    """Ten volumes of two slices, and a text in the middle."""
    random = np.random.default_rng(0)
    for volume in range(10):
        for number in (1, 2):
            path = tmp_path / f"in/v{volume}/v{volume}_{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    (tmp_path / "in/v5x.png").write_bytes(b"text")
    return find_volumes(Folder.at(str(tmp_path / "in")))


@pytest.fixture
def on_ray(volumes, model_path, tmp_path):
    """A function that segments the volumes on Ray, of which nobody else has a cluster here."""
    checkpoint, output = Checkpoint.load(model_path), Folder.at(str(tmp_path / "out"))
    return lambda: segment_on_ray(volumes, checkpoint, output, "auto")


@pytest.fixture
def expected(volumes, model_path, tmp_path):
    """What one machine finds and writes."""
    output = Folder.at(str(tmp_path / "expected"))
    found = list(segment_volumes(volumes, load_model(model_path), output))
    assert [outcome.rows[0]["problem"] for outcome in found].count("") == 10
    return found, files(tmp_path / "expected")


def files(folder):
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in found}


@pytest.mark.slow
def test_ray_writes_what_one_machine_writes_and_nothing_twice(on_ray, expected, tmp_path):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    found, written = expected
    assert list(on_ray()) == found
    assert files(tmp_path / "out") == written
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    again = list(on_ray())
    assert [outcome.done_before for outcome in again].count(True) == 10
    assert [outcome.rows for outcome in again] == [outcome.rows for outcome in found]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == times


def deadly(volumes, marker, times):
    """Let a volume in the middle kill the process that reads it, the first few times."""
    cloudpickle = pytest.importorskip("ray.cloudpickle", reason="the extra ray is not installed")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # processes cannot import tests

    def read_or_die(read):
        with marker.open("ab") as file:
            file.write(b"x")
        if marker.stat().st_size <= times:
            os.kill(os.getpid(), signal.SIGKILL)
        return read()

    volumes["v5/v5"] = {name: partial(read_or_die, read) for name, read in volumes["v5/v5"].items()}


@pytest.mark.slow
def test_a_process_that_is_killed_loses_nothing(volumes, on_ray, expected, tmp_path):
    found, written = expected
    deadly(volumes, tmp_path / "marker", times=1)
    assert [outcome.rows for outcome in on_ray()] == [outcome.rows for outcome in found]
    assert (tmp_path / "marker").stat().st_size == 3  # killed once, then two files
    assert files(tmp_path / "out") == written


@pytest.mark.slow
def test_a_volume_that_kills_each_process_ends_the_run_with_one_error(volumes, on_ray, tmp_path):
    deadly(volumes, tmp_path / "marker", times=100)
    with pytest.raises(InputError, match="Ray could not go on"):
        list(on_ray())
    assert (tmp_path / "marker").stat().st_size == 4


def test_ray_that_is_not_installed_is_one_error(on_ray, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"--ray needs more packages .*\[ray\]"):
        next(on_ray())


def test_ray_is_for_paths():
    done = CliRunner().invoke(app, ["segment", "--flair", "x.nii", "-o", "out", "--ray", "auto"])
    assert done.exit_code == 2
    assert "--ray is for PATH" in done.output
