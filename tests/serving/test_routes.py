import asyncio
import base64
import io
import struct
import threading
import tracemalloc
import zipfile

import httpx
import numpy as np
import pytest
import tifffile
from fastapi.testclient import TestClient
from PIL import Image

from brain_mri_segmentation.imaging.overlay import overlay
from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.serving.app import Service, create_app
from brain_mri_segmentation.serving.batching import Batcher
from brain_mri_segmentation.serving.schemas import run_lengths


def encode(pixels, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def decode(content):
    return np.asarray(Image.open(io.BytesIO(content)))


MULTIPART = "multipart/form-data"  # without the boundary that it needs
JSON = {"Accept": "application/json"}


def post(client, content, name="slice.png", **options):
    return client.post("/segment", files={"file": (name, content)}, **options)


def test_a_slice_gives_a_png_mask_of_its_own_size(client, predictor, image):
    answer = post(client, encode(image))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    mask = decode(answer.content)
    expected = predictor.predict(Volume(image[None]))
    assert mask.shape == (64, 80)
    assert np.array_equal(mask, expected.mask[0])
    assert 0 < expected.tumour_pixels[0] < mask.size  # else the comparison would say little
    assert answer.headers["x-model-name"] == "unet"
    assert answer.headers["x-model-version"] == "0123456789ab"
    assert float(answer.headers["x-tumour-fraction"]) == pytest.approx(
        expected.tumour_fraction, abs=1e-6
    )


@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
def test_name_and_content_type_do_not_matter(client, image, kind):
    files = {"file": ("../../etc/passwd.exe", encode(image, kind), "text/html")}
    assert client.post("/segment", files=files).status_code == 200


def test_json_holds_figures_and_the_mask_as_runs(client, predictor, image):
    body = post(client, encode(image), headers=JSON).json()
    expected = predictor.predict(Volume(image[None]))
    runs = body["mask"]["runs"]
    rebuilt = np.repeat(np.arange(len(runs)) % 2 * 255, runs).reshape(64, 80)
    assert np.array_equal(rebuilt, expected.mask[0])
    assert body["tumour_pixels"] == expected.tumour_pixels[0]
    assert body["review"] == expected.review[0]
    assert body["val_dice"] == 0.25
    assert "picture" not in body


def test_overlay_probability_and_image(client, predictor, image):
    content, expected = encode(image), predictor.predict(Volume(image[None]))
    picture = decode(post(client, content, params={"output": "overlay"}).content)
    assert np.array_equal(picture, overlay(image, expected.mask[0]))
    probability = decode(post(client, content, params={"output": "probability"}).content)
    assert np.abs(probability / 255 - expected.probability[0]).max() < 0.003
    flair = decode(post(client, content, params={"output": "image"}).content)
    assert np.array_equal(flair, image[..., 1])
    both = post(client, content, params={"output": "image"}, headers=JSON).json()
    assert both["picture"].startswith("data:image/png;base64,")


def stack_of(image):
    return np.stack([image, image[:, ::-1], np.roll(image, 9, axis=0)])


def uploads(stack):
    return [("files", (f"{i}.png", encode(page))) for i, page in enumerate(stack)]


def zipped(stack):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("p/slice_10.png", encode(stack[2]))
        archive.writestr("p/slice_2.png", encode(stack[1]))
        archive.writestr("p/slice_1.png", encode(stack[0]))
        archive.writestr("p/.hidden", b"not a slice")
    return [("files", ("volume.zip", buffer.getvalue()))]


def multi_page(stack):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, stack, photometric="rgb")
    return [("files", ("volume.tif", buffer.getvalue()))]


@pytest.mark.parametrize("form", [uploads, zipped, multi_page])
def test_a_volume_gives_a_page_of_mask_for_each_slice(client, predictor, image, form):
    stack = stack_of(image)
    answer = client.post("/segment/volume", files=form(stack))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/tiff"
    pages = tifffile.imread(io.BytesIO(answer.content))
    assert np.array_equal(pages, predictor.predict(Volume(stack)).mask)


def test_a_volume_gives_other_pictures_too(client, predictor, image):
    stack = stack_of(image)
    expected = predictor.predict(Volume(stack)).mask
    asked = {"files": uploads(stack), "params": {"output": "overlay"}}
    answer = client.post("/segment/volume", **asked)
    pages = [overlay(*of) for of in zip(stack, expected, strict=True)]
    assert np.array_equal(tifffile.imread(io.BytesIO(answer.content)), np.stack(pages))
    body = client.post("/segment/volume", headers=JSON, **asked).json()
    for described, page in zip(body["slices"], pages, strict=True):
        content = base64.b64decode(described["picture"].removeprefix("data:image/png;base64,"))
        assert np.array_equal(decode(content), page)


def test_a_volume_as_json_has_figures_per_slice_and_in_sum(client, image):
    body = client.post("/segment/volume", files=uploads(stack_of(image)), headers=JSON).json()
    assert len(body["slices"]) == 3
    assert body["tumour_pixels"] == sum(part["tumour_pixels"] for part in body["slices"])
    assert body["slices_with_tumour"] <= 3


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"text", 415),
        (b"PK\x03\x04broken", 422),
        (zipped(np.zeros((3, 8, 8, 3), np.uint8))[0][1][1], 422),
    ],
)
def test_a_volume_of_something_else_is_refused(client, content, status):
    answer = client.post("/segment/volume", files=[("files", ("x", content))])
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_zip_with_a_damaged_member_is_refused(client):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("slice.png", bytes(range(256)) * 50)
    content = bytearray(buffer.getvalue())
    content[45:60] = b"\xff" * 15  # inside the compressed data
    answer = client.post("/segment/volume", files=[("files", ("x.zip", bytes(content)))])
    assert answer.status_code == 422
    assert "broken" in answer.json()["detail"]


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_bomb_that_says_it_is_small_is_not_unpacked(client, method):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("slice.png", bytes(64 * 2**20))
    content = bytearray(buffer.getvalue())
    struct.pack_into("<I", content, content.rindex(b"PK\x01\x02") + 24, 100)  # its size
    tracemalloc.start()
    answer = client.post("/segment/volume", files=[("files", ("x.zip", bytes(content)))])
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert answer.status_code == 422
    assert most < 8 * 2**20


