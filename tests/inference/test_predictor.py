import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.inference.predictor import (
    Predictor,
    check_unseen,
    load_model,
    segment,
    segment_batch,
    segment_patients,
    segment_volume,
)
from brain_mri_segmentation.inference.review import expected_dice, reason_to_review
from brain_mri_segmentation.models import Checkpoint, create_model


@pytest.fixture
def checkpoint(parameters):
    torch.manual_seed(0)
    model = create_model("unet", {"channels": [4, 8]})
    preprocessing = parameters.preprocessing.model_dump() | {"image_size": 32}
    metadata = {"train_patients": ["P0", "P9"], "val_patients": ["P1"]}
    return Checkpoint("unet", model.config, preprocessing, model.state_dict(), metadata)


def volume(*sizes):
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def test_a_model_is_loaded_from_its_path_alone(checkpoint, tmp_path):
    checkpoint.save(tmp_path / "best.ckpt")
    predictor = load_model(tmp_path / "best.ckpt")
    assert predictor.preprocessing.image_size == 32


def test_masks_have_the_size_of_their_slices(checkpoint):
    slices = volume((32, 32), (64, 48), (33, 100))
    results = segment_volume(Predictor(checkpoint), slices)
    for result, size in zip(results, [(32, 32), (64, 48), (33, 100)], strict=True):
        assert result.mask.shape == result.probability.shape == size
        assert result.mask.dtype == np.uint8
        assert np.array_equal(result.mask, np.where(result.probability >= 0.5, 255, 0))
        assert result.tumour_pixels == np.count_nonzero(result.mask)
        assert result.tumour_fraction == pytest.approx(result.tumour_pixels / result.mask.size)


def test_the_batch_size_does_not_change_the_masks(checkpoint):
    slices = volume(*[(32, 32)] * 5)
    together, alone = (segment_volume(Predictor(checkpoint), slices, n) for n in (16, 1))
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(together, alone, strict=True))


def test_slices_of_a_batch_have_nothing_to_do_with_each_other(checkpoint):
    predictor, images = Predictor(checkpoint), volume((32, 32), (32, 32))
    images[1] //= 3  # as of another scanner
    together = segment_batch(predictor, images)
    for image, result in zip(images, together, strict=True):
        expected = segment(predictor, image)
        np.testing.assert_allclose(result.probability, expected.probability, atol=1e-5)


def test_a_model_that_prepares_slices_in_an_unknown_way_is_refused(checkpoint):
    checkpoint.preprocessing["window"] = "bone"
    with pytest.raises(InputError, match="in a way that this version does not know.*'window'"):
        Predictor(checkpoint)


def test_the_mirror_image_is_segmented_too(checkpoint):
    (image,) = volume((32, 32))
    checkpoint.preprocessing["mirroring"] = False
    plain, mirrored = (
        segment(Predictor(checkpoint), given).probability for given in (image, image[:, ::-1])
    )
    checkpoint.preprocessing["mirroring"] = True
    found = segment(Predictor(checkpoint), image).probability
    logits = [np.log(p / (1 - p)) for p in (plain, mirrored[:, ::-1], found)]
    np.testing.assert_allclose(logits[2], (logits[0] + logits[1]) / 2, atol=1e-4)
    assert not np.allclose(logits[0], logits[1], atol=1e-2)


def test_a_forward_pass_is_bounded(checkpoint):
    checkpoint.preprocessing["mirroring"] = False
    predictor, sizes = Predictor(checkpoint), []
    predictor.network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    segment_batch(predictor, volume(*[(32, 32)] * 5), batch_size=2)
    assert sizes == [2, 2, 1]


def test_a_slice_normalisation_is_normalised_by_itself(checkpoint):
    predictor, (first, second) = Predictor(checkpoint), volume((32, 32), (32, 32))
    dark = second // 8
    alone = segment(predictor, first)
    in_volume = segment_volume(predictor, [first, dark])[0]
    assert not np.allclose(alone.probability, in_volume.probability, atol=1e-3)
    assert np.allclose(alone.probability, segment_volume(predictor, [first])[0].probability)


class Brightness(torch.nn.Module):
    """Takes for tumour what is brighter than the mean of the volume."""

    def forward(self, images):
        return torch.stack([-images[:, 1], images[:, 1]], dim=1)


def test_a_volume_loses_small_regions_from_its_masks_and_not_from_its_map(checkpoint):
    checkpoint.preprocessing.update(min_component_ratio=0.3, temperature=2)
    predictor = Predictor(checkpoint)
    predictor.network = Brightness()
    slices = np.zeros((2, 32, 32, 3), np.uint8)
    slices[:, 4:14, 4:14] = 200
    slices[1, 24:30, 24:30] = 200  # 36 pixels of 200
    first, second = segment_volume(predictor, list(slices))
    assert second.probability[26, 26] > 0.9
    assert second.tumour_pixels == first.tumour_pixels == 100
    assert segment(predictor, slices[1]).tumour_pixels == 136


def test_the_temperature_divides_the_logits(checkpoint):
    image = volume((32, 32))[0]
    plain = segment(Predictor(checkpoint), image).probability
    checkpoint.preprocessing["temperature"] = 2.5
    cooled = segment(Predictor(checkpoint), image).probability
    logit = np.log(plain / (1 - plain))
    np.testing.assert_allclose(cooled, 1 / (1 + np.exp(-logit / 2.5)), rtol=1e-3)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.zeros((64, 64, 3), np.uint8), "almost empty"),
        (np.full((64, 64, 3), 90, np.uint8), "almost empty"),
        (np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), "border"),
    ],
)
def test_what_is_no_brain_slice_is_to_be_reviewed(checkpoint, image, reason):
    assert reason in segment(Predictor(checkpoint), image).review


