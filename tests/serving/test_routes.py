import base64
import io
import json
import logging
import re

import numpy as np
import pytest
import tifffile
from fastapi.testclient import TestClient
from pictures import encode, tiff, zipped
from PIL import Image

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.overlay import overlay
from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.inference.predictor import best_device
from brain_mri_segmentation.parameters import ServingParameters
from brain_mri_segmentation.serving import create_app, schemas
from brain_mri_segmentation.serving.app import Service, build_app

JSON = {"Accept": "application/json"}
LOCALHOST = "http://localhost"  # a name that is allowed
PROBLEM = "application/problem+json"


def decode(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def post(client, content, **options):
    return client.post("/segment", files={"file": ("slice.png", content)}, **options)


@pytest.fixture(scope="module")
def stack(image):
    return np.stack([image, image[:, ::-1], np.roll(image, 9, axis=0)])


@pytest.fixture(scope="module")
def expected(predictor, image):
    return predictor.predict(Volume(image[None]))


@pytest.fixture(scope="module")
def expected_volume(predictor, stack):
    return predictor.predict(Volume(stack))


def test_a_slice_gives_a_png_mask_of_its_own_size(client, predictor, expected, image):
    answer = post(client, encode(image))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert np.array_equal(decode(answer.content), expected.mask[0])
    assert 0 < expected.tumour_fraction < 1  # else the comparison would say little
    assert answer.headers["x-model-name"] == "unet"
    assert answer.headers["x-model-version"] == predictor.checkpoint.digest
    fraction = float(answer.headers["x-tumour-fraction"])
    assert fraction == pytest.approx(expected.tumour_fraction, abs=1e-6)


@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
def test_name_and_content_type_do_not_matter(client, image, kind):
    files = {"file": ("../../etc/passwd.exe", encode(image, kind), "text/html")}
    assert client.post("/segment", files=files).status_code == 200


def test_json_holds_metrics_and_the_mask_as_runs(client, expected, image):
    body = post(client, encode(image), headers=JSON).json()
    runs = body["mask"]["runs"]
    rebuilt = np.repeat(np.arange(len(runs)) % 2 * 255, runs).reshape(64, 80)
    assert np.array_equal(rebuilt, expected.mask[0])
    assert body["tumour_pixels"] == expected.tumour_pixels[0]
    assert body["review"] == expected.review[0]
    assert body["val_dice"] == 0.25
    assert "picture" not in body


def test_overlay_probability_and_image(client, expected, image):
    content = encode(image)

    def picture(output):
        return decode(post(client, content, params={"output": output}).content)

    assert np.array_equal(picture("overlay"), overlay(image, expected.mask[0]))
    assert np.abs(picture("probability") / 255 - expected.probability[0]).max() < 0.003
    assert np.array_equal(picture("image"), image[..., 1])
    both = post(client, content, params={"output": "image"}, headers=JSON).json()
    assert both["picture"].startswith("data:image/png;base64,")


def uploads(stack):
    return [("files", (f"{i}.png", encode(page))) for i, page in enumerate(stack)]


def packed(stack):
    names = [f"p/slice_{number}.png" for number in (10, 2, 1)]
    pages = zip(names, map(encode, stack[::-1]), strict=True)
    return [("files", ("volume.zip", zipped(*pages, ("p/.hidden", b"not a slice"))))]


def multi_page(stack):
    return [("files", ("volume.tif", tiff(stack, photometric="rgb")))]


@pytest.mark.parametrize("form", [uploads, packed, multi_page])
def test_a_volume_gives_a_page_of_mask_for_each_slice(client, expected_volume, stack, form):
    answer = client.post("/segment/volume", files=form(stack))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/tiff"
    pages = tifffile.imread(io.BytesIO(answer.content))
    assert np.array_equal(pages, expected_volume.mask)


def test_a_volume_takes_as_many_batches_as_it_needs(settings, predictor, stack, monkeypatch):
    batches, run = [], predictor.logits
    monkeypatch.setattr(predictor, "logits", lambda x: batches.append(len(x)) or run(x))
    masks = []
    for most in (None, 1, 8):
        limits = settings.model_copy(update={"max_batch": most})
        with TestClient(build_app(Service(limits, predictor)), LOCALHOST) as client:
            masks.append(client.post("/segment/volume", files=uploads(stack)).content)
    assert batches == [2, 1, 1, 1, 1, 3]
    assert masks[0] == masks[1] == masks[2]


def test_a_volume_gives_other_pictures_too(client, expected_volume, stack):
    asked = {"files": uploads(stack), "params": {"output": "overlay"}}
    answer = client.post("/segment/volume", **asked)
    pages = [overlay(*of) for of in zip(stack, expected_volume.mask, strict=True)]
    assert np.array_equal(tifffile.imread(io.BytesIO(answer.content)), np.stack(pages))
    body = client.post("/segment/volume", headers=JSON, **asked).json()
    for described, page in zip(body["slices"], pages, strict=True):
        content = base64.b64decode(described["picture"].removeprefix("data:image/png;base64,"))
        assert np.array_equal(decode(content), page)


def test_a_volume_as_json_has_metrics_per_slice_and_in_sum(client, expected_volume, stack):
    body = client.post("/segment/volume", files=uploads(stack), headers=JSON).json()
    assert [part["tumour_pixels"] for part in body["slices"]] == [*expected_volume.tumour_pixels]
    assert body["tumour_pixels"] == expected_volume.tumour_pixels.sum()
    assert body["slices_with_tumour"] == 3


def test_refusals_are_problem_details_with_the_request_id(client):
    answer = post(client, b"not an image", headers={"X-Request-ID": "abc-123"})
    assert answer.status_code == 415
    assert answer.headers["content-type"] == PROBLEM
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
    ("method", "path", "status"),
    [("POST", "/segment", 422), ("GET", "/segment", 405), ("GET", "/nothing", 404)],
)
def test_what_the_framework_refuses_is_a_problem_too(client, method, path, status):
    answer = client.request(method, path)
    assert answer.status_code == answer.json()["status"] == status
    assert answer.headers["content-type"] == PROBLEM


