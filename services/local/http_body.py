"""The body of an HTTP/1.1 request as a stream of pieces: by length or in chunks, plain or compressed.

A body that ends early is an error, never a short body: half an INSERT must not become an INSERT.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, Protocol

PIECE = 1 << 20
_MAX_LINE = 8192
_MAX_HEAD_LINES = 100


class BodyError(Exception):
    """The body breaks the protocol: cut short, a bad chunk, a bad or unknown compression."""


class _Decompressor(Protocol):
    def decompress(self, data: bytes) -> bytes: ...
    @property
    def eof(self) -> bool: ...


def _gzip() -> Any:
    return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # by its header: gzip or zlib


def _lz4() -> Any:
    from lz4.frame import LZ4FrameDecompressor  # type: ignore[import-untyped]

    return LZ4FrameDecompressor()


def _zstd() -> Any:
    from backports.zstd import ZstdDecompressor

    return ZstdDecompressor()


_DECODERS: dict[str, Callable[[], Any]] = {"gzip": _gzip, "deflate": _gzip, "lz4": _lz4, "zstd": _zstd}


class Body:
    """One request's body. Iterate over it, or `read(limit)` it whole; `drain()` what is left before the answer."""

    def __init__(self, source: BinaryIO, headers: Mapping[str, str]) -> None:
        self._source = source
        self._chunked = "chunked" in (headers.get("Transfer-Encoding") or "").lower()
        length = headers.get("Content-Length")
        if length is not None and not length.strip().isdigit():
            raise BodyError(f"Content-Length is a number of bytes, got {length!r}")
        if self._chunked and length is not None:
            raise BodyError("A request has Content-Length or Transfer-Encoding, not both")
        self._left = int(length or 0)
        self._raw = self._pieces()
        self.finished = not self._chunked and self._left == 0
        encoding = (headers.get("Content-Encoding") or "identity").strip().lower()
        if encoding not in ("identity", *_DECODERS):
            raise BodyError(f"Content-Encoding {encoding!r} is not known here: use {', '.join(_DECODERS)} or none")
        self._decode = _DECODERS.get(encoding)

    def __iter__(self) -> Iterator[bytes]:
        return self._decoded(self._decode) if self._decode else self._raw

    def read(self, limit: int) -> bytes | None:
        """The whole body, or None when it is longer than `limit` bytes."""
        pieces, size = [], 0
        for piece in self:
            size += len(piece)
            if size > limit:
                return None
            pieces.append(piece)
        return b"".join(pieces)

    def drain(self) -> None:
        """Read to the end and forget, so that the next request on this connection starts at its start."""
        for _ in self._raw:
            pass

    def _pieces(self) -> Iterator[bytes]:
        if self._chunked:
            while size := self._chunk_size():
                yield from self._exactly(size)
                if self._line() != b"":
                    raise BodyError("A chunk is longer than it says")
            for _ in range(_MAX_HEAD_LINES):  # trailers, which mean nothing here
                if not self._line():
                    break
            else:
                raise BodyError("Too many trailers")
        else:
            left, self._left = self._left, 0
            yield from self._exactly(left)
        self.finished = True

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size:
            piece = self._source.read(min(size, PIECE))
            if not piece:
                raise BodyError(f"The body ended {size} bytes early")
            size -= len(piece)
            yield piece

    def _chunk_size(self) -> int:
        line = self._line().split(b";", 1)[0].strip()
        try:
            size = int(line, 16) if line.isalnum() else -1
        except ValueError:
            size = -1
        if size < 0:
            raise BodyError(f"A chunk starts with its size in hexadecimal digits, got {line[:40]!r}")
        return size

    def _line(self) -> bytes:
        line = self._source.readline(_MAX_LINE + 1)
        if not line.endswith(b"\n"):
            raise BodyError("The body ended inside a chunk's head")
        return line.rstrip(b"\r\n")

    def _decoded(self, decoder: Callable[[], Any]) -> Iterator[bytes]:
        current: Any = None
        for piece in self._raw:
            while piece:
                if current is None:
                    current = decoder()
                try:
                    plain = current.decompress(piece)
                except Exception as error:  # each library has its own kind
                    raise BodyError(f"The body does not decompress: {error}") from None
                # Several frames one after the other are one body (clickhouse-connect compresses block by block).
                piece = (current.unused_data or b"") if current.eof else b""
                if current.eof:
                    current = None
                if plain:
                    yield plain
        if current is not None:
            raise BodyError("The compressed body ends inside a frame")
