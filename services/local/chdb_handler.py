"""ClickHouse's HTTP interface, one request at a time: what a request asks for, and how the answer looks.

Spoken here: `GET /ping`; `GET` (read only) and `POST /` with the statement in the URL, the body, both, or a multipart
form; `param_x` for `{x:Type}`; settings in the URL; `database`, `default_format`, `query_id`, `session_id`; inserts
with the data in the body; ClickHouse's headers, codes and statuses. An answer is buffered when the client asks for
`wait_end_of_query`, and streamed in chunks otherwise where the format allows.

Answers are never compressed: over the loopback interface that would only cost time, and HTTP lets a server decline.
"""

from __future__ import annotations

import base64
import email
import email.policy
import errno
import hmac
import json
import logging
import re
import secrets
import socket
import uuid
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import parse_qsl, urlsplit

from services.local import chdb_engine as engine_of
from services.local.chdb_engine import EngineError, Handle, Result
from services.local.chdb_statement import InsertHead, is_insert, keeps_state, output_format, split_insert
from services.local.http_body import Body, BodyError
from services.local.spool import Spool

if TYPE_CHECKING:
    from services.local.chdb_http import ChdbServer

log = logging.getLogger("weir.clickhouse")

MAX_STATEMENT = 256 << 20  # a statement that is not data
_MAX_HEAD = 1 << 20  # how far an INSERT may go before its data begins

# Parameters that steer the HTTP interface and mean nothing to the engine.
_TRANSPORT = frozenset(
    """
    query database default_format query_id session_id session_timeout session_check user password quota_key role
    wait_end_of_query buffer_size compress decompress client_protocol_version enable_http_compression
    http_zlib_compression_level send_progress_in_http_headers http_headers_progress_interval_ms add_http_cors_header
    cancel_http_readonly_queries_on_client_close
    """.split()  # noqa: SIM905 — a paragraph of names reads better than a list of literals
)
# As ClickHouse's server maps its codes; every other code is a 500.
_STATUS = {
    **dict.fromkeys((192, 193, 497, 512, 516), 403),  # who asks
    194: 401,
    **dict.fromkeys((6, 8, 15, 25, 26, 27, 36, 37, 38, 41, 44, 53, 62, 72, 117, 123, 167, 168, 223), 400),  # what
    **dict.fromkeys((321, 376, 427, 441, 675, 676), 400),
    **dict.fromkeys((46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 152, 336, 511), 404),  # a name that does not exist
    159: 408,
    229: 413,
    48: 501,
    **dict.fromkeys((76, 209, 439), 503),
}


def _unauthenticated() -> EngineError:
    why = "Authentication failed: wrong user or password; the password is in `http_password` in the data directory"
    return EngineError.made(516, "AUTHENTICATION_FAILED", why)


def _read_only() -> EngineError:
    why = "A GET request only reads: send statements that change something by POST"
    return EngineError.made(engine_of.READONLY, "READONLY", why)


