"""Texts of envelopes: the same from Python, from compiled code and from the twin; and what is no envelope."""

from __future__ import annotations

import json
import struct
import time
from dataclasses import asdict
from functools import cache
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.envelope import ARROW, CONTENT_TYPE, MOST_EVENTS, ROWS, _field, is_compressed
from streams.join.admission import JoinBounds
from streams.join.columns.lane import Columns
from streams.join.columns.plan import Plan, _entered
from streams.join.naive import Record, events_in
from streams.runtime.enclose import MOST_ROWS_BYTES, enclose, with_envelopes
from streams.runtime.envelopes import _layout, read
from streams.runtime.processor import Block, Output, Outputs
from streams.runtime.records import Records, place_of
from streams.runtime.rows import Unreadable, _short_label
from streams.runtime.unfold import apart, unfold
from tests.streams.join.histories import BOUNDS, T0_MS

SENT = [(CONTENT_TYPE, ARROW)]
TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
CELLS = st.sampled_from(
    ['{"a":1}', "{}", " 1", "1 ", "0.50", '"x"', "tru", "true", "1,2", '1,"b":2', "[1]", "-0", "1e400", ""]
)
FLOATS = st.one_of(st.floats(), st.sampled_from([0.1, 1e15, 1e16, -0.0, 5e-324]))
BIG = st.integers(-(2**63), 2**63 - 1)


def columns(count: int) -> st.SearchStrategy[dict[str, pa.Array]]:
    def listed(values: st.SearchStrategy[Any], kind: pa.DataType) -> st.SearchStrategy[pa.Array]:
        some = st.lists(st.none() | values, min_size=count, max_size=count)
        return some.map(lambda made: pa.array(made, kind))

    def named(values: st.SearchStrategy[str]) -> st.SearchStrategy[pa.Array]:
        return listed(values, pa.utf8()).map(lambda made: made.dictionary_encode())

    return st.fixed_dictionaries(
        {"request_id": listed(st.sampled_from(["r1", "r2", "ré", ""]), pa.utf8())},
        optional={
            "at_ms": listed(st.sampled_from([T0_MS, -1, 2**62]), pa.int64()),
            "model": named(st.sampled_from(["m1", "m2", 'a "q"'])),
            "version": listed(TEXTS, pa.large_utf8()),
            "score": listed(FLOATS, pa.float64()) | listed(CELLS, pa.utf8()),
            "threshold": listed(st.floats(width=32), pa.float32()),
            "prediction": listed(CELLS, pa.string_view()) | listed(BIG, pa.int64()) | listed(st.booleans(), pa.bool_()),
            "features": listed(CELLS, pa.utf8()) | named(CELLS),
            "slices.country": named(TEXTS),
            "slices.new": listed(st.booleans(), pa.bool_()),
            "slices.rank": listed(BIG, pa.int64()) | listed(FLOATS, pa.float64()),
            "embedding": listed(st.lists(st.floats(width=32), max_size=3), pa.list_(pa.float32())),
            "latency_ms": listed(st.integers(0, 2**64 - 1), pa.uint64()) | listed(st.integers(0, 9), pa.int8()),
            "more": listed(TEXTS, pa.utf8()),
            "zone.more": listed(CELLS, pa.utf8()),
        },
    )


