"""Errors as problem details (RFC 9457). The HTTP status of every error is decided here."""

from collections.abc import Mapping
from typing import Final

import psycopg
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from tokenworks.kernel import Conflict, Invalid, NotFound, Refused, TokenworksError, Unavailable
from tokenworks.trust import ApprovalNeeded, NotAllowed, NotSignedIn, TooManyCodes
from tokenworks.web.content import encode
from tokenworks.web.lists import Changed, OutOfRange
from tokenworks.web.repeats import RepeatedRequest

log = structlog.get_logger()

_STATUS: Final[tuple[tuple[type[TokenworksError], int], ...]] = (
    (NotSignedIn, 401),
    (TooManyCodes, 429),
    (NotAllowed, 403),
    (Changed, 412),
    (NotFound, 404),
    (OutOfRange, 416),
    (Invalid, 400),
    (Conflict, 409),
    (Refused, 422),
    (Unavailable, 503),
)


def problem(status: int, title: str, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """Problem details (RFC 9457)."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return Response(encode(body), status, headers, "application/problem+json")


def status_of(kind: type[TokenworksError]) -> int:
    """The HTTP status of a class of our errors."""
    return next((status for known, status in _STATUS if issubclass(kind, known)), 409)


def explain_errors(app: FastAPI) -> None:
    @app.exception_handler(Exception)
    def failed(request: Request, error: Exception) -> Response:
        """A defect. Its line is in the log before the client has the answer, with the route: a path may name a person. The framework
        raises the error again after the answer.
        """
        route = getattr(request.scope.get("route"), "path", None)
        log.error("request.failed", method=request.method, route=route, exc_info=error)
        return problem(500, "Failed", "the server has a defect here: its log says which")

    @app.exception_handler(TokenworksError)
    def refused(request: Request, error: TokenworksError) -> Response:
        if isinstance(error, ApprovalNeeded):
            with request.app.state.open_services() as services:
                services.approvals.ask(error.wanted)
        status = status_of(type(error))
        headers = {}
        if isinstance(error, TooManyCodes):
            headers["Retry-After"] = str(error.wait_s)
        if isinstance(error, OutOfRange):
            headers["Content-Range"] = f"items */{error.total}"
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return problem(status, type(error).__name__, str(error), headers)

    @app.exception_handler(RepeatedRequest)
    def repeated_request(_request: Request, repeated: RepeatedRequest) -> Response:
        headers = {**repeated.kept.headers, "Idempotent-Replayed": "true"}
        return Response(repeated.kept.body, repeated.kept.status, headers)

    @app.exception_handler(psycopg.errors.UniqueViolation)
    def unique_violation(_request: Request, _error: psycopg.errors.UniqueViolation) -> Response:
        """Two concurrent requests passed the same check; the unique index lets one succeed."""
        return problem(409, "Conflict", "the same was done at this moment: look, and try again")

    @app.exception_handler(psycopg.DataError)
    def data_error(_request: Request, _error: psycopg.DataError) -> Response:
        """A number, an instant or a text passed all checks and fits no column. The transaction is rolled back: nothing is changed."""
        return problem(400, "Invalid", "a number, an instant or a text is beyond what can be kept")

    @app.exception_handler(RequestValidationError)
    def validation_error(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
        return problem(400, "Invalid", f"{where}: {first['msg']}"[:500])

    @app.exception_handler(HTTPException)
    def http_error(_request: Request, error: HTTPException) -> Response:
        titles = {404: "NotFound", 405: "MethodNotAllowed"}
        return problem(
            error.status_code, titles.get(error.status_code, "Refused"), str(error.detail), error.headers
        )
