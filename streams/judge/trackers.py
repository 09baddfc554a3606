"""What a detector is while it runs: a tracker of one stream, or trackers of many, and the verdicts they give."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.verdict import Verdict
from streams.judge.evidence import Evidence, Evidences, Floats, Ints

Bools = NDArray[np.bool_]
Plain = dict[str, Any]
"""What a tracker dumps: numbers, strings, bytes and lists of them."""


class Tracker(abc.ABC):
    """The running state of one detector on one stream."""

    @abc.abstractmethod
    def update(self, pane: Evidence, days: float) -> Verdict:
        """Take the next closed pane, which may spend `days` of the budget. `fail` is an alarm, raised once."""

    @abc.abstractmethod
    def dump(self) -> Plain:
        """Give the state as plain data."""


class Verdicts(abc.ABC):
    """What a detector said of several streams. Sentences are made when they are asked for."""

    alarmed: Bools

    @abc.abstractmethod
    def verdict(self, place: int) -> Verdict:
        """Give the verdict on one of them, in the order in which they were judged."""


class Listed(Verdicts):
    """Verdicts that were made one by one."""

    def __init__(self, said: Sequence[Verdict]) -> None:
        self.said = said
        self.alarmed = np.array([verdict.outcome == "fail" for verdict in said], dtype=bool)

    def verdict(self, place: int) -> Verdict:
        """See `Verdicts.verdict`."""
        return self.said[place]


class Trackers(abc.ABC):
    """The running states of one detector on many streams, whose nulls have the same sets."""

    @abc.abstractmethod
    def update(self, rows: Ints, panes: Evidences, days: Floats, limits: Floats | None = None) -> Verdicts:
        """Let the streams `rows` (ascending, each once) take the next closed pane; `panes` and `days` are theirs.

        `limits` (stream, witness) stand for the nulls' in this pane. Detectors outside the budget ignore them.
        """

    @abc.abstractmethod
    def dump(self, row: int) -> Plain:
        """Give the state of one stream as plain data; an empty mapping when it is that of the start."""

    @abc.abstractmethod
    def load(self, row: int, state: Plain) -> None:
        """Let one stream go on from what `dump` gave."""


class First(Tracker):
    """The first of many trackers, by itself."""

    def __init__(self, many: Trackers) -> None:
        self.many = many

    def update(self, pane: Evidence, days: float, limits: Floats | None = None) -> Verdict:
        """See `Tracker.update`; `limits` (witness) stand for the null's in this pane."""
        allowed = None if limits is None else limits[None, :]
        return self.many.update(np.zeros(1, dtype=np.int64), Evidences.of([pane]), np.array([days]), allowed).verdict(0)

    def dump(self) -> Plain:
        """See `Tracker.dump`."""
        return self.many.dump(0)
