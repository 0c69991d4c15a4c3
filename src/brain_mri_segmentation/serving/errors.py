"""Errors as RFC 9457 problem details: one clear message, and nothing about the inside."""

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from brain_mri_segmentation.errors import InputError
from brain_mri_segmentation.imaging.readers import NotAnImage


class Problem(Exception):  # noqa: N818 - the word of the standard
    """A refusal that the client can understand.

    Args:
        status: HTTP status.
        detail: What is wrong and what to do, for the person who sent the request.
        headers: Further response headers.
    """

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers


def problem_response(
    status: int, detail: str, request_id: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    """Return ``application/problem+json`` with the request's id."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "request_id": request_id,
    }
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def install(app: FastAPI) -> None:
    """Answer every error of an application with problem details."""

    def request_id(request: Request) -> str:
        return getattr(request.state, "request_id", "")

    @app.exception_handler(Problem)
    def refused(request: Request, error: Problem) -> JSONResponse:
        return problem_response(error.status, error.detail, request_id(request), error.headers)

    @app.exception_handler(InputError)
    def unsuitable(request: Request, error: InputError) -> JSONResponse:
        status = 415 if isinstance(error, NotAnImage) else 422
        return problem_response(status, str(error), request_id(request))

    @app.exception_handler(HTTPException)
    def http_error(request: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        return problem_response(error.status_code, str(error.detail), request_id(request), headers)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place, *names = (str(part) for part in first["loc"])
        detail = f"{'.'.join([place, *names])}: {first['msg']}"
        if place == "body" and names:
            detail = (
                f"The form must hold a file in its field '{names[0]}', "
                f"as curl -F {names[0]}=@slice.tif sends it."
            )
        return problem_response(422, detail, request_id(request))


def failed(request_id: str) -> JSONResponse:
    """Return the answer to a request on which the service itself has failed."""
    detail = "The service failed on this request. Its log names the cause under the request id."
    return problem_response(500, detail, request_id)
