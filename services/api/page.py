"""The page's files, read once, with headers under which nothing foreign and nothing inline runs.

Vendored modules are kept byte for byte, and import each other without a suffix; a path without one is therefore looked
up with `.js` too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response
from xxhash import xxh3_64_hexdigest

from services.api.errors import Refused

FILES = Path(__file__).parent / "page"
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    ".txt": "text/plain; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class File:
    """One file: its bytes, its type, a tag that changes with it."""

    body: bytes
    kind: str
    tag: str


def read_files(directory: Path = FILES) -> dict[str, File]:
    """Give every file by its path from the root of the page; `index.html` also stands for the root."""
    files: dict[str, File] = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.suffix in _TYPES:
            body = path.read_bytes()
            files[path.relative_to(directory).as_posix()] = File(
                body, _TYPES[path.suffix], f'"{xxh3_64_hexdigest(body)}"'
            )
    files[""] = files["index.html"]
    return files


def router() -> APIRouter:
    """Give the routes of the page."""
    routes = APIRouter(include_in_schema=False)
    files = read_files()

    def found(path: str, request: Request) -> Response:
        file = files.get(path) or files.get(f"{path}.js")
        if file is None:
            raise Refused(
                404, f"there is no /{path}", "the page is at /, the API under /v1, its description at /openapi.json"
            )
        headers = {**HEADERS, "ETag": file.tag}
        if request.headers.get("if-none-match") == file.tag:
            return Response(status_code=304, headers=headers)
        return Response(file.body, media_type=file.kind, headers=headers)

    @routes.get("/")
    async def root(request: Request) -> Response:
        return found("", request)

    @routes.get("/page/{path:path}")
    async def file(path: str, request: Request) -> Response:
        return found(path, request)

    return routes
