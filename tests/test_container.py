"""What cannot be tried without an engine: that the files of the container fit each other.

The serving image itself is built, started and used by `make image`.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from fastapi.testclient import TestClient

from brain_mri_segmentation.parameters import ServingParameters
from brain_mri_segmentation.serving.app import _MOST_UPLOADS, Service, build_app
from brain_mri_segmentation.serving.server import GRACE

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
    assert targets == {
        "api": "serving",
        "pacs": "pacs",
        "training": "training",
        "mlflow": "training",
    }
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
    assert int(services["api"]["stop_grace_period"].removesuffix("s")) > GRACE


def test_the_service_starts_with_the_environment_of_compose(services, monkeypatch):
    for name, value in services["api"]["environment"].items():
        monkeypatch.setenv(name, re.sub(r"\$\{\w+:-(.*?)\}", r"\1", value))
    app = build_app(Service(ServingParameters(), None))
    with TestClient(app, "http://api:8000") as client:
        assert client.get("/auth/").json() == {"enabled": False}
        assert client.get("/datastore/").status_code == 200  # which a key would guard


def test_the_proxy_does_not_open_a_service_without_a_key(services, tmp_path):
    (tmp_path / "nginx").write_text("#!/bin/sh\necho started $*\n")
    (tmp_path / "nginx").chmod(0o755)
    command = [word.replace("$$", "$") for word in services["proxy"]["command"]]

    def start(key):
        variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SERVING_API_KEY": key}
        return subprocess.run(command, env=variables, capture_output=True, text=True)

    assert start("a key").stdout == "started -g daemon off;\n"
    refused = start("")
    assert refused.returncode != 0
    assert "others need a key" in refused.stderr
    assert refused.stdout == ""


def test_our_own_images_may_write_to_their_volumes(services):
    for service in services.values():
        for volume in service.get("volumes", []) if "build" in service else []:
            source, place, *_ = volume.split(":")
            if source.startswith("."):
                continue
            folder = place.removeprefix("/app/")
            # The engine gives a new volume the owner of the folder of the image, or root.
            owned = rf"(?m)(--owner app|chown app:app)( \S+)* {folder}( |$)"
            assert re.search(owned, DOCKERFILE), place


def test_the_pacs_without_a_password_is_open_to_this_machine_alone(services):
    settings = (PROJECT / "conf/orthanc.json").read_text()
    (port,) = re.findall(r'"HttpPort": (\d+)', settings)
    assert services["pacs"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert '"DicomServerEnabled": false' in settings


def test_no_data_but_models_goes_to_the_builder():
    allowed = [
        line for line in (PROJECT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    ]
    assert [line for line in allowed if "data" in line] == [
        "!data/06_models",
        "!data/demo/06_models",
    ]


def test_images_and_actions_are_pinned_by_digest(services):
    images = [service["image"] for service in services.values() if "image" in service]
    foreign = [image for image in images if not image.startswith("brain-mri-segmentation")]
    foreign += re.findall(r"^ARG BASE=(.*)$", DOCKERFILE, re.MULTILINE)
    assert len(foreign) == 4
    for image in foreign:
        assert re.search(r":[^:@]+@sha256:[0-9a-f]{64}$", image), image
    for workflow in (PROJECT / ".github/workflows").glob("*.yml"):
        for action in re.findall(r"uses: *(\S+)", workflow.read_text()):
            assert re.search(r"@[0-9a-f]{40}$", action), f"{action} in {workflow.name}"


def test_no_password_has_a_default(services):
    text = (PROJECT / "docker-compose.yml").read_text()
    assert not re.findall(r"(?i)(?:password|key)[^\n]*:-[^}\s]", text)
    secrets = yaml.safe_load(text)["secrets"]
    assert all(secret["file"].startswith("./conf/local/") for secret in secrets.values())
    used = {name for service in services.values() for name in service.get("secrets", [])}
    assert used == secrets.keys()


def test_the_service_is_bounded_and_has_room_for_its_uploads(services):
    api = services["api"]
    assert {"mem_limit", "pids_limit", "read_only", "cap_drop"} <= api.keys()
    (size,) = re.findall(r"^/tmp:size=(\d+)m$", api["tmpfs"][0])
    assert int(size) * 2**20 > _MOST_UPLOADS * ServingParameters().max_upload_bytes


def test_the_proxy_lets_through_what_the_service_takes(services):
    proxy = (PROJECT / "conf/nginx.conf").read_text()
    assert "http2" not in proxy  # nginx before 1.25 does not know it as it has to be written now
    (size,) = re.findall(r"client_max_body_size (\d+)m;", proxy)
    assert int(size) * 2**20 == ServingParameters().max_upload_bytes
    (name,) = re.findall(r"proxy_pass http://(\w+):8000;", proxy)
    assert name in services["api"]["environment"]["SERVING_ALLOWED_HOSTS"].split(",")
