import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from kedro.io import DatasetError
from kedro_datasets.json import JSONDataset

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.runtime.files import Folder, write_whole_files


@pytest.fixture(params=["disk", "object storage"])
def folder(request, tmp_path):
    MemoryFileSystem.store.clear()
    return Folder.at(str(tmp_path / "in") if request.param == "disk" else "memory://bucket/in")


def test_what_is_written_is_found_and_read(folder):
    assert not folder.exists()
    folder.write("p/b.png", b"2")
    folder.write("a.png", b"1")
    folder.write("a.png", b"3")
    assert folder.read("p/b.png") == b"2"
    assert {name: read() for name, read in folder.files().items()} == {
        "a.png": b"3",
        "p/b.png": b"2",
    }
    assert folder.exists()
    assert folder.exists("p/b.png")
    assert not folder.exists("b.png")


def test_a_file_is_removed_alone_and_a_folder_is_not(folder):
    folder.write("p/a.png", b"1")
    folder.write("p/b.png", b"2")
    for name in ("p/a.png", "p/a.png", "p", "nowhere.png"):
        folder.remove(name)
    assert list(folder.files()) == ["p/b.png"]


def test_a_single_file_is_found_by_its_name(folder):
    folder.write("p/b.png", b"2")
    file = Folder(folder.filesystem, f"{folder.path}/p/b.png")
    assert (file.name, file.is_file, folder.is_file) == ("b.png", True, False)
    assert [(name, read()) for name, read in file.files().items()] == [("b.png", b"2")]


def test_a_folder_that_may_not_be_searched_is_refused():
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        Path(place, "a.png").write_bytes(b"1")
        closed = Path(place, "closed")
        closed.mkdir(mode=0)
        if user == 0:  # who may search any folder
            os.seteuid(65534)
        try:
            with pytest.raises(InputError, match="closed cannot be searched: Permission denied"):
                Folder.at(place).files()
        finally:
            os.seteuid(user)
            closed.chmod(0o700)
        assert list(Folder.at(place).files()) == ["a.png"]


def test_a_folder_knows_what_of_another_is_in_it(folder):
    outer = Folder(folder.filesystem, folder.path.rpartition("/")[0])
    assert folder.holds(outer, "in/a.png")
    assert not folder.holds(outer, "index/a.png")


def test_a_file_that_has_gone_is_an_error_of_its_own(folder):
    with pytest.raises(InputError, match="cannot be opened"):
        folder.read("nowhere.png")


def test_a_write_that_fails_leaves_nothing_half_done(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(InputError, match="a.png could not be written"):
        Folder.at(str(tmp_path)).write("a.png", b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_the_umask_decides_who_may_read_what_is_written(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        Folder.at(str(tmp_path)).write("p/mask.png", b"1")
    finally:
        os.umask(before)
    assert (tmp_path / "p/mask.png").stat().st_mode & 0o777 == mode
    assert (tmp_path / "p").stat().st_mode & 0o777 == 0o777 & ~umask


def test_an_unknown_file_system_is_refused():
    with pytest.raises(InputError, match="gopher://a/b cannot be reached"):
        Folder.at("gopher://a/b")


def test_a_link_to_a_folder_is_refused_and_not_left_out(tmp_path):
    (tmp_path / "elsewhere/patient").mkdir(parents=True)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/patient").symlink_to(tmp_path / "elsewhere/patient")
    with pytest.raises(InputError, match="in/patient is a link to a folder"):
        Folder.at(str(tmp_path / "in")).files()


def test_a_name_that_is_no_text_is_refused(tmp_path):
    (tmp_path / os.fsdecode(b"patient_\xff.png")).write_bytes(b"1")
    with pytest.raises(InputError, match=r"patient_\\udcff.png is not UTF-8"):
        Folder.at(str(tmp_path)).files()
    (tmp_path / os.fsdecode(b"patient_\xff.png")).rename(tmp_path / "patient_ä\n.png")
    assert list(Folder.at(str(tmp_path)).files()) == ["patient_ä\n.png"]


def test_a_table_of_a_killed_run_is_the_one_before_or_none(tmp_path):
    code = """
import os, signal, sys
import pandas as pd
from kedro_datasets.pandas import CSVDataset
from brain_mri_segmentation.runtime import startup

class Killer:
    def __str__(self):
        os.kill(os.getpid(), signal.SIGKILL)

startup.prepare()
table = pd.DataFrame({"patient": ["0" * 100] * 10_000 + [Killer()]})
CSVDataset(filepath=sys.argv[1], save_args={"chunksize": 100}).save(table)
"""
    (tmp_path / "before.csv").write_text("patient\n1\n")
    for name in ("before.csv", "new.csv"):
        command = [sys.executable, "-c", code, name]
        assert subprocess.run(command, cwd=tmp_path, timeout=60).returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["before.csv"]
    assert (tmp_path / "before.csv").read_text() == "patient\n1\n"


@pytest.fixture
def whole_files():
    before = {name: fsspec.get_filesystem_class(name) for name in ("file", "local")}
    write_whole_files()
    yield
    for name, filesystem in before.items():
        fsspec.register_implementation(name, filesystem, clobber=True)


@pytest.mark.usefixtures("whole_files")
def test_a_dataset_that_cannot_be_written_to_its_end_is_not_written(tmp_path):
    dataset = JSONDataset(filepath=str(tmp_path / "a.json"), save_args={"allow_nan": False})
    dataset.save({"dice": 0.5})
    with pytest.raises(DatasetError, match="not JSON compliant"):
        dataset.save({"dice": [0.1] * 10_000 + [float("nan")]})
    assert dataset.load() == {"dice": 0.5}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.usefixtures("whole_files")
def test_what_is_no_file_is_written_as_it_is_and_links_stay(tmp_path):
    files = fsspec.filesystem("file")
    (tmp_path / "link").symlink_to(tmp_path / "there.json")
    files.pipe_file(str(tmp_path / "link"), b"1")
    assert (tmp_path / "link").is_symlink()
    assert json.loads((tmp_path / "there.json").read_bytes()) == 1
    with files.open("/dev/null", "w") as file:
        file.write("nothing")
    assert not Path("/dev/null").is_file()
