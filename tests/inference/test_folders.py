import dataclasses
import json
import zipfile

import numpy as np
import pandas as pd
import pytest
import tifffile
from pictures import encode
from PIL import Image

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.readers import find_volumes
from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.inference.folders import segment_volumes, tabulate
from brain_mri_segmentation.inference.predictor import Predictor, load_model
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.runtime.files import Folder

SLICES = np.random.default_rng(0).integers(0, 256, (4, 40, 50, 3), dtype=np.uint8)


@pytest.fixture
def inputs(tmp_path):
    """Two slices of a patient, a stack of three, a zip of one, and a text."""
    folder = Folder.at(str(tmp_path / "in"))
    folder.write("p/p_10.png", encode(SLICES[1]))
    folder.write("p/p_9.png", encode(SLICES[0]))
    folder.write("p/p_9_mask.png", b"not read")
    folder.write("broken.tif", b"text")
    tifffile.imwrite(tmp_path / "in/stack.tif", SLICES[1:], photometric="rgb")
    with zipfile.ZipFile(tmp_path / "in/packed.zip", "w") as archive:
        archive.writestr("../x_1.png", encode(SLICES[3]))
    return folder


@pytest.fixture
def segment_each(model_path, tmp_path):
    predictor, output = load_model(model_path), Folder.at(str(tmp_path / "out"))

    def run(volumes, **options):
        return segment_volumes(volumes, predictor, output, **options)

    return run


@pytest.fixture
def segment(inputs, segment_each):
    return lambda **options: list(segment_each(find_volumes(inputs), **options))


@pytest.fixture
def stricter(model_path):
    """Another model: the first with a higher threshold."""
    model = Checkpoint.load(model_path)
    return Predictor(
        dataclasses.replace(model, preprocessing=model.preprocessing | {"threshold": 0.6})
    )


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_masks_come_back_as_their_slices_came(segment, model_path, tmp_path):
    segment()
    output, predictor = tmp_path / "out", load_model(model_path)
    written = sorted(str(path.relative_to(output)) for path in times(output))
    pictures = ["p/p_10.png", "p/p_9.png", "packed.tif", "stack.tif"]
    assert written == [
        *(f"masks/{name}" for name in pictures),
        *(f"overlays/{name}" for name in pictures),
        *("volumes/p/p.json", "volumes/packed.json", "volumes/stack.json"),
    ]
    patient = predictor.predict(Volume(SLICES[:2])).mask
    assert np.array_equal(Image.open(output / "masks/p/p_9.png"), patient[0])
    assert np.array_equal(Image.open(output / "masks/p/p_10.png"), patient[1])
    stack = predictor.predict(Volume(SLICES[1:])).mask
    assert np.array_equal(tifffile.imread(output / "masks/stack.tif"), stack)
    alone = predictor.predict(Volume(SLICES[3:])).mask
    assert np.array_equal(tifffile.imread(output / "masks/packed.tif"), alone[0])


def test_the_tables_tell_what_was_found_and_what_is_wrong(segment):
    outcomes = segment()
    assert sum(outcome.files for outcome in outcomes) == 5
    slices, volumes = map(pd.DataFrame, tabulate(outcomes))
    assert slices["slice"].tolist() == [
        *("broken", "p/p_9", "p/p_10", "../x_1", "stack_1", "stack_2", "stack_3")
    ]
    assert volumes["volume"].tolist() == ["broken", "p/p", "packed", "stack"]
    assert volumes["slices"].tolist() == [0, 2, 1, 3]
    assert volumes["problems"].tolist() == [1, 0, 0, 0]
    assert volumes["tumour_pixels"].tolist() == [
        slices.loc[slices["volume"] == name, "tumour_pixels"].sum() for name in volumes["volume"]
    ]
    assert volumes["slices_to_review"].sum() == (slices["review"] != "").sum() > 0
    assert slices["problem"][0] == "The file is no TIFF, PNG or JPEG by its own bytes."


def test_what_is_done_is_left_as_it_is(segment, inputs, tmp_path):
    first, before = segment(), times(tmp_path / "out")
    again = segment()
    assert times(tmp_path / "out") == before
    assert [outcome.done_before for outcome in again] == [False, True, True, True]
    for table, expected in zip(tabulate(again), tabulate(first), strict=True):
        assert table == expected
    inputs.write("p/p_9.png", encode(SLICES[3]))
    assert [outcome.done_before for outcome in segment()] == [False, False, True, True]
    (tmp_path / "out/masks/stack.tif").unlink()
    assert [outcome.done_before for outcome in segment()] == [False, True, True, False]
    assert not any(outcome.done_before for outcome in segment(overwrite=True))


def test_another_model_does_it_again_and_a_foreign_record_is_no_obstacle(
    segment, inputs, stricter, tmp_path
):
    segment()
    output = Folder.at(str(tmp_path / "out"))
    assert not any(o.done_before for o in segment_volumes(find_volumes(inputs), stricter, output))
    for content in ("{}", "[1]", "no JSON", '{"files": 5}', '{"files": [5]}'):
        (tmp_path / "out/volumes/stack.json").write_text(content)
        assert not segment()[-1].done_before
        assert json.loads((tmp_path / "out/volumes/stack.json").read_text())["digest"]


