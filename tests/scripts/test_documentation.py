"""The pages that are made from the code, and the site as `make docs` leaves it."""

import http.server
import importlib.util
import re
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from kedro.framework.project import configure_project, pipelines
from kedro.pipeline import Node, Pipeline
from pydantic import BaseModel, Field

from brain_mri_segmentation.models.registry import MODELS
from brain_mri_segmentation.parameters import flatten

PROJECT = Path(__file__).resolve().parents[2]
SITE = PROJECT / "site"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, PROJECT / f"scripts/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def documentation():
    pytest.importorskip("mkdocs")
    return load("documentation")


def first_cells(page: str) -> list[str]:
    return re.findall(r"^\| `(.+?)` \|", page, re.MULTILINE)


def test_every_parameter_has_a_row_with_its_value_and_its_meaning(documentation, parameter_values):
    page = documentation.parameters_page()
    rows = dict(re.findall(r"^\| `(.+?)` \| (.*) \|$", page, re.MULTILINE))
    assert flatten(parameter_values).keys() <= rows.keys()
    assert rows["training.epochs"].split(" | ") == [
        "whole number, at least 1",
        "`40`",
        "demo: `5`",
        "Most passes; early stopping may end it before.",
    ]
    assert rows["model"].startswith(", ".join(f"`{name}`" for name in MODELS) + " | `unet`")
    assert all(row.split(" | ")[-1] for row in rows.values())


def test_what_is_allowed_is_said_in_words(documentation):
    class Options(BaseModel):
        share: float = Field(gt=0, le=1)
        size: int | None = Field(ge=32, multiple_of=32)
        widths: list[int]
        seed: int = Field(lt=2**32)

    schema = Options.model_json_schema()
    said = {n: documentation.allowed_values(s, schema) for n, s in schema["properties"].items()}
    assert said == {
        "share": "number, above 0, at most 1",
        "size": "whole number, at least 32, a multiple of 32 or null",
        "widths": "list of whole number",
        "seed": "whole number, below 4294967296",
    }


def test_every_catalog_entry_has_a_row(documentation):
    files = (PROJECT / "conf/base").glob("catalog*.yml")
    entries = {name for file in files for name in yaml.safe_load(file.read_text())}
    page = documentation.catalog_page()
    assert set(first_cells(page)) == {name for name in entries if not name.startswith("_")}
    row = next(line for line in page.splitlines() if line.startswith("| `checkpoint` |"))
    path = "<code>data/06_models/&lt;model&gt;/best.ckpt</code>"
    assert path in row.replace("<wbr>", "")
    row = next(line for line in page.splitlines() if line.startswith("| `patient_split` |"))
    assert row.split(" | ")[3] == "`split_patients`"
    assert "`fingerprint_data`" in row.split(" | ")[4]
    row = next(line for line in page.splitlines() if line.startswith("| `data_fingerprint` |"))
    assert row.count("train_model`") == 2  # of one training, and of any fold


def test_every_node_has_a_row_and_a_box(documentation):
    configure_project("brain_mri_segmentation")
    page = documentation.pipelines_page()
    for node in pipelines["__default__"].nodes:
        assert node.name in first_cells(page)
        assert f"node.{node.name}[{node.name}]:::step" in page


def test_copies_of_a_pipeline_are_drawn_once(documentation):
    def copy(value):
        return value

    once = Pipeline([Node(copy, "x", "y", name="copy")])
    copies = [Pipeline(once, namespace=f"fold_{n}") for n in (1, 2)]
    assert documentation.pipeline_diagram(sum(copies, Pipeline([]))).splitlines()[:-1] == [
        "flowchart TD",
        "  node.fold_n.copy[fold_n.copy]:::step",
        "  fold_n.x([fold_n.x])",
        "  fold_n.y([fold_n.y])",
        "  fold_n.x --> node.fold_n.copy",
        "  node.fold_n.copy --> fold_n.y",
    ]


def test_a_diagram_is_drawn_without_anything_from_elsewhere(documentation):
    svg = documentation.draw_diagram("flowchart LR\n  first([first]) --> second([second])\n")
    assert svg.startswith("<svg id=")
    assert "first" in svg
    assert "second" in svg
    assert not re.search(r"(href|src)=\"https?://|url\(\"?https?://|<script", svg)


def test_pages_that_the_navigation_does_not_name_come_last_in_the_guide(documentation, tmp_path):
    for name in ("index", "data", "sweeps"):
        (tmp_path / f"{name}.md").write_text("# Page\n")
    nav = [{"Home": "index.md"}, {"Guide": ["data.md", "not_written_yet.md"]}]
    config = documentation.on_config(SimpleNamespace(docs_dir=str(tmp_path), nav=nav))
    assert config.nav == [{"Home": "index.md"}, {"Guide": ["data.md", "sweeps.md"]}]


def test_links_to_files_outside_docs_lead_to_their_pages_or_become_text(documentation):
    files = [SimpleNamespace(src_uri=name) for name in ("reference/parameters.md", "data.md")]
    page = SimpleNamespace(file=SimpleNamespace(src_uri="training.md"))
    text = "[all](../conf/base/parameters_training.yml), [Makefile](../Makefile), "
    text += "[data](data.md#split)"
    assert documentation.on_page_markdown(text, page, files) == (
        "[all](reference/parameters.md), Makefile, [data](data.md#split)"
    )


def test_the_pictures_say_what_the_page_says_of_them():
    pictures = load("pictures")
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


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium here")
def test_a_browser_without_a_network_shows_pages_diagrams_and_search(site):
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        asked, faults = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        for name in ("index", "architecture", "reference/parameters"):
            page.goto(f"{site.as_uri()}/{name}.html")
        page.goto(f"{site.as_uri()}/architecture.html")
        assert page.locator(".diagram svg").bounding_box()["width"] > 400
        page.fill(".md-search__input", "fingerprint")
        page.wait_for_selector(".md-search-result__item", timeout=30_000)
        browser.close()
    assert faults == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.fixture
def viz_address(site):
    if not (site / "viz").is_dir():
        pytest.skip("the pipelines' graph is not built; make docs")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=site)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/viz"
        server.shutdown()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium here")
def test_a_browser_shows_the_graph_and_the_previews(viz_address):
    sync_api = pytest.importorskip("playwright.sync_api")
    configure_project("brain_mri_segmentation")
    default = pipelines["__default__"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        page.set_default_timeout(60_000)
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        shown = {}
        for name, preview in (
            ("patient_split", "table"),
            ("training_chart", ".plotly"),
            ("patient_dice", "img[src^='data:image/png']"),
        ):
            page.goto(f"{viz_address}/?pid=__default__&sn={name}")
            page.wait_for_selector(".pipeline-node")
            shown[name] = page.wait_for_selector(f".pipeline-metadata {preview}").is_visible()
        datasets = {n for n in default.datasets() if not n.startswith("params:")}
        assert page.locator(".pipeline-node").count() == len(default.nodes) + len(datasets)
        browser.close()
    assert all(shown.values()), shown
    assert not [url for url in asked if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))]
