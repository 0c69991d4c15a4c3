"""Requests in the very shape of those of MONAI Label's client, which 3D Slicer sends."""

import asyncio
import cgi  # as that client reads forms
import http.client
import io
import json
import os
import sys
import tempfile
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pydicom
import pytest
import SimpleITK
from fastapi import UploadFile
from fastapi.testclient import TestClient
from pictures import RGB, encode
from scans import OBLIQUE, axial_affine, dicom_series, nifti, phantom, study, turned

from brain_mri_segmentation.imaging.readers import read_volume
from brain_mri_segmentation.inference.predictor import Predictor
from brain_mri_segmentation.serving import monailabel
from brain_mri_segmentation.serving.app import Service, build_app

FLAIR = phantom(6, 64)[0].transpose(2, 1, 0, 3)[..., 1]
AXIAL = axial_affine(FLAIR.shape, (3.6, 3.6, 4.0), OBLIQUE)
HEAD = nifti(*turned(FLAIR, AXIAL, (1, 2, 0), (1, -1, 1)), packed=True)
PARAMS = {"result_extension": ".nrrd", "result_dtype": "uint8", "client_id": "user-xyz"}
KEY = "a key of more than sixteen letters"


def ask(address, method, path, fields, files):
    """Send a form with http.client; return status, fields and files of the answer."""
    border = "----------a_limit_$"
    parts = [(f'name="{name}"\r\n', value.encode()) for name, value in fields.items()]
    parts += [
        (f'name="{name}"; filename="/tmp/x/{n}"\r\nContent-Type: application/octet-stream\r\n', f)
        for name, (n, f) in files.items()
    ]
    body = b"".join(
        f"--{border}\r\nContent-Disposition: form-data; {head}\r\n".encode() + content + b"\r\n"
        for head, content in parts
    )
    body += f"--{border}--\r\n\r\n".encode()
    kind = f"multipart/form-data; boundary={border}"
    place = urlsplit(address)
    connection = http.client.HTTPConnection(place.hostname, place.port)
    connection.request(method, path, body, {"content-type": kind, "content-length": len(body)})
    answer = connection.getresponse()
    if "multipart" not in answer.getheader("content-type"):
        return answer.status, answer.read(), {}
    form = cgi.FieldStorage(answer.fp, answer.msg, environ={"REQUEST_METHOD": "POST"})
    named = {item.filename: item.value for item in form.list if item.filename}
    return answer.status, {i.name: i.value for i in form.list if not i.filename}, named


def infer(address, query, files=None, model="unet"):
    fields = {"params": json.dumps(PARAMS)}
    return ask(address, "POST", f"/infer/{model}?image=MRHead{query}", fields, files or {})


def create_session(address, content=HEAD, name="MRHead.nii.gz"):
    form = {"data": {"client_id": "user-xyz"}, "files": [("files", (name, content))]}
    return httpx.put(f"{address}/session/", **form).json()["session_id"]


def itk(content, path):
    path.write_bytes(content)
    return SimpleITK.ReadImage(str(path))


def as_nrrd(folder):
    SimpleITK.WriteImage(itk(HEAD, folder / "head.nii.gz"), str(folder / "head.nrrd"))
    return (folder / "head.nrrd").read_bytes()


