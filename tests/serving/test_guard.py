import asyncio
import re
from pathlib import Path

import pytest
from fastapi import HTTPException, Request
from fastapi.testclient import TestClient
from pictures import RGB, encode

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.serving.app import Service, build_app
from brain_mri_segmentation.serving.guard import UploadLimit, page_policy

KEY = "a key of more than sixteen letters"


@pytest.fixture
def start(settings, predictor, monkeypatch):
    """Builds the application in an environment, and gives a client of it."""

    def build(**environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return TestClient(build_app(Service(settings, predictor)), "http://localhost")

    return build


def segment(client, **headers):
    return client.post("/segment", files={"file": encode(RGB)}, headers=headers)


@pytest.mark.parametrize("path", ["/", "/health", "/docs", "/openapi.json", "/nothing", "/segment"])
def test_browsers_are_told_to_be_strict_with_every_answer(client, path):
    headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_the_page_runs_its_own_script_and_no_other(client):
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    (scripts,) = re.findall("script-src ([^;]*)", policy)
    assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}=' 'sha256-[A-Za-z0-9+/]{43}='", scripts)
    assert page_policy(page.text + "<script>alert(1)</script>") != page_policy(page.text)
    assert "<script src" not in page.text
    assert not re.search(r"\son[a-z]+=", page.text)  # such handlers would not run


def test_the_documentation_loads_nothing_from_elsewhere(client):
    page = client.get("/docs")
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", page.text)
    for path in re.findall(r"""(?:src|href)=["']([^"']+)""", page.text):
        assert client.get(path).status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "[::1", "a b"])
def test_a_name_that_is_not_ours_is_refused(client, host):
    for path in ("/", "/health", "/segment"):
        answer = client.get(path, headers={"Host": host})
        assert answer.status_code == 400
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
        assert "SERVING_ALLOWED_HOSTS" in answer.json()["detail"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:80", "[::1]:8000"])
def test_this_machine_and_addresses_are_known(client, host):
    assert client.get("/health", headers={"Host": host}).status_code == 200


def test_other_names_can_be_allowed(start):
    client = start(SERVING_ALLOWED_HOSTS="api, segment.hospital.example")
    for host, status in {"api:8000": 200, "segment.hospital.example": 200, "other": 400}.items():
        assert client.get("/health", headers={"Host": host}).status_code == status
    anybody = start(SERVING_ALLOWED_HOSTS="*")
    assert anybody.get("/health", headers={"Host": "any.example"}).status_code == 200


def test_without_a_key_everybody_may(client):
    assert segment(client).status_code == 200


def test_with_a_key_only_who_has_it_may(start):
    with start(SERVING_API_KEY=KEY) as client:
        for headers in ({}, {"X-API-Key": KEY + "x"}, {"X-API-Key": "ä"}, {"X-API-Key": ""}):
            answer = segment(client, **{n: v.encode("latin-1") for n, v in headers.items()})
            assert answer.status_code == 401
            assert KEY not in answer.text
        assert client.post("/segment/volume").status_code == 401
        assert segment(client, **{"X-API-Key": KEY}).status_code == 200
        for path in ("/", "/health", "/ready"):
            assert client.get(path).status_code == 200


def test_the_documentation_says_what_needs_the_key(client, start):
    assert "securitySchemes" not in client.get("/openapi.json").json()["components"]
    with start(SERVING_API_KEY=KEY) as guarded:
        document = guarded.get("/openapi.json").json()
        scheme = {"type": "apiKey", "in": "header", "name": "X-API-Key"}
        assert document["components"]["securitySchemes"] == {"key": scheme}
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                needs = guarded.request(method, path).status_code == 401
                assert operation.get("security", []) == [{"key": []}] * needs
                assert "401" in operation["responses"] or not needs


def test_a_stranger_is_refused_before_the_upload_is_read(start):
    sent = []

    def parts():
        for _ in range(10):
            sent.append(1)
            yield bytes(1000)

    with start(SERVING_API_KEY=KEY) as client:
        form = {"Content-Type": "multipart/form-data; boundary=b"}
        assert client.post("/segment", content=parts(), headers=form).status_code == 401
    assert not sent


def test_the_key_may_be_in_a_file(start, tmp_path: Path):
    (tmp_path / "key").write_text(f"{KEY}\n")
    with start(SERVING_API_KEY_FILE=str(tmp_path / "key")) as client:
        assert segment(client).status_code == 401
        assert segment(client, **{"X-API-Key": KEY}).status_code == 200


def test_a_key_that_is_none_ends_the_start(start, tmp_path):
    with pytest.raises(InputError, match="16 characters"):
        start(SERVING_API_KEY="secret")
    (tmp_path / "empty").touch()
    with pytest.raises(InputError, match="16 characters"):
        start(SERVING_API_KEY_FILE=str(tmp_path / "empty"))
    with pytest.raises(InputError, match="cannot be read"):
        start(SERVING_API_KEY_FILE=str(tmp_path / "none"))


def test_what_is_under_way_is_not_refused_for_the_uploads_of_others():
    refused, looked = asyncio.Event(), asyncio.Event()

    async def app(scope, receive, send):
        request = Request(scope, receive)
        try:
            await request.body()
        except HTTPException:
            refused.set()
            await looked.wait()  # as long as its answer is sent
        else:
            await refused.wait()
            assert not await request.is_disconnected()
            looked.set()

    async def upload(limited):
        messages = [{"type": "http.request", "body": bytes(8)}]

        async def receive():
            if messages:
                return messages.pop()
            return await asyncio.Future()  # the client is there

        await limited({"type": "http", "path": "/", "headers": []}, receive, None)

    async def run():
        limited = UploadLimit(app, {"/": 10}, 10)
        await asyncio.gather(upload(limited), upload(limited))

    asyncio.run(run())


def test_uploads_have_a_bound_together(settings, predictor, monkeypatch):
    monkeypatch.setattr("brain_mri_segmentation.serving.app._MOST_UPLOADS", 0.01)
    with TestClient(build_app(Service(settings, predictor)), "http://localhost") as client:
        answer = segment(client)
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "5"
        assert client.get("/health").status_code == 200


def test_large_answers_are_handed_out_in_pieces_and_whole(client):
    scripts = re.findall(r"""src=["']([^"']+bundle[^"']+)""", client.get("/docs").text)
    answer = client.get(scripts[0])
    assert len(answer.content) == int(answer.headers["content-length"]) > 2**20


def test_a_form_of_many_or_long_texts_is_refused(client):
    slice_ = {"file": encode(RGB)}
    for fields in ({f"f{n}": "" for n in range(17)}, {"long": "x" * 70_000}):
        answer = client.post("/segment", files=slice_, data=fields)
        assert answer.status_code == 400
        assert "Maximum" in answer.json()["detail"] or "exceeded" in answer.json()["detail"]
