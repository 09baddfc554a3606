"""The hot state of one partition: requests with their cases and what waits for them, timers, policies, counters.

A **case** is one identity (request_id, model, deployment): the standing prediction, its conflicts, its outcomes. Each
outcome is a **track**: what was said of one label name, and for a ranking of one item. The first is that of the
policy's `label_name` for the prediction as a whole, which is what `measure` is told. A request holds its cases and
every label and signal that was admitted for it, parked or joined, until both have ended.

Timers. `Request.due_ms` is the next moment at which anything of a request may be due, never later than the true one;
the heap holds (due_ms, request_id), and an entry that does not equal its request's `due_ms` is stale and skipped. A
request whose moment moves later stays and is looked at again then: a label that comes costs no heap operation.

Memory. All is proportional to the admitted events of requests in state. A request leaves when its predictions have been
evicted (`at_ms` + reach + grace) and its labels and signals have ended (`append_ms` + early label + grace). The objects
have no cycles and are hidden from Python's cycle collector (`gc=False`): walking them took half of the time.
Where there is a second tier, requests that are looked at seldom are put away before that (`stubs`).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic

from msgspec import Struct

from schemas.inputs import Label, Prediction, Signal
from schemas.policy import JoinPolicy
from streams.join.outcome import NOTHING, Counted, Items, Named, Outcome
from streams.join.policies import PolicyBook
from streams.join.resolve import Bounds, Evidence, Heard, HeardT, Scope, scope, stage
from streams.join.stubs import Asked, Stub
from streams.runtime.records import Headers

if TYPE_CHECKING:
    from streams.join.admission import Admitted
    from streams.join.columns.lane import Columns

MANY = 16

TOLD = 1
"""What a case tells of itself: 0 is the outcome of `label_name` as a whole, against `score`; 1 is that against the
output of this name, and with it the outcomes of a ranking's items and of the other label names.
"""

_HEARD = ("parked", "joined", "duplicate", "forwarded", "quarantined", "dead")
CLASSES: dict[str, tuple[str, ...]] = {
    "predictions": (
        "open",
        "provisional",
        "final",
        "void",
        "unlabelled",
        "parked",
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
    "recalls": ("away", "put_away", "open", "asked", "answered", "missing", "repeated", "dead", "again"),
}
"""Kind of record → its classes. Of the first four each record read is in exactly one; the others count beside them:
`recalls.away` the requests that are put away, `recalls.open` those of them that a question is open for.
"""


class Predicted(Struct, gc=False):
    """A prediction of E(r): its event key, the content that stands with its hash, the least append time."""

    key: int
    content: int
    event: Prediction
    append_ms: int


class Waiting(Heard[HeardT], Generic[HeardT], gc=False):
    """A label or signal in state.

    `offset` is its position (`streams.runtime.records.position`). `raw` is the record as it came, while it is parked:
    its dead letter gives it back. `joined` is its class, `kept`
    says that an evicted prediction has counted it, `furthest` how far it came with evicted ones (`resolve.stage`).
    """

    offset: int
    raw: tuple[bytes | None, bytes | None, Headers] | None
    joined: bool = False
    kept: bool = False
    furthest: int = 0


class Track(Struct, gc=False):
    """One outcome. `said` was emitted last (as revision `revision`), of the prediction `said_of`.

    `scope` is None when the policy in force knows the name no more, or the ranking the item: then the outcome is
    nothing, and the track stays only because its revisions go on counting. `evidence` is kept only for requests with
    many events (`Request.many`); None: gather it anew.
    """

    name: str
    scope: Scope | None
    item: str | None = None
    outcome: Outcome = NOTHING
    revision: int = 0
    said: Outcome = NOTHING
    said_of: Prediction | None = None
    evidence: Evidence | None = None


class Case(Struct, gc=False):
    """One identity. `tracks`: for `label_name`, then for each of `labels`, the whole and its items; then old ones.

    `counted` is what the stage behind was told last, `told` how far that was the case.
    """

    identity: tuple[str, str]
    standing: Predicted
    policy: JoinPolicy
    tracks: tuple[Track, ...]
    conflicts: dict[int, Predicted] | None = None
    counted: Counted | None = None
    counter: str = ""
    told: int = TOLD

    @property
    def scope(self) -> Scope:
        """The first outcome's scope: all have its `reach_ms` and `evict_ms`."""
        first = self.tracks[0].scope
        assert first is not None
        return first

    def stage(self, event: Label | Signal, append_ms: int) -> int:
        """Say how far an event comes with any outcome."""
        return max(stage(track.scope, event, append_ms) for track in self.tracks if track.scope is not None)

    def telling(self, told: int = TOLD) -> Counted:
        """Give what the stage behind is told of this case, as far as `told`."""
        event, first = self.standing.event, self.tracks[0]
        revision = sum(track.revision for track in self.tracks if track.item is None)
        if not told or (len(self.tracks) == 1 and event.outputs is None):
            return Counted(event, first.outcome, revision)
        values = {rule.name for rule in self.policy.labels if rule.metrics == "value"}
        return Counted(
            event,
            first.outcome,
            revision,
            self._items(first.name),
            first.name if event.outputs and first.name in event.outputs else None,
            tuple(
                Named(track.name, track.outcome, None, value=True)
                if track.name in values
                else Named(track.name, track.outcome, self._items(track.name))
                for track in self.tracks
                if track.item is None and track.scope is not None and track is not first
            ),
        )

    def _items(self, name: str) -> Items | None:
        if not self.standing.event.items:
            return None
        return tuple(
            (track.item, track.outcome)
            for track in self.tracks
            if track.item is not None
            and track.name == name
            and track.scope is not None
            and track.outcome.label is not None
        )

    def class_at(self, clock_ms: int) -> str:
        """Name the prediction's class: what is known of it by the policy's `label_name`, items included."""
        first = self.tracks[0]
        if len(self.tracks) == 1 and first.outcome is not NOTHING:
            return first.outcome.status
        mine = [track for track in self.tracks if track.scope is not None and track.name == first.name]
        statuses = {track.outcome.status for track in mine if track.outcome is not NOTHING}
        if statuses:
            return "provisional" if "provisional" in statuses else "final"
        if clock_ms < self.scope.deadline_ms:
            return "open"
        return "void" if any(track.revision for track in mine) else "unlabelled"

    def due_ms(self, clock_ms: int) -> int:
        """Give the next moment at which this case needs a visit, when it was last resolved at `clock_ms`."""
        due_ms = self.scope.evict_ms
        for track in self.tracks:
            scope = track.scope
            if scope is not None and clock_ms < scope.deadline_ms:
                due_ms = min(due_ms, scope.provisional_ms if clock_ms < scope.provisional_ms else scope.deadline_ms)
        return due_ms


