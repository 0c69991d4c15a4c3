"""The requests of MONAI Label's clients, above all of its extension of 3D Slicer.

They segment a volume that someone has open there: it is sent once as a session, and the mask comes
back on its grid. Of what else MONAI Label does there is nothing here: no training, no choice of
the next case, and no store of images and labels.
"""

import asyncio
import hmac
import json
import os
import secrets
import shutil
import tempfile
import uuid
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Annotated, BinaryIO, Literal

from fastapi import APIRouter, File, Form, HTTPException, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse, Response

from brain_mri_segmentation import DISCLAIMER, __version__
from brain_mri_segmentation.imaging.medical import write_nifti
from brain_mri_segmentation.imaging.volume import Volume
from brain_mri_segmentation.inference.predictor import Prediction, Predictor
from brain_mri_segmentation.serving.routes import Sending, answer, geometry_of, to_dicom
from brain_mri_segmentation.serving.schemas import NO_KEY, NO_MODEL, NO_SESSION, REFUSALS

MOST_SESSIONS = 32
"""Sessions at once; one more takes the place of the one that was used longest ago."""
SECONDS = 3600.0
"""A session that is not used for so long is removed."""

_LABELS = {"glioma": 1}
_DOES_NOT = (
    "This service segments and does nothing else of MONAI Label: it does not train, choose the "
    "next sample, or store images and labels. Load a volume in Slicer and run the segmentation; "
    "save labels there."
)
_NO_SESSION = (
    "There is no such session: it was removed after an hour, or for others. Load the volume again."
)

router = APIRouter(
    tags=["MONAI Label"], form_limits={"max_fields": 16, "max_part_size": 64 * 2**10}
)

Output = Literal["image", "json", "dicom_seg", "all"]


@dataclass(frozen=True, eq=False)
class _Session:
    file: BinaryIO  # all files of the upload, one after the other
    sizes: list[int]
    end: asyncio.TimerHandle


@dataclass(frozen=True, eq=False)
class _File:
    """One of a session, which is not in memory while its request waits for its turn."""

    session: BinaryIO
    start: int
    size: int

    async def read(self) -> bytes:
        if self.session.closed:
            raise HTTPException(404, _NO_SESSION)
        # At its place, since others may read the session as well.
        return os.pread(self.session.fileno(), self.size, self.start)


class Sessions:
    """Uploads that wait to be segmented, in files without a name; few, and not for long.

    Args:
        most_bytes: Of all of them.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._sessions: dict[str, _Session] = {}  # that used longest ago first
        self._adding = asyncio.Lock()  # one at a time has room made for it

    async def add(self, uploads: list[UploadFile]) -> str:
        """Keep files, and return the name of their session, which nobody can guess."""
        name = secrets.token_urlsafe(24)
        sizes = [upload.size or 0 for upload in uploads]
        async with self._adding:
            while self._sessions and (
                len(self._sessions) >= MOST_SESSIONS or self._held() + sum(sizes) > self._most_bytes
            ):
                self.remove(next(iter(self._sessions)))
            file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - it outlives the request
            for upload in uploads:
                await run_in_threadpool(shutil.copyfileobj, upload.file, file)
            file.flush()
            self._keep(name, file, sizes)
        return name

    def open(self, name: str) -> list[_File]:
        """Return the files of a session, which may stay for another hour.

        Raises:
            HTTPException: 404, there is no such session; also when a file is read later.
        """
        session = self._take(name)
        self._keep(name, session.file, session.sizes)
        ends = accumulate(session.sizes)
        return [_File(session.file, end - n, n) for end, n in zip(ends, session.sizes, strict=True)]

    def remove(self, name: str) -> None:
        """Remove a session.

        Raises:
            HTTPException: 404, there is no such session.
        """
        self._take(name).file.close()

    def close(self) -> None:
        """Remove all sessions."""
        for name in list(self._sessions):
            self.remove(name)

    def _held(self) -> int:
        return sum(sum(session.sizes) for session in self._sessions.values())

    def _keep(self, name: str, file: BinaryIO, sizes: list[int]) -> None:
        end = asyncio.get_running_loop().call_later(SECONDS, self.remove, name)
        self._sessions[name] = _Session(file, sizes, end)

    def _take(self, name: str) -> _Session:
        if name not in self._sessions:
            raise HTTPException(404, _NO_SESSION)
        session = self._sessions.pop(name)
        session.end.cancel()
        return session


@router.get("/info/", summary="What can be segmented, as MONAI Label tells it", responses=NO_MODEL)
async def info(request: Request) -> dict[str, object]:
    """Name the model and its label."""
    checkpoint = request.app.state.service.predictor.checkpoint
    model = {
        "type": "segmentation",
        "labels": _LABELS,
        "dimension": 3,
        "description": f"Lower-grade glioma in FLAIR. {DISCLAIMER}",
        "version": checkpoint.digest,
        "config": {},
    }
    return {
        "name": "brain-mri-segmentation",
        "description": DISCLAIMER,
        "version": __version__,
        "labels": list(_LABELS),
        "models": {checkpoint.model_name: model},
        **{nothing: {} for nothing in ("trainers", "strategies", "scoring", "train_stats")},
        "datastore": await datastore(),
    }


@router.post(
    "/infer/{model}",
    summary="Segment a session or a file, as MONAI Label does",
    description="Answers with a form of `params` (JSON) and `image` (the mask as NIfTI on the grid "
    f"of what was sent), or with what `output` names alone. {DISCLAIMER}",
    response_class=Response,
    responses=REFUSALS | NO_SESSION,
)
async def infer(
    request: Request,
    model: str,
    sending: Sending,
    session_id: str = "",
    output: Output = "all",
    file: Annotated[UploadFile | None, File(description="A volume, where no session is.")] = None,
) -> Response:
    """Segment a volume; ``image``, a name of MONAI Label's store, says nothing here."""
    service = request.app.state.service
    if model != (name := service.predictor.checkpoint.model_name):
        raise HTTPException(404, f"The model here is {name}.")
    if session_id:
        files = service.sessions.open(session_id)
    elif file:
        files = [file]
    else:
        raise HTTPException(422, f"There is neither a session nor a file. {_DOES_NOT}")
    return await answer(request, files, sending, partial(_encode, output=output))


