"""Request ids, JSON log lines and Prometheus metrics around every request."""

import json
import logging
import re
import time
import uuid
from http import HTTPMethod

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from brain_mri_segmentation.serving.errors import failed

logger = logging.getLogger(__name__)

_METHODS = frozenset(HTTPMethod)
_SOUND_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_EXTRA = ("request_id", "method", "path", "status", "seconds", "model", "source", "val_dice")


class Metrics:
    """What ``/metrics`` shows, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "http_requests_total", "Answers", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "http_request_seconds",
            "Time to answer",
            ["route"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "http_requests_in_flight", "Requests being answered", registry=self.registry
        )
        self.model_seconds = Counter(
            "model_seconds_total", "Time in the model", registry=self.registry
        )
        self.slices = Counter("segmented_slices_total", "Slices segmented", registry=self.registry)

    def count_batch(self, slices: int, seconds: float) -> None:
        """Add one run of the model."""
        self.slices.inc(slices)
        self.model_seconds.inc(seconds)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        entry = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "message": record.getMessage(),
        }
        entry |= {name: getattr(record, name) for name in _EXTRA if hasattr(record, name)}
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class RequestContext:
    """Gives every request an id, a log line and its metrics, and cuts uploads that are too large.

    Args:
        app: The application.
        metrics: Where requests are counted.
        max_upload_bytes: Largest body that is read.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, max_upload_bytes: int) -> None:
        self._app, self._metrics, self._max = app, metrics, max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _SOUND_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status, answered, started = 500, False, time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status, answered = message["status"], True
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode("latin-1")),
                ]
            await send(message)

        self._metrics.in_flight.inc()
        try:
            await self._app(scope, self._limited(receive, headers), send_with_id)
        except Exception as error:
            if answered:
                raise
            logger.error("unexpected error", exc_info=error, extra={"request_id": request_id})
            await failed(request_id)(scope, receive, send_with_id)
        finally:
            self._metrics.in_flight.dec()
            seconds = time.perf_counter() - started
            # Not the path, nor any method: a scan of random ones must not fill the registry.
            route = getattr(scope.get("route"), "path", "unknown")
            method = scope["method"] if scope["method"] in _METHODS else "unknown"
            self._metrics.requests.labels(method, route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(seconds)
            logger.info(
                "request",
                extra={
                    "request_id": request_id,
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "seconds": round(seconds, 4),
                },
            )

    def _limited(self, receive: Receive, headers: dict[bytes, bytes]) -> Receive:
        read = 0
        announced = headers.get(b"content-length", b"0")

        async def receive_up_to_the_limit() -> Message:
            nonlocal read
            if announced.isdigit() and int(announced) > self._max:
                self._refuse()
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._max:
                self._refuse()
            return message

        return receive_up_to_the_limit

    def _refuse(self) -> None:
        # FastAPI lets this kind of error through from within the reading of a form.
        raise HTTPException(
            413, f"The upload is larger than {self._max} bytes (serving.max_upload_bytes)."
        )
