import pytest
import torch

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.models import create_model, rebuild_model


def test_an_unknown_model_is_refused_with_the_known_ones():
    with pytest.raises(
        ValueError,
        match="unknown model 'foo'. Allowed: ensemble, segformer, unet",
    ):
        create_model("foo", {})


def test_a_rebuilt_model_gives_the_same_logits():
    torch.manual_seed(0)
    model = create_model("unet", {"channels": [4, 8]}).eval()
    rebuilt = rebuild_model("unet", model.config, model.state_dict())
    image = torch.randn(1, 3, 16, 16)
    assert torch.equal(rebuilt(image), model(image))
    assert not rebuilt.training


def test_weights_of_another_architecture_are_refused():
    model = create_model("unet", {"channels": [4, 8]})
    with pytest.raises(InputError, match="do not fit that architecture"):
        rebuild_model("unet", {"channels": [4, 16]}, model.state_dict())


def test_a_model_of_a_newer_version_is_refused():
    with pytest.raises(InputError, match="'unet9', which this version does not know"):
        rebuild_model("unet9", {}, {})


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("unet", {"channels": [100_000, 100_000]}, "expected torch.float32"),
        ("unet", {"channels": [4] * 10**6}, "more than the 40 weights"),
        ("segformer", {"config": {"depths": [10**4] * 4}}, "more than the 40 weights"),
        ("ensemble", {"members": [{"model_name": "unet"}]}, "temperature"),
        ("ensemble", {"members": None}, "not iterable"),
    ],
)
def test_a_hostile_config_takes_neither_memory_nor_time(name, config, message):
    weights = create_model("unet", {"channels": [4, 8]}).state_dict()
    with pytest.raises(InputError, match=message):
        rebuild_model(name, config, weights)
