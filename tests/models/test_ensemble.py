import numpy as np
import pytest
import torch

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.inference.postprocessing import probability_of
from brain_mri_segmentation.inference.predictor import Predictor
from brain_mri_segmentation.models import Checkpoint, as_arrays, create_model
from brain_mri_segmentation.models.ensemble import combine, find_checkpoints


@pytest.fixture
def make_member(parameters, tiny_segformer):
    """A function that gives a small checkpoint with random weights of its own."""
    options = {"unet": {"channels": [4, 8]}, "segformer": {"pretrained": str(tiny_segformer)}}

    def make(name: str, seed: int, **changes: object) -> Checkpoint:
        torch.manual_seed(seed)
        network = create_model(name, options[name]).eval()
        values = (
            parameters.preprocessing.model_dump() | {"image_size": 64, "mirroring": False} | changes
        )
        metadata = {"train_patients": [f"T{seed}"], "val_patients": ["T1", f"V{seed}"]}
        return Checkpoint(name, network.config, values, as_arrays(network.state_dict()), metadata)

    return make


def inputs() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 3, 64, 64), dtype=np.float32)


def probability(model: Checkpoint) -> np.ndarray:
    logits = Predictor(model).logits(inputs())[:, 0]
    return probability_of(logits, model.preprocessing["temperature"])


def test_the_probability_is_the_mean_of_all_architectures_and_temperatures(make_member, tmp_path):
    members = {"a": make_member("unet", 1, temperature=2.0), "b": make_member("segformer", 2)}
    expected = np.mean([probability(m) for m in members.values()], axis=0)
    combine(members, mirroring=False).save(tmp_path / "best.ckpt")
    found = probability(Checkpoint.load(tmp_path / "best.ckpt"))
    assert np.allclose(found, expected, atol=1e-6)


def test_mirroring_is_a_choice_of_the_ensemble_and_not_of_its_members(make_member):
    members = {
        "a": make_member("unet", 1, mirroring=True),
        "b": make_member("unet", 2, mirroring=False),
    }
    assert combine(members, mirroring=True).preprocessing["mirroring"] is True
    assert combine(members, mirroring=False).preprocessing["mirroring"] is False


def test_an_ensemble_has_no_interval_of_volumes_which_nobody_measured_for_it(make_member):
    members = {str(n): make_member("unet", n, volume_interval=4.0 + n) for n in (1, 2)}
    assert combine(members, mirroring=True).preprocessing["volume_interval"] is None


def test_an_ensemble_has_seen_all_that_its_members_have(make_member):
    both = combine({"a": make_member("unet", 1), "b": make_member("unet", 2)}, mirroring=False)
    assert both.metadata["train_patients"] == ["T1", "T2"]
    assert both.metadata["val_patients"] == ["V1", "V2"]


def test_members_must_prepare_slices_alike(make_member):
    members = {"a": make_member("unet", 1), "b": make_member("unet", 2, image_size=32)}
    with pytest.raises(InputError, match="image_size is 64 in a and 32 in b"):
        combine(members, mirroring=False)


def test_members_are_found_by_pattern_or_list(make_member, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed in (2, 1):
        make_member("unet", seed).save(tmp_path / f"fold_{seed}/best.ckpt")
    assert list(find_checkpoints("fold_*/best.ckpt")) == ["fold_1/best.ckpt", "fold_2/best.ckpt"]
    listed = find_checkpoints(["fold_2/best.ckpt", "fold_1/best.ckpt"])
    assert list(listed) == ["fold_2/best.ckpt", "fold_1/best.ckpt"]
    assert len(find_checkpoints(str(tmp_path / "fold_*/best.ckpt"))) == 2
    with pytest.raises(InputError, match="names 1. Give a list"):
        find_checkpoints(["fold_1/best.ckpt", "fold_1/best.ckpt"])
    with pytest.raises(InputError, match="names 0. Give a list"):
        find_checkpoints("nowhere/*.ckpt")


def test_training_one_is_refused():
    with pytest.raises(InputError, match="kedro run --pipeline ensemble"):
        create_model("ensemble", {"checkpoints": [], "mirroring": False})
