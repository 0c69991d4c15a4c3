import pytest
import torch

from brain_mri_segmentation.models.unet import UNet


def test_the_baseline_has_1_93_million_parameters():
    network = UNet([32, 64, 128, 256])
    # Worked out layer by layer: 3x3 convolutions without bias, batch norms, 2x2 upsampling with
    # bias, a 1x1 head.
    convolutions = 9 * sum(
        i * o + o * o
        for i, o in [(3, 32), (32, 64), (64, 128), (128, 256), (256, 128), (128, 64), (64, 32)]
    )
    norms = 4 * (32 + 64 + 128 + 256 + 128 + 64 + 32)
    upsampling = sum(4 * i * o + o for i, o in [(256, 128), (128, 64), (64, 32)])
    head = 32 * 2 + 2
    count = sum(p.numel() for p in network.parameters())
    assert count == convolutions + norms + upsampling + head == 1_927_042


def test_logits_have_the_size_of_the_image():
    assert UNet([4, 8, 16]).eval()(torch.zeros(2, 3, 36, 64)).shape == (2, 2, 36, 64)


def test_a_size_that_cannot_be_halved_is_refused_with_the_right_one():
    with pytest.raises(ValueError, match=r"8 divides, got \(36, 64\); pad or resize to \(40, 64\)"):
        UNet([2, 2, 2, 2])(torch.zeros(1, 3, 36, 64))


def test_every_parameter_gets_a_gradient():
    network = UNet([4, 8, 16])
    network(torch.randn(2, 3, 16, 16)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
