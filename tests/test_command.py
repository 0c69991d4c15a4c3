"""The command as it is typed."""

import io
import json
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pydicom
import pytest
import tifffile
from orthanc import Orthanc
from PIL import Image
from scans import axial_affine, dicom_series, frames_of, load, nifti, phantom, study, turned
from typer.testing import CliRunner

from brain_mri_segmentation.command import app
from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.inference.predictor import load_model
from brain_mri_segmentation.models import SHIPPED_MODEL, Checkpoint

SLICES = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8)
FOUR_MM = axial_affine((64, 64, 4), (4.0, 4.0, 4.0))


def run(*arguments, code=0):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done


@pytest.fixture
def stack(tmp_path):
    tifffile.imwrite(tmp_path / "scan.tif", SLICES, photometric="rgb")
    return tmp_path / "scan.tif"


def test_a_stack_becomes_masks_and_tables(stack, model_path, tmp_path):
    out = tmp_path / "out"
    done = run("segment", stack, "-o", out, "--model", model_path)
    expected = load_model(model_path).predict(Volume(SLICES))
    assert np.array_equal(tifffile.imread(out / "masks/scan.tif"), expected.mask)
    summary = pd.read_csv(out / "summary.csv")
    assert summary["tumour_pixels"].tolist() == expected.tumour_pixels.tolist()
    volumes = pd.read_csv(out / "volumes.csv")
    assert volumes[["volume", "slices", "problems"]].to_numpy().tolist() == [["scan", 3, 0]]
    (row,) = (line for line in done.stdout.splitlines() if "in all" in line)
    pixels, found = expected.tumour_pixels, np.count_nonzero(expected.tumour_pixels)
    reviewed = sum(reason is not None for reason in expected.review)
    shown = [cell.strip() for cell in row.strip("│").split("│")]
    assert shown == ["in all", "3", str(pixels.sum()), "", str(found), str(reviewed), "0"]
    assert "Research use only" in done.stdout


def test_square_brackets_in_a_name_are_no_markup(stack, model_path, tmp_path):
    (tmp_path / "in/[").mkdir(parents=True)
    stack.rename(tmp_path / "in/[/b].tif")
    done = run("segment", tmp_path / "in", "-o", tmp_path / "out", "--model", model_path)
    assert "[/b]" in done.stdout


def test_three_sequences_become_a_mask_on_the_grid_of_flair(model_path, tmp_path):
    voxels, affine = turned(phantom(4, 64)[0].transpose(2, 1, 0, 3), FOUR_MM, (2, 0, 1), (1, -1, 1))
    for channel, name in enumerate(("t1", "flair", "gd")):
        (tmp_path / f"{name}.nii.gz").write_bytes(nifti(voxels[..., channel], affine, packed=True))
    named = ["--pre", tmp_path / "t1.nii.gz", "--flair", tmp_path / "flair.nii.gz"]
    out = tmp_path / "out"
    done = run("segment", *named, "-o", out, "--model", model_path)
    assert "flair: FLAIR stands in for post-contrast, which is not there." in done.stdout
    mask, placed = load((out / "masks/flair.nii.gz").read_bytes())
    probability, _ = load((out / "probabilities/flair.nii.gz").read_bytes())
    assert mask.shape == probability.shape == voxels.shape[:3]
    assert np.allclose(placed, affine)
    assert np.array_equal(mask, probability >= 0.5)
    assert tifffile.imread(out / "overlays/flair.tif").shape == (4, 64, 64, 3)
    volumes = pd.read_csv(out / "volumes.csv")
    assert volumes["tumour_ml"][0] == pytest.approx(mask.sum() * 4**3 / 1000, abs=0.01)
    assert pd.read_csv(out / "summary.csv")["tumour_ml"].sum() == pytest.approx(mask.sum() * 0.064)
    (record,) = (out / "volumes").glob("*.json")
    assert json.loads(record.read_text())["missing"] == ["post-contrast"]
    again = run("segment", *named, "-o", out, "--model", model_path).stdout
    assert "1 volume(s) were done before" in again
    assert "stands in for post-contrast" in again


