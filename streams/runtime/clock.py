"""The clock of one partition: a lower bound of the broker's time at everything that is still to be read.

**Broker clock.** An input whose last read record has the Kafka timestamp t will give no record from before t. An input
that is drained (position = last stable offset = high watermark, asked after the moment S of the broker's own clock)
will give none from before S. So `seen[input]` is the greatest such moment, and the clock is the least of them over the
inputs (but for those in `TIMELESS`). S is the append time of this worker's last
step before the question, less what two brokers may differ, so nobody's wall clock counts. The clock never goes back.

A jump beyond the grace period (after an outage, or a gap in the log) is waited out: records on their way from a wrong
partition may still lie unread in another one, which was away as long as this one. The clock stays until a further grace
period has passed in the brokers' time.

**Virtual clock.** In replay, demo and backfill the driver says in `control` what time it is, behind a barrier: it
writes `ClockAdvanced` only when every stage is drained. So whatever else a step holds beside that record was written
after it, and the new time holds for the whole step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from schemas.control import ClockAdvanced, Control
from streams.runtime.records import Records

CONTROL = "control"
RECALLED = "recalled"
TIMELESS = frozenset({CONTROL, RECALLED})
"""Inputs that carry commands and answers, not facts to be waited for: no clock looks at them."""

_control = msgspec.json.Decoder(Control)


class PartitionClock(Protocol):
    """What the loop asks of a clock. `ms` is the time; `seen` has to be kept in a snapshot."""

    ms: int
    seen: dict[str, int]

    def read(self, name: str, records: Records) -> None:
        """Take note of records of an input, about to be stepped over."""
        ...

    def confirm(self, name: str, moment_ms: int) -> None:
        """Take note that an input holds nothing unread from before this moment."""
        ...

    def advance(self) -> int:
        """Move `ms` as far as what was noted allows, never back, and give it."""
        ...


class BrokerClock:
    """The least over inputs of what was last read or confirmed.

    >>> clock = BrokerClock(["control", "predictions", "labels"], grace_ms=60_000)
    >>> clock.confirm("predictions", 500)
    >>> clock.advance()
    0
    >>> clock.confirm("labels", 400)
    >>> clock.advance()
    400
    >>> clock.confirm("predictions", 90_000)
    >>> clock.confirm("labels", 90_000)
    >>> clock.advance()  # a jump: waited out
    400
    >>> clock.confirm("predictions", 151_000)
    >>> clock.confirm("labels", 150_000)
    >>> clock.advance()
    150000
    """

    def __init__(
        self, inputs: Sequence[str], *, grace_ms: int, ms: int = 0, seen: Mapping[str, int] | None = None
    ) -> None:
        self.inputs = tuple(name for name in inputs if name not in TIMELESS)
        self.ms = ms
        self.seen: dict[str, int] = dict(seen or {})
        self._grace_ms = grace_ms
        self._held_until_ms: int | None = None

    @property
    def raw_ms(self) -> int | None:
        """The least moment seen, before any jump is waited out; None while an input has neither spoken nor drained."""
        if not self.inputs or any(name not in self.seen for name in self.inputs):
            return None
        return min(self.seen[name] for name in self.inputs)

    @property
    def held(self) -> bool:
        """Whether a jump is being waited out."""
        return self._held_until_ms is not None

    def read(self, name: str, records: Records) -> None:
        """Take note of the last record's Kafka timestamp."""
        last_ms = records.last_ms
        if last_ms is not None:
            self.confirm(name, last_ms)

    def confirm(self, name: str, moment_ms: int) -> None:
        """Raise `seen`. Never lowers it: a new leader's clock may lag the old one's."""
        if name not in TIMELESS and moment_ms > self.seen.get(name, -1):
            self.seen[name] = moment_ms

    def advance(self) -> int:
        """Move to the least moment seen, waiting a jump out."""
        raw_ms = self.raw_ms
        if raw_ms is None or raw_ms <= self.ms:
            return self.ms
        if self.ms and raw_ms - self.ms > self._grace_ms:
            if self._held_until_ms is None:
                self._held_until_ms = raw_ms + self._grace_ms
            if raw_ms < self._held_until_ms:
                return self.ms
        self._held_until_ms = None
        self.ms = raw_ms
        return self.ms


class VirtualClock:
    """The last `ClockAdvanced` in `control`.

    >>> clock = VirtualClock()
    >>> clock.read("control", Records([0], [5], [None], [b'{"kind":"clock_advanced","now_ms":7}']))
    >>> clock.advance()
    7
    """

    def __init__(self, *, ms: int = 0) -> None:
        self.ms = ms
        self.seen: dict[str, int] = {}

    def read(self, name: str, records: Records) -> None:
        """Follow the driver. What is no command is the processor's business, not the clock's."""
        if name != CONTROL:
            return
        for value in records.values:
            if value is None or b"clock_advanced" not in value:
                continue
            try:
                command = _control.decode(value)
            except msgspec.DecodeError:
                continue
            if isinstance(command, ClockAdvanced):
                self.ms = max(self.ms, command.now_ms)

    def confirm(self, name: str, moment_ms: int) -> None:
        """Nothing: the driver alone moves this clock."""

    def advance(self) -> int:
        """Give the time."""
        return self.ms
