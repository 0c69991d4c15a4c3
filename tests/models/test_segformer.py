import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import SegformerForSemanticSegmentation

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.models.segformer import SegFormer, SegFormerOptions


def test_b2_has_27_3_million_parameters_and_two_classes():
    model = SegFormer.create(SegFormerOptions(pretrained=None))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(27.35e6, rel=2e-3)
    assert model.config["config"]["id2label"] == {0: "background", 1: "tumour"}


def test_pretrained_weights_are_taken_and_the_head_is_replaced(tiny_segformer):
    model = SegFormer.create(SegFormerOptions(pretrained=str(tiny_segformer))).eval()
    source = SegformerForSemanticSegmentation.from_pretrained(tiny_segformer)
    taken = dict(model.network.segformer.named_parameters())
    for name, value in source.segformer.named_parameters():
        assert torch.equal(taken[name], value), name
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 2, 64, 64)


def test_the_config_rebuilds_the_same_network_without_the_folder(tiny_segformer):
    model = SegFormer.create(SegFormerOptions(pretrained=str(tiny_segformer))).eval()
    rebuilt = SegFormer(**model.config).eval()
    rebuilt.load_state_dict(model.state_dict())
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(rebuilt(image), model(image))


def test_pretrained_weights_see_the_slice_alone_before_they_are_trained(tiny_segformer):
    options = SegFormerOptions(pretrained=str(tiny_segformer))
    narrow, wide = SegFormer.create(options).eval(), SegFormer.create(options, 9).eval()
    slice_, others = torch.randn(1, 3, 64, 64), torch.randn(2, 1, 3, 64, 64)
    encoders = (model.network.segformer for model in (narrow, wide))
    inputs = (slice_, torch.cat([others[0], slice_, others[1]], dim=1))
    expected, found = (e(x).last_hidden_state for e, x in zip(encoders, inputs, strict=True))
    torch.testing.assert_close(found, expected)
    rebuilt = SegFormer(**wide.config).eval()
    rebuilt.load_state_dict(wide.state_dict())
    assert torch.equal(rebuilt(inputs[1]), wide(inputs[1]))


@pytest.mark.parametrize("channels", [3, 9])
def test_the_head_gives_what_that_of_transformers_gives(channels):
    torch.manual_seed(0)
    model = SegFormer.create(SegFormerOptions(pretrained=None), channels).double().eval()
    for bias in (p.proj.bias for p in model.network.decode_head.linear_projections):
        torch.nn.init.normal_(bias)  # zeros, which they start from, would hide them
    image = torch.randn(2, channels, 96, 64, dtype=torch.float64)
    expected = model.network(pixel_values=image).logits
    expected = F.interpolate(expected, size=(96, 64), mode="bilinear")
    torch.testing.assert_close(model(image), expected)
    gradients = []
    for logits in (model(image), expected):
        model.zero_grad()
        logits[:, 1].sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    torch.testing.assert_close(gradients[0], gradients[1])


def test_training_drops_whole_channels_of_the_head():
    model = SegFormer.create(SegFormerOptions(pretrained=None)).train()
    model.network.decode_head.dropout.p = 0.5
    seen = []
    model.network.decode_head.classifier.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    model(torch.randn(2, 3, 64, 64))
    kept = (seen[0] != 0).flatten(2).any(dim=2)
    assert 0.4 < kept.float().mean() < 0.6  # were each value dropped by itself, all would be kept
    model.eval()(torch.randn(2, 3, 64, 64))
    assert (seen[1] != 0).flatten(2).any(dim=2).float().mean() > 0.9


UNREACHABLE = """
from brain_mri_segmentation.models import create_model
create_model("segformer", {"pretrained": "nobody/no-such-model"})
"""


@pytest.mark.slow
def test_an_unreachable_hub_is_an_error_that_says_how_to_go_on(tmp_path):
    # Port 9 of this machine refuses connections, as a machine without network would.
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", UNREACHABLE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "the Hugging Face hub did not give them" in done.stderr
    assert "models.segformer.pretrained=null" in done.stderr


def test_a_missing_folder_is_refused():
    with pytest.raises(InputError, match="/no/such/folder.* no local folder"):
        SegFormer.create(SegFormerOptions(pretrained="/no/such/folder"))


def test_a_backbone_with_missing_weights_is_refused_instead_of_filled_with_random_ones(
    tiny_segformer,
):
    weights = load_file(tiny_segformer / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "encoder.block.0" not in name}
    save_file(kept, tiny_segformer / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"\d+ are missing or of another shape, such as segformer"):
        SegFormer.create(SegFormerOptions(pretrained=str(tiny_segformer)))


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="no local folder with a SegFormer"):
        SegFormer.create(SegFormerOptions(pretrained=str(tmp_path)))


def test_without_transformers_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)  # as where it is not installed
    with pytest.raises(InputError, match=r"pip install .*\[segformer\]"):
        SegFormer()