def _encode(
    volume: Volume, prediction: Prediction, predictor: Predictor, output: Output
) -> Response:
    geometry, checkpoint = geometry_of(volume), predictor.checkpoint
    if output == "dicom_seg":
        seg = to_dicom(volume, prediction, None, predictor)
        return Response(seg, media_type="application/dicom")
    said = prediction.in_sum() | {"label_names": _LABELS, "notes": volume.notes}
    params = json.dumps(said | {"model_version": checkpoint.digest, "warning": DISCLAIMER}).encode()
    if output == "json":
        return Response(params, media_type="application/json")
    mask = write_nifti(prediction.labels, geometry)
    if output == "image":
        return Response(mask, media_type="application/x-nifti")
    boundary = uuid.uuid4().hex
    parts = (
        (b'name="params"\r\nContent-Type: application/json', params),
        (b'name="image"; filename="glioma.nii.gz"\r\nContent-Type: application/x-nifti', mask),
    )
    line = b"--" + boundary.encode()
    body = b"".join(
        line + b"\r\nContent-Disposition: form-data; " + head + b"\r\n\r\n" + content + b"\r\n"
        for head, content in parts
    )
    return Response(body + line + b"--\r\n", media_type=f"multipart/form-data; boundary={boundary}")


@router.put(
    "/session/",
    summary="Send a volume for later requests",
    responses=REFUSALS,
)
async def create_session(
    request: Request, files: Annotated[list[UploadFile], File(min_length=1)]
) -> dict[str, object]:
    """Keep a volume for an hour after its last use."""
    name = await request.app.state.service.sessions.add(files)
    return {"session_id": name, "session_info": {"name": name, "expiry": int(SECONDS)}}


@router.get(
    "/session/{session_id}",
    summary="Is a session there?",
    responses=NO_SESSION,
)
async def get_session(request: Request, session_id: str) -> dict[str, object]:
    """Answer for a session, which may then stay for another hour."""
    request.app.state.service.sessions.open(session_id)
    return {"name": session_id, "expiry": int(SECONDS)}


@router.delete("/session/{session_id}", summary="Remove a session", responses=NO_SESSION)
async def remove_session(request: Request, session_id: str) -> dict[str, object]:
    """Remove what was sent."""
    request.app.state.service.sessions.remove(session_id)
    return {"name": session_id}


@router.get(
    "/datastore/",
    summary="A store of images, which is always empty",
    responses=NO_KEY,
)
async def datastore() -> dict[str, object]:
    """Say that nothing is stored."""
    return {"total": 0, "completed": 0, "objects": {}}


@router.get("/logs/", summary="Where the log is", response_class=PlainTextResponse)
async def logs() -> str:
    """Say where the log is: it names what others asked for."""
    return "The log is the standard error of the service's process, one JSON object a line.\n"


@router.get("/auth/", summary="Is there a key?")
async def auth(request: Request) -> dict[str, bool]:
    """Say whether the client must ask for a password, which is the key of this service."""
    return {"enabled": request.app.state.key is not None}


@router.post("/auth/token", summary="Exchange the key for a token", responses=REFUSALS)
async def token(request: Request, password: Annotated[str, Form()]) -> dict[str, str]:
    """Return the key as the token with which MONAI Label's client signs its requests."""
    given, key = password.encode(), request.app.state.key
    if key is None or not hmac.compare_digest(given, key):
        raise HTTPException(401, "The password must be the key of this service.")
    return {"access_token": password, "token_type": "Bearer"}


@router.get("/auth/token/valid", summary="Is the token valid?", responses=NO_KEY)
async def token_is_valid() -> dict[str, bool]:
    """Answer those that the guard lets through."""
    return {"valid": True}


@router.api_route("/train/{rest:path}", methods=["GET", "POST", "DELETE"], include_in_schema=False)
@router.api_route("/activelearning/{rest:path}", methods=["POST"], include_in_schema=False)
@router.api_route(
    "/datastore/{rest:path}", methods=["GET", "PUT", "DELETE"], include_in_schema=False
)
async def refuse() -> None:
    """Refuse what is not done here, in a sentence that the client shows."""
    raise HTTPException(404, _DOES_NOT)