@pytest.mark.parametrize("kind", ["NIfTI", "NRRD"])
def test_a_volume_that_is_open_in_slicer_is_segmented(server, predictor, kind, tmp_path):
    address = server[0]
    assert httpx.get(f"{address}/auth/").json() == {"enabled": False}
    (model,) = httpx.get(f"{address}/info/").json()["models"]
    content = HEAD if kind == "NIfTI" else as_nrrd(tmp_path)
    session = create_session(address, content)
    assert httpx.get(f"{address}/session/{session}").json()["name"] == session
    status, fields, files = infer(address, f"&session_id={session}", model=model)
    assert status == 200
    ((name, mask),) = files.items()
    found, source = itk(mask, tmp_path / name), itk(HEAD, tmp_path / "source.nii.gz")
    assert found.GetSize() == source.GetSize()
    for where in ("GetOrigin", "GetSpacing", "GetDirection"):
        assert getattr(found, where)() == pytest.approx(getattr(source, where)(), abs=1e-4)
    volume = read_volume([content])
    expected = Predictor(predictor.checkpoint, engine="auto").predict(volume)
    voxels = volume.geometry.to_source(expected.mask) > 0
    assert np.array_equal(SimpleITK.GetArrayFromImage(found).T, voxels)
    params = json.loads(fields["params"])
    assert params["label_names"] == {"glioma": 1}  # whose voxels are 1
    assert params["tumour_pixels"] == voxels.sum() > 0
    assert params["tumour_ml"] == pytest.approx(expected.tumour_ml)
    assert "not a medical device" in params["warning"]
    assert httpx.delete(f"{address}/session/{session}").status_code == 200
    assert httpx.get(f"{address}/session/{session}").status_code == 404


def test_a_file_comes_with_the_request_and_the_answer_is_what_it_names(server):
    files = {"file": ("head.nii.gz", HEAD)}
    status, fields, sent = infer(server[0], "", files)
    assert (status, list(sent)) == (200, ["glioma.nii.gz"])
    assert infer(server[0], "&output=image", files)[1] == sent["glioma.nii.gz"]
    assert json.loads(infer(server[0], "&output=json", files)[1]) == json.loads(fields["params"])


def test_a_dicom_session_gives_a_dicom_seg(server):
    files = dicom_series(FLAIR, AXIAL, study())
    form = [("files", (f"{n}.dcm", content)) for n, content in enumerate(files)]
    session = httpx.put(f"{server[0]}/session/", files=form).json()["session_id"]
    status, seg, _ = infer(server[0], f"&session_id={session}&output=dicom_seg")
    assert status == 200
    seg, first = pydicom.dcmread(io.BytesIO(seg)), pydicom.dcmread(io.BytesIO(files[0]))
    assert (seg.Modality, seg.StudyInstanceUID) == ("SEG", first.StudyInstanceUID)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/activelearning/random"),
        ("POST", "/train/unet"),
        ("DELETE", "/train/"),
        ("GET", "/train/?check_if_running=true"),  # any other status than 200 means no
        ("PUT", "/datastore/?image=MRHead"),
        ("PUT", "/datastore/label?image=MRHead&tag=final"),
        ("GET", "/datastore/label?label=MRHead&tag=final"),
    ],
)
def test_what_is_not_done_here_is_refused_in_a_sentence(client, method, path):
    answer = client.request(method, path)
    assert answer.status_code == 404
    assert "does not train, choose the next sample, or store" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("model", "query", "status", "text"),
    [
        ("other", "?session_id=x", 404, "The model here is unet."),
        ("unet", "?session_id=x", 404, "There is no such session"),
        ("unet", "?image=MRHead", 422, "neither a session nor a file"),
        ("unet", "?session_id=x&output=points", 422, "query.output"),
    ],
)
def test_a_request_without_a_model_or_a_volume_is_refused(client, model, query, status, text):
    answer = client.post(f"/infer/{model}{query}", data={"params": "{}"})
    assert answer.status_code == status
    assert text in answer.json()["detail"]


def test_a_picture_has_no_place_for_a_mask(client):
    answer = client.post("/infer/unet", files={"file": encode(RGB)})
    assert answer.status_code == 422
    assert "Pictures do not say where they lie" in answer.json()["detail"]


def test_nothing_is_stored_and_the_log_is_not_shown(client):
    assert client.get("/datastore/?output=all").json() == {
        "total": 0,
        "completed": 0,
        "objects": {},
    }
    assert "standard error" in client.get("/logs/").text


def keep(client, content=b"abc"):
    return client.put("/session/", files={"files": content}).json()["session_id"]


def there(client, sessions):
    return [client.get(f"/session/{name}").status_code == 200 for name in sessions]


