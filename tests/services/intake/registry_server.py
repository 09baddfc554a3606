"""A small schema registry over HTTP, with the part of Confluent's API that a reader uses, and a plain Avro writer."""

from __future__ import annotations

import json
import struct
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(slots=True)
class RegistryServer:
    """What it holds: schemas by number, versions of subjects; which paths were asked; and what it demands."""

    schemas: dict[int, dict[str, Any]] = field(default_factory=dict)
    subjects: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    auth: str = ""
    status: int = 200
    url: str = ""

    def answer(self, path: str, auth: str | None) -> tuple[int, dict[str, Any]]:
        self.asked.append(path)
        if self.status != 200:
            return self.status, {"error_code": self.status}
        if self.auth and auth != "Basic " + b64encode(self.auth.encode()).decode():
            return 401, {"error_code": 401}
        parts = path.strip("/").split("/")
        found = None
        if parts[:2] == ["schemas", "ids"]:
            found = self.schemas.get(int(parts[2]))
        elif parts[0] == "subjects":
            found = self.subjects.get((parts[1], int(parts[3])))
        return (200, found) if found is not None else (404, {"error_code": 40403, "message": "Schema not found"})


@contextmanager
def registry(port: int = 0, **more: Any) -> Iterator[RegistryServer]:
    """Serve one until the block ends."""
    held = RegistryServer(**more)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = held.answer(self.path, self.headers.get("Authorization"))
            written = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
            self.send_header("Content-Length", str(len(written)))
            self.end_headers()
            self.wfile.write(written)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    held.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield held
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def frame(number: int, body: bytes) -> bytes:
    """Put a schema's number before a record."""
    return b"\x00" + number.to_bytes(4, "big") + body


def write(schema: Any, value: Any) -> bytes:
    """Write a value of a schema (no references; the first branch of a union that fits), as plainly as can be."""
    if isinstance(schema, list):
        index = next(number for number, branch in enumerate(schema) if _fits(branch, value))
        return _long(index) + write(schema[index], value)
    kind = schema["type"] if isinstance(schema, dict) else schema
    if kind == "record":
        return b"".join(write(one["type"], value[one["name"]]) for one in schema["fields"])
    if kind == "array":
        items = b"".join(write(schema["items"], one) for one in value)
        return (_long(len(value)) + items if value else b"") + _long(0)
    if kind == "map":
        pairs = b"".join(write("string", name) + write(schema["values"], one) for name, one in value.items())
        # in a block that says how many bytes it has, which a writer may do
        return (_long(-len(value)) + _long(len(pairs)) + pairs if value else b"") + _long(0)
    if kind == "enum":
        return _long(schema["symbols"].index(value))
    return _primitive(kind, value)


def _primitive(kind: str, value: Any) -> bytes:
    if kind == "null":
        return b""
    if kind == "boolean":
        return bytes([value])
    if kind == "string":
        text = str(value).encode()
        return _long(len(text)) + text
    return struct.pack("<d", value) if kind == "double" else _long(value)


def _fits(branch: Any, value: Any) -> bool:
    kind = branch["type"] if isinstance(branch, dict) else branch
    types: dict[str, Any] = {"null": type(None), "boolean": bool, "long": int, "double": float, "string": str}
    return type(value) is types.get(kind, dict)


def _long(number: int) -> bytes:
    coded = (number << 1) ^ (number >> 63)
    out = bytearray()
    while coded >= 0x80:
        out.append(coded & 0x7F | 0x80)
        coded >>= 7
    return bytes([*out, coded])