def test_errors_are_problem_details_with_the_request_id(client):
    answer = post(client, b"not an image", headers={"X-Request-ID": "abc-123"})
    assert answer.status_code == 415
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == "abc-123"
    assert answer.json() == {
        "type": "about:blank",
        "title": "Unsupported Media Type",
        "status": 415,
        "detail": "The file is no TIFF, PNG or JPEG by its own bytes.",
        "request_id": "abc-123",
    }


@pytest.mark.parametrize("given", [None, "has a space", "x" * 200, "line\\nbreak"])
def test_a_request_id_is_made_where_none_or_an_unsound_one_is_sent(client, given):
    headers = {} if given is None else {"X-Request-ID": given}
    made = client.get("/health", headers=headers).headers["x-request-id"]
    assert len(made) == 32
    assert made != given


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("POST", "/segment", {}, 422),
        ("POST", "/segment", {"data": {"file": "text"}}, 422),
        ("POST", "/segment?output=hologram", {"files": {"file": ("a", b"x")}}, 422),
        ("POST", "/segment/volume", {}, 422),
        ("GET", "/segment", {}, 405),
        ("GET", "/nothing", {}, 404),
        (
            "POST",
            "/segment",
            {"content": b"x" * 50, "headers": {"content-type": "multipart/form-data"}},
            400,
        ),
    ],
)
def test_every_other_mistake_is_a_problem_too(client, method, path, options, status):
    answer = client.request(method, path, **options)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status


def test_an_upload_over_the_limit_is_refused_by_its_announced_length(client):
    assert post(client, bytes(300_000)).status_code == 413


def test_an_upload_over_the_limit_is_cut_while_it_streams(client):
    sent = 0

    def parts():
        nonlocal sent
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        for _ in range(100):
            sent += 10_000
            yield bytes(10_000)
        yield b"\r\n--b--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=b"}
    answer = client.post("/segment", content=parts(), headers=headers)
    assert answer.status_code == 413
    assert "max_upload_bytes" in answer.json()["detail"]


def test_without_a_model_the_service_says_what_to_run(settings, image):
    app = create_app(Service(settings, None, missing="Train one with 'make demo'."))
    with TestClient(app) as client:
        assert client.get("/health").status_code == 200
        for answer in (client.get("/ready"), post(client, encode(image))):
            assert answer.status_code == 503
            assert "make demo" in answer.json()["detail"]


def test_a_failing_model_is_a_500_that_says_nothing_of_the_inside(settings, predictor, image):
    service = Service(settings, predictor)

    def broken(volumes):
        raise RuntimeError("/secret/path")

    service.batcher._predict = broken
    with TestClient(create_app(service)) as client:
        answer = post(client, encode(image), headers={"X-Request-ID": "q1"})
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == "q1"
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text
    assert answer.json()["request_id"] == "q1"


def test_ready_shows_the_models_card_and_the_disclaimer(client):
    card = client.get("/ready").json()
    assert (card["model_name"], card["val_dice"], card["image_size"]) == ("unet", 0.25, 64)
    assert "not a medical device" in card["research_use_only"]


def test_metrics_count_requests_and_slices(client, image):
    post(client, encode(image))
    post(client, b"text")
    client.get("/no/such/path")
    client.request("BREW", "/segment")
    text = client.get("/metrics").text
    assert 'http_requests_total{method="POST",route="/segment",status="200"} 1.0' in text
    assert 'http_requests_total{method="POST",route="/segment",status="415"} 1.0' in text
    assert 'http_requests_total{method="GET",route="unknown",status="404"} 1.0' in text
    assert "segmented_slices_total 1.0" in text
    assert "no/such/path" not in text
    assert "BREW" not in text


def test_the_page_loads_nothing_from_elsewhere(client):
    page = client.get("/").text
    assert "not a medical device" in page
    assert "http://" not in page
    assert "https://" not in page


def test_run_lengths_of_masks_worked_out_by_hand():
    mask = np.array([[0, 0, 255], [255, 0, 0]], np.uint8)
    assert run_lengths(mask) == [2, 2, 2]
    assert run_lengths(255 - mask) == [0, 2, 2, 2]
    assert run_lengths(mask * 0) == [6]


def test_nothing_is_computed_for_a_client_that_has_gone(settings, predictor, image):
    service, batches, go = Service(settings, predictor), [], threading.Event()

    def model(volumes):
        go.wait(5)
        batches.append(len(volumes))
        return [predictor.predict(volume) for volume in volumes]

    service.batcher = Batcher(model, 8, 8, 2**20)
    app = create_app(service)
    request = httpx.Request("POST", "http://test/segment", files={"file": encode(image)})
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/segment",
        "query_string": b"",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
    }
    messages = [{"type": "http.request", "body": request.read()}]

    async def receive():
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    answers = []

    async def send(message):
        answers.append(message)

    async def run():
        async with app.router.lifespan_context(app):
            first = asyncio.create_task(service.batcher.predict(Volume(image[None])))
            await asyncio.sleep(0.05)  # it is in the model now
            await asyncio.wait_for(app(scope, receive, send), 5)
            assert not first.done()
            go.set()
            await first

    asyncio.run(run())
    assert answers[0]["status"] == 408
    assert batches == [1]
