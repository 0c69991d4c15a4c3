"""The page in a real browser, on phantoms."""

import contextlib
import hashlib
import io
import shutil
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
import tifffile
from PIL import Image
from scans import axial_affine, dicom_series, nifti, phantom, study, turned

from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.inference.predictor import Predictor

sync_api = pytest.importorskip("playwright.sync_api")

in_browser = pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium")
FRONTEND = Path(__file__).resolve().parents[2] / "frontend"
SOURCES = ("build.mjs", "nothing.js", "package-lock.json", "viewer.js")  # in the order of build.mjs
SLICES = phantom(8, 96)[0]
VOXELS, AFFINE = SLICES.transpose(2, 1, 0, 3), axial_affine((96, 96, 8), (2.4, 2.4, 8.0))


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        yield lambda *switches: playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", *switches]
        )


@pytest.fixture(scope="module")
def chromium(browser):
    chromium = browser("--use-angle=swiftshader", "--enable-unsafe-swiftshader")  # without a GPU
    yield chromium
    chromium.close()


@pytest.fixture
def page(server, chromium):
    with browse(server[0], chromium) as page:
        yield page


@contextlib.contextmanager
def browse(address, chromium, **context):
    page = chromium.new_page(accept_downloads=True, **context)
    page.faults, page.asked = [], []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("console", lambda said: said.type == "error" and page.faults.append(said.text))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(address)
    yield page
    page.close()


@pytest.fixture
def slices(phantom_folder):
    home = phantom_folder / "kaggle_3m/PHANTOM_CS_0000"
    return [home / f"PHANTOM_CS_0000_{n}.tif" for n in (1, 2, 3)]


