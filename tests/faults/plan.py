"""What is fed to the join in one round: a seeded history in chunks, with the clock between them, and its jumps.

A history of `tests.streams.join.histories` has every kind of trouble that records can make; patient ones
are among them, because what is in trouble or soon over is not put away. Time is stretched in it at
some places: by an hour (a jump of the clock between two chunks) and once by three days (the downtime). What belongs to
requests that begin after a gap moves with it; a straggler of an earlier request only arrives later, as what an app
held back does. Requests of which the log alone does not say what state still knew (docs/join.md, "Beyond") are left
out, so that counters and dead letters are compared too.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Any

from schemas.control import PolicySet
from schemas.event import encode
from schemas.policy import JoinPolicy
from schemas.topics import INPUTS
from streams.join.naive import Bounds, Record, expect, partition_of
from streams.runtime.processor import Batch, Output
from streams.runtime.records import Records
from tests.streams.join.histories import BOUNDS, Arrival, History, history, request_of
from tests.streams.join.test_equality import processor_of

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
DOWNTIME_MS = 3 * DAY_MS
PARTITIONS = 6
EVENTS_A_KILL = 60
CHUNK = 120
GAP_EVERY = 60
FOR_EVER_MS = 2**53
TOPICS = ("control", *INPUTS)
_AT = re.compile(rb'"at_ms"\s*:\s*(\d{9,13})(?=\s*[,}])')


@dataclass(frozen=True, slots=True)
class Chunk:
    """Records that may be read in any interleaving, then what time it is. `down`: that is said when nobody is up."""

    arrivals: tuple[Arrival, ...]
    now_ms: int
    down: bool = False
    jump_ms: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """One round's feed."""

    history: History
    chunks: tuple[Chunk, ...]

    @property
    def records(self) -> int:
        """How many records are fed, clocks not counted."""
        return len(self.history.arrivals)


