import pytest
import torch

from brain_mri_segmentation.models import create_model, rebuild_model

SMALL = {"channels": 4, "blocks": [1, 1, 1, 1], "deep_supervision": 2}


def test_logits_have_the_size_of_the_image():
    network = create_model("unet_large", SMALL).eval()
    assert network(torch.zeros(2, 3, 32, 64)).shape == (2, 2, 32, 64)


def test_training_gives_an_output_for_each_supervised_level():
    network = create_model("unet_large", SMALL).train()
    outputs = network(torch.randn(2, 3, 32, 32))
    assert outputs.shape == (2, 3, 2, 32, 32)
    outputs.square().mean().backward()
    assert all(p.grad is not None for p in network.parameters())
    # The first is the one that is used afterwards.
    image = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(network(image)[:, 0], network.eval()(image))


def test_more_supervised_levels_than_there_are_is_refused():
    with pytest.raises(ValueError, match="needs 5 levels or more, got blocks for 4"):
        create_model("unet_large", SMALL | {"deep_supervision": 3})


def test_a_rebuilt_network_gives_the_same_logits():
    torch.manual_seed(0)
    network = create_model("unet_large", SMALL).eval()
    rebuilt = rebuild_model("unet_large", network.config, network.state_dict())
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(rebuilt(image), network(image))


def test_a_side_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match="must be divisible by"):
        create_model("unet_large", SMALL).eval()(torch.zeros(1, 3, 20, 32))