def stream(batches: list[pa.RecordBatch], **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


@cache
def columns_of_one() -> Columns:
    return Columns(0, JoinBounds(**asdict(BOUNDS)), chained=True)


@settings(max_examples=80)
@given(st.integers(1, 4).flatmap(columns), st.booleans())
def test_texts_are_the_same_whoever_writes_them(made: dict[str, pa.Array], halved: bool) -> None:
    batch = pa.record_batch(list(made.values()), names=list(made))
    dictionaries = any(pa.types.is_dictionary(kind) for kind in batch.schema.types)
    batches = [batch.slice(0, 1), batch.slice(1)] if halved and not dictionaries else [batch]
    value = stream(batches)
    envelope = read("predictions", value)
    texts = envelope.texts()
    for text in texts:
        msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    twins = events_in("predictions", Record(0, 7, T0_MS, None, value, SENT))
    assert [one.value for one in twins] == texts
    assert [one.key for one in twins] == envelope.keys()

    join = columns_of_one()
    join.begin(0, T0_MS)
    records = unfold("predictions", Records([7], [T0_MS], [None], [value], {0: SENT}), written=False)
    join.take("predictions", records)
    assert records.values == texts
    assert [key or b"" for key in records.keys] == [one.key or b"" for one in twins]
    assert [place_of(records.position(index)) for index in range(len(texts))] == [(7, k) for k in range(len(texts))]


def test_a_text_is_json_or_a_string_and_never_another_field() -> None:
    table = pa.record_batch([["r"], ['1,"model":"x"'], ["yes"]], names=["request_id", "score", "prediction"])
    assert read("predictions", stream([table])).texts() == [
        rb'{"request_id":"r","score":"1,\"model\":\"x\"","prediction":"yes"}'
    ]


def rows(count: int = 2, **more: Any) -> pa.RecordBatch:
    made = {"request_id": [f"r{n}" for n in range(count)], **more}
    return pa.record_batch(list(made.values()), names=list(made))


def back_to_itself(value: bytes) -> bytes:
    """Say of the message behind the schema that the next one begins where it does."""
    at = 8 + int.from_bytes(value[4:8], "little")
    size = int.from_bytes(value[at + 4 : at + 8], "little")
    message = value[at + 8 : at + 8 + size]
    place = at + 8 + _field(message, int.from_bytes(message[:4], "little"), 3)
    return value[:place] + (-8 - size).to_bytes(8, "little", signed=True) + value[place + 8 :]


def with_metadata(batch: pa.RecordBatch, metadata: dict[str, str]) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(metadata_version=pa.ipc.MetadataVersion.V4)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch, custom_metadata=metadata)
    return bytes(sink.getvalue().to_pybytes())


def overlapping(count: int = 300, size: int = 1_000_000) -> pa.Array:
    """Give texts that are all the same bytes."""
    views = np.zeros((count, 4), dtype=np.int32)
    views[:, 0], views[:, 1] = size, int.from_bytes(b"xxxx", "little")
    return pa.Array.from_buffers(pa.string_view(), count, [None, pa.py_buffer(views), pa.py_buffer(b"x" * size)])


def coded(codes: pa.Array, words: pa.Array) -> pa.Array:
    return pa.DictionaryArray.from_arrays(codes, words)