def plan(seed: str, kills: int) -> Plan:
    """Draw a round that is long enough for so many kills."""
    dice = Random(seed)
    wanted = max(450, EVENTS_A_KILL * kills)
    bounds = replace(BOUNDS, virtual=True, partitions=PARTITIONS)
    while True:
        drawn = with_patient(history(dice, requests=wanted // 14, events=wanted // 2, bounds=bounds), wanted // 8, dice)
        kinds = {arrival.topic for arrival in drawn.arrivals}
        if len(drawn.arrivals) >= 0.7 * wanted and {"labels", "predictions", "signals", "control"} <= kinds:
            break
    count = len(drawn.arrivals) // GAP_EVERY
    numbers = dice.sample(range(2, count - 1), k=min(count - 3, 2 + count // 10))
    gaps = {number: dice.choice((HOUR_MS, 2 * HOUR_MS, DAY_MS)) for number in numbers[1:]} | {numbers[0]: DOWNTIME_MS}
    kept = comparable(stretch(drawn, {number * GAP_EVERY: gap_ms for number, gap_ms in gaps.items()}))
    return Plan(kept, tuple(chunks_of(kept)))


def with_patient(given: History, count: int, dice: Random) -> History:
    """Add plain requests of a model whose labels may take two hours, all along: what waits so long is put away.

    Things of all kinds meet it there: labels, corrections, signals, the prediction once more, the deadline.
    """
    policy = JoinPolicy(model="patient", horizon_ms=2 * HOUR_MS, lateness_ms=0, on_timeout="negative")
    policy_ms = given.arrivals[0].append_ms
    added = [
        Arrival(policy_ms, "control", partition, None, encode(PolicySet(policy=policy)))
        for partition in range(given.bounds.partitions)
    ]
    first_ms = next(arrival.append_ms for arrival in given.arrivals if arrival.topic != "control")
    span_ms = given.arrivals[-1].append_ms - first_ms
    for number in range(count):
        added += _patient(f"patient-{number}", first_ms + dice.randrange(span_ms), given.bounds, dice)
    return replace(given, arrivals=tuple(sorted((*given.arrivals, *added), key=lambda arrival: arrival.append_ms)))


def _patient(request_id: str, at_ms: int, bounds: Bounds, dice: Random) -> list[Arrival]:
    kinds = dice.choice((("predictions",), ("predictions", "labels"), ("predictions", "labels", "labels", "signals")))
    made: list[Arrival] = []
    for kind in kinds + dice.choice(((), (), ("predictions",))):
        body: dict[str, Any] = {"request_id": request_id, "at_ms": at_ms}
        told_ms = at_ms
        if kind == "predictions":
            body |= {"model": "patient", "score": 0.5}
            told_ms += 1_000 if not made else dice.randrange(1_000, 3 * HOUR_MS)
        else:
            told_ms = body["at_ms"] = at_ms + dice.randrange(1_000, 2 * HOUR_MS)
            body |= {"label": dice.choice((0, 1))} if kind == "labels" else {"signal": "click"}
        value = json.dumps(body).encode()
        place = partition_of(request_id, bounds.partitions)
        made.append(Arrival(told_ms, kind, place, request_id.encode(), value))
    return made


def stretch(given: History, gaps: dict[int, int]) -> History:
    """Let so much more time pass before the arrivals with these numbers."""
    moved: list[Arrival] = []
    later_ms = 0
    begun: dict[str, int] = {}
    for number, arrival in enumerate(given.arrivals):
        later_ms += gaps.get(number, 0)
        request = request_of(arrival.value)
        since_ms = later_ms if request is None else begun.setdefault(request, later_ms)
        value = arrival.value
        if value is not None and arrival.topic != "control" and since_ms:
            value = _AT.sub(partial(_later, by_ms=since_ms), value)
        moved.append(replace(arrival, append_ms=arrival.append_ms + later_ms, value=value))
    return replace(given, arrivals=tuple(moved))


def _later(found: re.Match[bytes], by_ms: int) -> bytes:
    return b'"at_ms": %d' % (int(found[1]) + by_ms)


def comparable(given: History) -> History:
    """Leave out the requests that are beyond."""
    while beyond := expect(rehearse(given), given.bounds, dict.fromkeys(range(PARTITIONS), FOR_EVER_MS)).beyond:
        kept = tuple(arrival for arrival in given.arrivals if not _concerns(arrival, beyond))
        assert len(kept) < len(given.arrivals), f"{beyond} cannot be left out"
        given = replace(given, arrivals=kept)
    return given


def _concerns(arrival: Arrival, requests: set[str]) -> bool:
    """Say whether a record is about one of some requests; where it cannot be read here, whether it names one.

    What the join reads is not always plain JSON: it skips an unknown field whose number is beyond a double, say.
    """
    request = request_of(arrival.value)
    if request is not None:
        return request in requests
    return any(b'"%s"' % one.encode() in (arrival.value or b"") for one in requests)


def rehearse(given: History) -> dict[str, list[Record]]:
    """Run a plan in memory, one chunk a step; give the logs as they will be, what is forwarded included."""
    processor = processor_of(given)
    states = [processor.empty(partition) for partition in range(PARTITIONS)]
    logs: dict[str, list[Record]] = {topic: [] for topic in TOPICS}
    ends: Counter[tuple[str, int]] = Counter()

    def append(topic: str, partition: int, append_ms: int, one: Arrival | Output) -> None:
        logs[topic].append(Record(partition, ends[topic, partition], append_ms, one.key, one.value, one.headers))
        ends[topic, partition] += 1

    clock_ms = 0
    for number, chunk in enumerate(chunks_of(given)):
        read = {topic: len(records) for topic, records in logs.items()}
        for arrival in chunk.arrivals:
            append(arrival.topic, arrival.partition, arrival.append_ms, arrival)
        while any(len(logs[topic]) > read[topic] for topic in TOPICS):
            fresh = {topic: records[read[topic] :] for topic, records in logs.items()}
            read = {topic: len(records) for topic, records in logs.items()}
            for partition, state in enumerate(states):
                inputs = {topic: _columns(fresh[topic], partition) for topic in TOPICS}
                for output in processor.step(state, Batch(partition, number, inputs), clock_ms).outputs:
                    if output.topic in TOPICS:
                        place = output.partition
                        append_ms = clock_ms if output.append_ms is None else output.append_ms
                        assert place is not None
                        append(output.topic, place, append_ms, output)
        clock_ms = chunk.now_ms  # only when all that came before is read
    return logs


def _columns(records: Iterable[Record], partition: int) -> Records:
    found = Records()
    for one in records:
        if one.partition == partition:
            found.append(one.offset, one.append_ms, one.key, one.value, one.headers or None)
    return found


def chunks_of(given: History) -> list[Chunk]:
    """Cut where time jumps, and after so many records; policies come before everything, behind a barrier."""
    found: list[Chunk] = []
    held: list[Arrival] = []
    for before, arrival in zip((None, *given.arrivals), given.arrivals, strict=False):
        jump_ms = 0 if before is None else arrival.append_ms - before.append_ms
        policies = before is not None and before.topic == "control" != arrival.topic
        if held and (len(held) >= CHUNK or jump_ms >= HOUR_MS // 2 or policies):
            down = jump_ms >= DOWNTIME_MS
            now_ms = arrival.append_ms if jump_ms >= HOUR_MS // 2 else held[-1].append_ms
            found.append(Chunk(tuple(held), now_ms, down, jump_ms if jump_ms >= HOUR_MS // 2 else 0))
            held = []
        held.append(arrival)
    found.append(Chunk(tuple(held), held[-1].append_ms))
    return found
