"""What the service answers."""

import asyncio
import base64
from collections.abc import Awaitable, Iterator
from typing import Annotated, TypeVar

import numpy as np
from fastapi import APIRouter, File, Query, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from brain_mri_segmentation.imaging import writers
from brain_mri_segmentation.imaging.readers import read_slice, read_volume
from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.inference.predictor import Prediction
from brain_mri_segmentation.serving.batching import QueueFull
from brain_mri_segmentation.serving.errors import Problem
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

router = APIRouter()
Result = TypeVar("Result")

Output = Annotated[
    writers.Picture | None,
    Query(
        description="Which picture: the mask (default), FLAIR with the mask over it, the "
        "probability, or FLAIR alone. With JSON, the picture comes as a data URL in `picture`."
    ),
]

DISCLAIMER = "Research use only, not a medical device."

_SECONDS_BETWEEN_LOOKS = 0.5  # whether a client is still there


@router.post(
    "/segment",
    summary="Segment one slice",
    description="A TIFF, PNG or JPEG with one slice; answers with its mask as an 8-bit PNG of the "
    f"same size, 0 and 255. With `Accept: application/json`, figures and runs. {DISCLAIMER}",
    response_class=Response,
    responses=REFUSALS | picture_or(SliceAnswer, "image/png"),
)
async def segment_slice(
    request: Request,
    file: Annotated[UploadFile, File(description="One slice: TIFF, PNG or JPEG.")],
    output: Output = None,
) -> Response:
    """Segment one slice."""
    service = request.app.state.service
    service.require_model()
    if len((await request.form()).getlist("file")) > 1:
        raise Problem(422, "There are several files, and one slice is expected.")
    async with service.reading_slice:
        volume = await run_in_threadpool(read_slice, await file.read())
    prediction = await _wait_for(service.batcher.predict(volume), request)
    headers = service.headers(prediction.tumour_fraction)
    if _wants_json(request):
        (described,) = await run_in_threadpool(_describe, volume, prediction, output)
        return JSONResponse(service.describe() | described, headers=headers)
    pages = _draw(output, volume, prediction)
    content = await run_in_threadpool(lambda: writers.to_png(next(pages)))
    return Response(content, media_type="image/png", headers=headers)


@router.post(
    "/segment/volume",
    summary="Segment the slices of one volume",
    description="Several files in their order, a zip, or a multi-page TIFF; intensities are "
    "normalised over all slices. Answers with a multi-page TIFF of masks, or with figures per "
    f"slice and in sum (`Accept: application/json`). {DISCLAIMER}",
    response_class=Response,
    responses=REFUSALS | picture_or(VolumeAnswer, "image/tiff"),
)
async def segment_stack(
    request: Request,
    files: Annotated[
        list[UploadFile], File(min_length=1, description="Slices, a zip, or a multi-page TIFF.")
    ],
    output: Output = None,
) -> Response:
    """Segment a volume."""
    service = request.app.state.service
    service.require_model()
    async with service.reading_volume:
        volume = await run_in_threadpool(read_volume, [await file.read() for file in files])
    prediction = await _wait_for(service.batcher.predict(volume), request)
    headers = service.headers(prediction.tumour_fraction)
    if _wants_json(request):
        slices = await run_in_threadpool(_describe, volume, prediction, output)
        body = service.describe() | {"slices": slices} | prediction.in_sum()
        return JSONResponse(body, headers=headers)
    content = await run_in_threadpool(writers.to_tiff, _draw(output, volume, prediction))
    return Response(content, media_type="image/tiff", headers=headers)


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
    service = request.app.state.service
    service.require_model()
    return {"status": "ready", "research_use_only": DISCLAIMER} | service.describe()


@router.get("/metrics", summary="Prometheus metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Answer in Prometheus' text format."""
    registry = request.app.state.service.metrics.registry
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _draw(output: Output, volume: Volume, prediction: Prediction) -> Iterator[np.ndarray]:
    return writers.draw(output or "mask", volume, prediction.mask, prediction.probability)


def _describe(volume: Volume, prediction: Prediction, output: Output) -> list[dict[str, object]]:
    """Return the metrics and mask of each slice, with the picture that is asked for."""
    height, width = volume.slices.shape[1:3]
    described: list[dict[str, object]] = []
    for metrics, mask in zip(prediction.of_slices(), prediction.mask, strict=True):
        del metrics["expected_dice"]  # not part of the answer
        runs = {"encoding": "row-major runs, background first", "runs": run_lengths(mask)}
        described.append({"height": height, "width": width} | metrics | {"mask": runs})
    if output is not None:
        for answer, pixels in zip(described, _draw(output, volume, prediction), strict=True):
            encoded = base64.b64encode(writers.to_png(pixels)).decode()
            answer["picture"] = f"data:image/png;base64,{encoded}"
    return described


def _wants_json(request: Request) -> bool:
    return "application/json" in request.headers.get("accept", "")


async def _wait_for(work: Awaitable[Result], request: Request) -> Result:
    """Wait for the model as long as the client does: nothing is computed for one that has gone."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait([task], timeout=_SECONDS_BETWEEN_LOOKS))[0]:
            if await request.is_disconnected():
                task.cancel()
                raise Problem(408, "The client has gone.")  # for log and metrics alone
        return task.result()
    except QueueFull as full:
        raise Problem(
            429,
            f"Too many requests are waiting. Try again in {full.retry_after} s.",
            {"Retry-After": str(full.retry_after)},
        ) from None