WHOLE = stream([rows()])
WRONG: dict[str, tuple[bytes | None, str]] = {
    "no value": (None, "bad_envelope"),
    "empty": (b"", "bad_envelope"),
    "JSON": (b'{"request_id":"r"}', "bad_envelope"),
    "cut off": (WHOLE[: len(WHOLE) - 60], "bad_envelope"),
    "cut off in a message": (WHOLE[:28], "bad_envelope"),
    "message without end": (back_to_itself(WHOLE), "bad_envelope"),
    "two streams": (WHOLE * 2, "bad_envelope"),
    "compressed as long ago": (
        with_metadata(rows(), {"ARROW:experimental_compression": "zstd"}),
        "bad_envelope",
    ),
    "compressed": (stream([rows(200)], compression="zstd"), "bad_envelope"),
    "binary": (stream([rows(score=pa.array([b"1", b"2"]))]), "bad_envelope"),
    "nulls": (stream([rows(score=pa.nulls(2))]), "bad_envelope"),
    "twice": (stream([pa.record_batch([["a"], ["b"]], names=["model", "model"])]), "bad_envelope"),
    "member and whole": (
        stream([pa.record_batch([["r"], ["{}"], ["x"]], names=["request_id", "features", "features.a"])]),
        "bad_envelope",
    ),
    "too many": (stream([rows(1, at_ms=[1]).slice(0, 0), *[rows(2**16, at_ms=[1] * 2**16)] * 8]), "too_large"),
    "a dictionary that is much": (
        stream([rows(200, model=pa.array(["x" * 400_000] * 200).dictionary_encode())]),
        "too_large",
    ),
    "a dictionary that is terabytes, with a null": (
        stream(
            [rows(100_000, model=coded(pa.array([0] * 100_000), pa.array(["x" * 10_000_000, None], pa.large_utf8())))]
        ),
        "too_large",
    ),
    "events of nothing": (
        stream([pa.record_batch([pa.array([None] * 2**18, pa.bool_())], names=["new"])]),
        "too_large",
    ),
    "views of the same": (stream([rows(300, model=overlapping())]), "too_large"),
    "a dictionary of views of the same": (
        stream([rows(300, model=coded(pa.array(range(300)), overlapping()))]),
        "too_large",
    ),
    "lists of views of the same": (
        stream([rows(300, items=pa.ListArray.from_arrays(pa.array(range(301), pa.int32()), overlapping()))]),
        "too_large",
    ),
    "not UTF-8": (
        stream([pa.record_batch([pa.array([b"\xff"]).view(pa.utf8())], names=["request_id"])]),
        "bad_envelope",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_envelope_stays_one_record(name: str) -> None:
    value, reason = WRONG[name]
    with pytest.raises(Unreadable) as refused:
        read("predictions", value)
    assert refused.value.reason == reason
    assert apart("predictions", b"k", value, SENT) == [(0, b"k", value, SENT)]
    assert [one.value for one in events_in("predictions", Record(0, 1, 2, b"k", value, SENT))] == [value]


def test_compression_is_seen_wherever_arrow_finds_it() -> None:
    assert is_compressed(WRONG["compressed"][0] or b"")
    assert is_compressed(WRONG["compressed as long ago"][0] or b"")
    assert not is_compressed(WHOLE)
    # A record batch with a codec, in a message whose table of fields has more than 32 KiB.
    names = struct.pack("<5H", 40_000, 16, 0, 4, 8) + bytes(39_990)
    batch = struct.pack("<6H", 12, 8, 0, 0, 0, 4) + struct.pack("<ii", 12, 0)
    message = struct.pack("<i", 4 + len(names)) + names + struct.pack("<iiii", len(names), 3, 20, 0) + batch
    assert is_compressed(struct.pack("<ii", -1, len(message)) + message)


WORDS = ["a", None, '"', "0.5", "a", "long enough for a view of its own"]


@pytest.mark.parametrize("words", [pa.utf8(), pa.large_utf8(), pa.string_view()])
@pytest.mark.parametrize("codes", [pa.int8(), pa.uint16(), pa.int32(), pa.uint64()])
def test_a_dictionary_is_its_words(words: pa.DataType, codes: pa.DataType) -> None:
    """Of any words, null ones too, by codes of any width; and another one with each batch."""
    said: list[str | None] = []
    batches = []
    for first in range(3):
        some = [*WORDS[first:], *(f"{first}-{n}" for n in range(100))]
        chosen = pa.array([None, *range(len(some))], codes)
        batches.append(rows(len(chosen), score=coded(chosen, pa.array(some, words)), at_ms=[first] * len(chosen)))
        said += [None, *some]
    value = stream(batches)
    texts = read("predictions", value).texts()
    assert [one.value for one in events_in("predictions", Record(0, 7, T0_MS, None, value, SENT))] == texts
    scores = [json.loads(text).get("score") for text in texts]
    assert scores == [0.5 if word == "0.5" else word for word in said]
    for none in (stream([batches[0].slice(0, 0)]), stream_of_none(batches[0].schema)):
        assert read("predictions", none).texts() == []


def stream_of_none(schema: pa.Schema) -> bytes:
    sink = pa.BufferOutputStream()
    pa.ipc.new_stream(sink, schema).close()
    return bytes(sink.getvalue().to_pybytes())


def test_buffers_may_have_odd_bytes_behind() -> None:
    def longer(array: pa.Array, more: int) -> pa.Array:
        buffers = array.buffers()
        buffers[1] = pa.py_buffer(buffers[1].to_pybytes()[: array.nbytes] + bytes(more))
        return pa.Array.from_buffers(array.type, len(array), buffers)

    ids, times = pa.array(["r"]), pa.array([5], pa.int64())
    value = stream([pa.record_batch([longer(ids, 3), longer(times, 5)], names=["request_id", "at_ms"])])
    records = unfold("labels", Records([7], [T0_MS], [None], [value], {0: SENT}), written=False)
    join = columns_of_one()
    join.begin(0, T0_MS)
    join.take("labels", records)
    assert records.values == [b'{"request_id":"r","at_ms":5}']


@pytest.mark.slow
def test_an_envelope_of_many_long_or_sparse_columns_takes_no_hours() -> None:
    began = time.process_time()
    members = pa.record_batch([pa.array([n]) for n in range(30_000)], names=[f"features.{n}" for n in range(30_000)])
    assert len(json.loads(read("predictions", stream([members])).texts()[0])["features"]) == 30_000
    one = pa.array([0, *[None] * 49_999], pa.int32())
    sparse = {f"slices.{n}": coded(one, pa.array(["x" * 2_000_000])) for n in range(8)}
    assert read("predictions", stream([rows(50_000, **sparse)])).count == 50_000
    assert time.process_time() - began < 10


def test_long_names_are_neither_kept_nor_said() -> None:
    kept = _short_label.cache_info().currsize, _entered.cache_info().currsize, _layout.cache_info().currsize
    batch = rows(2, **{name * 100_000: ["1", "2"] for name in "\0ab"})
    envelope = read("predictions", stream([batch]))
    assert Plan.of(envelope, "predictions") is None  # of a name with escapes
    assert Plan.of(read("predictions", stream([rows(2, **{"c" * 100_000: ["1", "2"]})])), "predictions")
    with pytest.raises(Unreadable) as refused:
        read("predictions", stream([pa.record_batch([["a"], ["b"]], names=["\0" * 100_000] * 2)]))
    assert len(str(refused.value)) <= 400
    more = _short_label.cache_info().currsize, _entered.cache_info().currsize, _layout.cache_info().currsize
    assert [now - then for now, then in zip(more, kept, strict=True)] <= [2, 4, 0]


def test_an_empty_envelope_holds_no_event() -> None:
    empty = pa.record_batch([pa.array([], pa.utf8())], names=["request_id"])
    assert apart("labels", None, stream([empty]), SENT) == []


def test_other_headers_stay_with_each_event() -> None:
    headers = [("trace", b"7"), *SENT]
    found = apart("labels", None, enclose([b'{"request_id":"a"}', b'{"request_id":"b"}']), headers)
    assert found == [
        (0, b"a", b'{"request_id":"a"}', (("trace", b"7"),)),
        (1, b"b", b'{"request_id":"b"}', (("trace", b"7"),)),
    ]
    assert MOST_EVENTS == 524_287


def test_feedback_in_envelopes_is_the_same_rows_in_the_same_order() -> None:
    said = [json.dumps({"request_id": f"r{n}", "revision": n, "pad": "x" * (n % 400)}).encode() for n in range(9000)]
    keys = [f"r{n}".encode() for n in range(9000)]
    lines = b"".join(row + b"\n" for row in said[:8000])
    sizes = np.array([len(row) for row in said[:8000]])
    starts = np.cumsum(sizes + 1) - sizes - 1
    spans = np.column_stack((starts + len('{"request_id": "'), [len(key) for key in keys[:8000]], starts, sizes))
    one = Block("feedback", 2, np.frombuffer(lines, dtype=np.uint8), spans)
    singles = [Output("feedback", key, value, 2) for key, value in zip(keys[8000:], said[8000:], strict=True)]
    other = Output("dead-letters", b"k", b"{}")
    sent = with_envelopes(Outputs([*singles[:10], other, one, *singles[10:]]))
    assert [output for output in sent if output.topic != "feedback"] == [other]
    found = []
    for output in sent:
        if output.topic == "feedback":
            assert (output.key, output.partition, output.headers) == (None, 2, ((CONTENT_TYPE, ROWS),))
            assert len(output.value) < MOST_ROWS_BYTES + 1000
            found += apart("feedback", output.key, output.value, output.headers)
    expected = [*zip(keys[8000:8010], said[8000:8010], strict=True), *zip(keys[:8000], said[:8000], strict=True)]
    expected += zip(keys[8010:], said[8010:], strict=True)
    assert [(key, value) for _, key, value, _ in found] == expected
    assert 10 < len(sent) < 40
