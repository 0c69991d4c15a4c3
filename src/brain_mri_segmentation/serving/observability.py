"""Request ids, JSON log lines and Prometheus metrics around every request."""

import json
import logging
import re
import uuid

from asgi_correlation_id import CorrelationIdMiddleware, correlation_id
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry
from prometheus_fastapi_instrumentator import Instrumentator, metrics

logger = logging.getLogger(__name__)

_SOUND_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_EXTRA = ("method", "path", "status", "seconds", "model", "device", "engine", "source")


def install(app: FastAPI, registry: CollectorRegistry) -> None:
    """Surround an application with the request's id, its log line and metrics.

    Args:
        app: The application, which gets the route ``/metrics``.
        registry: What ``/metrics`` shows; requests are counted here.
    """
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