def test_the_table_of_volumes_has_the_interval_that_the_model_knows(model_path, tmp_path):
    checkpoint = Checkpoint.load(model_path)
    rules = checkpoint.preprocessing | {"volume_interval": 1.0, "mirroring": True}
    replace(checkpoint, preprocessing=rules).save(tmp_path / "model.ckpt")
    arguments = ["segment", head(tmp_path), "-o", tmp_path / "out"]
    shown = run(*arguments, "--model", tmp_path / "model.ckpt").stdout
    volumes = pd.read_csv(tmp_path / "out/volumes.csv")
    millilitres, low, high = volumes[["tumour_ml", "tumour_ml_low", "tumour_ml_high"]].iloc[0]
    assert millilitres > 0
    assert low < millilitres < high
    assert f"head: {low:.1f} to {high:.1f} ml (90 % interval)." in shown
    assert low * high == pytest.approx(millilitres**2, rel=0.01)
    assert 0 < volumes["expected_dice"][0] <= 1


def test_a_head_needs_flair_and_is_named_in_one_way(stack, tmp_path):
    out = tmp_path / "out"
    assert "There is no FLAIR" in run("segment", "--pre", head(tmp_path), "-o", out, code=2).stderr
    assert "Name paths, or" in run("segment", stack, "--flair", stack, "-o", out, code=2).stderr
    wrong = run("segment", "--flair", stack, "-o", out, code=2).stderr
    assert "FLAIR: It is no NIfTI, NRRD, MetaImage or DICOM" in wrong


def head(folder):
    (folder / "head.nii").write_bytes(nifti(phantom(4, 64)[0][..., 1].T, FOUR_MM))
    return folder / "head.nii"


def test_a_report_is_written_on_demand_also_of_what_is_done(stack, model_path, tmp_path):
    arguments = ["segment", stack, "-o", tmp_path / "out", "--model", model_path]
    run(*arguments)
    assert not (tmp_path / "out/reports").exists()
    assert "done before" not in run(*arguments, "--report").stdout
    page = (tmp_path / "out/reports/scan.html").read_text()
    assert load_model(model_path).checkpoint.digest in page
    assert "1 volume(s) were done before" in run(*arguments, "--report").stdout
    assert "1 volume(s) were done before" in run(*arguments).stdout


def test_a_dicom_series_gives_a_segmentation_that_belongs_to_it(model_path, tmp_path, monkeypatch):
    files = dicom_series(phantom(4, 64)[0].transpose(2, 1, 0, 3)[..., 1], FOUR_MM, study())
    for number, file in enumerate(files):
        (tmp_path / f"{number}.dcm").write_bytes(file)
    arguments = ["segment", "--flair", tmp_path, "-o", tmp_path / "out", "--model", model_path]
    run(*arguments)
    (written,) = (tmp_path / "out/masks").glob("*.dcm")
    mask, _ = load(next((tmp_path / "out/masks").glob("*.nii.gz")).read_bytes())
    assert pydicom.dcmread(written).StudyInstanceUID == study()["StudyInstanceUID"]
    assert np.array_equal(frames_of(written) > 0, mask.transpose(2, 1, 0))
    monkeypatch.setitem(sys.modules, "highdicom", None)
    arguments[4] = tmp_path / "other"
    assert "no DICOM SEG: " in run(*arguments).stdout
    assert "no DICOM SEG: " in run(*arguments).stdout  # a second run knows it, too
    assert list((tmp_path / "other/masks").glob("*.nii.gz"))
    arguments[4] = tmp_path / "out"
    run(*arguments, "--overwrite")
    assert not written.exists()  # nor could it be stored as what was found now
    arguments[4] = tmp_path / "other"
    run(*arguments, "--report")
    (report,) = (tmp_path / "other/reports").glob("*.html")
    assert "<li>no DICOM SEG: " in report.read_text()


