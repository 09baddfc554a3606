"""Request bodies: whatever the framing and the compression, the same bytes; cut anywhere, an error."""

import gzip
import io
import zlib
from collections.abc import Callable

import lz4.frame  # type: ignore[import-untyped]
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from services.local.http_body import Body, BodyError

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "lz4": lz4.frame.compress,
    "zstd": zstd.compress,
}


def framed(pieces: list[bytes], encoding: str, chunked: bool) -> tuple[bytes, dict[str, str]]:
    """Write pieces as a request body, each its own frame and its own chunk."""
    wire = [COMPRESSORS[encoding](piece) for piece in pieces]
    if not chunked:
        return b"".join(wire), {"Content-Encoding": encoding, "Content-Length": str(len(b"".join(wire)))}
    body = b"".join(b"%X;note=1\r\n%s\r\n" % (len(piece), piece) for piece in wire if piece)
    return body + b"0\r\nTrailer: x\r\n\r\n", {"Content-Encoding": encoding, "Transfer-Encoding": "chunked"}


bodies = st.tuples(st.lists(st.binary(max_size=50), max_size=6), st.sampled_from(sorted(COMPRESSORS)), st.booleans())


@given(bodies)
def test_every_framing_gives_the_same_bytes(body: tuple[list[bytes], str, bool]) -> None:
    wire, headers = framed(*body)
    source = io.BytesIO(wire + b"NEXT REQUEST")
    read = Body(source, headers)
    assert read.read(1 << 20) == b"".join(body[0])
    read.drain()
    assert source.read() == b"NEXT REQUEST"


@given(bodies, st.data())
def test_a_body_cut_anywhere_is_an_error(body: tuple[list[bytes], str, bool], data: st.DataObject) -> None:
    wire, headers = framed(*body)
    if not wire:
        return
    cut = data.draw(st.integers(0, len(wire) - 1))
    read = Body(io.BytesIO(wire[:cut]), headers)
    with pytest.raises(BodyError):
        read.read(1 << 20)


def test_a_limit_is_a_limit() -> None:
    assert Body(io.BytesIO(b"12345"), {"Content-Length": "5"}).read(4) is None
