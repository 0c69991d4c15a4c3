import re

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import ModelCard

from brain_mri_segmentation.evaluation import metrics
from brain_mri_segmentation.evaluation.metrics import (
    score_patients,
    score_sites,
    score_slices,
    summarise,
)
from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.inference.conversion import ONNX_FILE, to_onnx
from brain_mri_segmentation.inference.predictor import Predictor
from brain_mri_segmentation.publishing.card import render_card
from brain_mri_segmentation.publishing.gate import Approval, Scores, compare

FINGERPRINT = {
    "split": "s1",
    "data": "d1",
    "train": {"patients": 88, "slices": 3133, "tumour_slices": 1065, "data": "d2"},
    "val": {"patients": 4, "slices": 8, "tumour_slices": 4, "data": "d3"},
}
INT8 = {"kept": True, "reason": "The folder holds a copy in 8 bits for OpenVINO: as good."}
PASSED = Approval("passed", "segformer beats unet: by a lot.")


@pytest.fixture(scope="module")
def slice_scores():
    """Four patients with a slice of tumour and an empty one each; one of these has an alarm."""
    rows = []
    for n, patient in enumerate(["TCGA_CS_1", "TCGA_CS_2", "TCGA_HT_3", "TCGA_HT_4"]):
        rows.append((patient, f"{patient}_1", 300 + 20 * n, 50, 100, 600))
        rows.append((patient, f"{patient}_2", 0, 7 if n == 3 else 0, 0, 1000))
    counts = ["true_positive", "false_positive", "false_negative", "true_negative"]
    return score_slices(pd.DataFrame(rows, columns=["patient", "slice", *counts]))


@pytest.fixture
def render(make_checkpoint, slice_scores, parameters):
    """A function that renders a card of a small model."""

    def render(
        name="segformer",
        approval=PASSED,
        metadata=None,
        rules=None,
        pictures=None,
        int8=None,
        **settings,
    ):
        checkpoint = make_checkpoint(name, **(rules or {}))
        checkpoint.metadata.update(
            {
                "scores": {"val/dice": 0.7171},
                "seed": 42,
                "code": "0123abcd",
                "training": {"epochs": 9},
                "fingerprint": FINGERPRINT,
            }
            | (metadata or {})
        )
        # Slice by slice there is an alarm on each empty slice.
        alone = slice_scores.assign(false_positive=slice_scores["false_positive"] + 1)
        report = {
            "fingerprint": {"split": "s1", "data": "d4"},
        }
        report |= metrics.report(name, "test", slice_scores, alone, 100, 0)
        patients = score_patients(slice_scores)
        worse = patients.assign(dice=patients["dice"] - 0.1)
        comparison = compare(
            Scores(report, patients), Scores(report | {"model": "unet"}, worse), 0.95, 100, 0
        )
        pictures = ["pictures/patient_dice.png"] if pictures is None else pictures
        publishing = parameters.publishing.model_copy(update=settings)
        return checkpoint, render_card(
            checkpoint,
            report,
            patients,
            score_sites(slice_scores),
            comparison,
            approval,
            pictures,
            INT8 if int8 is None else int8,
            publishing,
        )

    return render


def test_the_metadata_is_what_the_hub_reads_back(render, slice_scores):
    card = ModelCard(render()[1])
    assert card.data.license == "cc-by-nc-sa-4.0"
    assert card.data.library_name == "transformers"
    assert card.data.datasets == ["mateuszbuda/lgg-mri-segmentation"]
    assert "medical-imaging" in card.data.tags
    results = {result.metric_type: result for result in card.data.eval_results}
    expected = summarise(slice_scores)
    for name in ("dice", "dice_pooled", "iou", "empty_slice_fp_rate"):
        assert results[name].metric_value == pytest.approx(expected[name], abs=1e-4)
        assert results[name].dataset_split == "test"
    low, high = results["dice"].metric_args["interval_95"]
    assert low <= results["dice"].metric_value <= high


def test_the_figures_are_those_that_were_measured(render, slice_scores):
    card = render()[1]
    dice = summarise(slice_scores)["dice"]
    assert f"| Dice, mean over patients | {dice:.3f} (" in card
    assert re.search(
        r"\| Empty slices with a false alarm \| 0.250 \([^|]*\) \| 1.000 \([^|]*\) \|", card
    )
    assert "| CS | 2 | 4 | 0.805 | 0.805 | 0.000 |" in card  # of 0.800 and 0.810
    assert "| HT | 2 | 4 | 0.820 | 0.823 | 0.500 |" in card  # the alarm lowers its patient's
    assert "Lowest Dice of a patient: TCGA_CS_1 with 0.800" in card
    assert "On 25 % of the slices without tumour it marks at least one pixel, and on 100 %" in card
    assert "| train | 88 | 3133 | 1065 |" in card
    assert "chosen by validation Dice (0.717)" in card


def test_it_says_what_it_is_not_and_what_the_data_allow(render):
    card = render()[1]
    assert "Not a medical device" in card
    assert "reported licence: CC BY-NC-SA 4.0" in card
    assert "Buda M, Saha A" in card
    assert "{{" not in card
    assert "{%" not in card
    assert "None" not in card
    assert "\n\n\n" not in card


