"""Rows of tables as events, in the order in which they would have come: a prediction at its time, a label at its own.

A label without a time counts as known as soon as its prediction was made. What a mapping refuses is counted by reason,
with the first few sentences; nothing of it is stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import pyarrow as pa
from msgspec.structs import replace

from schemas.errors import USAGE, WeirError
from schemas.event import encode
from schemas.inputs import Label, Prediction, Role
from services.intake.database import plain
from services.intake.mapper import Mapper, Produced

BATCH: Final = 8_192
EXAMPLES: Final = 5
ORDER: Final = {"predictions": 0, "labels": 1, "signals": 2}

Batches = Callable[[], Iterator[pa.RecordBatch]]
Advance = Callable[[int], None]


class Arrived(NamedTuple):
    """An event and when it came. They sort by time; of one moment predictions come first."""

    at_ms: int
    order: int
    number: int
    topic: str
    key: bytes
    value: bytes


class Made(NamedTuple):
    """What is kept of a prediction at hand; `value` is all of it."""

    at_ms: int
    number: int
    request_id: str
    model: str
    version: str
    role: Role
    value: bytes


@dataclass(slots=True)
class Refused:
    """Rows of which no event came, by reason, and the first sentences."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, row: str, reason: str, detail: str) -> None:
        """Count one."""
        self.counts[reason] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{row}: {detail}")


@dataclass(slots=True)
class Events:
    """What came of the tables: events, predictions and labels by themselves, and what was refused."""

    arrived: list[Arrived] = field(default_factory=list)
    made: list[Made] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    refused: Refused = field(default_factory=Refused)
    rows: int = 0
    contradicted: int = 0

    def add(self, one: Produced) -> None:
        """Add an event."""
        number, at_ms = len(self.arrived), one.event.at_ms
        self.arrived.append(Arrived(at_ms, ORDER[one.topic], number, one.topic, one.key, one.value))
        if one.topic == "predictions":
            said: Prediction = one.event
            self.made.append(Made(at_ms, number, said.request_id, said.model, said.version, said.role, one.value))
        elif one.topic == "labels":
            self.labels.append(one.event)

    def sort(self) -> None:
        """Put all of it into the order of time; the table's where times are equal."""
        self.arrived.sort()
        self.made.sort()
        self.labels.sort(key=lambda label: label.at_ms)


def take(
    events: Events, name: str, batches: Iterator[pa.RecordBatch], mapper: Mapper, now_ms: int, advance: Advance
) -> None:
    """Add the events of one table. `name` is what its rows are called in refusals."""
    number = 0
    for batch in batches:
        for row in _told(batch, batch.to_pylist):
            about = {"time": now_ms, "topic": name, "partition": 0, "offset": number}
            mapped = mapper.map({column: plain(value) for column, value in row.items()}, about)
            for one in mapped.events:
                events.add(one)
            for refusal in mapped.refusals:
                events.refused.add(f"{name} row {number + 1}", refusal.reason, refusal.detail)
            number += 1
        events.rows += batch.num_rows
        advance(batch.num_rows)


def _told(batch: pa.RecordBatch, give: Callable[[], Any]) -> Any:
    try:
        return give()
    except (ArithmeticError, LookupError, ValueError, pa.ArrowException) as error:
        times = [one.name for one in batch.schema if pa.types.is_temporal(one.type)] or batch.schema.names
        raise WeirError(
            f"column {' or '.join(times)} holds a time or a zone that there is not: {error}",
            fix="correct it, or give it as numbers or ISO 8601 text",
            code=USAGE,
        ) from None


def known_at_once(events: Events) -> None:
    """Give labels without a time (0) that of the first prediction of their request, or of the last of all."""
    made = made_at(events)
    last_ms = max(made.values(), default=0)
    labels = iter(range(len(events.labels)))
    for place, arrived in enumerate(events.arrived):
        if arrived.topic != "labels":
            continue
        number = next(labels)
        if arrived.at_ms == 0:
            label = events.labels[number]
            label = events.labels[number] = replace(label, at_ms=made.get(label.request_id, last_ms))
            events.arrived[place] = arrived._replace(at_ms=label.at_ms, value=encode(label))


def last_row_stands(events: Events) -> None:
    """Leave out labels that a later row contradicts at the same moment, and count them; events are in order.

    The join, which knows no rows, would choose one by its hash, and the reference another.
    """
    last: dict[tuple[str, str, str | None, str, int], int] = {}
    odd: set[tuple[str, str, str | None, str, int]] = set()
    keys = [(one.request_id, one.name, one.item, one.source, one.at_ms) for one in events.labels]
    for number, (key, label) in enumerate(zip(keys, events.labels, strict=True)):
        before = events.labels[last.get(key, number)]
        if (before.op, before.label) != (label.op, label.label):
            odd.add(key)
        last[key] = number
    if not odd:
        return
    kept = [key not in odd or last[key] == number for number, key in enumerate(keys)]
    of_labels = iter(kept)
    events.arrived = [one for one in events.arrived if one.topic != "labels" or next(of_labels)]
    events.labels = [one for one, keeps in zip(events.labels, kept, strict=True) if keeps]
    events.contradicted = kept.count(False)


def made_at(events: Events) -> dict[str, int]:
    """Give when each request was predicted: of several predictions the first stands."""
    made: dict[str, int] = {}
    for one in events.made:
        made[one.request_id] = min(one.at_ms, made.get(one.request_id, one.at_ms))
    return made


def first_values(batches: Iterator[pa.RecordBatch], columns: Mapping[str, str]) -> dict[str, Any]:
    """Give, by role, the first value of a column that is not null; roles whose column has none are left out."""
    found: dict[str, Any] = {}
    for batch in batches:
        for role, column in columns.items():
            if role not in found:
                values = batch.column(column).drop_null()
                if len(values):
                    found[role] = plain(_told(batch.select([column]), values[0].as_py))
        if len(found) == len(columns):
            break
    return found


def longest_wait_ms(events: Events) -> int:
    """Give the longest time from a prediction to a label of its request; 0 without any."""
    made = made_at(events)
    waits = (label.at_ms - made[label.request_id] for label in events.labels if label.request_id in made)
    return max(max(waits, default=0), 0)


def outcomes(labels: Sequence[Label], label_name: str) -> dict[tuple[str, str | None], Any]:
    """Give the last label of each request (and item) of one label name; one that was taken back is gone."""
    found: dict[tuple[str, str | None], Any] = {}
    for label in labels:
        if label.name != label_name:
            continue
        place = label.request_id, label.item
        if label.op == "retract":
            found.pop(place, None)
        else:
            found[place] = label.label
    return found
