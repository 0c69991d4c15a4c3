import logging
import random
from pathlib import Path

import pandas as pd
import pytest

from brain_mri_segmentation.cohort.index import SPLITS
from brain_mri_segmentation.cohort.split import (
    assign_folds,
    check_leakage,
    fingerprint_split,
    patients_of_fold,
    split_by_manifest,
    split_by_seed,
)
from brain_mri_segmentation.errors import InputError


def test_split_by_seed_is_train_then_val_then_test_of_the_shuffled_names():
    patients = [f"P{i:02d}" for i in range(20)]
    shuffled = sorted(patients)
    random.Random(7).shuffle(shuffled)
    split = split_by_seed(patients[::-1], seed=7, fraction=0.1)
    assert list(split) == shuffled
    assert list(split.values()) == ["train"] * 16 + ["val"] * 2 + ["test"] * 2


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_patients_cannot_be_split(count):
    with pytest.raises(InputError, match=f"{count} patient.* Expected at least 3"):
        split_by_seed([f"P{i}" for i in range(count)], 42, 0.1)
    assert set(split_by_seed(["A", "B", "C"], 0, 0.1).values()) == {"train", "val", "test"}


def test_seed_42_splits_the_public_cohort_as_published():
    folders = pd.read_csv(Path(__file__).with_name("public_cohort.csv"))
    slices = dict(zip(folders["patient"], folders["slices"], strict=True))
    split = split_by_seed(list(slices), seed=42, fraction=0.1)
    counts = {
        name: [
            sum(s == name for s in split.values()),
            sum(slices[p] for p in split if split[p] == name),
        ]
        for name in SPLITS
    }
    assert counts == {"train": [88, 3133], "val": [11, 409], "test": [11, 387]}
    # The three ends of the order, as the published manifest has them.
    assert split["TCGA_CS_4941_19960909"] == "train"
    assert split["TCGA_FG_6688_20020215"] == "val"
    assert split["TCGA_CS_4944_20010208"] == "test"


def test_the_manifest_of_the_real_cohort_is_the_seeded_split(shared_cohort):
    folders = pd.read_csv(shared_cohort / "folders.csv")
    split = split_by_seed(folders["patient"].tolist(), seed=42, fraction=0.1)
    manifest = pd.read_csv(shared_cohort / "split.csv")
    assert all(split[row.patient] == row.split for row in manifest.itertuples())


def manifest(*rows):
    return pd.DataFrame(rows, columns=["patient", "split"])


def test_a_manifest_decides_and_may_name_absent_patients(caplog):
    table = manifest(("A", "train"), ("B", "val"), ("C", "test"))
    with caplog.at_level(logging.WARNING):
        assert split_by_manifest(["B", "A"], table) == {"A": "train", "B": "val"}
    assert "1 patient(s) of the manifest are absent: C" in caplog.text


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.DataFrame({"patient": ["A"]}), r"lacks the column\(s\) split; it has patient"),
        (manifest(("A", "train"), ("B", "dev")), "partition.* dev. Allowed: train, val, test"),
        (manifest(("A", "train"), ("A", "val"), ("B", "val")), "more than once: A"),
        (manifest(("A", "train")), "1 patient.*not in the split manifest: B"),
        (manifest(("A", "train"), ("B", "test")), "no patient of the cohort in 'val'"),
    ],
)
def test_a_faulty_manifest_is_refused(table, message):
    with pytest.raises(InputError, match=message):
        split_by_manifest(["A", "B"], table)


def slices(*rows):
    return pd.DataFrame(rows, columns=["patient", "slice", "tumour_pixels", "digest"])


def test_a_patient_in_two_partitions_is_a_leak():
    table = slices(("A", 1, 5, "x"))
    with pytest.raises(InputError, match="more than one partition: A"):
        check_leakage(table, manifest(("A", "train"), ("A", "val")))


def test_the_same_tumour_slice_under_two_names_is_a_leak():
    table = slices(("A", 1, 5, "x"), ("B", 1, 5, "x"))
    with pytest.raises(InputError, match="under different patients: A, B"):
        check_leakage(table, manifest(("A", "train"), ("B", "val")))


def test_equal_slices_in_one_partition_or_without_tumour_are_no_leak():
    table = slices(("A", 1, 5, "x"), ("B", 1, 5, "x"), ("A", 2, 0, "y"), ("C", 1, 0, "y"))
    check_leakage(table, manifest(("A", "train"), ("B", "train"), ("C", "val")))


def test_fingerprint_changes_with_pixels_and_with_the_split_alone():
    table = slices(("A", 1, 5, "x"), ("B", 1, 0, "y"))
    first = fingerprint_split(table, manifest(("A", "train"), ("B", "val")))
    assert first["train"]["tumour_slices"] == 1
    other_pixels = fingerprint_split(
        table.assign(digest=["z", "y"]), manifest(("A", "train"), ("B", "val"))
    )
    assert other_pixels["split"] == first["split"]
    assert other_pixels["data"] != first["data"]
    assert other_pixels["val"] == first["val"]
    other_split = fingerprint_split(table, manifest(("A", "val"), ("B", "train")))
    assert other_split["split"] != first["split"]
    assert other_split["data"] == first["data"]


def patients_of(sites: dict[str, int]) -> list[str]:
    return [f"TCGA_{site}_{n:04}_2000" for site, count in sites.items() for n in range(count)]


def test_folds_hold_every_patient_once_and_sites_evenly():
    table = assign_folds(patients_of({"CS": 16, "DU": 45, "FG": 14, "HT": 24}), folds=5, seed=1)
    assert len(table) == table["patient"].nunique() == 99
    sizes = table["fold"].value_counts()
    assert sorted(sizes) == [19, 20, 20, 20, 20]
    by_site = table.groupby(["site", "fold"]).size().unstack(fill_value=0)
    assert ((by_site.max(axis=1) - by_site.min(axis=1)) <= 1).all()


def test_folds_depend_on_the_seed_and_not_on_the_order():
    patients = patients_of({"CS": 9, "DU": 9})
    table = assign_folds(patients, 3, seed=1)
    assert table.equals(assign_folds(patients[::-1], 3, seed=1))
    assert not table.equals(assign_folds(patients, 3, seed=2))


def test_each_patient_is_held_out_once():
    table = assign_folds(patients_of({"CS": 6, "DU": 6}), 4, seed=0)
    scored = []
    for fold in range(1, 5):
        held_out = patients_of_fold(table, fold, 4)
        assert len(held_out) == 3
        scored += held_out
    assert sorted(scored) == table["patient"].tolist()


def test_an_assignment_to_another_number_of_folds_is_refused():
    table = assign_folds(patients_of({"CS": 6}), 3, seed=0)
    with pytest.raises(InputError, match="assigned to 3 folds, and this run is for 4"):
        patients_of_fold(table, 1, 4)


def test_more_folds_than_patients_are_refused():
    with pytest.raises(InputError, match=r"3 patient\(s\) cannot be dealt out to 5 folds"):
        assign_folds(patients_of({"CS": 3}), 5, seed=0)
