"""The contract of a stage chained behind the join: same step, same partition, same transaction.

`streams.join.processor.JoinProcessor` calls it once per step, after all records and timers of the step, also when there
is no change (an idle partition still tells its clock). The chained stage keeps its own state, and that state is part of
the join's snapshots.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from schemas.control import Control
from streams.join.arrivals import Arrivals
from streams.join.outcome import Change
from streams.runtime.processor import Batch, Output

ChainedT = TypeVar("ChainedT")


class Chained(Protocol[ChainedT]):
    """What `JoinProcessor(bounds, chained=…)` expects. `version` names the code and becomes part of the processor's.

    Like the processor it is deterministic: the same state and arguments give the same outputs, byte for byte.
    """

    version: str

    def empty(self, partition: int) -> ChainedT:
        """Give the state of a partition that has read nothing."""
        ...

    def step(
        self,
        state: ChainedT,
        changes: Sequence[Change],
        control: Sequence[Control],
        batch: Batch,
        clock_ms: int,
        *,
        arrivals: Arrivals,
        timers_ms: int,
    ) -> Sequence[Output]:
        """Advance `state` in place and give the outputs, which follow the join's own.

        `changes` come in the order in which they happened; one identity may appear several times, and each `before`
        equals its previous `after`. A change of status or of `p_fake_negative` alone is a change too. `control` holds
        the step's control events in offset order, all kinds, decoded; malformed ones and refused policies are left out.
        `arrivals` are the labels and signals that met predictions; `timers_ms` is the timers' clock, which a freeze
        holds.
        `batch` gives partition and step number. Raises nothing for what users sent.
        """
        ...

    def dump(self, state: ChainedT) -> bytes:
        """Give the whole state as bytes that begin with a format version."""
        ...

    def load(self, partition: int, body: bytes) -> ChainedT:
        """Read `dump`'s bytes. Raises `ValueError` for a format it does not know."""
        ...