@pytest.fixture(scope="session", params=["a stack", "NIfTI, turned", "a zip of DICOM"])
def head(request, tmp_path_factory):
    """A head in a file."""
    folder = tmp_path_factory.mktemp("head")
    if request.param == "a stack":
        pages = ((SLICES - 200) // 15).astype(np.uint8)
        tifffile.imwrite(folder / "head.tif", pages, photometric="rgb")
        return folder / "head.tif"
    if request.param == "NIfTI, turned":
        voxels = turned(VOXELS[..., 1], AFFINE, (2, 0, 1), (-1, 1, -1))
        (folder / "head.nii.gz").write_bytes(nifti(*voxels, packed=True))
        return folder / "head.nii.gz"
    with zipfile.ZipFile(folder / "head.zip", "w") as archive:
        for number, file in enumerate(dicom_series(VOXELS[..., 1], AFFINE, study())):
            archive.writestr(f"IM{number}", file)
    return folder / "head.zip"


@pytest.fixture
def nifti_head(tmp_path):
    (tmp_path / "head.nii.gz").write_bytes(nifti(VOXELS[..., 1], AFFINE, packed=True))
    return tmp_path / "head.nii.gz"


def upload(page, files):
    page.set_input_files("#files", files)
    page.wait_for_selector("#progress", state="hidden", timeout=60_000)


def drawn(page):
    """What the viewer shows, (H, W, 3), once it has drawn it."""
    before, now = None, b""
    while before != now:
        page.wait_for_timeout(300)
        before, now = now, page.locator("#view").screenshot(style=".notice {position: static}")
    return np.asarray(Image.open(io.BytesIO(now)).convert("RGB")).astype(int)


def axial(page, layer):
    """The axial plane alone, (S, S, 3), as the viewer shows it with a layer."""
    page.select_option("#planes", "0")
    page.check(f"[value={layer}]")
    picture = drawn(page)
    height, width, _ = picture.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return picture[top : top + side, left : left + side]


def orange(picture):
    """Which pixels are as orange as the mask."""
    red, green, blue = np.moveaxis(picture, -1, 0)
    return (red - blue > 60) & (red > green)


def shown_pixels(page):
    return int(page.inner_text("#figures").split("(")[1].split(" ")[0])


def shown(page, count):
    """Name, tumour pixels and what it was segmented with, of each slice that is shown."""
    seen = []
    page.fill("#slice", "0")
    page.locator("#view").focus()
    for _ in range(count):
        part = page.inner_text("#figures").split("; ")[1]
        seen.append((page.inner_text("#name"), shown_pixels(page), part))
        page.keyboard.press("ArrowRight")
    return seen


def test_the_bundle_is_made_of_its_sources():
    bundle = FRONTEND.parent / "src/brain_mri_segmentation/serving/page/viewer.js"
    digest = hashlib.sha256(b"".join((FRONTEND / name).read_bytes() for name in SOURCES))
    made = f"// Made by make page. Sources: {digest.hexdigest()}."
    assert bundle.read_text().startswith(made), "frontend/ has changed: run make page"
    assert "NiiVue" in bundle.with_name("viewer.licences.txt").read_text()


@pytest.mark.slow
@in_browser
def test_a_head_is_drawn_as_it_lies_with_its_mask_over_it(page, server, head):
    upload(page, [head])
    for number in (5,):
        page.fill("#slice", str(number))
        page.fill("#opacity", "100")
        flair = SLICES[number, ..., 1]
        seen = axial(page, "nothing").mean(axis=2)
        small = np.asarray(Image.fromarray(seen.astype(np.float32)).resize((96, 96)))
        likeness = [
            np.corrcoef(other.ravel(), small.ravel())[0, 1]
            for other in (flair, flair[:, ::-1], flair[::-1], SLICES[number - 2, ..., 1])
        ]
        assert likeness[0] > 0.9
        assert max(likeness[1:]) < likeness[0] - 0.02
        side = len(seen) / 96
        filled = orange(axial(page, "fill"))
        assert filled.sum() == pytest.approx(shown_pixels(page) * side**2, rel=0.06)
        rim = orange(axial(page, "contour"))
        assert 0 < rim.sum() < 0.7 * filled.sum()
        assert (rim & ~filled).sum() < 0.1 * rim.sum()
        probable = axial(page, "probability")
        assert (np.ptp(probable, axis=-1) > 60).sum() > 0.5 * filled.sum()
        assert not orange(axial(page, "nothing")).any()
    assert page.faults == []
    assert {url.split("?")[0] for url in page.asked} == {
        f"{server[0]}/{path}" for path in ("", "ready", "segment/volume")
    } | {url for url in page.asked if url.startswith(("data:", "blob:"))}


@in_browser
def test_what_is_downloaded_is_what_the_service_answers(page, server, head, tmp_path):
    upload(page, [head])
    kinds = {"NIfTI mask": "application/x-nifti", "TIFF": "image/tiff", "JSON": "application/json"}
    placed = head.suffix != ".tif"
    for text, kind in (kinds | {"Report": "text/html"}).items():
        with page.expect_download() as download:
            page.click(f"#parts button:has-text('{text}')")
        name = download.value.suggested_filename
        assert name.startswith("head_")
        assert ("in_voxels" in name) == ("NIfTI" in text and not placed)
        download.value.save_as(tmp_path / name)
        files = [("files", (head.name, head.read_bytes()))]
        answer = httpx.post(
            f"{server[0]}/segment/volume", files=files, headers={"Accept": kind}, timeout=60
        )
        if answer.status_code == 200:
            assert (tmp_path / name).read_bytes() == answer.content
        else:
            assert (kind, placed) == ("application/x-nifti", False)
    offered = page.locator("#parts button", has_text="DICOM SEG")
    assert offered.count() == (head.suffix == ".zip")
    assert ("ml" in page.inner_text("#volume").split()) == placed
    with page.expect_download() as download:
        page.click("#saveall")
    download.value.save_as(tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert archive.read("head/result.json") == (tmp_path / "head_result.json").read_bytes()


@in_browser
def test_wheel_click_keys_and_review_lead_to_slices(page, nifti_head):
    upload(page, [nifti_head])
    page.fill("#slice", "3")
    drawn(page)
    box = page.locator("#view").bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.wheel(0, 100)
    sync_api.expect(page.locator("#number")).not_to_have_text("4 of 8")
    moved = page.inner_text("#number")
    assert moved in ("3 of 8", "5 of 8")
    page.locator("#view").focus()
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#number") == f"{int(moved[0]) + 1} of 8"
    page.keyboard.press("ArrowDown")
    assert page.input_value("#opacity") == "40"
    page.keyboard.press("o")
    assert page.is_checked("[value=contour]")
    chart = page.locator("#plot").bounding_box()
    page.mouse.click(chart["x"] + chart["width"] * 6.5 / 8, chart["y"] + 10)
    assert page.inner_text("#number") == "7 of 8"
    for link in page.locator("#reviews button").all():
        link.click()
        assert link.inner_text().startswith(page.inner_text("#name"))
        assert page.inner_text("#review").startswith("Review: ")


@in_browser
def test_window_and_level_follow_a_drag_and_come_back(page, nifti_head):
    upload(page, [nifti_head])
    before = axial(page, "nothing")
    level, window = (float(page.input_value(f"#{name}")) for name in ("level", "window"))
    box = page.locator("#view").bounding_box()
    x, y = box["x"] + 200, box["y"] + 100
    page.mouse.move(x, y)
    page.mouse.down(button="right")
    page.mouse.move(x - 40, y + 80, steps=4)  # less window, lower level: brighter
    page.mouse.up(button="right")
    assert float(page.input_value("#level")) == pytest.approx(level - 20, abs=0.2)
    assert float(page.input_value("#window")) == pytest.approx(window - 10, abs=0.2)
    assert axial(page, "nothing").mean() > before.mean() + 5
    page.click("#reset")
    assert np.abs(axial(page, "nothing") - before).mean() < 1


@in_browser
def test_a_phone_shows_it_all_in_its_width_and_a_finger_chooses(server, chromium, nifti_head):
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with browse(server[0], chromium, **phone) as page:
        upload(page, [nifti_head])
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        chart = page.locator("#plot")
        chart.scroll_into_view_if_needed()
        box = chart.bounding_box()
        page.touchscreen.tap(box["x"] + box["width"] / 16, box["y"] + 10)
        assert page.inner_text("#number") == "1 of 8"
        notice = page.locator(".notice").bounding_box()
        assert notice["y"] == 0  # stays in sight
        assert page.faults == []


@in_browser
def test_without_webgl_the_results_are_there(server, browser, slices):
    with browser("--disable-3d-apis") as chromium, browse(server[0], chromium) as page:
        upload(page, slices)
        assert "no WebGL 2" in page.inner_text("#stage")
        assert shown_pixels(page) > 0
        assert page.faults == []


@in_browser
def test_slices_are_shown_with_their_masks_and_metrics(page, slices):
    sync_api.expect(page.locator("#model")).to_contain_text("unet")
    assert "Research use only, not a medical device." in page.inner_text("body")
    upload(page, slices)
    assert [name for name, _, _ in shown(page, 3)] == [path.name for path in slices]
    assert "% of the slice" in page.inner_text("#figures")
    assert page.is_enabled("#planes")
    assert page.faults == []


@in_browser
@pytest.mark.parametrize(
    ("found", "text"),
    [
        ({"tumour_ml": None}, "tumour of 9 pixels (pictures do not say how large a pixel is)"),
        ({"tumour_ml": 1.234, "tumour_ml_low": None}, "tumour of 1.23 ml"),
        (
            {"tumour_ml": 1.234, "tumour_ml_low": 1, "tumour_ml_high": 1.5},
            "tumour of 1.23 ml (90 % interval: 1.00 to 1.50 ml)",
        ),
    ],
)
def test_a_volume_comes_with_its_interval_where_one_is_known(page, found, text):
    assert page.evaluate("found => amount(found)", found | {"tumour_pixels": 9}) == text


@in_browser
def test_the_sequences_of_a_head_are_found_by_their_names(page, tmp_path):
    for channel, name in enumerate(("x_t1", "x_flair", "x_t1ce")):
        (tmp_path / f"{name}.nii").write_bytes(nifti(VOXELS[..., channel], AFFINE))
        if channel < 2:  # of another head in the same folder
            (tmp_path / f"{name.replace('x', 'y')}.nii").write_bytes(nifti(VOXELS[..., 1], AFFINE))
    dicom = tmp_path / "study"
    dicom.mkdir()
    for number, file in enumerate(dicom_series(VOXELS[..., 1], AFFINE, study())):
        (dicom / f"IM{number}").write_bytes(file)
    for name in ("x_seg", "x-seg", "x_dseg", "x_segmentation", "x_label"):
        (tmp_path / f"{name}.nii").write_bytes(b"left out")
    upload(page, sorted(tmp_path.glob("*.nii")) + sorted(dicom.iterdir()))
    assert page.inner_text("#errors") == ""
    assert page.inner_text("#number").endswith("of 24")
    assert page.inner_text("#notes") != ""


@in_browser
def test_a_mask_is_downloaded_as_the_service_gives_it(page, slices, tmp_path):
    upload(page, slices[2:])
    assert page.is_disabled("#planes")  # of which a slice has one
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "PHANTOM_CS_0000_3_mask.png"
    download.value.save_as(tmp_path / "mask.png")
    mask = np.asarray(Image.open(tmp_path / "mask.png").convert("L"))
    assert set(np.unique(mask)) <= {0, 255}
    assert (mask == 255).sum() == shown_pixels(page)


@in_browser
def test_what_is_refused_or_left_out_is_said_beside_the_slices(page, slices, tmp_path):
    for name in ("scan.dcm", "bad.png"):
        (tmp_path / name).write_bytes(b"no picture")
    mask = slices[0].with_name("PHANTOM_CS_0000_1_mask.tif")
    upload(page, [tmp_path / "scan.dcm", tmp_path / "bad.png", mask, *slices])
    assert sorted(page.inner_text("#errors").splitlines()) == [
        "bad.png: The file is no TIFF, PNG or JPEG by its own bytes.",
        "scan.dcm: left out; no picture, NIfTI, NRRD, MetaImage or DICOM.",
    ]
    assert page.text_content("#count") == "4 of 4 files"
    assert page.inner_text("#number").endswith("of 3")


@in_browser
def test_the_chosen_slice_stands_out_in_light_and_dark(page, slices):
    upload(page, slices)
    page.fill("#slice", "0")
    frame = """() => [...document.getElementById("plot").getContext("2d")
        .getImageData(100, 1, 1, 1).data].slice(0, 3)"""
    for scheme, stands_out in (
        ("light", lambda rgb: max(rgb) < 100),
        ("dark", lambda rgb: min(rgb) > 150),
    ):
        page.emulate_media(color_scheme=scheme)
        for _ in range(50):  # until the page has heard of it
            if stands_out(page.evaluate(frame)):
                break
            page.wait_for_timeout(100)
        assert stands_out(page.evaluate(frame))


@in_browser
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


@in_browser
def test_a_broken_slice_of_a_volume_is_named_and_the_others_are_shown(page, slices, tmp_path):
    bad = tmp_path / slices[1].name
    bad.write_bytes(b"no picture")
    upload(page, [slices[0], bad, slices[2]])
    errors = page.inner_text("#errors").splitlines()
    assert errors[0].startswith(f"{slices[0].name} and 2 more: segmented one by one")
    assert errors[1] == f"{bad.name}: The file is no TIFF, PNG or JPEG by its own bytes."
    assert page.inner_text("#number") == "1 of 2"
    assert page.inner_text("#figures").endswith("a slice by itself.")


@in_browser
def test_an_answer_that_is_cut_is_named_and_the_others_are_shown(page, slices, tmp_path):
    other = tmp_path / "other.tif"
    other.write_bytes(slices[-1].read_bytes())
    page.evaluate(
        """() => { const whole = window.fetch; let answers = 0;
        window.fetch = (...asked) => answers++ ? whole(...asked) : new Response("PK"); }"""
    )
    upload(page, [slices[0], other])
    assert "its result cannot be shown" in page.inner_text("#errors")
    assert page.inner_text("#number") == "1 of 1"
    assert page.is_hidden("#progress")


@in_browser
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


@in_browser
def test_the_openapi_page_needs_no_internet(page, server):
    page.goto(f"{server[0]}/docs")
    page.wait_for_selector("[data-path='/segment/volume']")
    assert page.faults == []
    assert all(url.startswith((server[0], "data:")) for url in page.asked)


@pytest.mark.slow
@in_browser
def test_it_asks_for_the_key_of_the_service_once(serve, chromium, slices, tmp_path):
    asked = []

    def answer(dialog):
        asked.append(dialog.message)
        dialog.accept("a key of sixteen letters")

    with (
        serve(tmp_path, SERVING_API_KEY="a key of sixteen letters") as (address, _, _),
        browse(address, chromium) as page,
    ):
        page.on("dialog", answer)
        upload(page, slices[:1])
        assert page.inner_text("#name") == "PHANTOM_CS_0000_1.tif"
        upload(page, slices[1:2])
    assert len(asked) == 1
