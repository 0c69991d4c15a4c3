import logging

import numpy as np
import pytest

from brain_mri_segmentation.cohort.index import (
    index_slices,
    patient_volumes,
    refuse_problems,
    usable_slices,
)
from brain_mri_segmentation.errors import InputError

IMAGE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
MASK = np.zeros((64, 64), np.uint8)
MASK[10:20, 10:15] = 255


def files(**changes):
    """Two slices of one patient; a change replaces a reader, None removes it."""
    readers = {
        "P1/P1_1": lambda: IMAGE,
        "P1/P1_1_mask": lambda: MASK,
        "P1/P1_2": lambda: IMAGE[::-1],
        "P1/P1_2_mask": lambda: MASK * 0,
    }
    readers |= {path.replace("__", "/"): reader for path, reader in changes.items()}
    return {path: reader for path, reader in readers.items() if reader or path.endswith("/")}


def problems(**changes):
    table = index_slices(files(**changes))
    return table.loc[table["problem"] != "", "problem"].tolist()


def test_a_sound_cohort_is_one_row_a_slice():
    table = index_slices(files())
    assert table["slice"].tolist() == [1, 2]
    assert table["path"].tolist() == ["P1/P1_1", "P1/P1_2"]
    assert table["tumour_pixels"].tolist() == [50, 0]
    assert table[["height", "width"]].to_numpy().tolist() == [[64, 64]] * 2
    assert table["digest"].nunique() == 2
    assert (table["problem"] == "").all()


def test_slices_are_sorted_by_number_not_by_text():
    readers = files(P1__P1_10=lambda: IMAGE, P1__P1_10_mask=lambda: MASK)
    assert index_slices(readers)["slice"].tolist() == [1, 2, 10]


def broken():
    raise ValueError("file is truncated")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"P1__P1_2_mask": None}, "P1/P1_2: an image without its mask"),
        ({"P1__P1_2": None}, "P1/P1_2_mask: a mask without its image"),
        ({"P1__P1_1": broken}, "P1/P1_1: cannot be read (file is truncated)"),
        ({"P1__P1_1": lambda: IMAGE[..., 0]}, "P1/P1_1: the image has shape (64, 64)"),
        ({"P1__P1_1": lambda: IMAGE[:8, :8]}, "expected sides of 32 or more"),
        ({"P1__P1_1": lambda: IMAGE.astype(float)}, "P1/P1_1: the image has dtype float64"),
        ({"P1__P1_1_mask": lambda: MASK[:32]}, "P1/P1_1_mask: the mask has shape (32, 64), its"),
        ({"P1__P1_1_mask": lambda: MASK // 2}, "holds the values [0, 127], expected 0 and 255"),
        ({"P1__P1_1_mask": lambda: MASK.astype("i4")}, "the mask has dtype int32"),
        ({"P1__notes": lambda: IMAGE}, "P1/notes: the name is not <patient>_<number>"),
        ({"P1__P2_1": lambda: IMAGE}, "P1/P2_1: a file of patient P2 is in another's folder"),
        ({"copy__P1__P1_1": lambda: IMAGE}, "copy/P1/P1_1: the patient is also in P1"),
        ({"P1__P1_01": lambda: IMAGE}, "P1/P1_01: another file has the same number: P1/P1_1"),
        ({"P1_9": lambda: IMAGE}, "P1_9: a file of patient P1 is in another's folder"),
        ({"P3__": None}, "P3/: the folder holds no slice"),
    ],
)
def test_each_problem_is_named_with_its_file(changes, message):
    found = problems(**changes)
    assert len(found) == 1
    assert message in found[0]


@pytest.mark.parametrize("values", [[0, 1], [0], [255], [1]])
def test_masks_of_zero_and_one_other_value_are_sound(values):
    mask = np.resize(np.array(values, np.uint8), (64, 64))
    assert problems(P1__P1_1_mask=lambda: mask) == []


def test_a_problem_is_an_error_or_is_skipped(caplog):
    table = index_slices(files(P1__P1_2_mask=None))
    with pytest.raises(InputError, match=r"(?s)1 problem.*P1/P1_2: .*cohort.on_invalid=skip"):
        refuse_problems(table, "error")
    with caplog.at_level(logging.WARNING):
        refuse_problems(table, "skip")
    assert "P1/P1_2: an image without its mask" in caplog.text
    assert usable_slices(table)["slice"].tolist() == [1]


def test_a_cohort_of_problems_alone_is_refused_even_when_they_are_skipped():
    table = index_slices({"P1/P1_1": lambda: IMAGE})
    with pytest.raises(InputError, match="no usable slice"):
        refuse_problems(table, "skip")


def test_patients_are_read_each_as_its_own_volume(synthetic_slices):
    images = synthetic_slices(patients=2, slices=3).images
    first, second = patient_volumes(images)
    assert (first.name, first.names) == ("P0", ("P0_1", "P0_2", "P0_3"))
    assert np.array_equal(second.slices[1], images["P1_2"]())
