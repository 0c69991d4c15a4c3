"""What the service answers."""

import base64
import io
import re
import zipfile
import zlib
from collections.abc import Awaitable
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from fastapi import APIRouter, File, Query, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from brain_mri_segmentation.images import read_slice, read_slices
from brain_mri_segmentation.inference import Segmentation, segment_volume
from brain_mri_segmentation.serving import pictures
from brain_mri_segmentation.serving.batching import QueueFull
from brain_mri_segmentation.serving.problems import Problem

router = APIRouter()
Result = TypeVar("Result")

DISCLAIMER = "Research use only, not a medical device."
_MOST_SLICES = 512
_MOST_PIXELS = 64 * 2**20  # of a whole volume: 1,024 slices of 256 x 256
_PROBLEM: dict[str, Any] = {"content": {"application/problem+json": {}}}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    413: _PROBLEM | {"description": "The upload is too large."},
    415: _PROBLEM | {"description": "Not an image, by its own bytes."},
    422: _PROBLEM | {"description": "An image that cannot be a slice."},
    429: _PROBLEM | {"description": "Too many requests wait; see Retry-After."},
    503: _PROBLEM | {"description": "No model, or shutting down."},
}


@router.post(
    "/segment",
    summary="Segment one slice",
    description="A TIFF, PNG or JPEG with one slice; answers with its mask as an 8-bit PNG of the "
    f"same size, 0 and 255. With `Accept: application/json`, figures and runs. {DISCLAIMER}",
    response_class=Response,
    responses=_REFUSALS
    | {200: {"content": {"image/png": {}, "application/json": {}}, "description": "The result."}},
)
async def segment_slice(
    request: Request,
    file: Annotated[UploadFile, File(description="One slice: TIFF, PNG or JPEG.")],
    output: Annotated[
        Literal["mask", "overlay", "probability", "image"] | None,
        Query(
            description="Which picture: the mask (default), FLAIR with the mask over it, the "
            "probability, or FLAIR alone. With JSON, the picture comes as a data URL in `picture`."
        ),
    ] = None,
) -> Response:
    """Segment one slice."""
    service = request.app.state.service
    service.require_model()
    image = await run_in_threadpool(read_slice, await file.read())
    result = await _wait_for(service.batcher.segment(image))
    headers = service.headers(result.tumour_fraction)
    draw = pictures.DRAW[output or "mask"]
    if not _wants_json(request):
        content = await run_in_threadpool(draw, image, result)
        return Response(content, media_type="image/png", headers=headers)
    body = service.describe() | await run_in_threadpool(pictures.figures, result)
    if output is not None:
        picture = base64.b64encode(await run_in_threadpool(draw, image, result)).decode()
        body["picture"] = f"data:image/png;base64,{picture}"
    return JSONResponse(body, headers=headers)


@router.post(
    "/segment/volume",
    summary="Segment the slices of one volume",
    description="Several files in their order, a zip, or a multi-page TIFF; intensities are "
    "normalised over all slices. Answers with a multi-page TIFF of masks, or with figures per "
    f"slice and in sum (`Accept: application/json`). {DISCLAIMER}",
    response_class=Response,
    responses=_REFUSALS
    | {200: {"content": {"image/tiff": {}, "application/json": {}}, "description": "The result."}},
)
async def segment_stack(
    request: Request,
    files: Annotated[list[UploadFile], File(description="Slices, a zip, or a multi-page TIFF.")],
) -> Response:
    """Segment a volume."""
    service = request.app.state.service
    service.require_model()
    uploads = [(file.filename or "", await file.read()) for file in files]
    slices = await run_in_threadpool(_read_volume, uploads)
    segmenter = service.segmenter

    def segment(images: list[np.ndarray]) -> list[Segmentation]:
        return segment_volume(segmenter, images, service.settings.max_batch)

    results = await _wait_for(service.batcher.run(slices, segment))
    pixels = sum(result.mask.size for result in results)
    tumour = sum(result.tumour_pixels for result in results)
    headers = service.headers(tumour / pixels)
    if _wants_json(request):
        body = service.describe() | {
            "slices": [pictures.figures(result) for result in results],
            "tumour_pixels": tumour,
            "tumour_fraction": tumour / pixels,
            "slices_with_tumour": sum(result.tumour_pixels > 0 for result in results),
            "slices_to_review": sum(result.review is not None for result in results),
        }
        return JSONResponse(body, headers=headers)
    content = await run_in_threadpool(pictures.masks_tiff, results)
    return Response(content, media_type="image/tiff", headers=headers)


@router.get("/health", summary="Is the process alive?")
async def health() -> dict[str, str]:
    """Answer at once, whatever the model does."""
    return {"status": "alive"}


@router.get(
    "/ready", summary="Can it segment, and with which model?", responses={503: _REFUSALS[503]}
)
async def ready(request: Request) -> dict[str, object]:
    """Answer with the model's card."""
    service = request.app.state.service
    service.require_model()
    return {"status": "ready", "research_use_only": DISCLAIMER} | service.describe()


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Answer in Prometheus' text format."""
    registry = request.app.state.service.metrics.registry
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _wants_json(request: Request) -> bool:
    return "application/json" in request.headers.get("accept", "")


async def _wait_for(work: Awaitable[Result]) -> Result:
    try:
        return await work
    except QueueFull as full:
        raise Problem(
            429,
            f"Too many requests are waiting. Try again in {full.retry_after} s.",
            {"Retry-After": str(full.retry_after)},
        ) from None


def _read_volume(uploads: list[tuple[str, bytes]]) -> list[np.ndarray]:
    """Read all slices; the names only decide the order inside a zip."""
    slices: list[np.ndarray] = []
    for _, content in uploads:
        for part in _unzip(content) if content.startswith(b"PK\x03\x04") else [content]:
            slices += read_slices(part, _MOST_SLICES)
            pixels = sum(image.shape[0] * image.shape[1] for image in slices)
            if len(slices) > _MOST_SLICES or pixels > _MOST_PIXELS:
                raise Problem(
                    422,
                    f"A volume may hold {_MOST_SLICES} slices and {_MOST_PIXELS} pixels in all.",
                )
    return slices


def _unzip(content: bytes) -> list[bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            wanted = [
                info
                for info in archive.infolist()
                if not info.is_dir() and not PurePosixPath(info.filename).name.startswith(".")
            ]
            if not wanted or len(wanted) > _MOST_SLICES:
                raise Problem(
                    422, f"The zip holds {len(wanted)} files; 1 to {_MOST_SLICES} are taken."
                )
            # The sizes are what the archive says; reading stops there, so it cannot hold more.
            if sum(info.file_size for info in wanted) > 4 * _MOST_PIXELS:
                raise Problem(422, "The zip is absurdly large once it is unpacked.")
            wanted.sort(key=lambda info: _natural(info.filename))
            return [archive.read(info) for info in wanted]
    # RuntimeError is an encrypted member, NotImplementedError an unknown compression.
    except (
        zipfile.BadZipFile,
        zlib.error,
        RuntimeError,
        NotImplementedError,
        EOFError,
        OSError,
    ) as error:
        raise Problem(422, "The zip is broken, truncated or encrypted.") from error


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Sort key in which slice_2 stands before slice_10."""
    parts = re.split(r"(\d+)", name)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]