def absorb(held: Predicted | Waiting[Any], record: Admitted) -> bool:
    """Let another record of an event in state say what it can: an earlier time, or the content that stands.

    True when it did. The content with the least (`at_ms`, content hash) stands.
    """
    changed = record.append_ms < held.append_ms
    held.append_ms = min(record.append_ms, held.append_ms)
    if (record.event.at_ms, record.content) < (held.event.at_ms, held.content):
        held.event, held.content = record.event, record.content
        changed = True
    return changed


def tracks_of(
    standing: Predicted,
    policies: PolicyBook,
    bounds: Bounds,
    before: Iterable[Track] = (),
    policy: JoinPolicy | None = None,
) -> tuple[JoinPolicy, tuple[Track, ...]]:
    """Give the policy of a standing prediction and its outcomes' tracks, which go on from those of before.

    `policy` is another one than that in force, if need be.
    """
    event = standing.event
    if policy is None:
        policy = policies.in_force(event.model, event.at_ms)
    old = {(track.name, track.item): track for track in before}
    items = [None, *dict.fromkeys(entry.item for entry in event.items)] if event.items else [None]
    tracks = []
    for one in policies.outcomes(policy):
        for item in items:
            track = old.pop((one.label_name, item), None) or Track(one.label_name, None, item)
            track.scope = scope(event, standing.append_ms, one, bounds, item)
            track.evidence = None
            tracks.append(track)
    for track in old.values():
        if track.revision:
            track.scope = track.evidence = None
            tracks.append(track)
    return policy, tuple(tracks)


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
    A request is in one of `requests`, `stubs` and `asked`, or in the columns.
    """

    partition: int
    clock_ms: int = 0
    timers_ms: int = 0
    frozen_ms: dict[str, int] = field(default_factory=dict)
    policies: PolicyBook = field(default_factory=PolicyBook)
    requests: dict[str, Request] = field(default_factory=dict)
    stubs: dict[str, Stub] = field(default_factory=dict)
    asked: dict[str, Asked] = field(default_factory=dict)
    timers: list[tuple[int, str]] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=lambda: zeros())
    columns: Columns | None = None

    def find(self, request_id: str) -> Request | None:
        """Give a request that is known, as objects: one that lived in the columns moves over."""
        request = self.requests.get(request_id)
        if request is None and self.columns is not None:
            position = self.columns.find(request_id)
            if position >= 0:
                request = self.lift(position)
        return request

    def lift(self, position: int, *, linked: bool = True) -> Request:
        """Move a request of the columns over to the objects, with its timer and what it counts in."""
        assert self.columns is not None
        lifted = self.columns.lift(position, linked=linked)
        for name in lifted.counters:
            self.counters[name] += 1
        request = self.requests[lifted.request_id] = lifted.request
        self.rearm(lifted.request_id, request, request.due_ms)
        return request

    def begin(self, request_id: str) -> Request:
        """Take up a request that is not known."""
        request = self.requests[request_id] = Request()
        if self.columns is not None:
            self.columns.mark(request_id)
        return request

    def end(self, request_id: str) -> None:
        """Let a request go, or its stub."""
        self.requests.pop(request_id, None)
        self.stubs.pop(request_id, None)
        if self.columns is not None:
            self.columns.forget(request_id)

    @property
    def has_away(self) -> bool:
        """Say whether anything has been put away."""
        return bool(self.asked or self.stubs or (self.columns is not None and self.columns.stubs))

    def take_stub(self, request_id: str) -> Stub | None:
        """Take the stub of a request that has been put away and not asked for; what it counts in stays."""
        stub = self.stubs.pop(request_id, None)
        if stub is None and self.columns is not None and self.columns.stubs:
            position = self.columns.find_stub(request_id)
            if position >= 0:
                _, stub = self.lift_stub(position)
        return stub

    def lift_stub(self, position: int, *, linked: bool = True) -> tuple[str, Stub]:
        """Move a stub of the columns over to the objects, with what it counts in; gives whose it is."""
        assert self.columns is not None
        request_id, stub = self.columns.lift_stub(position, linked=linked)
        for case in stub.cases:
            self.counters[case.counter] += 1
        return request_id, stub

    def put_away(self, request_id: str, stub: Stub) -> None:
        """Leave a stub in place of a request of the objects; in the columns, where they can hold it."""
        del self.requests[request_id]
        if self.columns is not None and self.columns.stow(request_id, stub):
            self.counters[stub.cases[0].counter] -= 1
            return
        self.stubs[request_id] = stub
        heapq.heappush(self.timers, (stub.due_ms, request_id))

    def counted(self) -> dict[str, int]:
        """Give the counters of both paths together."""
        counters = dict(self.counters)
        counters["recalls.open"] = len(self.asked)
        counters["recalls.away"] = len(self.stubs) + len(self.asked)
        if self.columns is not None:
            for name, value in self.columns.counters().items():
                counters[name] += value
        return counters

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

    def rearm(self, request_id: str, request: Request | Stub | Asked, due_ms: int) -> None:
        """Move a request whose timer has just been taken to a later moment."""
        request.due_ms = due_ms
        heapq.heappush(self.timers, (due_ms, request_id))

    def take_due(self, clock_ms: int) -> tuple[str, Request | Stub | Asked] | None:
        """Take the first timer that may be due at `clock_ms`."""
        while self.timers and self.timers[0][0] <= clock_ms:
            due_ms, request_id = heapq.heappop(self.timers)
            found = self._timed(request_id)
            if found is not None and found.due_ms == due_ms:
                return request_id, found
        return None

    def _timed(self, request_id: str) -> Request | Stub | Asked | None:
        return self.requests.get(request_id) or self.stubs.get(request_id) or self.asked.get(request_id)

    def wake_at_ms(self) -> int | None:
        """Give the moment of the first live timer; None also while a source is frozen, for no clock would take it."""
        if self.frozen_ms:
            return None
        first_ms = self._first_timer_ms()
        columnar_ms = None if self.columns is None else self.columns.wake_at_ms()
        return min((ms for ms in (first_ms, columnar_ms) if ms is not None), default=None)

    def _first_timer_ms(self) -> int | None:
        while self.timers:
            due_ms, request_id = self.timers[0]
            found = self._timed(request_id)
            if found is not None and found.due_ms == due_ms:
                return due_ms
            heapq.heappop(self.timers)
        return None


def zeros() -> dict[str, int]:
    """Give every counter at 0, `KIND.CLASS`."""
    return {f"{kind}.{name}": 0 for kind, names in CLASSES.items() for name in names}
