"""Who may ask, and how much: hosts, key and size of a request, and what a browser may do."""

import base64
import hashlib
import hmac
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import FastAPI, HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.serving.errors import problem

HOSTS_VARIABLE = "SERVING_ALLOWED_HOSTS"
"""Names under which the service may be asked, with commas between; addresses and localhost always
may. Others are refused, since any web page could give this machine a name of its own."""
KEY_VARIABLE = "SERVING_API_KEY"
"""What the header X-API-Key of a request must hold, or the token of Authorization: Bearer;
SERVING_API_KEY_FILE names a file with it. Empty, it asks for none."""

_GUARDED = ("/segment", "/infer", "/session", "/datastore", "/auth/token/valid")
_SHORTEST_KEY = 16
_PIECE = 2**16  # bytes of an answer that are handed over at once
_CSP = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_DOCS_CSP = (
    "default-src 'self'; img-src 'self' data:; script-src 'self' 'unsafe-inline'; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _CSP,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def install(app: FastAPI, limits: Mapping[str, int], most_bytes: int) -> None:
    """Surround an application with all of it.

    Args:
        app: The application; its state holds the ``key`` afterwards, or None.
        limits: Largest body by path; under any other path the largest of them.
        most_bytes: Of all bodies whose requests are not answered yet.

    Raises:
        InputError: The API key cannot be read, or is too short.
    """
    app.add_middleware(UploadLimit, limits=limits, most_bytes=most_bytes)
    names = os.environ.get(HOSTS_VARIABLE, "").lower().replace(",", " ").split()
    app.state.key = _read_key()
    app.add_middleware(Guard, hosts={"localhost", *names}, key=app.state.key)


def describe(app: FastAPI) -> None:
    """Say in the OpenAPI document which requests need the key, where there is one."""
    if app.state.key is None:
        return
    document = app.openapi()  # is made once and kept
    scheme = {"type": "apiKey", "in": "header", "name": "X-API-Key"}
    document["components"]["securitySchemes"] = {"key": scheme}
    for path, operations in document["paths"].items():
        if path.startswith(_GUARDED):
            for operation in operations.values():
                operation["security"] = [{"key": []}]


def page_policy(page: str) -> dict[str, str]:
    """Return the header with which a browser runs the scripts of a page, and no others."""
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    own = "connect-src 'self'; img-src 'self' blob: data:; style-src 'unsafe-inline'"
    return {"Content-Security-Policy": f"{_CSP}; {own}; script-src {hashes}"}


class Guard:
    """Refuses strangers, and tells browsers to be strict.

    Args:
        app: The application.
        hosts: Names under which it may be asked, besides addresses; ``*`` for any.
        key: What ``X-API-Key`` must hold where slices are segmented; None asks for no key.
    """

    def __init__(self, app: ASGIApp, hosts: set[str], key: bytes | None) -> None:
        self._app, self._hosts, self._key = app, hosts, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""

        async def send_strictly(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if scope["path"] == "/docs":
                    headers["Content-Security-Policy"] = _DOCS_CSP
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        app = self._app
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            if not self._knows(headers.get("host", "")):
                app = problem(400, f"The service is not known under this name ({HOSTS_VARIABLE}).")
            elif scope["path"].startswith(_GUARDED) and not self._admits(headers):
                app = problem(401, "The header X-API-Key must hold the key of this service.")
        await app(scope, receive, send_strictly)

    def _knows(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if name in self._hosts or "*" in self._hosts:
                return True
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True  # no other machine can be given an address as its name

    def _admits(self, headers: Headers) -> bool:
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        given = headers.get("x-api-key", bearer).encode("latin-1", "replace")
        return self._key is None or hmac.compare_digest(given, self._key)


class UploadLimit:
    """Cuts off requests that are too large, alone or together, and hands answers out in pieces.

    Args:
        app: The application.
        limits: Largest body by path; under any other path the largest of them.
        most_bytes: Of all bodies whose requests are not answered yet.
    """

    def __init__(self, app: ASGIApp, limits: Mapping[str, int], most_bytes: int) -> None:
        self._app, self._limits, self._room = app, limits, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        most = self._limits.get(scope.get("path", ""), max(self._limits.values()))
        announced = dict(scope.get("headers", ())).get(b"content-length", b"0")
        size = int(announced) if announced.isdigit() else 0
        received = 0

        # Raised from within the reading of a form, through which FastAPI lets it.
        def refuse_too_large() -> None:
            if max(size, received) > most:
                raise HTTPException(
                    413,
                    f"The upload is larger than {most} bytes (serving.max_upload_bytes, or "
                    "max_slice_bytes for one slice).",
                )

        async def receive_up_to_the_limit() -> Message:
            nonlocal received
            refuse_too_large()
            message = await receive()
            body = message.get("body", b"")
            received += len(body)
            self._room -= len(body)
            refuse_too_large()
            if body and self._room < 0:  # not also one that has arrived and looks for its client
                raise HTTPException(
                    429, "Too many uploads are under way. Try again in 5 s.", {"Retry-After": "5"}
                )
            return message

        async def send_in_pieces(message: Message) -> None:
            body = message.get("body", b"")
            for start in range(0, len(body) - _PIECE, _PIECE):
                piece = body[start : start + _PIECE]
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            if len(body) > _PIECE:
                message = {**message, "body": body[start + _PIECE :]}
            await send(message)

        try:
            await self._app(scope, receive_up_to_the_limit, send_in_pieces)
        finally:
            self._room += received


def _read_key() -> bytes | None:
    try:
        path = os.environ.get(f"{KEY_VARIABLE}_FILE")
        key = Path(path).read_text() if path else os.environ.get(KEY_VARIABLE) or None
    except (OSError, UnicodeError) as error:
        raise InputError(f"The API key cannot be read ({KEY_VARIABLE}_FILE): {error}") from error
    if key is None:
        return None
    if len(key := key.strip()) < _SHORTEST_KEY:
        raise InputError(
            f"The API key ({KEY_VARIABLE}) must have {_SHORTEST_KEY} characters or more, such as "
            "what openssl rand -hex 32 gives."
        )
    return key.encode()
