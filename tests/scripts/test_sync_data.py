import os
import subprocess
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/sync_data.sh"


def sync(source, to, **environment):
    command = ["bash", str(SCRIPT), str(source), "--to", str(to)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | environment
    )


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.tif")}


@pytest.mark.parametrize("place", [".", "kaggle_3m"])
def test_a_folder_is_copied_once_and_a_half_copied_patient_again(phantom_folder, tmp_path, place):
    first = sync(phantom_folder / place, tmp_path)
    assert first.stdout.splitlines() == [
        "5 patients copied",
        f"5 patients, 30 slices in {tmp_path}/kaggle_3m",
    ]
    file = next((tmp_path / "kaggle_3m").rglob("*_mask.tif"))
    file.write_bytes(file.read_bytes()[:100])
    assert sync(phantom_folder / place, tmp_path).stdout.startswith("1 patients copied\n")
    assert content(tmp_path) == content(phantom_folder)
    assert sync(phantom_folder / place, tmp_path).stdout.startswith("0 patients copied\n")
    assert [path.name for path in tmp_path.iterdir()] == ["kaggle_3m"]


def test_files_that_somebody_put_beside_the_slices_stay(phantom_folder, tmp_path):
    sync(phantom_folder, tmp_path)
    note = tmp_path / "kaggle_3m/PHANTOM_CS_0000/note.txt"
    note.write_text("scanned twice")
    assert sync(phantom_folder, tmp_path).stdout.startswith("0 patients copied\n")
    (note.parent / "PHANTOM_CS_0000_1.tif").unlink()
    (note.parent / "PHANTOM_CS_0000_2.tif").write_bytes(b"half of it")
    assert sync(phantom_folder, tmp_path).stdout.startswith("1 patients copied\n")
    assert content(tmp_path) == content(phantom_folder)
    assert note.read_text() == "scanned twice"


def test_the_zip_holds_the_cohort_twice_and_is_taken_once(phantom_folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        for place in ("lgg-mri-segmentation", "."):
            for file in phantom_folder.rglob("*.tif"):
                archive.write(file, Path(place, file.relative_to(phantom_folder)))
            archive.writestr(f"{place}/kaggle_3m/data.csv", "Patient\n")
    assert sync(tmp_path / "archive.zip", tmp_path / "raw").returncode == 0
    assert content(tmp_path / "raw") == content(phantom_folder)
    assert (tmp_path / "raw/kaggle_3m/data.csv").is_file()


@pytest.mark.parametrize("source", ["nowhere", "empty", "text.zip"])
def test_a_wrong_source_is_one_clear_error(tmp_path, source):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.zip").write_text("no zip")
    done = sync(tmp_path / source, tmp_path / "raw")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Error: {tmp_path / source} ")
    assert "kaggle_3m" in line


def test_kaggle_without_a_network_or_credentials_says_what_to_do(tmp_path):
    nowhere = {"KAGGLE_API_ENDPOINT": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    done = sync("--kaggle", tmp_path, **nowhere)
    assert done.returncode == 1
    assert "Error: Kaggle did not give mateuszbuda/lgg-mri-segmentation" in done.stderr
    assert "Traceback" not in done.stderr
