import itertools
import logging
import os
import signal
import sys
import threading
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

KILLS = int(os.environ.get("KILLS", "5"))


@pytest.fixture
def volumes(tmp_path):
    """Twice as many volumes of two slices as there will be kills, and a text in the middle."""
    random = np.random.default_rng(0)
    for volume in range(2 * KILLS):
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
    assert [outcome.rows[0]["problem"] for outcome in found].count("") == 2 * KILLS
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
    assert [outcome.done_before for outcome in again].count(True) == 2 * KILLS
    assert [outcome.rows for outcome in again] == [outcome.rows for outcome in found]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == times


def deadly(volumes, name, marker, times=1, moment=0):
    """Let a volume kill the process that reads it, the first few times.

    Args:
        moment: 0: at once; 1: while it computes; n: while it writes its file number n - 1.
    """
    cloudpickle = pytest.importorskip("ray.cloudpickle", reason="the extra ray is not installed")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # processes cannot import tests

    def die(*_):
        with marker.open("ab") as file:
            file.write(b"x")
        os.kill(os.getpid(), signal.SIGKILL)

    def read_and_die(read):
        if not marker.exists() or marker.stat().st_size < times:
            if moment == 0:
                die()
            elif moment == 1:
                threading.Timer(0.01, die).start()
            else:
                flushes = itertools.count(2)
                os.fsync = lambda _: next(flushes) == moment and die()
        return read()

    *others, (last, read) = volumes[name].items()
    volumes[name] = {**dict(others), last: partial(read_and_die, read)}


@pytest.mark.slow
def test_processes_that_are_killed_lose_nothing(volumes, on_ray, expected, tmp_path):
    found, written = expected
    for kill in range(KILLS):  # on reading, on computing, on writing a mask, an overlay, the record
        name, moment = f"v{2 * kill}/v{2 * kill}", (0, 1, 2, 5, 6)[kill % 5]
        deadly(volumes, name, tmp_path / f"killed{kill}", moment=moment)
    assert [outcome.rows for outcome in on_ray()] == [outcome.rows for outcome in found]
    killed = [(tmp_path / f"killed{kill}").read_bytes() for kill in range(KILLS)]
    assert killed == [b"x"] * KILLS
    now = files(tmp_path / "out")
    assert {path: now[path] for path in now if path.suffix != ".part"} == written


@pytest.mark.slow
def test_a_volume_that_kills_each_process_ends_the_run_with_one_error(volumes, on_ray, tmp_path):
    deadly(volumes, "v5/v5", tmp_path / "killed", times=100)
    with pytest.raises(InputError, match="Ray could not go on"):
        list(on_ray())
    assert (tmp_path / "killed").stat().st_size == 4


@pytest.mark.slow
def test_what_ends_a_run_on_ray_is_the_same_error(volumes, on_ray, expected, tmp_path):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match=r"^\S+ could not be written: .* (Not a directory|exists)"):
        list(on_ray())


@pytest.mark.slow
def test_ray_reads_and_writes_object_storage(volumes, model_path, expected, tmp_path):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    pytest.importorskip("s3fs", reason="the extra s3 is not installed")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    options = {"key": "me", "secret": "mine", "endpoint_url": f"http://{host}:{port}"}
    try:
        bucket = Folder.at("s3://volumes", **options)
        bucket.filesystem.mkdir("volumes")
        bucket.filesystem.put(f"{tmp_path}/in/", "volumes/in/", recursive=True)
        volumes = find_volumes(Folder.at("s3://volumes/in", **options))
        output = Folder.at("s3://volumes/out", **options)
        found = list(segment_on_ray(volumes, Checkpoint.load(model_path), output, "auto"))
        bucket.filesystem.get("volumes/out/", f"{tmp_path}/out/", recursive=True)
    finally:
        server.stop()
    assert (found, files(tmp_path / "out")) == expected


def test_ray_that_is_not_installed_is_one_error(on_ray, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"--ray needs more packages .*\[ray\]"):
        next(on_ray())


def test_ray_is_for_paths():
    done = CliRunner().invoke(app, ["segment", "--flair", "x.nii", "-o", "out", "--ray", "auto"])
    assert done.exit_code == 2
    assert "--ray is for PATH" in done.output
