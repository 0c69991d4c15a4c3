"""One mask from every door, whatever the format."""

import dataclasses
import gzip
import io
import json
import zipfile

import nibabel
import numpy as np
import pytest
import tifffile
from fastapi.testclient import TestClient
from pictures import tiff, zipped
from scans import axial_affine, dicom_series, frames_of, nifti, nrrd, phantom, study, turned
from typer.testing import CliRunner

from brain_mri_segmentation.command import app
from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.inference.predictor import load_model
from brain_mri_segmentation.models import Checkpoint
from brain_mri_segmentation.pipelines.inference.nodes import segment_folder
from brain_mri_segmentation.runtime.files import Folder
from brain_mri_segmentation.serving.app import Service, build_app

SLICES = phantom(6, 32)[0]
PICTURES = Volume(((SLICES - 200) // 15).astype(np.uint8))
VOXELS, AFFINE = SLICES.transpose(2, 1, 0, 3), axial_affine((32, 32, 6), (7.2, 7.2, 5.0))
TURNED = turned(VOXELS, AFFINE, (2, 0, 1), (-1, 1, -1))
DESCRIPTIONS = ("T1", "FLAIR", "T1 GD")


def dicom():
    series = (
        dicom_series(VOXELS[..., channel], AFFINE, study(), channel, description)
        for channel, description in enumerate(DESCRIPTIONS)
    )
    files = (file for one in series for file in one)
    return zipped(*((f"{n}", file) for n, file in enumerate(files)))


FORMATS = {
    "a stack of 8 bits": ("head.tif", tiff(PICTURES.slices, photometric="rgb")),
    "NIfTI of three channels, turned": ("head.nii.gz", nifti(*TURNED, packed=True)),
    "NRRD": ("head.nrrd", nrrd(VOXELS, AFFINE)),
    "a zip of three NIfTI": (
        "head.zip",
        zipped(*((f"{d}.nii", nifti(VOXELS[..., c], AFFINE)) for c, d in enumerate(DESCRIPTIONS))),
    ),
    "a zip of three DICOM series": ("head.zip", dicom()),
}


@pytest.fixture(scope="module")
def model(model_path, tmp_path_factory):
    """A network with random weights, and a threshold at which it finds half of the head."""
    model = load_model(model_path)
    probability = np.sort(model.predict(PICTURES).probability, axis=None)
    middle = probability[2 * probability.size // 5 : 3 * probability.size // 5]
    widest = int(np.diff(middle).argmax())  # so far from any pixel that rounding does not matter
    threshold = float(middle[widest : widest + 2].mean())
    preprocessing = model.checkpoint.preprocessing | {"threshold": threshold}
    path = tmp_path_factory.mktemp("half") / "best.ckpt"
    dataclasses.replace(model.checkpoint, preprocessing=preprocessing).save(path)
    return path


@pytest.fixture(scope="module")
def expected(model):
    mask = load_model(model).predict(PICTURES).mask
    assert 0.3 < (mask > 0).mean() < 0.7
    return mask


@pytest.fixture(params=FORMATS, scope="module")
def file(request, tmp_path_factory):
    name, content = FORMATS[request.param]
    path = tmp_path_factory.mktemp("in") / name
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def written(file, model, tmp_path_factory):
    """What the command writes."""
    output = tmp_path_factory.mktemp("out")
    arguments = ["segment", file, "-o", output, "--model", model]
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return output


def written_mask(folder):
    *seg, path = sorted((folder / "masks").iterdir())
    if path.suffix == ".tif":
        return tifffile.imread(path)
    image = nibabel.as_closest_canonical(nibabel.load(path))  # right, front, top
    mask = np.asarray(image.dataobj)[::-1, ::-1].T * np.uint8(255)
    assert all(np.array_equal(frames_of(one), mask) for one in seg)
    return mask


def bytes_of(folder):
    """Masks by their names; a DICOM SEG holds the time of day, by which it differs."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".dcm"}


def test_the_command(written, expected):
    assert np.array_equal(written_mask(written), expected)


def test_the_pipeline(file, written, model, expected, parameters, tmp_path):
    places = (Folder.at(str(place)) for place in (file.parent, tmp_path / "out"))
    checkpoint = Checkpoint.load(model)
    segment_folder(
        next(places), checkpoint, next(places), parameters.training, "auto", parameters.inference
    )
    assert np.array_equal(written_mask(tmp_path / "out"), expected)
    assert bytes_of(tmp_path / "out/masks") == bytes_of(written / "masks")


def check_zip(content, body, known, expected, of):
    """Make sure that a zip holds what the service answers by itself, and FLAIR."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    alone = {
        "result.json": json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(),
        "report.html": known["text/html"].content,
    }
    if "application/x-nifti" in known:
        alone["mask.nii.gz"] = known["application/x-nifti"].content
    seg = parts.pop("mask.dcm", None)  # holds the time of day
    assert (seg is not None) == ("application/dicom" in known)
    assert seg is None or np.array_equal(frames_of(io.BytesIO(seg)), expected)
    assert parts.keys() == alone.keys() | {
        *(f"{name}{of}.nii.gz" for name in ("image", "mask", "probability")),
        "masks.tif",
    }
    for name, of_kind in alone.items():
        assert parts[name] == of_kind, name
    assert np.array_equal(tifffile.imread(io.BytesIO(parts["masks.tif"])), expected)
    image, mask, probability = (
        nibabel.Nifti1Image.from_bytes(gzip.decompress(parts[f"{name}{of}.nii.gz"]))
        for name in ("image", "mask", "probability")
    )
    axial = [
        np.asarray(nibabel.as_closest_canonical(one).dataobj)[::-1, ::-1].T
        for one in (image, mask, probability)
    ]
    flair = (PICTURES.slices if of else SLICES)[..., 1]
    assert np.array_equal(axial[0], flair)
    assert np.array_equal(axial[1] > 0, expected > 0)
    assert axial[2][expected > 0].min() > axial[2][expected == 0].max()
    assert image.header.get_xyzt_units()[0] == ("unknown" if of else "mm")
    if of:
        assert image.header.get_zooms() == (1, 1, 1)


def test_the_service(file, written, model, expected, parameters):
    application = build_app(Service(parameters.serving, load_model(model)))
    asked = {"files": [("files", (file.name, file.read_bytes()))]}
    with TestClient(application, "http://localhost") as client:
        answer = client.post("/segment/volume", **asked)
        assert answer.status_code == 200, answer.text
        assert np.array_equal(tifffile.imread(io.BytesIO(answer.content)), expected)
        body = client.post(
            "/segment/volume", headers={"Accept": "application/json"}, **asked
        ).json()
        files = {
            kind: client.post("/segment/volume", headers={"Accept": kind}, **asked)
            for kind in ("application/x-nifti", "application/dicom", "text/html")
        }
        everything = client.post(
            "/segment/volume", headers={"Accept": "application/zip"}, **asked
        ).content
    pixels = np.count_nonzero(expected)
    assert body["tumour_pixels"] == pixels
    placed = not file.name.endswith("tif")
    millilitres = pytest.approx(pixels * 7.2 * 7.2 * 5 / 1000) if placed else None
    assert body["tumour_ml"] == millilitres
    assert body["missing"] == []
    known = {kind: answer for kind, answer in files.items() if answer.status_code == 200}
    of_dicom = any("series" in note for note in body["notes"])
    assert len(known) == 1 + placed + of_dicom
    for kind, of_kind in known.items():
        assert of_kind.headers["content-type"].startswith(kind)
    assert "Research use only" in known["text/html"].text
    alike = known["application/x-nifti"] if placed else answer
    assert list(bytes_of(written / "masks").values()) == [alike.content]
    if not placed:
        assert "do not say where they lie" in files["application/x-nifti"].text
    check_zip(everything, body, known, expected, "" if placed else "_in_voxels")
    if of_dicom:
        frames = frames_of(io.BytesIO(known["application/dicom"].content))
        assert np.array_equal(frames, expected)
    assert any("was taken for FLAIR" in note for note in body["notes"]) == file.name.endswith("zip")
