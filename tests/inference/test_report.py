import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from brain_mri_segmentation import DISCLAIMER
from brain_mri_segmentation.imaging.geometry import Geometry
from brain_mri_segmentation.imaging.overlay import contour
from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.inference.predictor import Prediction
from brain_mri_segmentation.inference.report import render_report
from brain_mri_segmentation.models import Checkpoint

CHECKPOINT = Checkpoint("unet", {}, {"threshold": 0.5}, {}, {"val_dice": 0.8765})
RADII = [0, 0, 4, 9, 14, 11, 6, 0]  # of the tumour in each slice
DOUBT = "the model is uncertain: it expects a Dice of 0.55 of its own mask"


class Page(HTMLParser):
    """What a page holds: its text, and the attributes of each element by name."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.elements[-1:] != [("style", {})]:
            self.text = " ".join(f"{self.text} {data}".split())

    def all(self, tag, **attributes):
        found = [a for name, a in self.elements if name == tag]
        return [a for a in found if attributes.items() <= a.items()]


def prediction(radii, voxel_ml=None, shape=(64, 64), reasons=()):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    distance = np.hypot(rows - 20, columns - 30)
    mask = np.stack([np.where(distance < radius, 255, 0).astype(np.uint8) for radius in radii])
    count = np.count_nonzero(mask, axis=(1, 2))
    return Prediction(
        mask=mask,
        probability=mask.astype(np.float32) / 255,
        tumour_pixels=count,
        expected_dice=np.where(count > 0, 0.9, np.nan),
        review=tuple(dict(reasons).get(n) for n in range(len(radii))),
        voxel_ml=voxel_ml,
    )


def volume(slices=8, shape=(64, 64), **rest):
    kind = np.uint8 if rest.get("geometry") is None else np.float32
    pixels = np.random.default_rng(0).integers(0, 200, (slices, *shape, 3)).astype(kind)
    return Volume(pixels, "p/scan", **rest)


def pictures(page):
    """Return FLAIR and contour of each slice, by its number."""
    urls = [image["src"].partition(",")[2] for image in page.all("img")]
    decoded = [Image.open(io.BytesIO(base64.b64decode(url))) for url in urls]
    numbers = [int(n) for n in re.findall(r"Slice (\d+) :", page.text)]
    return dict(zip(numbers, zip(decoded[::2], decoded[1::2], strict=True), strict=True))


def test_it_loads_nothing_from_elsewhere_and_says_what_it_is_not_for():
    html = render_report(volume(), prediction(RADII), CHECKPOINT)
    page = Page(html)
    assert all(image["src"].startswith("data:image/") for image in page.all("img"))
    assert not {"script", "link", "iframe"} & {name for name, _ in page.elements}
    assert "http" not in html.replace("http-equiv", "")
    assert page.text.index(DISCLAIMER) < 80  # after the title alone
    assert page.text.endswith(DISCLAIMER)
    assert html == render_report(volume(), prediction(RADII), CHECKPOINT)


def test_contours_lie_on_the_border_of_the_mask():
    found = prediction(RADII)
    shown = pictures(Page(render_report(volume(), found, CHECKPOINT)))
    assert list(shown) == [3, 4, 5, 6, 7]  # of 8, those with tumour
    for number, (flair, line) in shown.items():
        assert flair.size == line.size == (384, 384)
        drawn = np.argwhere(np.asarray(line)[..., 3])
        middle = (drawn.mean(axis=0) + 0.5) / 6 - 0.5  # in pixels of the slice
        assert middle == pytest.approx((20, 30), abs=0.3)
        distance = np.hypot(*(drawn.T / 6 - np.array([[20], [30]])))
        assert distance.max() == pytest.approx(RADII[number - 1], abs=1)
        assert distance.min() > RADII[number - 1] - 2


def test_the_contour_is_inside_and_as_wide_as_wanted():
    mask = np.zeros((9, 9), np.uint8)
    mask[1:8, 1:8] = 255
    ring = contour(mask, width=1)
    assert np.count_nonzero(ring[..., 3]) == 4 * 6
    assert ring[1, 4].tolist() == [0xE6, 0x9F, 0x00, 255]
    assert not ring[4, 4].any()


def test_millilitres_bars_and_what_is_missing():
    affine = np.diag([-1.0, -2, 4, 1])  # pixels twice as high as wide
    notes = ("FLAIR stands in for pre-contrast, which is not there",)
    scan = volume(geometry=Geometry(affine, (64, 64, 8)), missing=("pre-contrast",), notes=notes)
    found = prediction(RADII, voxel_ml=0.008)
    page = Page(render_report(scan, found, CHECKPOINT))
    assert f"Tumour {found.tumour_ml:.1f} ml" in page.text
    assert "Slices with tumour 5 of 8" in page.text
    assert "FLAIR stands in for pre-contrast, which is not there." in page.text
    assert "Missing: pre-contrast" in page.text
    bars = [float(bar["height"]) for bar in page.all("rect", fill="#E69F00")]
    assert bars == pytest.approx(125 * found.tumour_pixels / found.tumour_pixels.max(), abs=0.01)
    assert pictures(page)[5][0].size == (192, 384)  # as the head is


def test_the_interval_and_the_expected_dice_of_the_volume():
    scan = volume(geometry=Geometry(np.diag([-1.0, -2, 4, 1]), (64, 64, 8)))
    found = prediction(RADII, voxel_ml=0.008)
    assert "90 %" not in Page(render_report(scan, found, CHECKPOINT)).text
    known = {"volume_interval": np.log(2) / 0.12, "agreement": 0.9, "volume_expected_dice": 0.876}
    found = replace(found, **known)
    page = Page(render_report(scan, found, CHECKPOINT))
    low, high = found.tumour_ml / 2, found.tumour_ml * 2
    assert f"90 % interval {low:.2f} to {high:.1f} ml Expected Dice 0.88" in page.text


def test_pixels_where_nothing_says_how_large_they_are():
    page = Page(render_report(volume(), prediction(RADII), CHECKPOINT))
    assert f"Tumour {prediction(RADII).tumour_pixels.sum()} pixels" in page.text
    assert "no volume in millilitres" in page.text


def test_what_is_doubtful_is_listed_and_shown():
    radii = [0, 3, *[12] * 60, 3]
    empty = "the picture is almost empty"
    doubts = {0: empty, 20: DOUBT, 33: DOUBT, 34: DOUBT}
    found = prediction(radii, reasons=doubts)
    page = Page(render_report(volume(len(radii)), found, CHECKPOINT))
    rows = re.findall(
        r"(\d+(?: to \d+)?) (T[^.]*0\.55 of its own mask|The picture is[^.]*)", page.text
    )
    assert [number for number, _ in rows] == ["1", "21", "34 to 35"]
    assert len(page.all("circle")) == 4
    shown = pictures(page)
    assert {2, 3, 21, 34, 35, 63} <= shown.keys()  # 3 is the first of the largest
    assert 1 not in shown
    assert len(shown) <= 12
    found = replace(found, volume_review="no slice looks like a head")
    again = Page(render_report(volume(len(radii)), found, CHECKPOINT))
    assert "The whole volume: no slice looks like a head." in again.text


def test_a_volume_without_tumour_is_shown_from_end_to_end():
    page = Page(render_report(volume(30), prediction([0] * 30), CHECKPOINT))
    assert {1, 30} <= pictures(page).keys()
    assert "Tumour 0 pixels" in page.text
    assert "No slice was found doubtful" in page.text


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (
            {"val_dice": 0.8765, "val_patients": ["a", "b"]},
            "0.876, mean over 2 validation patients",
        ),
        ({"out_of_fold_dice": 0.9, "train_patients": ["a"]}, "0.900, mean over patients, each by"),
        ({}, "Its Dice not known"),
    ],
)
def test_the_model_and_its_own_metric(metadata, said):
    checkpoint = Checkpoint("unet", {}, {}, {}, metadata)
    page = Page(render_report(volume(), prediction(RADII), checkpoint))
    assert f"unet, digest {checkpoint.digest}" in page.text
    assert said in page.text


def test_a_name_is_text_and_a_large_slice_stays_small():
    bad = "<script>alert(1)</script>"
    scan = Volume(np.random.default_rng(0).integers(0, 255, (1, 2000, 1000, 3), np.uint8), bad)
    html = render_report(scan, prediction([200], shape=(2000, 1000)), CHECKPOINT)
    page = Page(html)
    assert not page.all("script")
    assert bad in page.text
    assert len(html) < 200_000
    assert len(page.all("svg")) == 0  # one slice has no course
