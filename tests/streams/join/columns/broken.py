"""Arrow envelopes with wrong bytes in them, and what becomes of them: in a process of its own, for it may be killed.

    python -m tests.streams.join.columns.broken [STEP]

Every aligned word of a few streams is replaced by numbers that lengths and offsets had better not be; every STEP-th of
these is read, by the columns, by the objects and by the twin.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa

from schemas.envelope import ARROW, CONTENT_TYPE
from streams.join.admission import JoinBounds
from streams.join.naive import Record, events_in
from streams.join.processor import JoinProcessor
from streams.runtime.processor import Batch
from streams.runtime.records import Records
from streams.runtime.unfold import apart
from tests.streams.join.columns.test_plain import told
from tests.streams.join.histories import BOUNDS, T0_MS

SENT = ((CONTENT_TYPE, ARROW),)
NUMBERS = (-1, 1, 7, 1000, 2**31 - 1, -(2**31))
COUNT = 6


def streams() -> Iterator[tuple[str, bytes]]:
    """Give streams of each kind of column, with nulls."""
    ids = pa.array([f"r{n % 4}" for n in range(COUNT)])
    times = pa.array([T0_MS + n for n in range(COUNT)])
    long = "longer than a view"
    predictions: dict[str, pa.Array] = {
        "request_id": ids.cast(pa.string_view()),
        "at_ms": times.cast(pa.uint64()),
        "model": pa.array(["m", None, "m", "n", "m", "m"]).dictionary_encode(),
        "score": pa.array(["0.25", None, "x", "1e3", "0.5", "7"]),
        "prediction": pa.array(["yes", long, None, "1", "true", '{"a":[1]}'], pa.string_view()),
        "embedding": pa.array([[1.5, 2], None, [], [3], [4], [5]], pa.list_(pa.float32())),
        "items": pa.array([["a"], None, [], ["c"], ["d"], [long]], pa.large_list(pa.string_view())),
        "slices.new": pa.array([True, None, False, True, True, True]),
    }
    labels: dict[str, pa.Array] = {
        "request_id": ids.dictionary_encode(),
        "at_ms": times,
        "label": pa.array([1, 2, None, 3, 4, 5], pa.int8()),
        "source": pa.DictionaryArray.from_arrays(
            pa.array([0, 1, 2, None, 1, 0], pa.uint16()), pa.array(["s", None, "u"])
        ),
        "confidence": pa.array([0.1, 0.2, None, float("nan"), 0.3, 1]),
    }
    for topic, columns in (("predictions", predictions), ("labels", labels)):
        batch = pa.record_batch(list(columns.values()), names=list(columns))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        yield topic, sink.getvalue().to_pybytes()


def broken(value: bytes) -> Iterator[bytes]:
    """Give a stream with each of its words replaced, and cut off."""
    for at in range(0, len(value) - 8, 4):
        yield value[:at]
        for number in (*NUMBERS, -at):
            yield value[:at] + number.to_bytes(4, "little", signed=True) + value[at + 4 :]
        for number in (-(2**63), 1 << 40, -at):
            yield value[:at] + number.to_bytes(8, "little", signed=True) + value[at + 8 :]


def check(step: int) -> int:
    """Read them; gives how many could be."""
    bounds = JoinBounds(**asdict(replace(BOUNDS, partitions=1)))
    processors = [JoinProcessor[None](bounds, columns=columns) for columns in (True, False)]
    states: list[Any] = [one.empty(0) for one in processors]
    readable = number = 0
    for topic, whole in streams():
        for value in [whole, *list(broken(whole))[::step]]:
            number += 1
            found = [text for _, _, text, _ in apart(topic, None, value, SENT)]
            assert found == [one.value for one in events_in(topic, Record(0, number, T0_MS, None, value, list(SENT)))]
            readable += found != [value]
            if found == [value] and number % 20:
                continue
            records = [Records([number], [T0_MS], [None], [value], {0: SENT}) for _ in processors]
            stepped = [
                processor.step(state, Batch(0, number, {topic: read}), T0_MS)
                for processor, state, read in zip(processors, states, records, strict=True)
            ]
            assert told(stepped[0].outputs) == told(stepped[1].outputs)
            assert stepped[0].counters == stepped[1].counters
    return readable


if __name__ == "__main__":
    print(check(int(sys.argv[1]) if sys.argv[1:] else 1))