def test_a_series_of_a_study_is_named_by_its_number(model_path, tmp_path):
    voxels, place = phantom(4, 64)[0].transpose(2, 1, 0, 3), tmp_path / "study"
    place.mkdir()
    for number in (3, 5):
        series = dicom_series(voxels[..., 1], FOUR_MM, study(), number, f"SERIES {number}")
        for n, content in enumerate(series):
            (place / f"{number}_{n}").write_bytes(content)
    arguments = ["segment", place, "-o", tmp_path / "out", "--model", model_path]
    assert "series 5 'SERIES 5' (4 images)" in run(*arguments, code=1).stderr  # no FLAIR among them
    done = run(*arguments, "--flair", 5)
    assert "study: series 5 'SERIES 5' (4 images) was named as FLAIR" in done.stdout
    assert load((tmp_path / "out/masks/study.nii.gz").read_bytes())[0].shape == (64, 64, 4)
    assert "done before" not in run(*arguments, "--flair", 3).stdout  # of the same files
    assert "There is no series 4" in run(*arguments, "--flair", 4, code=2).stderr
    assert "numbers of series" in run(*arguments, "--flair", place, code=2).stderr


def test_folders_named_by_a_uid_keep_their_whole_name(model_path, tmp_path):
    voxels, out = phantom(4, 64)[0].transpose(2, 1, 0, 3)[..., 1], tmp_path / "out"
    for name in ("1.2.840.7.1", "1.2.840.7.2"):
        (tmp_path / name).mkdir()
        for n, content in enumerate(dicom_series(voxels, FOUR_MM, study(name))):
            (tmp_path / name / f"{n}.dcm").write_bytes(content)
        run("segment", tmp_path / name, "--flair", 1, "-o", out, "--model", model_path)
    names = {path.name for path in (out / "masks").iterdir()}
    assert names == {f"1.2.840.7.{n}{ending}" for n in (1, 2) for ending in (".dcm", ".nii.gz")}


@pytest.mark.slow
def test_a_study_of_a_pacs_is_segmented_and_stored_once(model_path, tmp_path):
    orthanc = Orthanc(tmp_path)
    try:
        orthanc.upload(
            dicom_series(phantom(4, 64)[0].transpose(2, 1, 0, 3)[..., 1], FOUR_MM, study())
        )
        uid, out = study()["StudyInstanceUID"], tmp_path / "out"
        arguments = ["segment", "--dicomweb", orthanc.url, "--study", uid, "-o", out]
        arguments += ["--model", model_path]
        run(*arguments)
        assert orthanc.segmentations() == []
        assert "The DICOM SEG is stored." in run(*arguments, "--store").stdout
        (stored,) = orthanc.segmentations()
        seg = pydicom.dcmread(out / f"masks/{uid}.dcm")
        assert np.array_equal(pydicom.dcmread(io.BytesIO(stored)).pixel_array, seg.pixel_array)
        again = run(*arguments, "--store", "--overwrite").stdout
        assert "The DICOM SEG was in the PACS before." in again
        assert orthanc.segmentations() == [stored]
        (out / f"masks/{uid}.dcm").unlink()
    finally:
        orthanc.stop()
    gone = run(*arguments, "--store", code=2).stderr
    assert f"{orthanc.url} could not give study {uid}" in gone


def test_a_pacs_is_named_with_a_study(tmp_path):
    for wrong in (["--study", "1.2"], ["--dicomweb", "http://localhost"], ["x.png", "--store"]):
        run("segment", *wrong, "-o", tmp_path / "out", code=2)
    wrong = ["x.png", "--dicomweb", "http://localhost", "--study", "1.2"]
    assert "Name paths, or" in run("segment", *wrong, "-o", tmp_path / "out", code=2).stderr