def test_an_upload_over_the_limit_is_refused_before_it_is_read(client):
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    announced = client.post("/segment", content=bytes(300_000), headers=form)
    streamed = client.post("/segment", content=(bytes(10_000) for _ in range(100)), headers=form)
    for answer in (announced, streamed):
        assert answer.status_code == 413
        assert "max_upload_bytes" in answer.json()["detail"]


def test_without_a_model_the_service_says_what_to_run(settings, image):
    app = build_app(Service(settings, None, "Train one with 'make demo'."))
    with TestClient(app, LOCALHOST) as client:
        assert client.get("/health").status_code == 200
        for answer in (client.get("/ready"), post(client, encode(image))):
            assert answer.status_code == 503
            assert "make demo" in answer.json()["detail"]


def test_a_failing_model_is_a_500_that_says_nothing_of_the_inside(
    settings, predictor, image, monkeypatch
):
    def broken(inputs):
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(predictor, "logits", broken)
    app = build_app(Service(settings, predictor))
    with TestClient(app, LOCALHOST, raise_server_exceptions=False) as client:
        answer = post(client, encode(image), headers={"X-Request-ID": "q1"})
        assert 'handler="/segment",status="500"} 1.0' in client.get("/metrics").text
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == "q1"
    assert answer.headers["content-type"] == PROBLEM
    assert "secret" not in answer.text
    assert answer.json()["request_id"] == "q1"


def test_a_model_is_served_without_a_project(predictor, tmp_path, monkeypatch, capsys):
    for name in ("brain_mri_segmentation", "uvicorn", "asgi_correlation_id"):
        for attribute in ("handlers", "propagate", "level"):  # they are put back afterwards
            log = logging.getLogger(name)
            monkeypatch.setattr(log, attribute, getattr(log, attribute))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SERVING_MODEL", raising=False)
    predictor.checkpoint.save(tmp_path / "best.ckpt")
    app = create_app("best.ckpt", ServingParameters(max_upload_bytes=2000))
    start = json.loads(capsys.readouterr().err.splitlines()[-1])  # an engine may speak first
    assert start["model"] == f"unet {predictor.checkpoint.digest}"
    assert start["source"] == "best.ckpt"
    assert start["device"] == best_device()
    assert start["engine"]
    with TestClient(app, LOCALHOST) as client:
        assert client.get("/ready").status_code == 200
        assert post(client, bytes(3000)).status_code == 413
    with pytest.raises(InputError, match=r"no checkpoint at other\.ckpt"):
        create_app("other.ckpt")


def test_ready_shows_the_models_card_and_the_disclaimer(client, predictor):
    card = client.get("/ready").json()
    assert (card["model_name"], card["val_dice"], card["image_size"]) == ("unet", 0.25, 64)
    assert card["out_of_fold_dice"] is None
    assert card["model_version"] == predictor.checkpoint.digest
    assert "not a medical device" in card["research_use_only"]


def test_metrics_count_requests_and_slices(client, image):
    post(client, encode(image))
    post(client, b"text")
    client.get("/no/such/path")
    client.request("BREW", "/segment")
    text = client.get("/metrics").text
    for handler, status in (("/segment", 200), ("/segment", 415), ("/segment", 405), ("none", 404)):
        assert f'http_requests_total{{handler="{handler}",status="{status}"}} 1.0' in text
    assert 'http_request_duration_seconds_count{handler="/segment"} 3.0' in text
    assert "segmented_slices_total 1.0" in text
    assert "no/such/path" not in text
    assert "BREW" not in text


def test_the_page_loads_nothing_from_elsewhere(client):
    page = client.get("/")
    assert "not a medical device" in page.text
    markup = page.text.split("<script>")[0]
    assert re.findall(r"""(?:src|href)=["']([^"']+)""", markup) == ["data:,"]
    # NiiVue could load what it is told to, and the policy tells the browser that it may not.
    assert "http" not in page.headers["content-security-policy"]
    assert "connect-src 'self';" in page.headers["content-security-policy"]


def test_run_lengths_of_masks_worked_out_by_hand():
    mask = np.array([[0, 0, 255], [255, 0, 0]], np.uint8)
    assert schemas.run_lengths(mask)["runs"] == [2, 2, 2]
    assert schemas.run_lengths(255 - mask)["runs"] == [0, 2, 2, 2]
    assert schemas.run_lengths(mask * 0)["runs"] == [6]
