"""Where the timers of a partition's join stood, as its landed steps and control say: their clock, or a freeze's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from schemas.records import Step
from streams.join.naive import Record

Ask = Callable[[str], Any]
"""Gives the Arrow table of a query in the namespace's database; strings are bytes."""


@dataclass(frozen=True, slots=True)
class Timers:
    """The newest step, and the clock at which a freeze that lasts holds the timers, None without one."""

    step: Step | None = None
    held_ms: int | None = None

    @property
    def clock_ms(self) -> int:
        """The timers' clock; 0 before the first step."""
        clock_ms = self.step.clock_ms if self.step else 0
        return clock_ms if self.held_ms is None else min(clock_ms, self.held_ms)


class _Said(msgspec.Struct):
    kind: str = ""
    source: str = ""


def timers_of(ask: Ask, partition: int, control: Iterable[Record], below: int | None = None) -> Timers:
    """Find where the timers stood after the newest step, of those below an offset of `steps` if one is given.

    `control` has the freezes of the partition in the order of offsets; those that the step had not read do not count.
    """
    mine = f"stage = 'join' AND unreadable = '' AND partition = {partition}"
    if below is not None:
        mine += f" AND offset < {below}"
    bodies = ask(f"SELECT body FROM landed_steps WHERE {mine} ORDER BY number DESC LIMIT 1").column(0).to_pylist()
    if not bodies:
        return Timers()
    step = msgspec.json.decode(bodies[0], type=Step)
    frozen: dict[str, int] = {}
    for record in control:
        if record.partition != partition or record.offset >= step.offsets.get("control", 0):
            continue
        said = msgspec.json.decode(record.value or b"{}", type=_Said)
        if said.kind == "frozen":
            frozen.setdefault(said.source, record.offset)
        elif said.kind == "thawed":
            frozen.pop(said.source, None)
    if not frozen:
        return Timers(step)
    # The clock of the step before the one that read the first freeze: the timers have not passed it.
    held = f"SELECT max(clock_ms) FROM landed_steps WHERE {mine} AND offsets['control'] <= {min(frozen.values())}"
    return Timers(step, int(ask(held).column(0)[0].as_py()))


RAW = "partition, offset, append_ms, key, body, headers, idx"
"""The columns of a landed record as it came."""


def records(table: Any) -> Iterator[Record]:
    """Give the raw rows of an Arrow table (`RAW`) as Kafka had them."""
    for row in table.to_pylist():
        headers = [(header["name"].decode("utf-8", "replace"), header["value"]) for header in row["headers"] or ()]
        yield Record(row["partition"], row["offset"], row["append_ms"], row["key"], row["body"], headers, row["idx"])
