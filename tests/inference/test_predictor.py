from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.geometry import Geometry
from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.inference.predictor import Predictor, load_model
from brain_mri_segmentation.inference.torch_engine import TorchEngine


@pytest.fixture
def checkpoint(make_checkpoint):
    return make_checkpoint("unet", image_size=32)


def random_volume(slices, height=32, width=32):
    random = np.random.default_rng(0)
    return Volume(random.integers(0, 256, (slices, height, width, 3), dtype=np.uint8))


def test_a_model_is_loaded_from_its_path_alone(checkpoint, tmp_path):
    checkpoint.save(tmp_path / "best.ckpt")
    predictor = load_model(tmp_path / "best.ckpt")
    assert predictor.preprocessing.image_size == 32


@pytest.mark.parametrize("size", [(32, 32), (64, 48), (33, 100)])
def test_masks_have_the_size_of_their_slices(checkpoint, size):
    checkpoint.preprocessing["min_component_ratio"] = 0
    found = Predictor(checkpoint).predict(random_volume(2, *size))
    assert found.mask.shape == found.probability.shape == (2, *size)
    assert found.mask.dtype == np.uint8
    assert np.array_equal(found.mask, np.where(found.probability >= 0.5, 255, 0))


def test_metrics_are_those_of_the_masks_by_slice_and_in_sum(checkpoint):
    found = Predictor(checkpoint).predict(random_volume(3, 40, 50))
    pixels = [int(np.count_nonzero(mask)) for mask in found.mask]
    assert found.tumour_pixels.tolist() == pixels
    assert found.tumour_fraction == pytest.approx(sum(pixels) / 6000)
    slices, total = found.of_slices(), found.in_sum()
    assert [one["tumour_pixels"] for one in slices] == pixels
    assert [one["tumour_fraction"] for one in slices] == pytest.approx([n / 2000 for n in pixels])
    assert [one["review"] for one in slices] == list(found.review)
    assert total["tumour_pixels"] == sum(pixels)
    assert total["slices_with_tumour"] == np.count_nonzero(pixels)
    assert total["slices_to_review"] == sum(one["review"] is not None for one in slices) > 0


@pytest.fixture
def known(checkpoint):
    """What a model that knows the interval of its volumes finds in voxels of 2 ml."""
    checkpoint.preprocessing["volume_interval"] = np.log(2) / 0.12
    found = Predictor(checkpoint).predict(random_volume(3, 40, 50))
    return replace(found, voxel_ml=2.0, agreement=0.9)  # of which the doubt is 0.12


def test_the_interval_is_of_the_volume_in_millilitres(known):
    total, millilitres = known.in_sum(), 2 * int(known.tumour_pixels.sum())
    assert total["tumour_ml"] == millilitres > 0
    interval = total["tumour_ml_low"], total["tumour_ml_high"]
    assert interval == pytest.approx((millilitres / 2, millilitres * 2))
    said = (
        f"{millilitres:.2f} ml, {millilitres / 2:.2f} to {millilitres * 2:.2f} ml (90 % interval)"
    )
    assert said in known.describe()


@pytest.mark.parametrize(
    "change",
    [
        {"voxel_ml": None},
        {"volume_interval": None},
        {"agreement": float("nan")},
        {"tumour_pixels": np.zeros(3, np.int64)},
        {"mask": np.zeros((1, 40, 50), np.uint8)},
    ],
    ids=["no spacing", "an older model", "no mirroring", "no tumour", "a single slice"],
)
def test_there_is_no_interval_without(known, change):
    changed = replace(known, **change)
    assert changed.tumour_ml_interval is None
    assert changed.in_sum()["tumour_ml_low"] is changed.in_sum()["tumour_ml_high"] is None
    assert " to " not in changed.describe().partition(" slices")[0]


def test_the_batch_size_does_not_change_the_masks(checkpoint):
    volume = random_volume(5)
    together, alone = (Predictor(checkpoint).predict(volume, n) for n in (16, 1))
    assert np.array_equal(together.mask, alone.mask)


