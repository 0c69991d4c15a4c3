"""The command as it is typed."""

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

from brain_mri_segmentation.command import app
from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.inference.predictor import load_model
from brain_mri_segmentation.models import SHIPPED_MODEL

SLICES = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8)


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
    assert str(expected.tumour_pixels.sum()) in done.stdout
    assert "Research use only" in done.stdout


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


def test_the_shipped_model_is_at_hand_without_being_named(tmp_path):
    Image.fromarray(SLICES[0]).save(tmp_path / "slice.png")
    run("segment", tmp_path / "slice.png", "-o", tmp_path / "out")
    assert Image.open(tmp_path / "out/masks/slice.png").size == (50, 40)
    shown = run("info").stdout
    assert load_model(SHIPPED_MODEL).checkpoint.digest in shown
    assert "Research use only" in shown


def test_serving_an_unreadable_model_is_refused(tmp_path):
    assert "no checkpoint at" in run("serve", "--model", tmp_path / "no.ckpt", code=2).stderr
