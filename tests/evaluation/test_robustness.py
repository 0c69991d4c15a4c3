import numpy as np
import pytest
import torch

from brain_mri_segmentation.evaluation.robustness import AS_IT_IS, CONDITIONS, score_conditions
from brain_mri_segmentation.inference.predictor import Predictor
from brain_mri_segmentation.inference.torch_engine import TorchEngine


def changed(name, image):
    return CONDITIONS[name].change(image, np.random.default_rng(0))


@pytest.fixture
def image():
    """A slice with a grey square in a dark surrounding, other in each channel."""
    image = np.full((256, 256, 3), 20, np.uint8)
    image[64:192, 64:192] = (100, 140, 180)
    return image


def test_the_reference_changes_nothing(image):
    assert np.array_equal(changed(AS_IT_IS, image), image)
    assert next(iter(CONDITIONS)) == AS_IT_IS


@pytest.mark.parametrize("name", CONDITIONS)
def test_every_condition_gives_a_slice(image, name):
    result = changed(name, image)
    assert result.dtype == np.uint8
    assert result.shape[2] == 3


def test_conditions_do_what_they_say(image):
    noise = changed("noise, deviation 5 of 255", image).astype(float) - image
    assert noise.std() == pytest.approx(5, abs=0.1)
    assert changed("gamma 0.7", image)[100, 100, 0] == round(255 * (100 / 255) ** 0.7)
    mean = image[..., 0].mean()
    assert changed("contrast 0.7", image)[0, 0, 0] == round(mean + 0.7 * (20 - mean))
    assert changed("FLAIR alone", image)[100, 100].tolist() == [140, 140, 140]
    assert changed("128 x 128 pixels", image).shape == (128, 128, 3)
    # Half of an edge that is blurred by a Gaussian lies on each side.
    blurred = changed("blur, deviation 1 pixel", image)
    assert blurred[128, 62:66, 0].tolist() == pytest.approx([25, 45, 75, 95], abs=2)


class BrightIsTumour(torch.nn.Module):
    """Takes for tumour what is brighter than 1.5 standard deviations above the mean."""

    def forward(self, images):
        logit = 40 * (images[:, 1] - 1.5)
        return torch.stack([-logit, logit], dim=1)


def test_a_model_is_scored_under_every_condition(make_checkpoint):
    checkpoint = make_checkpoint("unet", image_size=256)
    predictor = Predictor(checkpoint, engine=TorchEngine(BrightIsTumour()))
    truth = np.zeros((256, 256), np.uint8)
    truth[100:130, 100:130] = 255
    image = np.full((256, 256, 3), 60, np.uint8)
    image[truth > 0] = 180
    table = score_conditions(predictor, {"P_1": lambda: image}, {"P_1": lambda: truth})
    table = table.set_index("condition")
    assert list(table.index) == list(CONDITIONS)
    assert table.loc[AS_IT_IS, ["dice", "lost"]].tolist() == [1, 0]
    assert table.loc["contrast 0.7", "dice"] == 1  # normalised away
    assert 0.85 < table.loc["128 x 128 pixels", "dice"] < 1  # borders alone
    assert (table["lost"] == 1 - table["dice"]).all()
