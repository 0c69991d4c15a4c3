import os

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.runtime.files import Folder


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


def test_a_single_file_is_found_by_its_name(folder):
    folder.write("p/b.png", b"2")
    file = Folder(folder.filesystem, f"{folder.path}/p/b.png")
    assert (file.name, file.is_file, folder.is_file) == ("b.png", True, False)
    assert [(name, read()) for name, read in file.files().items()] == [("b.png", b"2")]


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
