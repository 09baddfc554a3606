"""Every error as JSON that a person can act on: `what` happened, `fix`, and `fields` where input was wrong."""

from __future__ import annotations

from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from schemas.errors import ENVIRONMENT, USAGE, WeirError
from services.clickhouse import Unreachable

_log = structlog.get_logger()

_FIXES = {
    404: "see /openapi.json for the paths there are",
    405: "see /openapi.json for the methods that this path has",
    413: "send fewer or smaller events in one request",
}


class Refused(Exception):
    """An answer with this status. `fields` names what was wrong, by path."""

    def __init__(
        self,
        status: int,
        what: str,
        fix: str,
        *,
        fields: list[dict[str, str]] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(what)
        self.status, self.what, self.fix, self.fields, self.headers = status, what, fix, fields or [], headers


def answer(
    status: int,
    what: str,
    fix: str,
    fields: list[dict[str, str]] | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """Give the body of an error."""
    body: dict[str, Any] = {"what": what, "fix": fix}
    if fields:
        body["fields"] = fields
    return JSONResponse(body, status_code=status, headers=headers)


def install(app: FastAPI) -> None:
    """Make the app answer every error in this form."""

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return answer(error.status, error.what, error.fix, error.fields, error.headers)

    @app.exception_handler(WeirError)
    async def explained(request: Request, error: WeirError) -> JSONResponse:
        away = isinstance(error, Unreachable) or error.code == ENVIRONMENT
        headers = {"Retry-After": "2"} if away else None
        status = 503 if away else 422 if error.code == USAGE else 500
        if status == 500:
            _log.error("request_failed", path=request.url.path, reason=error.message)
        return answer(status, error.message, error.fix, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        fields = [{"at": _path(item["loc"]), "what": str(item["msg"])} for item in error.errors()]
        kind = request.headers.get("content-type", "none")
        body = fields[0]["at"] == "body" and "json" not in kind  # such a body is not read as JSON
        fix = f"send `Content-Type: application/json`; what came is {kind}" if body else "see /openapi.json"
        return answer(422, f"the request is not valid: {fields[0]['at']}: {fields[0]['what']}", fix, fields)

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> JSONResponse:
        what = f"{request.method} {request.url.path}: {error.detail}"
        return answer(
            error.status_code,
            what,
            _FIXES.get(error.status_code, "see /openapi.json"),
            headers=dict(error.headers or {}),
        )

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        _log.error("request_failed", path=request.url.path, error=type(error).__name__)
        return answer(500, "something went wrong inside `weir api`", "see its log; if it repeats, report it")


def _path(loc: Any) -> str:
    """Write where a field is.

    >>> _path(("body", "many", 0, "at_ms")), _path(("query", "limit"))
    ('body[0].at_ms', 'query.limit')
    """
    written = ""
    for part in loc:
        if part in ("one", "many") and written == "body":
            continue
        written += f"[{part}]" if isinstance(part, int) else f".{part}" if written else str(part)
    return written
