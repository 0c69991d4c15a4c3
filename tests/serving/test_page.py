"""The page in a real browser, on phantom slices."""

import contextlib
import shutil
import zipfile

import numpy as np
import pytest
import tifffile
from PIL import Image

from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.inference.predictor import Predictor

sync_api = pytest.importorskip("playwright.sync_api")

pytestmark = pytest.mark.skipif(
    shutil.which("chromium") is None, reason="there is no chromium here"
)


@pytest.fixture
def page(server):
    with browse(server[0]) as page:
        yield page


@contextlib.contextmanager
def browse(address):
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(accept_downloads=True)
        page.faults = []
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.goto(address)
        yield page
        browser.close()


@pytest.fixture
def slices(phantom_folder):
    home = phantom_folder / "kaggle_3m/PHANTOM_CS_0000"
    return [home / f"PHANTOM_CS_0000_{n}.tif" for n in (1, 2, 3)]


def grey_of(page, canvas):
    script = """id => { const c = document.getElementById(id);
        return [...c.getContext("2d").getImageData(0, 0, c.width, c.height).data] }"""
    pixels = np.array(page.evaluate(script, canvas), np.uint8)
    side = round((pixels.size / 4) ** 0.5)
    return pixels.reshape(side, side, 4)[..., :3]


def upload(page, files):
    page.set_input_files("#files", files)
    page.wait_for_selector("#progress", state="hidden", timeout=60_000)


def shown_pixels(page):
    return int(page.inner_text("#figures").split("(")[1].split(" ")[0])


def shown(page, count):
    """Name, tumour pixels and what it was segmented with, of each slice that is shown."""
    seen = []
    for _ in range(count):
        part = page.inner_text("#figures").split("; ")[1]
        seen.append((page.inner_text("#name"), shown_pixels(page), part))
        page.keyboard.press("ArrowRight")
    return seen


def test_slices_are_shown_with_their_masks_and_metrics(page, slices):
    sync_api.expect(page.locator("#model")).to_contain_text("unet")
    assert "Research use only, not a medical device." in page.inner_text("body")
    upload(page, slices)
    assert page.faults == []
    assert page.inner_text("#name") == "PHANTOM_CS_0000_1.tif"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#name") == "PHANTOM_CS_0000_3.tif"
    flair = tifffile.imread(slices[2])[..., 1]
    assert np.array_equal(grey_of(page, "image")[..., 0], flair)
    assert "% of the slice" in page.inner_text("#figures")

    page.fill("#opacity", "0")
    assert np.array_equal(grey_of(page, "overlay"), grey_of(page, "image"))
    page.fill("#opacity", "100")
    orange = (grey_of(page, "overlay") == [230, 159, 0]).all(axis=-1)
    assert orange.sum() == shown_pixels(page) > 0


def test_a_mask_is_downloaded_as_the_service_gives_it(page, slices, tmp_path):
    upload(page, slices[2:])
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "PHANTOM_CS_0000_3_mask.png"
    download.value.save_as(tmp_path / "mask.png")
    mask = np.asarray(Image.open(tmp_path / "mask.png").convert("L"))
    assert set(np.unique(mask)) <= {0, 255}
    assert (mask == 255).sum() == shown_pixels(page)


def test_what_is_refused_or_left_out_is_said_beside_the_slices(page, slices, tmp_path):
    for name in ("scan.dcm", "bad.png"):
        (tmp_path / name).write_bytes(b"no picture")
    mask = slices[0].with_name("PHANTOM_CS_0000_1_mask.tif")
    upload(page, [tmp_path / "scan.dcm", tmp_path / "bad.png", mask, *slices])
    assert sorted(page.inner_text("#errors").splitlines()) == [
        "bad.png: The file is no TIFF, PNG or JPEG by its own bytes.",
        "scan.dcm: left out; no TIFF, PNG or JPEG by its name.",
    ]
    assert page.text_content("#count") == "4 of 4 slices"
    assert page.inner_text("#number") == "1 of 3"


def test_the_chosen_slice_stands_out_in_light_and_dark(page, slices):
    upload(page, slices)
    frame = """() => [...document.getElementById("plot").getContext("2d")
        .getImageData(100, 1, 1, 1).data].slice(0, 3)"""
    page.emulate_media(color_scheme="light")
    page.wait_for_timeout(200)
    assert max(page.evaluate(frame)) < 100
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(200)
    assert min(page.evaluate(frame)) > 150


def test_slices_of_a_folder_are_a_volume_and_others_stay_apart(page, slices, predictor, tmp_path):
    stack = np.stack([tifffile.imread(path) for path in slices])
    predictor = Predictor(predictor.checkpoint, engine="auto")  # as the service runs it
    expected = predictor.predict(Volume(stack)).tumour_pixels.tolist()
    alone = [predictor.predict(Volume(image[None])).tumour_pixels[0] for image in stack]
    assert expected != alone  # else it would show nothing
    for path, name in zip(slices, ("other_1.tif", "other_2.tif", "lone.tif"), strict=True):
        shutil.copy(path, tmp_path / name)
    upload(page, [*slices, *tmp_path.iterdir()])
    lone, *other, first, second, third = shown(page, 6)
    assert lone == ("lone.tif", alone[2], "a slice by itself.")
    assert [of[0] for of in other] == ["other_1.tif", "other_2.tif"]
    assert {of[2] for of in other} == {"one of 2 slices of a volume."}
    assert [first, second, third] == [
        (path.name, pixels, "one of 3 slices of a volume.")
        for path, pixels in zip(slices, expected, strict=True)
    ]


def test_a_broken_slice_of_a_volume_is_named_and_the_others_are_shown(page, slices, tmp_path):
    bad = tmp_path / slices[1].name
    bad.write_bytes(b"no picture")
    upload(page, [slices[0], bad, slices[2]])
    errors = page.inner_text("#errors").splitlines()
    assert errors[0].startswith(f"{slices[0].name} and 2 more: segmented one by one")
    assert errors[1] == f"{bad.name}: The file is no TIFF, PNG or JPEG by its own bytes."
    assert page.inner_text("#number") == "1 of 2"
    assert page.inner_text("#figures").endswith("a slice by itself.")


def test_a_zip_and_a_stack_show_all_their_slices(page, slices, tmp_path):
    with zipfile.ZipFile(tmp_path / "patient.zip", "w") as archive:
        for path in slices:
            archive.write(path, path.name)
    stack = np.stack([tifffile.imread(path) for path in slices])
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="rgb")
    upload(page, [tmp_path / "patient.zip", tmp_path / "stack.tif"])
    names, pixels, _ = zip(*shown(page, 6), strict=True)
    assert names == tuple(f"{file}_{n}" for file in ("patient", "stack") for n in (1, 2, 3))
    assert pixels[:3] == pixels[3:]


def test_the_openapi_page_needs_no_internet(page, server):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{server[0]}/docs")
    page.wait_for_selector("[data-path='/segment/volume']")
    assert page.faults == []
    assert all(url.startswith((server[0], "data:")) for url in asked)


def test_it_asks_for_the_key_of_the_service_once(serve, slices, tmp_path):
    asked = []

    def answer(dialog):
        asked.append(dialog.message)
        dialog.accept("a key of sixteen letters")

    with (
        serve(tmp_path, SERVING_API_KEY="a key of sixteen letters") as (address, _, _),
        browse(address) as page,
    ):
        page.on("dialog", answer)
        upload(page, slices[:1])
        assert page.inner_text("#name") == "PHANTOM_CS_0000_1.tif"
        upload(page, slices[1:2])
    assert len(asked) == 1
