"""What cannot be tried without an engine: that the files of the container fit each other.

The serving image itself is built, started and used by `make image`.
"""

import re
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[1]
DOCKERFILE = (PROJECT / "Dockerfile").read_text()


@pytest.fixture(scope="module")
def services():
    return yaml.safe_load((PROJECT / "docker-compose.yml").read_text())["services"]


def test_compose_builds_stages_that_exist(services):
    stages = set(re.findall(r"^FROM .* AS (\S+)$", DOCKERFILE, re.MULTILINE))
    targets = {
        name: service["build"]["target"] for name, service in services.items() if "build" in service
    }
    assert targets == {"api": "serving", "training": "training", "mlflow": "training"}
    assert set(targets.values()) <= stages


def test_the_image_holds_the_model_that_the_catalog_serves(services):
    names = yaml.safe_load((PROJECT / "conf/base/globals.yml").read_text())
    served = names["serving_model"]
    assert re.findall(r"^ARG MODEL=(.*)$", DOCKERFILE, re.MULTILINE) == [served]
    assert services["api"]["build"]["args"]["MODEL"] == f"${{MODEL:-{served}}}"


def test_prometheus_asks_the_service(services):
    path = services["prometheus"]["volumes"][0].split(":")[0]
    scraped = yaml.safe_load((PROJECT / path).read_text())["scrape_configs"][0]
    (target,) = scraped["static_configs"][0]["targets"]
    name, port = target.split(":")
    assert services[name]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f"UVICORN_PORT={port}" in DOCKERFILE


def test_the_service_ends_by_itself_before_it_is_killed(services):
    (seconds,) = re.findall(r"UVICORN_TIMEOUT_GRACEFUL_SHUTDOWN=(\d+)", DOCKERFILE)
    assert int(seconds) < int(services["api"]["stop_grace_period"].removesuffix("s"))


def test_no_data_but_models_goes_to_the_builder():
    allowed = [
        line for line in (PROJECT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    ]
    assert [line for line in allowed if "data" in line] == [
        "!data/06_models",
        "!data/demo/06_models",
    ]
