"""The site as `make docs` leaves it, and the pictures in it."""

import http.server
import importlib.util
import re
import shutil
import threading
from functools import partial
from pathlib import Path

import pytest
from kedro.framework.project import configure_project, pipelines

PROJECT = Path(__file__).resolve().parents[2]
SITE = PROJECT / "site"


def test_the_pictures_say_what_the_page_says_of_them():
    spec = importlib.util.spec_from_file_location("pictures", PROJECT / "scripts/pictures.py")
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    page = (PROJECT / "docs/evaluation.md").read_text()
    titles = [axes.get_title() for axes in pictures.small_tumours().axes]
    assert titles == ["2,821 pixels: Dice 0.94", "317 pixels: Dice 0.81", "49 pixels: Dice 0.53"]
    assert "2,821, 317 and 49 pixels" in page
    assert "Dice 0.94, 0.81 and 0.53" in page
    dices = [float(axes.get_title()[-4:]) for axes in pictures.same_dice().axes]
    assert max(dices) - min(dices) < 0.02
    empty = [axes.get_title() for axes in pictures.nothing_found().axes]
    assert "Dice undefined" in empty[1]
    for name in pictures.DRAWN:
        assert f"images/{name}" in page
        assert (PROJECT / "docs/images" / name).is_file()


@pytest.fixture(scope="module")
def site():
    if not SITE.is_dir():
        pytest.skip("the site is not built; make docs")
    return SITE


def test_the_site_loads_nothing_from_elsewhere(site):
    loaded = re.compile(
        r"<(?:script|img|iframe|source|video|embed)[^>]+src=[\"']?(https?:)?//"
        r"|<link[^>]+rel=[\"']?(?:stylesheet|preconnect|preload|icon)[^>]+href=[\"']?(https?:)?//"
    )
    for page in site.rglob("*.html"):
        assert not loaded.search(page.read_text()), page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import )[\"']?(https?:)?//", sheet.read_text()), sheet


@pytest.fixture
def page(site):
    """A browser page; afterwards, nothing was asked of another machine and no script failed."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("there is no chromium here")
    with sync_api.sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        page, asked, faults = browser.new_page(), [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        yield page
        browser.close()
    local = ("file:", "data:", "blob:", "http://127.0.0.1:")
    assert not [url for url in asked if not url.startswith(local)]
    assert faults == []


@pytest.mark.slow
def test_a_browser_without_a_network_shows_pages_diagrams_and_search(site, page):
    for name in ("index", "reference/configuration", "architecture"):
        page.goto(f"{site.as_uri()}/{name}.html")
    assert page.locator(".diagram svg").bounding_box()["width"] > 400
    page.fill(".md-search__input", "fingerprint")
    page.wait_for_selector(".md-search-result__item", timeout=30_000)


@pytest.mark.slow
def test_a_browser_shows_the_graph_and_the_previews(site, page):
    if not ((site / "viz").is_dir() and (PROJECT / "data/demo/08_reporting").is_dir()):
        pytest.skip("there are no pipelines with previews; make demo docs")
    configure_project("brain_mri_segmentation")
    default = pipelines["__default__"]
    datasets = {name for name in default.datasets() if not name.startswith("params:")}
    files = partial(http.server.SimpleHTTPRequestHandler, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), files) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/viz/?pid=__default__&sn="
        page.goto(address + "patient_split")
        assert page.wait_for_selector(".pipeline-metadata table").is_visible()
        assert page.locator(".pipeline-node").count() == len(default.nodes) + len(datasets)
        page.goto(address + "patient_dice")
        assert page.wait_for_selector(".pipeline-metadata img").bounding_box()["width"] > 100
        server.shutdown()
