"""The stage `join` as the runtime runs it, with or without a stage chained behind (`step` does the thinking)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

from schemas.topics import INPUTS
from streams.join.admission import JoinBounds
from streams.join.chained import Chained, ChainedT
from streams.join.columns.lane import Columns
from streams.join.columns.snapshot import SMALL as COLUMNS
from streams.join.columns.snapshot import dump as dump_columns
from streams.join.columns.snapshot import load as load_columns
from streams.join.rebuild import window_ms
from streams.join.snapshot import dump_join, dump_pair, load_join, load_pair
from streams.join.state import JoinState
from streams.join.step import Join
from streams.runtime.clock import RECALLED
from streams.runtime.processor import WHOLE, Batch, Body, Dump, Output, Stepped

_REQUEST_BYTES, _STUB_BYTES = 2_900, 400
"""What one request takes as objects (measured), and its stub."""


@dataclass(slots=True)
class JoinMeasureState(Generic[ChainedT]):
    """The state of the join and of the stage chained behind it, which together are one stage to the runtime."""

    join: JoinState
    chained: ChainedT | None = None


class JoinProcessor(Generic[ChainedT]):
    """The stage `join` as the runtime runs it: a `streams.runtime.processor.Processor`, alone or with `measure` behind.

    Delivery: exactly once, when the runtime commits a step's outputs and offsets together.
    """

    stage: str = "join"
    inputs: tuple[str, ...] = ("control", RECALLED, *INPUTS)
    gauges: tuple[str, ...] = (
        *("predictions.open", "predictions.provisional", "predictions.parked", "labels.parked", "signals.parked"),
        *("recalls.away", "recalls.open"),
    )
    said: str = "feedback"
    lander: str = "record"

    def __init__(self, bounds: JoinBounds, chained: Chained[ChainedT] | None = None, *, columns: bool = True) -> None:
        self.join = Join(bounds)
        self.chained = chained
        self.columns = columns
        self.version = "join-6" if chained is None else f"join-6+{chained.version}"

    def empty(self, partition: int) -> JoinMeasureState[ChainedT]:
        """Give the state of a partition that has read nothing."""
        state = JoinState(partition, columns=self._columns(partition))
        return JoinMeasureState(state, self.chained.empty(partition) if self.chained else None)

    def _columns(self, partition: int) -> Columns | None:
        return Columns(partition, self.join.bounds, chained=self.chained is not None) if self.columns else None

    def step(self, state: JoinMeasureState[ChainedT], batch: Batch, clock_ms: int) -> Stepped:
        """Advance `state` in place; the join's outputs come first, then the chained stage's."""
        stepped = self.join.step(state.join, batch, clock_ms)
        outputs = stepped.outputs
        if self.chained is not None and state.chained is not None:
            more: Sequence[Output] = self.chained.step(
                state.chained,
                stepped.changes,
                stepped.control,
                batch,
                state.join.clock_ms,
                arrivals=stepped.arrivals,
                timers_ms=state.join.timers_ms,
            )
            outputs.extend(more)
        return Stepped(outputs, stepped.counters, stepped.wake_at_ms)

    def used_bytes(self, state: JoinMeasureState[ChainedT]) -> int:
        """Give about how much memory a state takes, what is chained behind left out."""
        join = state.join
        columns = 0 if join.columns is None else join.columns.used_bytes
        held = len(join.requests) + sum(len(asked.held) for asked in join.asked.values())
        return columns + _REQUEST_BYTES * held + _STUB_BYTES * (len(join.stubs) + len(join.asked))

    def oldest_ms(self, state: JoinMeasureState[ChainedT]) -> int | None:
        """Give the time of about the oldest prediction that has not been put away; None when there is none."""
        join = state.join
        times = [case.scope.at_ms for request in join.requests.values() for case in request.cases]
        if join.columns is not None and join.columns.oldest_ms is not None:
            times.append(join.columns.oldest_ms)
        return min(times, default=None)

    def reach_ms(self, state: JoinMeasureState[ChainedT]) -> int | None:
        """Give how long before the clock something may have been read that is still in state; None while frozen."""
        join = state.join
        return None if join.frozen_ms else window_ms(join.policies.all(), self.join.bounds)

    def forgotten(self, state: JoinMeasureState[ChainedT], before_ms: int) -> bool:
        """Say whether everything that was read when the clock was at most `before_ms` has left state."""
        return state.join.timers_ms > before_ms + window_ms(state.join.policies.all(), self.join.bounds)

    def adopt(self, state: JoinMeasureState[ChainedT], counters: Mapping[str, int]) -> None:
        """Replace the cumulative counters by recorded ones."""
        columns = state.join.columns
        apart: Mapping[str, int] = {} if columns is None else columns.counters()
        state.join.counters.update({name: count - apart.get(name, 0) for name, count in counters.items()})

    def dump(self, state: JoinMeasureState[ChainedT], *, whole: bool) -> Dump:
        """Give the objects in one part that begins with a format version, and the columns' parts that changed."""
        chained = b""
        if self.chained is not None and state.chained is not None:
            chained = self.chained.dump(state.chained)
        parts: dict[str, Body | None] = {WHOLE: dump_pair(dump_join(state.join), chained)}
        if state.join.columns is not None:
            parts |= dump_columns(state.join.columns, whole=whole)
        return Dump(parts)

    def load(self, partition: int, parts: Mapping[str, bytes]) -> JoinMeasureState[ChainedT]:
        """Read `dump`'s parts. Raises `ValueError` for a format it does not know.

        A state that was dumped without columns goes on in objects, and what is new goes into columns.
        """
        join, chained = load_pair(parts[WHOLE])
        state = load_join(partition, join, self.join.bounds)
        state.columns = self._columns(partition)
        if state.columns is not None:
            if COLUMNS in parts:
                load_columns(state.columns, parts, state.policies)
            else:
                state.columns.adopt(state.policies, state.requests)
        elif COLUMNS in parts:
            raise ValueError("the state has columns, and this processor was made without them")
        if self.chained is None:
            return JoinMeasureState(state)
        return JoinMeasureState(
            state, self.chained.load(partition, chained) if chained else self.chained.empty(partition)
        )