def test_the_session_that_was_used_longest_ago_makes_room(client, monkeypatch):
    monkeypatch.setattr(monailabel, "MOST_SESSIONS", 2)
    first, second = keep(client), keep(client)
    assert there(client, [first]) == [True]  # which uses it
    third = keep(client)
    assert there(client, [first, second, third]) == [True, False, True]


def test_sessions_hold_a_bounded_number_of_bytes(client):
    # 200,000 bytes are the largest request here, and twice as many may be kept.
    sessions = [keep(client, bytes(150_000)) for _ in range(3)]
    assert there(client, sessions) == [False, True, True]
    assert client.put("/session/", files={"files": bytes(200_001)}).status_code == 413


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the files of a process")
def test_sessions_that_come_at_once_are_no_larger_on_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    held = []

    def on_disk():
        size = 0
        for file in Path("/proc/self/fd").iterdir():
            if str(tmp_path) in os.path.realpath(file):
                with suppress(FileNotFoundError):  # closed by now
                    size += file.stat().st_size
        return size

    class Upload(io.BytesIO):
        def read(self, size=-1):
            held.append(on_disk())
            return super().read(size)

    async def add_eight():
        sessions = monailabel.Sessions(2 * 2**20)
        uploads = [UploadFile(Upload(bytes(2**20)), size=2**20) for _ in range(8)]
        names = await asyncio.gather(*(sessions.add([upload]) for upload in uploads))
        assert max(*held, on_disk()) == 2 * 2**20
        for name in names[-2:]:
            assert [len(await file.read()) for file in sessions.open(name)] == [2**20]
        sessions.close()

    asyncio.run(add_eight())


def test_requests_that_wait_for_a_decoder_hold_nothing_of_their_session(settings, predictor):
    size = 2**22
    settings = settings.model_copy(update={"max_upload_bytes": size + 1000})
    service = Service(settings, predictor)

    async def ask_sixteen_times():
        transport = httpx.ASGITransport(build_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            sent = await client.put("/session/", files={"files": bytes(size)})
            name = sent.json()["session_id"]
            ask = f"/infer/unet?session_id={name}"
            async with service.volume_decoders._free:
                tracemalloc.start()
                asked = [asyncio.create_task(client.post(ask)) for _ in range(16)]
                while len(service.volume_decoders._free._waiters or ()) < len(asked):
                    await asyncio.sleep(0.01)
                held, _ = tracemalloc.get_traced_memory()
                tracemalloc.stop()
            assert held < size
            assert (await asked[0]).status_code == 415  # zeros are no image
            assert (await client.delete(f"/session/{name}")).status_code == 200
            gone = [(await each).status_code for each in asked[1:]]
            assert 404 in gone
            assert set(gone) <= {404, 415}

    asyncio.run(ask_sixteen_times())
    service.volume_decoders.close()


def test_a_session_that_is_not_used_ends(client, monkeypatch):
    monkeypatch.setattr(monailabel, "SECONDS", 0.3)
    session = keep(client)
    assert there(client, [session]) == [True]
    time.sleep(0.6)
    assert there(client, [session]) == [False]


def test_the_key_is_the_password_that_slicer_asks_for(settings, predictor, monkeypatch):
    monkeypatch.setenv("SERVING_API_KEY", KEY)
    with TestClient(build_app(Service(settings, predictor)), "http://localhost") as client:
        assert client.get("/auth/").json() == {"enabled": True}
        paths = ["/session/x", "/datastore/", "/auth/token/valid"]
        assert [client.get(path).status_code for path in paths] == [401, 401, 401]
        assert client.post("/infer/unet", data={"params": "{}"}).status_code == 401
        asked = {"username": "someone", "grant_type": "password"}
        wrong = client.post("/auth/token", data=asked | {"password": KEY[:-1]})
        assert wrong.status_code == 401
        token = client.post("/auth/token", data=asked | {"password": KEY}).json()
        signed = {"Authorization": f"{token['token_type']} {token['access_token']}"}
        assert [client.get(p, headers=signed).status_code for p in paths] == [404, 200, 200]
        client.headers.update(signed)
        assert there(client, [keep(client)]) == [True]