def test_slices_of_several_volumes_can_share_a_forward_pass(checkpoint):
    predictor, slices = Predictor(checkpoint), random_volume(2).slices
    volumes = [Volume(slices[:1]), Volume(slices[1:] // 3)]  # as of another scanner
    inputs = np.concatenate([next(predictor.inputs(volume)) for volume in volumes])
    for volume, own in zip(volumes, predictor.logits(inputs), strict=True):
        found, expected = predictor.finish(volume, own[None]), predictor.predict(volume)
        np.testing.assert_allclose(found.probability, expected.probability, atol=1e-5)


def test_a_model_that_prepares_slices_in_an_unknown_way_is_refused(checkpoint):
    checkpoint.preprocessing["window"] = "bone"
    with pytest.raises(InputError, match="in a way that this version does not know.*'window'"):
        Predictor(checkpoint)


def test_the_mirror_image_is_segmented_too(checkpoint):
    volume = random_volume(1)
    checkpoint.preprocessing["mirroring"] = False
    plain, mirrored = (
        Predictor(checkpoint).predict(given).probability
        for given in (volume, Volume(volume.slices[:, :, ::-1]))
    )
    checkpoint.preprocessing["mirroring"] = True
    found = Predictor(checkpoint).predict(volume).probability
    logits = [np.log(p / (1 - p)) for p in (plain, mirrored[..., ::-1], found)]
    np.testing.assert_allclose(logits[2], (logits[0] + logits[1]) / 2, atol=1e-4)
    assert not np.allclose(logits[0], logits[1], atol=1e-2)


def test_a_forward_pass_is_bounded(checkpoint):
    sizes = []
    for mirroring in (False, True):
        checkpoint.preprocessing["mirroring"] = mirroring
        network = checkpoint.build()
        network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
        predictor = Predictor(checkpoint, engine=TorchEngine(network))
        predictor.predict(random_volume(5), batch_size=2)
    assert sizes == [2, 2, 1, 4, 4, 2]


def test_a_single_slice_is_normalised_by_itself(checkpoint):
    predictor, (first, second) = Predictor(checkpoint), random_volume(2).slices
    alone = predictor.predict(Volume(first[None])).probability[0]
    in_volume = predictor.predict(Volume(np.stack([first, second // 8]))).probability[0]
    assert not np.allclose(alone, in_volume, atol=1e-3)


class Brightness(torch.nn.Module):
    """Takes for tumour what is brighter than the mean of the volume."""

    def forward(self, images):
        return torch.stack([-images[:, 1], images[:, 1]], dim=1)


def test_a_volume_loses_small_components_from_its_masks_and_not_from_its_map(checkpoint):
    checkpoint.preprocessing.update(min_component_ratio=0.3, temperature=2)
    predictor = Predictor(checkpoint)
    predictor.engine = TorchEngine(Brightness())
    slices = np.zeros((2, 32, 32, 3), np.uint8)
    slices[:, 4:14, 4:14] = 200
    slices[1, 24:30, 24:30] = 200  # 36 pixels of 200
    found = predictor.predict(Volume(slices))
    assert found.probability[1, 26, 26] > 0.9
    assert found.tumour_pixels.tolist() == [100, 100]
    assert predictor.predict(Volume(slices[1:])).tumour_pixels.tolist() == [136]


def test_the_temperature_divides_the_logits(checkpoint):
    volume = random_volume(1)
    plain = Predictor(checkpoint).predict(volume).probability
    checkpoint.preprocessing["temperature"] = 2.5
    cooled = Predictor(checkpoint).predict(volume).probability
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
    assert reason in Predictor(checkpoint).predict(Volume(image[None])).review[0]


def test_a_slice_knows_what_its_volume_tells_about_it(checkpoint):
    class Bright(torch.nn.Module):
        def forward(self, images):
            logit = torch.where(images[:, 1] > 3, 3.0, torch.where(images[:, 1] > 0.5, -1.0, -6.0))
            return torch.stack([torch.zeros_like(logit), logit], dim=1)

    predictor = Predictor(checkpoint)
    predictor.engine = TorchEngine(Bright())
    slices = np.zeros((2, 32, 32, 3), np.uint8)
    slices[0, 8:16, 8:16] = 200  # tumour
    slices[1, 8:16, 8:16] = 60  # may be tumour, and touches it
    found = predictor.predict(Volume(slices))
    possible = 1 / (1 + np.exp(1))
    assert found.expected_dice == pytest.approx([2 * 0.9526 / (1 + 0.9526), 0], abs=1e-3)
    assert found.tumour_pixels[1] == 0
    assert found.probability[1, 10, 10] == pytest.approx(possible)


def test_threads_do_not_disturb_each_other(checkpoint):
    predictor = Predictor(checkpoint)
    volumes = [Volume(image[None]) for image in random_volume(8).slices]
    expected = [predictor.predict(volume).probability for volume in volumes]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(predictor.predict, volumes * 5))
    for n, result in enumerate(results):
        assert np.array_equal(result.probability, expected[n % 8])


@pytest.mark.parametrize("page", ["README.md", "docs/serving.md"])
def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch, page):
    text = (Path(__file__).parents[2] / page).read_text()
    example = text.split("```python\n")[1].split("```")[0]
    slices = random_volume(1, 40, 50).slices
    tifffile.imwrite(tmp_path / "slice.tif", slices[0], photometric="rgb")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(example, names)
    assert names["prediction"].mask.shape == (1, 40, 50)


def test_what_lies_above_the_head_is_not_to_review(checkpoint):
    slices = random_volume(6, 32, 32).slices.copy()
    slices[:, :6], slices[:, -6:], slices[:, :, :6], slices[:, :, -6:] = 0, 0, 0, 0
    slices[4:] = 0
    checkpoint.preprocessing["threshold"] = 0.999
    predictor = Predictor(checkpoint)
    assert predictor.predict(Volume(slices)).review[5] == "the picture is almost empty"
    geometry = Geometry(np.diag([7.2, 7.2, 5, 1]), (32, 32, 6))
    placed = predictor.predict(Volume(slices.astype(np.float32), geometry=geometry))
    assert placed.review[4:] == (None, None)
    assert placed.voxel_ml == pytest.approx(0.2592)


def test_what_speaks_against_a_single_slice_speaks_against_its_mask(checkpoint):
    predictor = Predictor(checkpoint)
    slices = np.zeros((2, 32, 32, 3), np.uint8)
    slices[:, 8:24, 8:24] = random_volume(2, 16, 16).slices
    views = np.full((2, 2, 32, 32), -9, np.float32)
    views[:, :, 10:20, 10:20] = 9  # sure, but
    views[:, 1, 10:15] = -9  # the mirror image says half of it: a Dice of 2 * 50 / (100 + 50)
    for count in (1, 2):
        found = predictor.finish(Volume(slices[:count]), views[:count])
        assert "a Dice of 0.67 with each other" in found.volume_review
        assert found.review == ((found.volume_review,) if count == 1 else (None, None))
