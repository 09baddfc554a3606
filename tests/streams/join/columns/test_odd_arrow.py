"""Envelopes of odd cells, seeded: the columns, the objects, the twin, and the same events as records, step by step."""

from __future__ import annotations

from dataclasses import asdict, replace
from random import Random
from typing import Any

import pyarrow as pa
import pytest

from schemas.envelope import ARROW, CONTENT_TYPE
from streams.join.admission import JoinBounds
from streams.join.naive import Record, events_in
from streams.join.processor import JoinProcessor
from streams.runtime.processor import Batch
from streams.runtime.records import Records
from streams.runtime.unfold import apart, unfold
from tests.streams.join.columns.test_plain import told
from tests.streams.join.histories import BOUNDS, T0_MS

SENT = ((CONTENT_TYPE, ARROW),)
HEADERS = (SENT, SENT, SENT, ((CONTENT_TYPE, b"x"), *SENT), (("trace", b"1"), *SENT), ((CONTENT_TYPE, b"x"),))
IDS = [
    "r1",
    "r2",
    "r3",
    "é",
    'q"',
    "\\",
    "",
    "\0",
    "x" * 128,
    "x" * 129,
    "0" * 36,
    "123e4567-e89b-12d3-a456-426614174000",
]
WORDS = ["m", "click", "shadow", "", 'q"', "\\", "é😀", "\u2028", "x" * 128, "x" * 129, "x" * 5000]
CELLS = [
    *(
        "0",
        "-0",
        "01",
        "1.0",
        "1e5",
        "1e400",
        "1e-400",
        "-",
        "1.",
        ".5",
        "1" * 18,
        "1" * 19,
        "9" * 400,
        "0." + "1" * 41,
    ),
    *(
        "null",
        "true",
        "tru",
        "NaN",
        '"yes"',
        '"',
        '"a',
        '"\\"',
        '"\\ud800"',
        '"\\u00e9"',
        '"\\x"',
        '"a\tb"',
        "",
        " ",
        "\ufeff1",
    ),
    *("{}", "{", '{"a":1}', ' {"a":1}', '{"a":1}x', '{"a":1,"a":2}', '{"a":{"b":1}}', '{"a":NaN}', '{"\\u0061":1}'),
    *('{"a":"\\ud83d"}', '{"é":"ü"}', '{"a":null}', "[]", "[1,2.5]", '["a"]', "[" * 70 + "]" * 70, "[" * 3000),
    *("1,2", '"a","b":1', "x" * 9000, '"' + "y" * 9000 + '"', '[{"item":"a","position":1}]', str(T0_MS), str(1 << 60)),
]
INTEGERS = [0, -1, 1 << 47, (1 << 47) + 1, 10**18 - 1, 10**18, -(10**18), 2**63 - 1, -(2**63), 253_402_300_799_999]
FLOATS = [0.5, 1.0, -0.0, 1e16, 5e-324, 1e300, float("nan"), float("inf"), None]
FIELDS: dict[str, tuple[str, ...]] = {
    "predictions": (
        *("score", "prediction", "outputs", "items", "features", "embedding", "slices", "experiments", "propensity"),
        *("threshold", "latency_ms", "slices.new", "features.", "extra", 'q"q'),
    ),
    "labels": ("confidence", "extra", "features.a"),
    "signals": ("value", "a\\b", ""),
}
STRINGS = {
    "predictions": ("event_id", "version", "deployment", "role", "app_version", "subject", "action"),
    "labels": ("event_id", "name", "item", "source", "op"),
    "signals": ("event_id", "item"),
}


def texts(random: Random, said: list[Any]) -> pa.Array:
    made = pa.array(said, random.choice((pa.utf8(), pa.large_utf8(), pa.string_view())))
    if made.type == pa.string_view() or random.random() < 0.5:
        return made
    coded = made.dictionary_encode()
    codes = coded.indices.cast(random.choice((pa.int8(), pa.int32(), pa.uint64())))
    return pa.DictionaryArray.from_arrays(codes, coded.dictionary)