def test_the_expected_dice_weighs_what_hangs_together_with_the_mask():
    probabilities = np.full((4, 16, 16), 0.1, np.float32)
    probabilities[0, 2:4, 2:4] = 0.9  # the mask
    probabilities[0, 2:4, 4:6] = 0.4  # around it
    probabilities[0, 10:13, 10:13] = 0.4  # elsewhere, and so decided upon
    probabilities[1, 2:4, 2:4] = 0.4  # touches the mask in the slice before
    probabilities[2, 10:13, 10:13] = 0.9  # a region that was dropped
    kept = np.where(np.arange(4)[:, None, None] == 2, 0, probabilities)
    expected = expected_dice(probabilities, kept, 0.5)
    assert expected[0] == pytest.approx(2 * 3.6 / (3.6 + 1.6 + 4))
    assert expected[1] == 0
    assert np.isnan(expected[2:]).all()


@pytest.mark.parametrize(("pixels", "expected"), [(49, np.nan), (50, 0)])
def test_without_a_mask_the_model_doubts_itself_where_enough_may_be_tumour(pixels, expected):
    probabilities = np.zeros((1, 16, 16), np.float32)
    probabilities[0].flat[:pixels] = 0.4
    np.testing.assert_equal(expected_dice(probabilities, probabilities, 0.5), [expected])


def test_an_uncertain_mask_is_to_be_reviewed_and_a_certain_one_is_not(phantom_folder, parameters):
    home = phantom_folder / "kaggle_3m/PHANTOM_CS_0000"
    image = tifffile.imread(home / "PHANTOM_CS_0000_3.tif")

    def reason(expected, uncertainty=0.5):
        rules = parameters.preprocessing.model_copy(update={"review_uncertainty": uncertainty})
        return reason_to_review(image, expected, rules)

    assert reason(0.6) is None
    assert reason(float("nan")) is None
    assert reason(0.4) == "the model is uncertain: it expects a Dice of 0.40 of its own mask"
    assert reason(0.4, uncertainty=0.7) is None


def test_a_slice_knows_what_its_volume_tells_about_it(checkpoint):
    class Bright(torch.nn.Module):
        def forward(self, images):
            logit = torch.where(images[:, 1] > 3, 3.0, torch.where(images[:, 1] > 0.5, -1.0, -6.0))
            return torch.stack([torch.zeros_like(logit), logit], dim=1)

    predictor = Predictor(checkpoint)
    predictor.network = Bright()
    first, second = np.zeros((2, 32, 32, 3), np.uint8)
    first[8:16, 8:16] = 200  # tumour
    second[8:16, 8:16] = 60  # may be tumour, and touches it
    first, second = segment_volume(predictor, [first, second])
    possible = 1 / (1 + np.exp(1))
    assert first.expected_dice == pytest.approx(2 * 0.9526 / (1 + 0.9526), abs=1e-3)
    assert (second.tumour_pixels, second.expected_dice) == (0, 0)
    assert second.probability[10, 10] == pytest.approx(possible)


@pytest.mark.parametrize(
    "image", [np.zeros((32, 32), np.uint8), np.zeros((32, 32, 3)), np.zeros((32, 32, 4), np.uint8)]
)
def test_an_array_that_is_no_slice_is_refused(checkpoint, image):
    with pytest.raises(ValueError, match=r"expected \(height, width, 3\) uint8"):
        segment(Predictor(checkpoint), image)


def test_threads_do_not_disturb_each_other(checkpoint):
    predictor, images = Predictor(checkpoint), volume(*[(32, 32)] * 8)
    expected = [segment(predictor, image).probability for image in images]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda image: segment(predictor, image), images * 5))
    for n, result in enumerate(results):
        assert np.array_equal(result.probability, expected[n % 8])


@pytest.mark.parametrize("page", ["README.md", "docs/serving.md"])
def test_the_example_of_the_documentation_runs(checkpoint, tmp_path, monkeypatch, page):
    text = (Path(__file__).parents[2] / page).read_text()
    example = text.split("```python\n")[1].split("```")[0]
    checkpoint.save(tmp_path / re.search(r'load_model\("(.*)"\)', example)[1])
    tifffile.imwrite(tmp_path / "slice.tif", volume((40, 50))[0], photometric="rgb")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(example, names)
    assert names["result"].mask.shape == (40, 50)


def test_an_empty_volume_is_refused(checkpoint):
    with pytest.raises(ValueError, match="at least one slice"):
        segment_volume(Predictor(checkpoint), [])


def test_patients_are_segmented_each_as_its_own_volume(checkpoint, synthetic_slices):
    slices = synthetic_slices(patients=2, slices=3)
    found = dict(segment_patients(Predictor(checkpoint), slices.images))
    assert list(found) == ["P0_1", "P0_2", "P0_3", "P1_1", "P1_2", "P1_3"]
    own = segment_volume(Predictor(checkpoint), [slices.images[f"P1_{n}"]() for n in (1, 2, 3)])
    assert np.array_equal(found["P1_2"].probability, own[1].probability)


def test_a_model_is_not_scored_on_patients_that_it_has_seen(checkpoint):
    check_unseen(checkpoint, ["P2_1", "P3_1"], "test")
    check_unseen(checkpoint, ["P1_1", "P2_1"], "val")
    check_unseen(checkpoint, ["P0_1"], "train")
    with pytest.raises(InputError, match="selected on 1 of the patients .* P0"):
        check_unseen(checkpoint, ["P0_1", "P0_2", "P1_1"], "val")
    with pytest.raises(InputError, match="selected on 1 of the patients .* P1"):
        check_unseen(checkpoint, ["P1_1", "P2_1"], "test")
