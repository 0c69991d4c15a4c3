"""Request ids, JSON log lines and Prometheus metrics around every request, and its largest size."""

import json
import logging
import re
import uuid

from asgi_correlation_id import CorrelationIdMiddleware, correlation_id
from fastapi import FastAPI, HTTPException
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry
from prometheus_fastapi_instrumentator import Instrumentator, metrics
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

_SOUND_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_EXTRA = ("method", "path", "status", "seconds", "model", "device", "source", "val_dice")


def install(app: FastAPI, registry: CollectorRegistry, max_upload_bytes: int) -> None:
    """Surround an application with the request's id, its log line, metrics and size limit.

    Args:
        app: The application, which gets the route ``/metrics``.
        registry: What ``/metrics`` shows; requests are counted here.
        max_upload_bytes: Largest body that is read.
    """
    app.add_middleware(UploadLimit, max_bytes=max_upload_bytes)
    # No label holds a path or a method of the client's: a scan must not fill the registry.
    Instrumentator(should_group_status_codes=False, registry=registry).add(
        metrics.requests(should_include_method=False, registry=registry),
        metrics.latency(
            should_include_method=False,
            should_include_status=False,
            buckets=_SECONDS,
            registry=registry,
        ),
        _log_request,
    ).instrument(app).expose(app, summary="Prometheus metrics", response_class=PlainTextResponse)
    app.add_middleware(
        CorrelationIdMiddleware,
        generator=lambda: uuid.uuid4().hex,
        validator=lambda given: _SOUND_ID.fullmatch(given) is not None,
    )


def log_as_json() -> None:
    """Write the log of the service, and of the server around it, as one JSON object a line."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    for name in ("brain_mri_segmentation", "uvicorn", "asgi_correlation_id"):
        log = logging.getLogger(name)
        log.handlers, log.propagate = [handler], False
        log.setLevel(logging.INFO)


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with the id of the request that it is about."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        entry = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "message": record.getMessage(),
        }
        if request_id := correlation_id.get():
            entry["request_id"] = request_id
        entry |= {name: getattr(record, name) for name in _EXTRA if hasattr(record, name)}
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class UploadLimit:
    """Cuts off a request whose body is too large, while it arrives.

    Args:
        app: The application.
        max_bytes: Largest body that is read.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        announced = dict(scope.get("headers", ())).get(b"content-length", b"0")
        read = int(announced) if announced.isdigit() else 0
        received = 0

        async def receive_up_to_the_limit() -> Message:
            nonlocal received
            # Raised from within the reading of a form, through which FastAPI lets it.
            self._refuse_more_than(read)
            message = await receive()
            received += len(message.get("body", b""))
            self._refuse_more_than(received)
            return message

        await self._app(scope, receive_up_to_the_limit, send)

    def _refuse_more_than(self, size: int) -> None:
        if size > self._max:
            raise HTTPException(
                413, f"The upload is larger than {self._max} bytes (serving.max_upload_bytes)."
            )


def _log_request(info: metrics.Info) -> None:
    logger.info(
        "request",
        extra={
            "method": info.method,
            "path": info.request.scope["path"],
            "status": int(info.modified_status),
            "seconds": round(info.modified_duration, 4),
        },
    )