def cells(random: Random, count: int) -> pa.Array:
    kind = random.randrange(6)
    if kind == 0:
        return pa.array(random.choices([*INTEGERS, None], k=count), pa.int64())
    if kind == 1:
        return pa.array(random.choices(FLOATS, k=count), random.choice((pa.float64(), pa.float32())))
    if kind == 2:
        return pa.array(random.choices([[], [1.5, 2], None, [None]], k=count), pa.list_(pa.float64()))
    usual = random.choice(CELLS)
    return texts(random, [random.choice(CELLS) if random.random() < 0.2 else usual for _ in range(count)])


def envelope(random: Random, topic: str) -> bytes:
    count = random.randrange(1, 12)

    def mostly(usual: list[Any], odd: list[Any]) -> list[Any]:
        return [random.choice(usual if random.random() < 0.95 else [*odd, None]) for _ in range(count)]

    columns = {
        "request_id": texts(random, mostly(IDS[:4], IDS)),
        "at_ms": pa.array(mostly([T0_MS, T0_MS + 1], INTEGERS), pa.int64()),
        "model": texts(random, mostly(["m"], WORDS)),
    }
    if topic == "labels":
        columns["label"] = cells(random, count)
    if topic == "signals":
        columns["signal"] = texts(random, mostly(["click", "dwell"], WORDS))
    columns |= {name: texts(random, mostly(WORDS[:3], WORDS)) for name in STRINGS[topic] if random.random() < 0.1}
    for name in FIELDS[topic]:
        if random.random() < 0.1 and name.partition(".")[0] not in columns:
            columns[name] = cells(random, count)
    names = random.sample(sorted(columns), len(columns))
    batch = pa.record_batch([columns[name] for name in names], names=names)
    some = random.randrange(count + 1)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        for piece in random.choice(([batch], [batch.slice(0, some), batch.slice(some)])):
            writer.write_batch(piece)
    return bytes(sink.getvalue().to_pybytes())


@pytest.mark.parametrize("seed", range(12))
def test_odd_cells_mean_the_same_in_envelopes(seed: int) -> None:
    random = Random(seed)
    bounds = JoinBounds(**asdict(replace(BOUNDS, partitions=1, max_event_bytes=random.choice((4_000, 400_000)))))
    ways = [JoinProcessor[None](bounds, columns=columns) for columns in (True, False, True)]
    states: list[Any] = [one.empty(0) for one in ways]
    joined = offset = 0
    for number in range(1, 16):
        inputs: dict[str, list[tuple[int, bytes, Any]]] = {}
        for topic in random.choices(("predictions", "labels", "signals"), k=4):
            value, headers = envelope(random, topic), random.choice(HEADERS)
            offset += 1
            inputs.setdefault(topic, []).append((offset, value, headers))
            if headers[-1] == SENT[0]:
                found = [text for _, _, text, _ in apart(topic, None, value, headers)]
                assert found == [one.value for one in events_in(topic, Record(0, 1, 2, None, value, list(headers)))]
        stepped = []
        for way, (processor, state) in enumerate(zip(ways, states, strict=True)):
            read: dict[str, Records] = {}
            for topic, sent in inputs.items():
                records = Records()
                for place, value, headers in sent:
                    records.append(place, T0_MS + number, None, value, headers)
                read[topic] = unfold(topic, records) if way == 2 else records
            stepped.append(processor.step(state, Batch(0, number, read), T0_MS + number))
        assert told(stepped[0].outputs) == told(stepped[1].outputs)
        assert list(stepped[0].outputs) == list(stepped[2].outputs)
        assert stepped[0].counters == stepped[1].counters == stepped[2].counters
        joined += sum(one.topic == "feedback" for one in stepped[0].outputs)
    assert joined
