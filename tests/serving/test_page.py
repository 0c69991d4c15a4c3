"""The page in a real browser, on phantom slices."""

import shutil
import zipfile

import numpy as np
import pytest
import tifffile
from PIL import Image

from brain_mri_segmentation.imaging.volume import Volume

sync_api = pytest.importorskip("playwright.sync_api")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium here"),
]


@pytest.fixture
def page(server):
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(accept_downloads=True)
        page.faults = []
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.goto(server[0])
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
    page.wait_for_function("document.getElementById('progress').hidden", timeout=60_000)


def shown_pixels(page):
    return int(page.inner_text("#figures").split("(")[1].split(" ")[0])


def test_slices_are_shown_with_their_masks_and_figures(page, slices):
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


def test_a_refusal_is_said_beside_the_slices_that_worked(page, slices, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    upload(page, [tmp_path / "bad.png", slices[0]])
    assert (
        page.inner_text("#errors") == "bad.png: The file is no TIFF, PNG or JPEG by its own bytes."
    )
    assert page.inner_text("#name") == "PHANTOM_CS_0000_1.tif"


def test_files_that_are_no_pictures_are_named_and_masks_left_out(page, slices, tmp_path):
    (tmp_path / "scan.dcm").write_bytes(b"DICM")
    mask = slices[0].with_name("PHANTOM_CS_0000_1_mask.tif")
    upload(page, [tmp_path / "scan.dcm", mask, *slices])
    assert page.inner_text("#errors") == "scan.dcm: left out; no TIFF, PNG or JPEG by its name."
    assert page.text_content("#count") == "3 of 3 slices"
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


def test_the_disclaimer_and_the_model_are_on_the_page(page):
    page.wait_for_function("document.getElementById('model').textContent.includes('unet')")
    assert "Research use only, not a medical device." in page.inner_text("body")


def test_slices_of_a_folder_are_segmented_as_a_volume(page, slices, predictor):
    volume = np.stack([tifffile.imread(path) for path in slices])
    expected = predictor.predict(Volume(volume)).tumour_pixels.tolist()
    alone = [predictor.predict(Volume(one[None])).tumour_pixels[0] for one in volume]
    upload(page, slices)
    found = []
    for _ in slices:
        assert page.inner_text("#figures").endswith("one of 3 slices of a volume.")
        found.append(shown_pixels(page))
        page.keyboard.press("ArrowRight")
    assert found == expected
    assert found != alone  # else it would show nothing


def test_other_volumes_and_single_slices_stay_apart(page, slices, tmp_path):
    shutil.copy(slices[0], tmp_path / "other_1.tif")
    shutil.copy(slices[1], tmp_path / "other_2.tif")
    shutil.copy(slices[2], tmp_path / "lone.tif")
    upload(page, [*slices, *tmp_path.iterdir()])
    said = []
    for _ in range(6):
        said.append((page.inner_text("#name"), page.inner_text("#figures").split("; ")[1]))
        page.keyboard.press("ArrowRight")
    assert said == [
        ("lone.tif", "a slice by itself."),
        ("other_1.tif", "one of 2 slices of a volume."),
        ("other_2.tif", "one of 2 slices of a volume."),
        *[(path.name, "one of 3 slices of a volume.") for path in slices],
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
    names = []
    for _ in range(6):
        names.append((page.inner_text("#name"), shown_pixels(page)))
        page.keyboard.press("ArrowRight")
    assert [name for name, _ in names] == [
        *("patient_1", "patient_2", "patient_3"),
        *("stack_1", "stack_2", "stack_3"),
    ]
    assert [pixels for _, pixels in names[:3]] == [pixels for _, pixels in names[3:]]


def test_the_openapi_page_needs_no_internet(page, server):
    elsewhere = []
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith((server[0], "data:")) else elsewhere.append(request.url)
        ),
    )
    page.goto(f"{server[0]}/docs")
    page.wait_for_selector("[data-path='/segment/volume']")
    assert elsewhere == page.faults == []
