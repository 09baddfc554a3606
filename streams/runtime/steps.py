"""One step as it is taken the first time and again: the batch in its order, the digest, the record.

`take` is the only place that calls a processor, so the live loop and the replay cannot differ.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TypeVar

import xxhash

from schemas.records import Step
from streams.runtime.clock import CONTROL, PartitionClock
from streams.runtime.failures import ProcessorFailed
from streams.runtime.processor import Batch, Block, Output, Outputs, Processor, Stepped, flat

StateT = TypeVar("StateT")

_ABSENT = 0xFFFFFFFF
_lengths = struct.Struct(">iIIIq").pack
_length = struct.Struct(">I").pack


def in_order(inputs: Sequence[str]) -> tuple[str, ...]:
    """Give the fixed order of a step's inputs: control first, the others as the processor names them.

    >>> in_order(["predictions", "control", "labels"])
    ('control', 'predictions', 'labels')
    """
    return tuple(sorted(inputs, key=lambda name: name != CONTROL))


def digest(outputs: Sequence[Output]) -> str:
    """Give one XXH3-128 over topic, partition, key, value, timestamp and headers of all outputs, framed by lengths.

    >>> digest([])
    '99aa06d3014798d86001c324468d497f'
    >>> digest([Output("a", b"bc", b"")]) == digest([Output("ab", b"c", b"")])
    False
    """
    total = xxhash.xxh3_128()
    parts: list[bytes] = []
    for output in outputs.pieces if isinstance(outputs, Outputs) else outputs:
        if isinstance(output, Block):
            end = int(output.spans[-1, 2] + output.spans[-1, 3])
            parts += (_lengths(output.partition, len(output), 0, end, -1), output.topic.encode())
            total.update(b"".join(parts))
            total.update(flat(output.spans))
            total.update(flat(output.body[:end]))  # a large one: not joined with the others
            parts = []
            continue
        topic, key = output.topic.encode(), output.key
        partition = -1 if output.partition is None else output.partition
        append_ms = -1 if output.append_ms is None else output.append_ms
        key_length = _ABSENT if key is None else len(key)
        parts += (_lengths(partition, len(topic), key_length, len(output.value), append_ms), topic)
        parts += (key or b"", output.value, _length(len(output.headers)))
        for name, value in output.headers:
            parts += (_length(len(name.encode())), name.encode(), _length(len(value)), value)
    total.update(b"".join(parts))
    return total.hexdigest()


def take(
    processor: Processor[StateT], state: StateT, clock: PartitionClock, batch: Batch, clock_ms: int | None = None
) -> Stepped:
    """Take a step: the clock takes note of the records, then the processor works.

    `clock_ms` is the recorded clock when the step is taken again. Raises `ProcessorFailed` that names the records.
    """
    for name, records in batch.inputs.items():
        clock.read(name, records)
    if clock_ms is None:
        clock_ms = clock.advance()
    else:
        clock.ms = clock_ms
    try:
        return processor.step(state, batch, clock_ms)
    except Exception as error:
        raise ProcessorFailed(
            f"{processor.stage} {processor.version} raised {type(error).__name__}: {error}\n"
            f"  in step {batch.step} of partition {batch.partition}, clock {clock_ms}, over {_ranges(batch)}; "
            "nothing of it is committed"
        ) from error


def record(processor: Processor[StateT], batch: Batch, stepped: Stepped, clock_ms: int) -> Step:
    """Give the record of a step that was taken."""
    return Step(
        stage=processor.stage,
        partition=batch.partition,
        number=batch.step,
        offsets=dict(batch.offsets),
        clock_ms=clock_ms,
        cut_ms=batch.cut_ms,
        counters=dict(stepped.counters),
        processor=processor.version,
        outputs=len(stepped.outputs),
        digest=digest(stepped.outputs),
    )


def _ranges(batch: Batch) -> str:
    spans = [
        f"{name}/{batch.partition} offsets {records.offsets[0]}–{records.offsets[-1]}"
        for name, records in batch.inputs.items()
        if records.offsets
    ]
    return ", ".join(spans) or "no records (a tick or a timer)"