def test_a_second_run_does_nothing_unless_it_is_told_to(stack, model_path, tmp_path):
    arguments = ["segment", stack, "--output", tmp_path / "out", "--model", model_path]
    run(*arguments)
    mask = tmp_path / "out/masks/scan.tif"
    before = mask.stat().st_mtime_ns
    assert "1 volume(s) were done before" in run(*arguments).stdout
    assert mask.stat().st_mtime_ns == before
    assert "done before" not in run(*arguments, "--overwrite").stdout
    assert mask.stat().st_mtime_ns != before


def test_a_broken_file_is_named_and_the_others_are_segmented(stack, model_path, tmp_path):
    (tmp_path / "broken.png").write_text("text")
    done = run("segment", tmp_path, "-o", tmp_path / "out", "--model", model_path, code=1)
    assert "broken: The file is no TIFF, PNG or JPEG" in done.stderr
    assert "1 file(s) could not be segmented" in done.stderr
    assert (tmp_path / "out/masks/scan.tif").exists()


def test_what_cannot_be_tried_is_an_error_of_usage(stack, model_path, tmp_path):
    out = tmp_path / "out"
    assert (
        "nowhere does not exist" in run("segment", tmp_path / "nowhere", "-o", out, code=2).stderr
    )
    no_model = run("segment", stack, "-o", out, "--model", tmp_path / "no.ckpt", code=2)
    assert "no checkpoint at" in no_model.stderr
    run("segment", stack, code=2)  # without --output
    run("segment", stack, "-o", out, "--batch-size", 0, code=2)
    assert not out.exists()


def test_an_output_that_cannot_be_written_is_a_failure(stack, model_path, tmp_path):
    (tmp_path / "out").write_text("a file")
    done = run("segment", stack, "-o", tmp_path / "out", "--model", model_path, code=1)
    assert "could not be written" in done.stderr


def test_a_full_disk_is_one_clear_error_from_which_the_same_command_goes_on(
    disk, model_path, tmp_path
):
    for name in "abcd":
        tifffile.imwrite(tmp_path / f"{name}.tif", SLICES, photometric="rgb")
    arguments = ["segment", *sorted(tmp_path.glob("*.tif")), "-o", disk.path, "--model", model_path]
    full = run(*arguments, code=1)
    assert "could not be written: [Errno 28] No space left on device" in full.stderr
    written = {path: path.read_bytes() for path in disk.path.rglob("*") if path.is_file()}
    done = len(list(disk.path.glob("masks/*.tif")))
    assert 1 <= done < 4
    disk.mount("remount,ro")
    assert "Read-only file system" in run(*arguments, code=1).stderr
    assert written == {path: path.read_bytes() for path in written}
    disk.mount("remount,rw,size=1m")
    run(*arguments)
    whole = tmp_path / "whole"
    run(*arguments[:-4], "-o", whole, "--model", model_path)
    files = [path.relative_to(whole) for path in whole.rglob("*") if path.is_file()]
    assert files
    for file in files:
        assert (disk.path / file).read_bytes() == (whole / file).read_bytes(), file
        assert written.get(disk.path / file) in (None, (whole / file).read_bytes()), file


def test_the_shipped_model_is_at_hand_without_being_named(tmp_path):
    Image.fromarray(SLICES[0]).save(tmp_path / "slice.png")
    run("segment", tmp_path / "slice.png", "-o", tmp_path / "out")
    assert Image.open(tmp_path / "out/masks/slice.png").size == (50, 40)
    shown = run("info").stdout
    assert load_model(SHIPPED_MODEL).checkpoint.digest in shown
    assert "Research use only" in shown
    assert "4,463,172" in shown  # as torch counts them, without statistics


def test_serving_an_unreadable_model_is_refused(tmp_path):
    assert "no checkpoint at" in run("serve", "--model", tmp_path / "no.ckpt", code=2).stderr
