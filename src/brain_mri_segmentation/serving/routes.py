"""What the service answers."""

import base64
import io
import zipfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from typing import Annotated

from fastapi import APIRouter, Depends, File, HTTPException, Query, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from brain_mri_segmentation import DISCLAIMER
from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.dicom_seg import write_seg
from brain_mri_segmentation.imaging.geometry import Geometry
from brain_mri_segmentation.imaging.intensity import FLAIR
from brain_mri_segmentation.imaging.medical import write_nifti
from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.imaging.writers import Picture, draw, to_png, to_tiff
from brain_mri_segmentation.inference.folders import seg_or_note
from brain_mri_segmentation.inference.predictor import Prediction, Predictor
from brain_mri_segmentation.inference.report import render_report
from brain_mri_segmentation.serving.decoding import Readable
from brain_mri_segmentation.serving.model import card_of
from brain_mri_segmentation.serving.schemas import (
    NO_MODEL,
    REFUSALS,
    Health,
    Ready,
    SliceAnswer,
    VolumeAnswer,
    picture_or,
    run_lengths,
)

router = APIRouter(form_limits={"max_fields": 16, "max_part_size": 64 * 2**10})


async def hold_until_sent() -> AsyncIterator[ExitStack]:
    """Hold what is entered until the answer is sent."""
    with ExitStack() as stack:
        yield stack


Sending = Annotated[ExitStack, Depends(hold_until_sent)]
Output = Annotated[
    Picture | None,
    Query(
        description="Which picture: the mask (default), FLAIR with the mask over it, the "
        "probability, or FLAIR alone. With JSON, the picture comes as a data URL in `picture`."
    ),
]


_Encode = Callable[[Volume, Prediction, Picture | None, Predictor], bytes]


def _to_png(v: Volume, p: Prediction, output: Picture | None, _: Predictor) -> bytes:
    return to_png(next(draw(output or "mask", v, p.mask, p.probability)))


def _to_tiff(v: Volume, p: Prediction, output: Picture | None, _: Predictor) -> bytes:
    return to_tiff(draw(output or "mask", v, p.mask, p.probability))


def _to_nifti(v: Volume, p: Prediction, output: Picture | None, _: Predictor) -> bytes:
    voxels = p.probability if output == "probability" else p.labels
    return write_nifti(voxels, geometry_of(v))


def to_dicom(v: Volume, p: Prediction, _: Picture | None, predictor: Predictor) -> bytes:
    """Return the mask as DICOM SEG.

    Raises:
        InputError: The volume is not of DICOM, or does not say what a SEG needs.
    """
    checkpoint = predictor.checkpoint
    model = checkpoint.model_name, checkpoint.digest
    return write_seg(p.mask, geometry_of(v), *model, p.describe())


def _to_json(v: Volume, p: Prediction, output: Picture | None, predictor: Predictor) -> bytes:
    slices = _describe(v, p, output)
    said = {"missing": v.missing, "notes": v.notes, "slices": slices}
    return bytes(JSONResponse(card_of(predictor) | p.in_sum() | said).body)


def _to_slice_json(v: Volume, p: Prediction, output: Picture | None, predictor: Predictor) -> bytes:
    return bytes(JSONResponse(card_of(predictor) | _describe(v, p, output)[0]).body)


def _to_zip(v: Volume, p: Prediction, _: Picture | None, predictor: Predictor) -> bytes:
    buffer = io.BytesIO()
    of = "" if v.geometry else "_in_voxels"
    with zipfile.ZipFile(buffer, "w") as archive:

        def add(name: str, content: bytes) -> None:
            packed = name.endswith((".gz", ".tif"))
            kind = zipfile.ZIP_STORED if packed else zipfile.ZIP_DEFLATED
            archive.writestr(zipfile.ZipInfo(name), content, kind)

        add(f"image{of}.nii.gz", write_nifti(v.slices[..., FLAIR], v.geometry))
        add(f"mask{of}.nii.gz", write_nifti(p.labels, v.geometry))
        add(f"probability{of}.nii.gz", write_nifti(p.probability, v.geometry))
        add("masks.tif", _to_tiff(v, p, "mask", predictor))
        v, seg = seg_or_note(v, p, predictor.checkpoint)
        if seg:
            add("mask.dcm", seg)
        add("result.json", _to_json(v, p, None, predictor))
        add("report.html", _to_report(v, p, None, predictor))
    return buffer.getvalue()


def _to_report(v: Volume, p: Prediction, _: Picture | None, predictor: Predictor) -> bytes:
    return render_report(v, p, predictor.checkpoint).encode()


def geometry_of(volume: Volume) -> Geometry:
    """Return where a volume lies.

    Raises:
        InputError: It is of pictures, which do not say so.
    """
    if volume.geometry is None:
        raise InputError("Pictures do not say where they lie. Ask for TIFF, JSON or a report.")
    return volume.geometry


# Of what a request accepts the first is given, and the last where it accepts none of them.
_OF_SLICE: dict[str, _Encode] = {"application/json": _to_slice_json, "image/png": _to_png}
_OF_VOLUME: dict[str, _Encode] = {
    "application/json": _to_json,
    "application/dicom": to_dicom,
    "application/x-nifti": _to_nifti,
    "application/zip": _to_zip,
    "text/html": _to_report,
    "image/tiff": _to_tiff,
}


