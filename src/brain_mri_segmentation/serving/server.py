"""The server around the application: HTTP/1.1 by h11, a bound on connections, and deadlines."""

import asyncio
import resource

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 384
"""Those that are answered; of more, 503 is said to as many again, and the rest is cut off."""
GRACE = 280
"""Seconds for what is in flight when the service is told to stop; less than a container has."""

_SILENCE = 20.0  # seconds without a byte of a request that has begun, or taken of an answer
_SECONDS = {"head": 10.0, "body": 300.0, "answer": 300.0}  # each in all


class Protocol(H11Protocol):
    """A connection that is cut off when a request or the taking of its answer lasts too long."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, unless there are far too many."""
        super().connection_made(transport)
        self._phase, self._progress, self._received = "", 0, 0
        self._phase_began = self._moved = self.loop.time()
        if len(self.connections) > 2 * MOST_CONNECTIONS:
            transport.abort()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection that has ended."""
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take some bytes of a request."""
        self._received += len(data)
        super().data_received(data)

    def _watch(self) -> None:
        """Look once a second at what is awaited of the client, and since when."""
        now, unsent = self.loop.time(), self.transport.get_write_buffer_size()
        if unsent:
            phase, progress = "answer", unsent
        elif self.conn.their_state is h11.SEND_BODY:
            phase, progress = "body", self._received
        elif self.conn.their_state is h11.IDLE:
            phase, progress = "head", self._received
        else:
            phase, progress = "", 0
        if phase != self._phase:
            self._phase, self._phase_began, self._moved = phase, now, now
        if progress != self._progress:
            self._progress, self._moved = progress, now
        if phase and (now - self._phase_began > _SECONDS[phase] or now - self._moved > _SILENCE):
            self.transport.abort()
        self._timer = self.loop.call_later(1, self._watch)


def run(app: FastAPI, host: str, port: int) -> None:
    """Serve an application until a signal ends it."""
    most_files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # connections, and large uploads
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    uvicorn.run(
        app,
        host=host,
        port=port,
        http=Protocol,
        ws="none",
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=GRACE,
        # The service logs uvicorn's lines, too; uvicorn's own settings would undo that.
        access_log=False,
        log_config=None,
        server_header=False,
    )
