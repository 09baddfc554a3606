"""Envelopes, written (`schemas.envelope`): events of one partition into an Arrow IPC stream, feedback into rows.

The first is for producers in Python; anybody who can write Arrow can write them as well. Numbers stay as they are
written in the events' JSON, which costs the join nothing: no double is printed there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import pyarrow as pa

from schemas.envelope import CONTENT_TYPE, ROWS, STRINGS
from streams.runtime.processor import Block, Output, Outputs

_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_text = msgspec.json.Decoder(str)

REPEATED = ("model", "version", "deployment", "role", "app_version", "name", "source", "op", "signal", "slices")
"""Columns whose texts are written once each, and named by a number."""


def enclose(texts: Sequence[bytes]) -> bytes:
    """Give an envelope that holds events, each the JSON of a prediction, a label or a signal; all of one kind.

    A field that is null is left out. Raises `msgspec.MsgspecError` for what is no JSON object, or when a field that
    holds text is no text.

    >>> from streams.runtime.envelopes import read
    >>> read("labels", enclose([b'{"request_id": "r", "at_ms": 5, "label": 1}'])).texts()
    [b'{"request_id":"r","at_ms":5,"label":1}']
    """
    columns: dict[str, list[str | None]] = {}
    for index, text in enumerate(texts):
        for name, raw in _object.decode(text).items():
            body = bytes(raw)
            if body == b"null":
                continue
            column = columns.setdefault(name, [])
            column += [None] * (index - len(column))
            column.append(_text.decode(body) if name in STRINGS else body.decode())
    arrays = []
    for name, column in columns.items():
        array = pa.array(column + [None] * (len(texts) - len(column)), pa.utf8())
        arrays.append(array.dictionary_encode() if name in REPEATED else array)
    batch = pa.record_batch(arrays, names=list(columns)) if arrays else _empty(len(texts))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


def _empty(count: int) -> pa.RecordBatch:
    """Give a batch of events without fields."""
    return pa.record_batch([pa.array([None] * count, pa.utf8())], names=["request_id"])


# --- feedback in rows

MOST_ROWS_BYTES = 96 << 10
"""An envelope of rows that has so many bytes is closed."""


def with_envelopes(outputs: Sequence[Output], topic: str = "feedback") -> Outputs:
    """Give a step's outputs with the rows of a topic in envelopes, in their order; others stay as they are."""
    found = Outputs()
    held: list[Output] = []

    def close() -> None:
        if held:
            for rows in _portions([one.value for one in held]):
                found.append(_of_rows(topic, held[0].partition, b"\n".join(rows)))
            held.clear()

    for piece in outputs.pieces if isinstance(outputs, Outputs) else outputs:
        if piece.topic != topic or (isinstance(piece, Output) and (piece.headers or piece.partition is None)):
            found.append(piece)
            continue
        if isinstance(piece, Block):
            close()
            found.extend(_block_in_envelopes(piece))
            continue
        if held and held[0].partition != piece.partition:
            close()
        held.append(piece)
    close()
    return found


def _portions(rows: Sequence[bytes]) -> Iterator[list[bytes]]:
    some: list[bytes] = []
    size = 0
    for row in rows:
        some.append(row)
        size += len(row) + 1
        if size >= MOST_ROWS_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some


def _block_in_envelopes(block: Block) -> Iterator[Output]:
    starts = block.spans[:, 2]
    ends = starts + block.spans[:, 3]
    first = 0
    while first < len(ends):
        begin = int(starts[first])
        last = min(int(np.searchsorted(ends, begin + MOST_ROWS_BYTES)), len(ends) - 1)
        yield _of_rows(block.topic, block.partition, block.body[begin : int(ends[last])].tobytes())
        first = last + 1


def _of_rows(topic: str, partition: int | None, rows: bytes) -> Output:
    return Output(topic, None, rows, partition, ((CONTENT_TYPE, ROWS),))