def test_another_engine_does_it_again(segment, inputs, model_path, tmp_path):
    segment()
    output = Folder.at(str(tmp_path / "out"))
    reference = Predictor(Checkpoint.load(model_path), engine="torch")
    for done in (False, True):
        outcomes = list(segment_volumes(find_volumes(inputs), reference, output))
        assert [o.done_before for o in outcomes] == [False, done, done, done]  # one is broken


def test_a_stack_and_slices_of_one_name_are_two_volumes(segment, inputs):
    for name, content in (("stack_1.png", SLICES[0]), ("stack_2.png", SLICES[1])):
        inputs.write(name, encode(content))
    outcomes = segment()
    _, volumes = tabulate(outcomes)
    assert {row["volume"]: row["slices"] for row in volumes} == {
        **{"broken": 0, "p/p": 2, "packed": 1},
        **{"stack": 3, "stack-2": 2},
    }
    assert sum(outcome.files for outcome in outcomes) == 7
    assert [outcome.done_before for outcome in segment()] == [False, True, True, True, True]


def test_what_an_earlier_run_wrote_and_this_one_does_not_is_removed(
    segment, inputs, stricter, tmp_path
):
    segment(report=True)
    output = Folder.at(str(tmp_path / "out"))
    inputs.filesystem.rm_file(f"{inputs.path}/p/p_9.png")
    foreign = ["masks/p/p_9.txt", "masks/p/p_7.png", "masks/q.png", "overlays/p/p_9/p_9.png"]
    for name in foreign:
        output.write(name, b"somebody else's")
    record = json.loads(output.read("volumes/p/p.json"))
    others = ["masks/q.png", "masks/p/p_9.txt", "../in/p/p_10.png", "masks/p/../../../in/stack.tif"]
    record["files"] += [*others, "volumes.csv", "volumes/p/p.json", "masks/stack.tif"]
    output.write("volumes/p/p.json", json.dumps(record).encode())
    before = set(output.files()) | set(inputs.files())
    list(segment_volumes(find_volumes(inputs), stricter, output))
    assert before - set(output.files()) - set(inputs.files()) == {
        *("masks/p/p_9.png", "overlays/p/p_9.png"),
        *("reports/p/p.html", "reports/packed.html", "reports/stack.html"),
    }


def test_nobody_takes_what_an_interrupted_run_left_for_its_own(segment, stricter, inputs, tmp_path):
    segment()
    output, patient = Folder.at(str(tmp_path / "out")), find_volumes(inputs)["p/p"]
    for gone in ((), ("p/p_9.png",)):
        (tmp_path / "out/reports/p/p.html").mkdir(parents=True)  # which no file can replace
        with pytest.raises(InputError, match=r"p\.html could not be written"):
            list(segment_volumes({"p/p": patient}, stricter, output, report=True))
        (tmp_path / "out/reports/p/p.html").rmdir()
        for name in gone:
            inputs.filesystem.rm_file(f"{inputs.path}/{name}")
        assert [outcome.done_before for outcome in segment()] == [False, False, True, True]
    assert not output.exists("masks/p/p_9.png")
    assert json.loads(output.read("volumes/p/p.json"))["files"] == [
        *("masks/p/p_10.png", "overlays/p/p_10.png")
    ]


def test_an_interrupted_run_goes_on_where_it_stopped(segment, tmp_path):
    (tmp_path / "out/masks/packed.tif").mkdir(parents=True)  # which no file can replace
    with pytest.raises(InputError, match="packed.tif could not be written"):
        segment()
    (tmp_path / "out/masks/packed.tif").rmdir()
    # The stack was segmented while the zip was written.
    assert [outcome.done_before for outcome in segment()] == [False, True, False, True]


def test_no_more_than_a_volume_is_read_ahead(segment_each, inputs):
    read = []

    def reader(name):
        return lambda: read.append(name) or encode(SLICES[0])

    volumes = {f"v{n}": {f"v{n}": reader(n)} for n in range(6)}
    for number, outcome in enumerate(segment_each(volumes)):
        assert outcome.rows[0]["volume"] == f"v{number}"
        # It and the next are segmented; the one after is read meanwhile.
        assert len(read) <= number + 3


def test_ctrl_c_leaves_whole_volumes(inputs, model_path, tmp_path, segment):
    predictor, output = load_model(model_path), Folder.at(str(tmp_path / "out"))

    class Interrupted:
        name, device, calls, engine = predictor.engine.name, "cpu", 0, predictor.engine

        def __call__(self, images):
            self.calls += 1
            if self.calls == 3:
                raise KeyboardInterrupt
            return self.engine(images)

    predictor.engine = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        list(segment_volumes(find_volumes(inputs), predictor, output))
    assert not list((tmp_path / "out").rglob("*.part"))
    assert [outcome.done_before for outcome in segment()] == [False, True, True, False]
