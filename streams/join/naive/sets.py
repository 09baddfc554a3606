"""All records of a request: which are one event, and which prediction stands, under which policy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from schemas.inputs import Label, Prediction, Signal
from schemas.policy import JoinPolicy
from streams.join.naive.records import Admitted, policy_in_force

Identity = tuple[str, str, str]
"""(request_id, model, deployment)."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of E(r): all records with one event key. The first of `records` is the one whose content stands."""

    records: tuple[Admitted, ...]
    append_ms: int

    @property
    def body(self) -> Prediction | Label | Signal:
        return self.records[0].body

    @property
    def key(self) -> int:
        return self.records[0].key


@dataclass(frozen=True, slots=True)
class Standing:
    """The standing prediction of one identity and the policy that resolves it; or one of its outcomes (`outcomes`)."""

    body: Prediction
    key: int
    append_ms: int
    policy: JoinPolicy
    conflicts: int
    item: str | None = None

    @property
    def deadline_ms(self) -> int:
        return self.body.at_ms + self.policy.wait_ms

    @property
    def reach_until_ms(self) -> int:
        return self.body.at_ms + self.policy.reach_ms

    @property
    def outcomes(self) -> list[Standing]:
        """The same prediction once for each of its outcomes, that of `label_name` as a whole first."""
        items = [None, *(entry.item for entry in self.body.items or ())]
        return [replace(self, policy=alone, item=item) for alone in self.policy.outcomes for item in items]


def identity_of(body: Prediction) -> Identity:
    """Give the identity of a prediction."""
    return (body.request_id, body.model, body.deployment)


def events_of(admitted: Iterable[Admitted]) -> list[Event]:
    """Merge the records of one request into events."""
    groups: dict[tuple[object, ...], list[Admitted]] = {}
    for record in admitted:
        scope = identity_of(record.body) if isinstance(record.body, Prediction) else ()
        groups.setdefault((record.topic, scope, record.key), []).append(record)
    return [
        Event(
            records=tuple(sorted(group, key=lambda one: (one.body.at_ms, one.content, one.place))),
            append_ms=min(one.append_ms for one in group),
        )
        for group in groups.values()
    ]


def standing_of(events: Sequence[Event], policies: Sequence[JoinPolicy]) -> dict[Identity, Standing]:
    """Find the standing prediction of every identity of one request."""
    rivals: dict[Identity, list[tuple[Prediction, Event]]] = {}
    for event in events:
        if isinstance(event.body, Prediction):
            rivals.setdefault(identity_of(event.body), []).append((event.body, event))
    found = {}
    for identity, several in rivals.items():
        body, event = min(several, key=lambda one: (one[0].at_ms, one[1].key))
        policy = policy_in_force(policies, body.model, body.at_ms)
        found[identity] = Standing(body, event.key, event.append_ms, policy, conflicts=len(several) - 1)
    return found
