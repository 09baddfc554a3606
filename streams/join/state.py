"""The hot state of one partition: requests with their cases and what waits for them, timers, policies, counters.

A **case** is one identity (request_id, model, deployment): the standing prediction, its conflicts, its outcome. A
request holds its cases and every label and signal that was admitted for it, parked or joined, until both have ended.

Timers. `Request.due_ms` is the next moment at which anything of a request may be due, never later than the true one;
the heap holds (due_ms, request_id), and an entry that does not equal its request's `due_ms` is stale and skipped. A
request whose moment moves later stays and is looked at again then: a label that comes costs no heap operation.

Memory. All is proportional to the admitted events of requests in state. A request leaves when its predictions have been
evicted (`at_ms` + reach + grace) and its labels and signals have ended (`append_ms` + early label + grace). The objects
have no cycles and are hidden from Python's cycle collector (`gc=False`): walking them took half of the time.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic

from msgspec import Struct

from schemas.inputs import Label, Prediction, Signal
from streams.join.outcome import NOTHING, Counted, Outcome
from streams.join.policies import PolicyBook
from streams.join.resolve import Bounds, Evidence, Heard, HeardT, Scope
from streams.runtime.processor import Headers

MANY = 16

_HEARD = ("parked", "joined", "duplicate", "forwarded", "quarantined", "dead")
CLASSES: dict[str, tuple[str, ...]] = {
    "predictions": (
        "open",
        "provisional",
        "final",
        "void",
        "unlabelled",
        "duplicate",
        "conflict",
        "forwarded",
        "quarantined",
        "dead",
    ),
    "labels": _HEARD,
    "signals": _HEARD,
    "control": ("applied", "ignored", "dead"),
    "keys": ("differ",),
}
"""Kind of record → its classes. Of the first four each record read is in exactly one; `keys` counts beside them."""


class Predicted(Struct, gc=False):
    """A prediction of E(r): its event key, the content that stands with its hash, the least append time."""

    key: int
    content: int
    event: Prediction
    append_ms: int


class Waiting(Heard[HeardT], Generic[HeardT], gc=False):
    """A label or signal in state.

    `raw` is the record as it came, while it is parked: its dead letter gives it back. `joined` is its class, `kept`
    says that an evicted prediction has counted it, `furthest` how far it came with evicted ones (`resolve.stage`).
    """

    offset: int
    raw: tuple[bytes | None, bytes | None, Headers] | None
    joined: bool = False
    kept: bool = False
    furthest: int = 0


class Case(Struct, gc=False):
    """One identity. `said` was emitted last (revision `counted.revision`), of the prediction `said_of`.

    `evidence` is kept only for requests with many events (`Request.many`); None: gather it anew.
    """

    identity: tuple[str, str]
    standing: Predicted
    scope: Scope
    conflicts: dict[int, Predicted] | None = None
    counted: Counted | None = None
    said: Outcome = NOTHING
    said_of: Prediction | None = None
    counter: str = ""
    evidence: Evidence | None = None

    def due_ms(self, clock_ms: int) -> int:
        """Give the next moment at which this case needs a visit, when it was last resolved at `clock_ms`."""
        scope = self.scope
        if clock_ms < scope.provisional_ms:
            return scope.provisional_ms
        return scope.deadline_ms if clock_ms < scope.deadline_ms else scope.evict_ms


class Request(Struct, gc=False):
    """E(r) and what follows from it. `cases` is ascending by identity. None is an empty mapping, to save the room."""

    due_ms: int = -1
    cases: tuple[Case, ...] = ()
    labels: dict[int, Waiting[Label]] | None = None
    signals: dict[int, Waiting[Signal]] | None = None

    @property
    def many(self) -> bool:
        """Say whether so much has been heard that the evidence of each case is worth keeping."""
        return len(self.labels or ()) + len(self.signals or ()) > MANY

    def heard(self) -> Iterator[Waiting[Label] | Waiting[Signal]]:
        """Give every label and signal."""
        if self.labels:
            yield from self.labels.values()
        if self.signals:
            yield from self.signals.values()

    def next_due_ms(self, clock_ms: int, bounds: Bounds) -> int | None:
        """Give the true next moment; None when nothing is left."""
        if self.cases:
            return min(case.due_ms(clock_ms) for case in self.cases)
        first = min((heard.append_ms for heard in self.heard()), default=None)
        return None if first is None else first + bounds.early_label_ms + bounds.grace_ms


@dataclass(slots=True)
class JoinState:
    """One partition's state. `clock_ms` is the clock of the step before, `timers_ms` the timers' clock of it.

    `frozen_ms` holds, for each frozen source, the clock at which it was frozen: the timers' clock stops there.
    """

    partition: int
    clock_ms: int = 0
    timers_ms: int = 0
    frozen_ms: dict[str, int] = field(default_factory=dict)
    policies: PolicyBook = field(default_factory=PolicyBook)
    requests: dict[str, Request] = field(default_factory=dict)
    timers: list[tuple[int, str]] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=lambda: zeros())

    def held_ms(self, clock_ms: int) -> int:
        """Give the timers' clock of a step whose control has been taken.

        >>> JoinState(0, timers_ms=5, frozen_ms={"desk": 7, "": 8}).held_ms(9)
        7
        """
        return max(self.timers_ms, min([clock_ms, *self.frozen_ms.values()]))

    def arm(self, request_id: str, request: Request, due_ms: int) -> None:
        """See to it that a request is visited at `due_ms` or before."""
        if request.due_ms < 0 or due_ms < request.due_ms:
            request.due_ms = due_ms
            heapq.heappush(self.timers, (due_ms, request_id))

    def rearm(self, request_id: str, request: Request, due_ms: int) -> None:
        """Move a request whose timer has just been taken to a later moment."""
        request.due_ms = due_ms
        heapq.heappush(self.timers, (due_ms, request_id))

    def take_due(self, clock_ms: int) -> tuple[str, Request] | None:
        """Take the first timer that may be due at `clock_ms`."""
        while self.timers and self.timers[0][0] <= clock_ms:
            due_ms, request_id = heapq.heappop(self.timers)
            request = self.requests.get(request_id)
            if request is not None and request.due_ms == due_ms:
                return request_id, request
        return None

    def wake_at_ms(self) -> int | None:
        """Give the moment of the first live timer; None also while a source is frozen, for no clock would take it."""
        if self.frozen_ms:
            return None
        while self.timers:
            due_ms, request_id = self.timers[0]
            request = self.requests.get(request_id)
            if request is not None and request.due_ms == due_ms:
                return due_ms
            heapq.heappop(self.timers)
        return None


def zeros() -> dict[str, int]:
    """Give every counter at 0, `KIND.CLASS`."""
    return {f"{kind}.{name}": 0 for kind, names in CLASSES.items() for name in names}
