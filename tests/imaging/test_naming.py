import pytest

from brain_mri_segmentation.imaging.naming import (
    by_patient,
    group_sequences,
    group_volumes,
    may_be_slice,
    sequence_of,
    site_of,
)


def test_files_of_one_folder_with_one_name_and_numbers_are_a_volume():
    paths = ["a/x_10", "a/x_2", "b/x_1", "scan", "y_1"]
    assert group_volumes(paths) == {
        "a/x": ["a/x_2", "a/x_10"],
        "b/x": ["b/x_1"],
        "scan": ["scan"],
        "y": ["y_1"],
    }


def test_a_volume_in_memory_is_bounded():
    groups = group_volumes([f"x_{n}" for n in range(1200)])
    assert {name: len(paths) for name, paths in groups.items()} == {
        "x": 512,
        "x-2": 512,
        "x-3": 176,
    }
    assert groups["x-2"][0] == "x_512"


def test_what_a_volume_has_too_many_takes_no_other_volume_s_name():
    groups = group_volumes([f"x_{n}" for n in range(513)] + ["x-2_1"])
    assert {name: len(paths) for name, paths in groups.items()} == {"x": 512, "x-2": 1, "x-3": 1}
    assert groups["x-2"] == ["x-2_1"]


@pytest.mark.parametrize(
    ("description", "sequence"),
    [  # as scanners of three makers and hospitals write them
        ("t2_tirm_tra_dark-fluid", "FLAIR"),
        ("t2_space_dark-fluid_sag_p2_iso", "FLAIR"),
        ("t2_space-flair_sag", "FLAIR"),
        ("sT2W_FLAIR", "FLAIR"),
        ("AXFLAIR", "FLAIR"),
        ("FLAIR in T1 space", "FLAIR"),
        ("T1 reg T2 FLAIR", "FLAIR"),
        ("sub-01_space-T1w_FLAIR", "FLAIR"),
        ("sub-01_space-FLAIR_T1w", "pre-contrast"),
        *(
            (name, "pre-contrast")
            for name in ("AX T1 FLAIR", "T1W FLAIR", "sT1W_FLAIR", "T1-weighted FLAIR", "T1FLAIR")
        ),
        ("AX T1 3D FLAIR", "pre-contrast"),
        ("t1_tirm_tra_dark-fluid", "pre-contrast"),
        ("T1 FSE FLAIR +C", "post-contrast"),
        ("sub-01_ses-post_T1w", "pre-contrast"),
        ("sub-01_ses-postop_T1w", "pre-contrast"),
        ("sub-pre_ses-pre_ce-gd_T1w", "post-contrast"),
        ("postop_t1", "pre-contrast"),
        ("pre-op T1 +C", "post-contrast"),
        ("sT1W_3D_TFE", "pre-contrast"),
        ("3D FSPGR", "pre-contrast"),
        ("t1_mprage_sag_p2_iso", "pre-contrast"),
        ("sT1W_3D_TFE_GD", "post-contrast"),
        ("Ax T1 FSE +C", "post-contrast"),
        ("T1 nach KM tra", "post-contrast"),
        ("AXT1POST", "post-contrast"),
        ("AXT2", "other"),
        ("sT2W_TSE", "other"),
        ("DWI trace", "other"),
        ("UCSF-PDGM-0004_tumor_segmentation", "mask"),
        ("sub-01_dseg", "mask"),
        ("No. 5", None),
        ("Saxony", None),
    ],
)
def test_descriptions_of_scanners_and_names_of_data_sets_are_understood(description, sequence):
    assert sequence_of(description) == sequence


def test_sessions_of_a_patient_are_heads_of_their_own():
    names = ("FLAIR", "T1w", "ce-gd_T1w")
    sessions = {
        f"sub-01_ses-{session}": [f"sub-01_ses-{session}_{name}" for name in names]
        for session in ("pre", "post", "postop")
    }
    assert group_sequences(path for paths in sessions.values() for path in paths) == sessions


def test_a_head_whose_files_name_the_sequence_alone_has_a_name():
    assert group_sequences(["flair", "t1"]) == {"head": ["flair", "t1"]}
    assert group_sequences(["p/flair", "p/t1"]) == {"p/p": ["p/flair", "p/t1"]}


def test_by_patient_groups_names_in_order():
    assert by_patient(["B_1", "A_x_10", "A_x_2"]) == {
        "A_x": ["A_x_2", "A_x_10"],
        "B": ["B_1"],
    }


@pytest.mark.parametrize(
    ("patient", "site"),
    [
        ("TCGA_CS_4941_19960909", "CS"),
        ("PHANTOM_HT_0001", "HT"),
        ("TCGA_E1_A7YI_20030114", "E1"),  # sites of TCGA have digits, too
        ("007", "other"),
        ("A_B", "other"),
    ],
)
def test_the_site_is_in_the_patients_name(patient, site):
    assert site_of(patient) == site


def test_masks_and_hidden_files_are_no_slices():
    masks = ["p/p_1_mask.tif", "a_seg.png", "A-Label.png", "mask.png", "p/._p_1.tif"]
    assert not any(may_be_slice(name) for name in masks)
    assert all(may_be_slice(name) for name in ["mask/p_1.tif", "unmask.png", "a_seg_1.png"])
