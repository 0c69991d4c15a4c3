"""Refusals as RFC 9457 problem details: one clear message, and nothing about the inside."""

from collections.abc import Mapping
from http import HTTPStatus

from asgi_correlation_id import correlation_id
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.readers import NotAnImage


def install(app: FastAPI) -> None:
    """Answer every error of an application with problem details."""

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return problem(error.status_code, error.detail, error.headers)

    @app.exception_handler(InputError)
    async def unsuitable(_: Request, error: InputError) -> JSONResponse:
        return problem(415 if isinstance(error, NotAnImage) else 422, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place, *names = (str(part) for part in first["loc"])
        detail = f"{'.'.join([place, *names])}: {first['msg']}"
        if place == "body" and names:
            detail = (
                f"The form must hold a file in its field '{names[0]}', "
                f"as curl -F {names[0]}=@slice.tif sends it."
            )
        return problem(422, detail)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:  # noqa: ARG001 - uvicorn logs it
        detail = "The service failed on this request. Its log names the cause under the request id."
        # This handler answers outside of all middleware, which would add the id.
        return problem(500, detail, {"X-Request-ID": correlation_id.get() or ""})


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return ``application/problem+json`` with the request's id."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "request_id": correlation_id.get() or "",
    }
    return JSONResponse(body, status, headers, media_type="application/problem+json")