@router.post(
    "/segment",
    summary="Segment one slice",
    description="A TIFF, PNG or JPEG with one slice; answers with its mask as an 8-bit PNG of the "
    f"same size, 0 and 255. With `Accept: application/json`, metrics and runs. {DISCLAIMER}",
    response_class=Response,
    responses=REFUSALS | picture_or(SliceAnswer, *list(_OF_SLICE)[1:]),
)
async def segment_slice(
    request: Request,
    file: Annotated[UploadFile, File(description="One slice: TIFF, PNG or JPEG.")],
    sending: Sending,
    output: Output = None,
) -> Response:
    """Segment one slice."""
    if len((await request.form()).getlist("file")) > 1:
        raise HTTPException(422, "There are several files, and one slice is expected.")
    return await _answer_as_accepted(request, [file], output, sending, one=True)


@router.post(
    "/segment/volume",
    summary="Segment the slices of one volume",
    description="Several files in their order, a zip, or a multi-page TIFF; or NIfTI, NRRD, "
    "MetaImage (FLAIR, or three files: pre-contrast, FLAIR, post-contrast), or the DICOM files of "
    "a study. Intensities are normalised over all slices. Answers with a multi-page TIFF of masks, "
    "or by `Accept` with metrics per slice and in sum (`application/json`), the mask or "
    "probability on the file's own grid (`application/x-nifti`), the mask as DICOM SEG "
    f"(`application/dicom`), a report (`text/html`), or all of them in a zip (`application/zip`). "
    f"{DISCLAIMER}",
    response_class=Response,
    responses=REFUSALS | picture_or(VolumeAnswer, *list(_OF_VOLUME)[1:]),
)
async def segment_stack(
    request: Request,
    files: Annotated[
        list[UploadFile], File(min_length=1, description="Slices, a zip, or a multi-page TIFF.")
    ],
    sending: Sending,
    output: Output = None,
) -> Response:
    """Segment a volume."""
    return await _answer_as_accepted(request, files, output, sending, one=False)


@router.get("/health", summary="Is the process alive?", response_model=Health)
async def health() -> dict[str, str]:
    """Answer at once, whatever the model does."""
    return {"status": "alive"}


@router.get(
    "/ready",
    summary="Can it segment, and with which model?",
    response_model=Ready,
    responses=NO_MODEL,
)
async def ready(request: Request) -> dict[str, object]:
    """Answer with the model's card."""
    return {"status": "ready"} | card_of(request.app.state.service.predictor)


async def answer(
    request: Request,
    files: Sequence[Readable],
    sending: ExitStack,
    encode: Callable[[Volume, Prediction, Predictor], Response],
    one: bool = False,
) -> Response:
    """Read, segment and answer, within the bounds of decoders and queue.

    Args:
        request: What is answered.
        files: What it holds; a single slice, or a volume.
        sending: Lasts until the answer is sent.
        encode: Makes the answer, in a thread.
        one: Whether it is a slice.

    Raises:
        InputError: The files cannot be read, or not be answered like that.
        HTTPException: There is no model, no room, or no client any more.
    """
    service = request.app.state.service
    predictor: Predictor = service.predictor
    decoders = service.slice_decoders if one else service.volume_decoders
    volume = await decoders.read(request, files, one)
    with service.queue.place(volume):
        prediction = await service.queue.predict(predictor, volume, request)
        result = await run_in_threadpool(encode, volume, prediction, predictor)
    result.headers["X-Model-Name"] = predictor.checkpoint.model_name
    result.headers["X-Model-Version"] = predictor.checkpoint.digest
    result.headers["X-Tumour-Fraction"] = f"{prediction.tumour_fraction:.6f}"
    sending.enter_context(service.queue.hold(len(result.body)))
    return result


async def _answer_as_accepted(
    request: Request, files: list[UploadFile], output: Picture | None, sending: ExitStack, one: bool
) -> Response:
    encoders, accept = _OF_SLICE if one else _OF_VOLUME, request.headers.get("accept", "")
    kind = next((kind for kind in encoders if kind in accept), list(encoders)[-1])

    def encode(v: Volume, p: Prediction, predictor: Predictor) -> Response:
        return Response(encoders[kind](v, p, output, predictor), media_type=kind)

    return await answer(request, files, sending, encode, one)


def _describe(
    volume: Volume, prediction: Prediction, output: Picture | None
) -> list[dict[str, object]]:
    """Return the metrics of each slice, its mask as runs, and the picture that is asked for."""
    pictures = draw(output or "mask", volume, prediction.mask, prediction.probability)
    height, width = prediction.mask.shape[1:]
    slices = []
    for metrics, mask, pixels in zip(
        prediction.of_slices(), prediction.mask, pictures, strict=True
    ):
        described = {"height": height, "width": width, **metrics, "mask": run_lengths(mask)}
        if output is not None:
            encoded = base64.b64encode(to_png(pixels)).decode()
            described["picture"] = f"data:image/png;base64,{encoded}"
        slices.append(described)
    return slices
