import pytest
import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.models.segformer import SegFormer, SegFormerOptions

TINY = {
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [8, 8, 16, 16],
    "num_attention_heads": [1, 1, 2, 2],
    "decoder_hidden_size": 16,
}


@pytest.fixture
def pretrained_folder(tmp_path):
    """A folder as the hub gives it, with a head of 150 classes as after training on ADE20K."""
    torch.manual_seed(0)
    SegformerForSemanticSegmentation(SegformerConfig(**TINY, num_labels=150)).save_pretrained(
        tmp_path
    )
    return tmp_path


def test_b2_has_27_3_million_parameters_and_two_classes():
    model = SegFormer.create(SegFormerOptions(pretrained=None))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(27.35e6, rel=2e-3)
    assert model.config["config"]["id2label"] == {0: "background", 1: "tumour"}


def test_pretrained_weights_are_taken_and_the_head_is_replaced(pretrained_folder):
    model = SegFormer.create(SegFormerOptions(pretrained=str(pretrained_folder))).eval()
    source = SegformerForSemanticSegmentation.from_pretrained(pretrained_folder)
    taken = dict(model.network.segformer.named_parameters())
    for name, value in source.segformer.named_parameters():
        assert torch.equal(taken[name], value), name
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 2, 64, 64)


def test_the_config_rebuilds_the_same_network_without_the_folder(pretrained_folder):
    model = SegFormer.create(SegFormerOptions(pretrained=str(pretrained_folder))).eval()
    rebuilt = SegFormer(**model.config).eval()
    rebuilt.load_state_dict(model.state_dict())
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(rebuilt(image), model(image))


@pytest.mark.parametrize("pretrained", ["nobody/no-such-model", "/no/such/folder"])
def test_an_unreachable_hub_is_an_error_that_says_how_to_go_on(pretrained, monkeypatch):
    # Port 9 of this machine refuses connections, as a machine without network would.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"(?s)models.segformer.pretrained=null"):
        SegFormer.create(SegFormerOptions(pretrained=pretrained))


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="no local folder with a SegFormer"):
        SegFormer.create(SegFormerOptions(pretrained=str(tmp_path)))