def test_the_comparison_is_shown_unless_it_is_the_baseline(render):
    assert "Against unet\n\nsegformer beats unet: by a lot." in render()[1]
    assert "Wilcoxon's signed-rank test gives\np = 0.125." in render()[1]  # 2 of 2^4 signs
    baseline = Approval("baseline", "It is the baseline.")
    assert "Against" not in render("unet", baseline)[1]


def test_an_override_is_printed_at_the_top(render):
    card = render(approval=Approval("overridden", "It does not. Reason: for a workshop"))[1]
    warning = card.index("Published although it did not pass the gate.** It does not. Reason: for")
    assert warning < card.index("## Intended use")


@pytest.mark.parametrize(
    ("start", "shown"),
    [
        ("nvidia/segformer-b2-finetuned-ade-512-512", True),
        ("/home/me/segformer", False),
        (None, False),
    ],
)
def test_the_model_that_training_started_from_is_named_with_its_licence(render, start, shown):
    card = render(metadata={"model_options": {"pretrained": start}})[1]
    assert ModelCard(card).data.base_model == (start if shown else None)
    assert ("whose own licence applies" in card) == shown
    assert "/home" not in card


def test_a_local_folder_is_not_taken_for_a_model_of_the_hub(render, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights/b2").mkdir(parents=True)
    card = render(metadata={"model_options": {"pretrained": "weights/b2"}})[1]
    assert ModelCard(card).data.base_model is None


def test_pictures_of_slices_stand_beside_their_terms(render):
    names = ("patient_dice", "comparison", "slice_gallery")
    card = render(pictures=[f"pictures/{name}.png" for name in names])[1]
    assert "(pictures/slice_gallery.png)\n\nThe slices are of the data below" in card
    assert "Pictures of slices are left out" in render()[1]


def test_phantoms_are_not_taken_for_patients(make_checkpoint, render, slice_scores, monkeypatch):
    assert "synthetic phantoms" not in render()[1]
    phantoms = slice_scores["patient"].str.replace("TCGA", "PHANTOM")
    monkeypatch.setitem(slice_scores, "patient", phantoms)
    assert "**Trained on synthetic phantoms.**" in render()[1]


def code_blocks(card):
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


HEADER = """
import numpy as np
slices = list(np.load(sys.argv[1]))
"""
FOOTER = """
np.save(sys.argv[2], np.stack(masks))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "context"), [("unet", 1), ("segformer", 0)])
def test_the_code_on_the_card_gives_the_masks_of_this_project(
    render, name, context, run_elsewhere, tmp_path
):
    slices = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    np.save(tmp_path / "slices.npy", slices)
    rules = {"temperature": 2.0, "mirroring": False, "context": context}
    rules |= {"min_component_ratio": 0, "min_component_size": 0}
    checkpoint, _ = render(name, rules=rules)
    probabilities = Predictor(checkpoint).predict(Volume(slices)).probability
    rules["threshold"] = float(np.median(probabilities))  # which finds half of the picture
    checkpoint, card = render(name, rules=rules, onnx=name == "unet")
    folder = tmp_path / "path/of/this/folder"
    folder.mkdir(parents=True)
    files = checkpoint.folder_files({})
    if name == "unet":
        files[ONNX_FILE] = to_onnx(checkpoint)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    expected = Predictor(checkpoint).predict(Volume(slices)).mask
    assert 0.4 < (expected > 0).mean() < 0.6
    with_package, *without = code_blocks(card)
    namespace = {"slices": slices}
    exec(with_package.replace("path/of", f"{tmp_path}/path/of"), namespace)
    fast = Predictor(checkpoint, engine="auto").predict(Volume(slices)).mask
    assert np.array_equal(np.stack(namespace["masks"]), fast)
    assert len(without) == 1
    for code in without:
        run_elsewhere(HEADER + code + FOOTER, tmp_path / "slices.npy", tmp_path / "masks.npy")
        made = np.load(tmp_path / "masks.npy")
        # A pixel at the threshold may fall to either side.
        assert (made != (expected > 0)).mean() < 1e-3


def test_a_card_for_the_hub_shows_how_to_load_from_it(render):
    card = render(destination="hub", repo_id="somebody/glioma")[1]
    assert 'snapshot_download("somebody/glioma")' in card
    assert 'AutoModelForSemanticSegmentation.from_pretrained("somebody/glioma")' in card
    assert 'hf_hub_download("somebody/glioma", "model.onnx")' in card
    assert "path/of/this/folder" not in card


def test_the_card_says_what_the_copy_in_8_bits_is_worth(render):
    assert f"### In 8 bits\n\n{INT8['reason']}" in render()[1]
    assert "8 bits" not in render(int8={})[1]


def test_the_interval_of_volumes_is_on_the_card_of_a_model_that_knows_it(render):
    # With 5: exp(5 * 0.04) and exp(5 * 0.12), where the views agree by 0.98 and by 0.9.
    card = render(rules={"volume_interval": 5.0, "mirroring": True})[1]
    assert "f = exp(5.00 (1.02 - a))" in card
    assert "f is 1.22 where a is 0.98, and 1.82 where it is 0.90" in card
    assert "### How much tumour" not in render()[1]
    assert (
        "### How much tumour" not in render(rules={"volume_interval": 5.0, "mirroring": False})[1]
    )
