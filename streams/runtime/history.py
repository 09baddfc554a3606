"""What a restore asks of whoever keeps the log's records longer than Kafka does.

`streams` knows no such place; the command line hands one in (`services.record.history`). It is asked only when Kafka no
longer has what a restore needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from schemas.records import Step
from streams.runtime.records import Records


class HistoryAway(Exception):
    """It does not answer, or is that of another log. The text says why."""


class History(Protocol):
    """Records as they were in the log, by position. Topics are logical names. Every method raises `HistoryAway`."""

    where: str

    def landed(self, topic: str, partition: int) -> int:
        """Give the offset below which it holds every record that it has met."""
        ...

    def records(self, topic: str, partition: int, start: int, end: int) -> Iterator[Records]:
        """Give the committed records in [start, end) in offset order, in portions that fit into memory."""
        ...

    def steps(self, stage: str, partition: int, first: int, last: int) -> Iterator[tuple[int, Step]]:
        """Give the steps of a stage with these numbers that it holds, ascending, each with its offset in `steps`."""
        ...

    def step_before(self, stage: str, partition: int, clock_ms: int) -> tuple[int, Step] | None:
        """Give the last step of a stage whose clock was at most `clock_ms`, with its offset."""
        ...
