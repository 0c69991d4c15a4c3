"""What the service answers."""

import asyncio
import io
import re
import zipfile
from collections.abc import Awaitable
from pathlib import PurePosixPath
from typing import Annotated, Literal, TypeVar

import numpy as np
from fastapi import APIRouter, File, Query, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from brain_mri_segmentation.imaging.readers import (
    MOST_PIXELS,
    MOST_SLICES,
    is_zip,
    read_slice,
    read_volume,
)
from brain_mri_segmentation.inference.predictor import Segmentation, segment_volume
from brain_mri_segmentation.serving import pictures
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
)

router = APIRouter()
Result = TypeVar("Result")

Output = Annotated[
    Literal["mask", "overlay", "probability", "image"] | None,
    Query(
        description="Which picture: the mask (default), FLAIR with the mask over it, the "
        "probability, or FLAIR alone. With JSON, the picture comes as a data URL in `picture`."
    ),
]

DISCLAIMER = "Research use only, not a medical device."

_ZIP_ENTRY = b"PK\x01\x02"  # begins a file's line in the list at the end of a zip
_SECONDS_BETWEEN_LOOKS = 0.5  # whether a client is still there
_MOST_ENTRIES = 16 * MOST_SLICES  # folders and hidden files among them
_NUMBERED = re.compile(r"(.*[^0-9])[0-9]+\.[a-z]+", re.IGNORECASE | re.ASCII | re.DOTALL)


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
        image = await run_in_threadpool(read_slice, await file.read())
    result = await _wait_for(service.batcher.segment(image), request)
    headers = service.headers(result.tumour_fraction)
    if _wants_json(request):
        body = service.describe() | await run_in_threadpool(_describe, image, result, output)
        return JSONResponse(body, headers=headers)
    draw = pictures.DRAW[output or "mask"]
    content = await run_in_threadpool(lambda: pictures.png(draw(image, result)))
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
        slices = await run_in_threadpool(_read_volume, [await file.read() for file in files])
    predictor = service.predictor

    def segment(images: list[np.ndarray]) -> list[Segmentation]:
        return segment_volume(predictor, images, service.settings.max_batch)

    results = await _wait_for(service.batcher.run(slices, segment), request)
    pixels = sum(result.mask.size for result in results)
    tumour = sum(result.tumour_pixels for result in results)
    headers = service.headers(tumour / pixels)
    if _wants_json(request):
        described = await run_in_threadpool(
            lambda: [_describe(*of, output) for of in zip(slices, results, strict=True)]
        )
        body = service.describe() | {
            "slices": described,
            "tumour_pixels": tumour,
            "tumour_fraction": tumour / pixels,
            "slices_with_tumour": sum(result.tumour_pixels > 0 for result in results),
            "slices_to_review": sum(result.review is not None for result in results),
        }
        return JSONResponse(body, headers=headers)
    draw = pictures.DRAW[output or "mask"]
    content = await run_in_threadpool(lambda: pictures.tiff(map(draw, slices, results)))
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


def _describe(image: np.ndarray, result: Segmentation, output: Output) -> dict[str, object]:
    """Return the figures of a slice, with the picture that is asked for."""
    figures = pictures.figures(result)
    if output is not None:
        figures["picture"] = pictures.png_url(pictures.DRAW[output](image, result))
    return figures


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


def _read_volume(uploads: list[bytes]) -> list[np.ndarray]:
    """Read all slices of the files and of the zips among them."""
    contents: list[bytes] = []
    room = 4 * MOST_PIXELS  # bytes in all zips together
    for content in uploads:
        if is_zip(content):
            unpacked = _unzip(content, room)
            room -= sum(map(len, unpacked))
            contents += unpacked
        else:
            contents.append(content)
    return read_volume(contents)


def _unzip(content: bytes, room: int) -> list[bytes]:
    """Return the files of a zip, at most ``room`` bytes; their names only decide the order."""
    if content.count(_ZIP_ENTRY) > _MOST_ENTRIES:  # zipfile would spend minutes on a long list
        raise Problem(422, "The zip lists absurdly many files.")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            wanted = [
                info
                for info in archive.infolist()
                if not info.is_dir() and not _left_out(PurePosixPath(info.filename))
            ]
            _check_one_volume([info.filename for info in wanted])
            if not wanted or len(wanted) > MOST_SLICES:
                raise Problem(
                    422, f"The zip holds {len(wanted)} files; 1 to {MOST_SLICES} are taken."
                )
            if sum(info.file_size for info in wanted) > room:
                raise Problem(422, "The zip is absurdly large once it is unpacked.")
            wanted.sort(key=lambda info: _natural(info.filename))
            return [_read_member(archive, info) for info in wanted]
    except Problem:
        raise
    # zipfile and its decoders raise many kinds of errors, and all of them mean the same here.
    except Exception as error:
        raise Problem(422, "The zip is broken, truncated or encrypted.") from error


def _left_out(path: PurePosixPath) -> bool:
    """Say whether a file in a zip is none of the slices: hidden, or a mask."""
    return path.name.startswith(".") or path.stem.endswith("_mask")


def _check_one_volume(names: list[str]) -> None:
    """Refuse the slices of several patients, which would be scaled and segmented as one volume.

    Raises:
        Problem: Files whose names end in numbers differ in what comes before.
    """
    volumes = sorted({match[1] for name in names if (match := _NUMBERED.fullmatch(name))})
    if len(volumes) > 1:
        raise Problem(
            422,
            f"The zip holds files of {len(volumes)} volumes by their names, and one is expected. "
            "Send a zip for each patient.",
        )


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Return a file, of which no more is unpacked than the size that the zip says it has."""
    # Of the other methods, zipfile unpacks as much as there is before it looks at the size.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Problem(422, "The zip is packed in an unusual way. Pack it with deflate.")
    with archive.open(info) as member:
        return member.read(info.file_size)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key in which slice_2 stands before slice_10, however long the numbers are."""
    key = []
    for number, part in enumerate(re.split(r"([0-9]+)", name)):
        if number % 2:  # every other part is of digits
            digits = part.lstrip("0")
            key.append((len(digits), digits))
        else:
            key.append((0, part))
    return key
