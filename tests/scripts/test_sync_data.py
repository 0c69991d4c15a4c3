import os
import subprocess
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]


def sync(*arguments):
    command = ["bash", str(PROJECT / "scripts/sync_data.sh"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def archive(phantom_folder, tmp_path):
    """The download: the cohort twice, and a table."""
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as out:
        for place in ("lgg-mri-segmentation/kaggle_3m", "kaggle_3m"):
            for file in sorted((phantom_folder / "kaggle_3m").rglob("*.tif")):
                out.write(file, f"{place}/{file.parent.name}/{file.name}")
            out.writestr(f"{place}/data.csv", "Patient\n")
    return path


@pytest.mark.parametrize("place", [".", "kaggle_3m"])
def test_a_folder_is_copied_and_a_second_call_copies_nothing(phantom_folder, tmp_path, place):
    first = sync(phantom_folder / place, "--to", tmp_path)
    assert first.stdout.splitlines() == [
        "60 files copied, 0 were there already",
        f"5 patients, 30 slices in {tmp_path}/kaggle_3m",
    ]
    again = sync(phantom_folder / place, "--to", tmp_path)
    assert again.stdout.startswith("0 files copied, 60 were there already\n")


def test_the_zip_holds_the_cohort_twice_and_is_taken_once(archive, phantom_folder, tmp_path):
    done = sync(archive, "--to", tmp_path / "raw")
    assert done.stdout.splitlines()[0] == "61 files copied, 0 were there already"
    copied = sorted(p.relative_to(tmp_path / "raw") for p in (tmp_path / "raw").rglob("*.tif"))
    assert copied == sorted(p.relative_to(phantom_folder) for p in phantom_folder.rglob("*.tif"))
    assert all(
        (tmp_path / "raw" / path).read_bytes() == (phantom_folder / path).read_bytes()
        for path in copied
    )


def test_a_half_copied_file_is_copied_again(phantom_folder, tmp_path):
    sync(phantom_folder, "--to", tmp_path)
    file = next((tmp_path / "kaggle_3m").rglob("*_mask.tif"))
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    assert sync(phantom_folder, "--to", tmp_path).stdout.startswith("1 files copied, 59 were")
    assert file.read_bytes() == whole


def test_a_zip_cannot_write_outside_its_target(tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as out:
        out.writestr("kaggle_3m/../evil_1.tif", b"x")
    assert sync(tmp_path / "evil.zip", "--to", tmp_path / "raw").returncode == 1
    assert not list(tmp_path.rglob("evil_1.tif"))


@pytest.mark.parametrize("content", [None, "empty folder", "no zip"])
def test_a_wrong_source_is_one_clear_error(tmp_path, content):
    source = tmp_path / "source"
    if content == "empty folder":
        source.mkdir()
    elif content:
        source.write_text(content)
    done = sync(source, "--to", tmp_path / "raw")
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: {source} ")
    assert "kaggle_3m" in done.stderr
    assert "Traceback" not in done.stderr


def test_kaggle_without_a_network_or_credentials_is_one_clear_error(tmp_path):
    nowhere = {"KAGGLE_API_ENDPOINT": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    command = ["bash", str(PROJECT / "scripts/sync_data.sh"), "--kaggle", "--to", str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | nowhere
    )
    assert done.returncode == 1
    assert "Error: Kaggle did not give mateuszbuda/lgg-mri-segmentation" in done.stderr
    assert "Traceback" not in done.stderr