class Request(BaseHTTPRequestHandler):
    """One connection; `handle_one_request` runs once per request, keep-alive between them."""

    server: ChdbServer
    protocol_version = "HTTP/1.1"
    server_version = "weir-chdb"
    disable_nagle_algorithm = True
    rbufsize = 1 << 18
    timeout = 600.0  # a connection that says nothing for so long is closed

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)

    def _serve(self) -> None:
        url = urlsplit(self.path)
        self._sent = False
        self._query_id = str(uuid.uuid4())
        body: Body | None = None
        with self.server.in_flight():
            try:
                body = Body(cast(BinaryIO, self.rfile), cast(Mapping[str, str], self.headers))
                if url.path == "/ping":
                    self._answer(200, b"Ok.\n", {})
                elif url.path != "/":
                    self._answer(404, f"There is no {url.path} here: use / or /ping\n".encode(), {})
                else:
                    self._statement(dict(parse_qsl(url.query, keep_blank_values=True)), body)
            except EngineError as error:
                self._fail(error, body)
            except BodyError as error:
                self.close_connection = True
                self._fail(EngineError.made(engine_of.NETWORK_ERROR, "NETWORK_ERROR", str(error)), None, status=400)
            except (ConnectionError, TimeoutError):
                self.close_connection = True
            except OSError as error:
                log.error("request failed: %s", error)
                full = error.errno == errno.ENOSPC
                self._fail(
                    EngineError.made(243, "NOT_ENOUGH_SPACE", str(error)) if full else EngineError.of(error), body
                )
            except Exception as error:
                log.exception("request failed")
                self._fail(EngineError.of(error), body)

    # -- what is asked ------------------------------------------------------------------------------------------------

    def _statement(self, args: dict[str, str], body: Body) -> None:
        self._query_id = args.get("query_id") or self._query_id
        self._authenticate(args)
        for name in ("compress", "decompress"):
            if args.get(name, "0") not in ("", "0"):
                text = (
                    f"`{name}=1` (ClickHouse's own block compression) is not served: use Content-Encoding, or nothing"
                )
                raise EngineError.made(engine_of.NOT_IMPLEMENTED, "NOT_IMPLEMENTED", text)
        pieces = iter(body)
        if self.headers.get_content_type() == "multipart/form-data":
            self._read_form(args, body)
            pieces = iter(())
        head, pieces = _head(args.get("query", ""), pieces)
        insert = split_insert(head)
        if insert is None:
            size, rest = len(head), [head]
            for piece in pieces:
                size += len(piece)
                if size > MAX_STATEMENT:
                    text = f"A statement has at most {MAX_STATEMENT} bytes; send rows as the data of an INSERT"
                    raise EngineError.made(229, "QUERY_IS_TOO_LARGE", text)
                rest.append(piece)
            head = b"".join(rest)
        sql = insert.into if insert else head.decode("utf-8", "surrogateescape")
        params = {name[6:]: value for name, value in args.items() if name.startswith("param_")}
        settings = {k: v for k, v in args.items() if k not in _TRANSPORT and not k.startswith("param_")}
        stateful = insert is None and keeps_state(sql)
        with self.server.sessions.handle(args.get("session_id", ""), stateful) as (handle, kept):
            database = args.get("database") or self.headers.get("X-ClickHouse-Database")
            if database and (kept or database != "default"):
                handle.use(database)
            with engine_of.settings_for_one_request(handle, settings, kept):
                if insert:
                    self._insert(handle, insert, params, chain((head[insert.data_at :],), pieces))
                else:
                    self._query(handle, sql, params, args)

    def _authenticate(self, args: Mapping[str, str]) -> None:
        user, password = args.get("user", ""), args.get("password", "")
        authorization = self.headers.get("Authorization") or ""
        if authorization[:6].lower() == "basic ":
            try:
                user, _, password = base64.b64decode(authorization[6:], validate=True).decode().partition(":")
            except ValueError:
                raise _unauthenticated() from None
        elif "X-ClickHouse-User" in self.headers:
            user, password = self.headers["X-ClickHouse-User"], self.headers.get("X-ClickHouse-Key") or ""
        right_user = hmac.compare_digest(user.encode("utf-8", "replace"), self.server.user.encode())
        right_password = hmac.compare_digest(password.encode("utf-8", "replace"), self.server.password.encode())
        if not (right_user and right_password):
            raise _unauthenticated()

    def _read_form(self, args: dict[str, str], body: Body) -> None:
        """Statement and parameters from a form: what clickhouse-connect sends when they are long for a URL."""
        text = body.read(MAX_STATEMENT)
        if text is None:
            raise EngineError.made(229, "QUERY_IS_TOO_LARGE", f"A form has at most {MAX_STATEMENT} bytes")
        kind = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode("latin-1")
        for part in email.message_from_bytes(kind + text, policy=email.policy.HTTP).iter_parts():
            name = str(part.get_param("name", "", header="Content-Disposition"))
            if name != "query" and not name.startswith("param_"):
                why = f"The form field {name!r} is not known here; external tables are not served"
                raise EngineError.made(engine_of.NOT_IMPLEMENTED, "NOT_IMPLEMENTED", why)
            content = part.get_payload(decode=True)
            args[name] = content.decode() if isinstance(content, bytes) else ""

    # -- what is done -------------------------------------------------------------------------------------------------

    def _insert(self, handle: Handle, insert: InsertHead, params: Mapping[str, str], data: Iterator[bytes]) -> None:
        if self.command == "GET":
            raise _read_only()
        spool = Spool(self.server.directory)
        try:
            for piece in data:
                spool.write(piece)
            result = handle.insert(insert, spool.path, params)
        finally:
            spool.close()
        self._answer(200, b"", self._summary(result))

    def _query(self, handle: Handle, sql: str, params: Mapping[str, str], args: Mapping[str, str]) -> None:
        engine_of.refuse_unsafe(sql)
        kind, count = handle.statement_class(sql)
        if count > 1:
            text = f"One statement per request, got {count}"
            raise EngineError.made(engine_of.SYNTAX_ERROR, "SYNTAX_ERROR", text)
        if self.command == "GET" and kind != "READ_ONLY":
            raise _read_only()
        default = args.get("default_format") or self.headers.get("X-ClickHouse-Format") or "TabSeparated"
        output = output_format(sql) or default
        buffered = args.get("wait_end_of_query", "0") not in ("", "0") or self.request_version == "HTTP/1.0"
        if kind == "READ_ONLY" and not buffered and output in engine_of.JOINABLE:
            self._stream(output, handle.stream(sql, output, params))
            return
        result = handle.query(sql, output, params)
        headers = self._summary(result)
        if kind == "READ_ONLY" or result.size():
            headers["X-ClickHouse-Format"] = output
        self._answer(200, result.get_memview().view() if result.size() else b"", headers)

    def _summary(self, result: Result) -> dict[str, str]:
        summary = {
            "read_rows": result.storage_rows_read() or result.rows_read(),
            "read_bytes": result.storage_bytes_read() or result.bytes_read(),
            "written_rows": result.rows_written(),
            "written_bytes": result.bytes_written(),
            "total_rows_to_read": 0,
            "result_bytes": result.size(),
            "elapsed_ns": int(result.elapsed() * 1e9),
        }
        return {"X-ClickHouse-Summary": json.dumps({name: str(value) for name, value in summary.items()})}

    # -- what is answered ---------------------------------------------------------------------------------------------

    def _head(self, status: int, headers: Mapping[str, str]) -> bytes:
        lines = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            f"Date: {self.date_time_string()}",
            f"Connection: {'close' if self.close_connection else 'Keep-Alive'}",
            f"X-ClickHouse-Server-Display-Name: {self.server_version}",
            f"X-ClickHouse-Query-Id: {re.sub(r'[^ -~]', '?', self._query_id)}",
            f"X-ClickHouse-Timezone: {self.server.engine.timezone}",
            "Content-Type: text/plain; charset=UTF-8" if status != 200 else "Content-Type: application/octet-stream",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")

    def _answer(self, status: int, content: bytes | memoryview, headers: Mapping[str, str]) -> None:
        head = self._head(status, {**headers, "Content-Length": str(len(content))})
        self._sent = True
        connection: socket.socket = self.connection
        if len(content) < 1 << 16:
            connection.sendall(head + bytes(content))  # one packet
        else:
            connection.sendall(head)
            connection.sendall(content)  # straight from the engine's buffer

    def _stream(self, output: str, blocks: Iterator[bytes]) -> None:
        """Chunks as they come. An error before the first is a status; a later one is ClickHouse's tagged tail."""
        first = next(blocks, b"")
        tag = secrets.token_hex(8)
        headers = {
            "X-ClickHouse-Format": output,
            "X-ClickHouse-Exception-Tag": tag,
            "Transfer-Encoding": "chunked",
        }
        self._sent = True
        connection: socket.socket = self.connection
        head = self._head(200, headers)
        try:
            for block in chain((first,), blocks):
                if block:
                    connection.sendall(b"%s%x\r\n%s\r\n" % (head, len(block), block))
                    head = b""
            connection.sendall(head + b"0\r\n\r\n")
        except EngineError as error:
            self.close_connection = True
            text = str(error).encode("utf-8", "replace") + b"\n"
            tail = b"\r\n__exception__\r\n%s\r\n%s%d %s\r\n__exception__\r\n" % (
                tag.encode(),
                text,
                len(text),
                tag.encode(),
            )
            connection.sendall(b"%x\r\n%s\r\n0\r\n\r\n" % (len(tail), tail))

    def _fail(self, error: EngineError, body: Body | None, status: int | None = None) -> None:
        """The error as ClickHouse sends it. What the client is still sending is read first: it would not listen."""
        if self._sent:
            self.close_connection = True
            return
        try:
            if body is not None and not body.finished:
                body.drain()
            text = str(error).encode("utf-8", "replace") + b"\n"
            code = {"X-ClickHouse-Exception-Code": str(error.code)}
            self._answer(status or _STATUS.get(error.code, 500), text, code)
        except (OSError, BodyError):
            self.close_connection = True


def _head(query: str, pieces: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """Enough of the request's text to know what it is, and the rest of its pieces."""
    head = query.encode("utf-8", "surrogateescape")
    if head and split_insert(head):
        return head, pieces
    first = next(pieces, b"")
    head = head + b"\n" + first if head else first
    while is_insert(head) and not split_insert(head) and len(head) < _MAX_HEAD:
        piece = next(pieces, b"")
        if not piece:
            break
        head += piece
    return head, pieces
