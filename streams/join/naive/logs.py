"""What whole logs should lead to: outcomes, classes and dead letters (`expect`), and the timers' clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from schemas.control import Frozen, Thawed
from schemas.inputs import Label, Prediction
from schemas.policy import JoinPolicy
from schemas.topics import INPUTS
from streams.join.naive.outcomes import Outcome, concerns, counts, in_window, is_about, resolve
from streams.join.naive.records import (
    Admitted,
    Bounds,
    Logs,
    Record,
    Refused,
    admit,
    events_in,
    partition_of,
    read_command,
    read_policy,
)
from streams.join.naive.sets import Event, Identity, Standing, events_of, identity_of, standing_of

OutcomeId = tuple[str, str, str, str, str]
"""(request_id, model, deployment, label name, item or the empty text)."""


def timers_clock(control: Iterable[Record], steps: Iterable[tuple[int, int]], bounds: Bounds) -> int:
    """Give a partition's timers' clock after some steps, each (control offset up to which it read, clock), in order.

    `control` is the partition's, in offset order. While a source is frozen, the clock of the step before the one that
    read so is not passed.
    """
    waiting = list(control)
    frozen: dict[str, int] = {}
    clock_ms = timers_ms = 0
    for until, step_ms in steps:
        while waiting and waiting[0].offset < until:
            command = read_command(waiting.pop(0), bounds)
            if isinstance(command, Frozen) and command.source not in frozen:
                frozen[command.source] = clock_ms
            elif isinstance(command, Thawed) and command.source in frozen:
                del frozen[command.source]
        clock_ms = max(clock_ms, step_ms)
        timers_ms = max(timers_ms, min([clock_ms, *frozen.values()]))
    return timers_ms


@dataclass(frozen=True, slots=True)
class Dead:
    """A dead letter: which record, and why."""

    topic: str
    partition: int
    offset: int
    reason: str
    index: int = 0


@dataclass(frozen=True, slots=True)
class Expected:
    """What should be known of one outcome, from which prediction. `alive` while its state is kept.

    The `first` outcome of a prediction, that of its policy's `label_name`, is the one that is measured.
    """

    outcome: Outcome
    standing: Standing
    partition: int
    alive: bool
    first: bool


@dataclass(slots=True)
class Expectation:
    """What logs should lead to.

    `counters` has only classes. `undecided` are the dead letters of parked records that may have ended or may wait for
    the eviction of a prediction not known to them (the counters call them parked). `forwarded` are the records that
    have to be in another partition. `beyond` are the requests whose end the log leaves open.
    """

    outcomes: dict[OutcomeId, Expected] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)
    dead_letters: set[Dead] = field(default_factory=set)
    undecided: set[Dead] = field(default_factory=set)
    forwarded: list[tuple[str, Record]] = field(default_factory=list)
    beyond: set[str] = field(default_factory=set)


def expect(
    logs: Logs, bounds: Bounds, clock_by_partition: Mapping[int, int], said: Container[OutcomeId] = ()
) -> Expectation:
    """Say what these logs should lead to once all of them have been read and the clocks have come.

    `clock_by_partition` holds the timers' clocks (`timers_clock`; the partition's own while nothing is frozen).
    `said` holds the outcomes of which `feedback` has a revision: it tells `void` from `unlabelled`.
    """
    expectation = Expectation()
    policies = {partition: list[JoinPolicy]() for partition in range(bounds.partitions)}
    for record in logs.get("control", ()):
        policy = read_policy(record, bounds)
        if isinstance(policy, Refused):
            expectation.dead_letters.add(Dead("control", record.partition, record.offset, policy.reason))
        elif policy is not None:
            policies[record.partition].append(policy)

    requests: dict[str, list[Admitted]] = {}
    for topic in INPUTS:
        for record in (one for came in logs.get(topic, ()) for one in events_in(topic, came)):
            found = admit(topic, record, policies[record.partition], bounds)
            if isinstance(found, Admitted):
                requests.setdefault(found.body.request_id, []).append(found)
                continue
            expectation.counters[f"{topic}.{found.fate}"] += 1
            if found.fate == "forwarded":
                expectation.forwarded.append((topic, record))
            else:
                expectation.dead_letters.add(Dead(topic, record.partition, record.offset, found.reason, record.index))

    for request_id, admitted in requests.items():
        partition = partition_of(request_id, bounds.partitions)
        clock_ms = clock_by_partition.get(partition, 0)
        _expect_request(expectation, request_id, admitted, policies[partition], bounds, partition, clock_ms, said)
    return expectation


def _expect_request(
    expectation: Expectation,
    request_id: str,
    admitted: Sequence[Admitted],
    policies: Sequence[JoinPolicy],
    bounds: Bounds,
    partition: int,
    clock_ms: int,
    said: Container[OutcomeId],
) -> None:
    events = events_of(admitted)
    standing = standing_of(events, policies)
    counters = expectation.counters
    for event in events:
        counters[f"{event.records[0].topic}.duplicate"] += len(event.records) - 1
    if is_beyond(events, standing, bounds):
        expectation.beyond.add(request_id)

    for identity, one in standing.items():
        alive = clock_ms <= one.reach_until_ms + bounds.grace_ms
        found: dict[OutcomeId, Outcome] = {}
        for each in one.outcomes:
            named = (*identity, each.policy.label_name, each.item or "")
            first = each.policy.label_name == one.policy.label_name and each.item is None
            outcome = resolve(each, events, clock_ms, bounds)
            expectation.outcomes[named] = Expected(outcome, each, partition, alive, first)
            if each.policy.label_name == one.policy.label_name:
                found[named] = outcome
        counters["predictions.conflict"] += one.conflicts
        statuses = {outcome.status for outcome in found.values() if outcome.label is not None}
        if statuses:
            fate = "provisional" if "provisional" in statuses else "final"
        elif clock_ms < one.deadline_ms:
            fate = "open"
        else:
            fate = "void" if any(named in said for named in found) else "unlabelled"
        counters[f"predictions.{fate}"] += 1

    outcomes = [each for one in standing.values() for each in one.outcomes]
    somebody_alive = any(clock_ms <= one.reach_until_ms + bounds.grace_ms for one in standing.values())
    for event in events:
        if isinstance(event.body, Prediction):
            continue
        record = event.records[0]
        place = record.partition, record.offset
        dead = Dead(record.topic, *place, why_dead(event, outcomes, bounds), record.index)
        if any(counts(event, one, bounds) for one in outcomes):
            counters[f"{record.topic}.joined"] += 1
        elif clock_ms < event.append_ms + bounds.early_label_ms + bounds.grace_ms:
            counters[f"{record.topic}.parked"] += 1
        elif somebody_alive:
            counters[f"{record.topic}.parked"] += 1
            expectation.undecided.add(dead)
        else:
            counters[f"{record.topic}.dead"] += 1
            expectation.dead_letters.add(dead)


def is_known(event: Event, standing: Standing, bounds: Bounds) -> bool:
    """Say whether a standing prediction and a label or signal were surely in state together."""
    return (
        event.append_ms <= standing.reach_until_ms + bounds.grace_ms
        and standing.append_ms < event.append_ms + bounds.early_label_ms + bounds.grace_ms
    )


def why_dead(event: Event, outcomes: Iterable[Standing], bounds: Bounds) -> str:
    """Give the reason of a label or signal that counted for nobody."""
    known = [one for one in outcomes if is_known(event, one, bounds)]
    of_model = [one for one in known if concerns(event, one)]
    if not of_model:
        return "orphan"
    body = event.body
    of_name = [one for one in of_model if not isinstance(body, Label) or body.name == one.policy.label_name]
    if not of_name:
        return "unknown_name"
    of_item = [one for one in of_name if is_about(event, one)]
    if not of_item:
        return "unknown_item"
    if not any(in_window(event, one, bounds) for one in of_item):
        return "outside_horizon"
    return "too_late"


def is_beyond(events: Sequence[Event], standing: Mapping[Identity, Standing], bounds: Bounds) -> bool:
    """Say whether the log alone leaves open what state still knew of this request (docs/join.md, "Beyond")."""
    grace_ms, wait_ms = bounds.grace_ms, bounds.early_label_ms + bounds.grace_ms
    records = [record for event in events for record in event.records]
    if any(record.kafka_ms - record.append_ms > grace_ms for record in records):
        return True  # forwarded too late
    for event in events:
        body = event.body
        first = min(event.records, key=lambda record: record.place)
        later = [record for record in event.records if record is not first]
        if isinstance(body, Prediction):
            end_ms = standing[identity_of(body)].reach_until_ms + grace_ms
            if any(record.kafka_ms > end_ms for record in event.records):
                return True
            continue
        ends = [one.reach_until_ms + grace_ms for one in standing.values()]
        known_ends = [one.reach_until_ms + grace_ms for one in standing.values() if is_known(event, one, bounds)]
        if any(r.kafka_ms >= max([first.append_ms + wait_ms, *(end + 1 for end in known_ends)]) for r in later):
            return True
        differ = any(record.content != first.content for record in later)
        if differ and any(first.append_ms <= end < record.kafka_ms for end in ends for record in later):
            return True
        # A forwarded record whose two append times lie on two sides of an end.
        if any(r.append_ms <= end < r.kafka_ms for r in event.records for end in ends):
            return True
    for event in events:
        for record in records:
            if isinstance(record.body, Prediction) and not isinstance(event.body, Prediction):
                end_ms = event.append_ms + wait_ms
                if record.append_ms < end_ms <= record.kafka_ms:
                    return True
    return False
