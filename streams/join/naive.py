"""The naive twin of the join: docs/join.md written down again, for correctness alone.

It gets whole logs, reads every record once, forms the sets E(r), and asks `resolve` about every standing prediction. It
keeps no state, has no timers and takes no shortcuts, and it shares no code with the fast path: only then does equality
of the two prove something. Order of this file: a record (admission), a set (events, standing predictions, policies),
an outcome (`resolve`), and what a whole log should lead to (`expect`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec
import xxhash

from schemas.control import Control, Frozen, PolicySet, Thawed
from schemas.event import LabelValue, encode
from schemas.feedback import LabelKind, Status
from schemas.inputs import Label, Prediction, Signal
from schemas.policy import Attribution, JoinPolicy
from schemas.topics import INPUTS

POLICY_NOTICE_MS = 60_000
KINDS: dict[str, type[Prediction] | type[Label] | type[Signal]] = {
    "predictions": Prediction,
    "labels": Label,
    "signals": Signal,
}

Identity = tuple[str, str, str]
"""(request_id, model, deployment)."""
OutcomeId = tuple[str, str, str, str, str]
"""(request_id, model, deployment, label name, item or the empty text)."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of a namespace that admission and `resolve` depend on. See `schemas.settings.Join`."""

    partitions: int
    skew_ms: int
    early_label_ms: int
    grace_ms: int
    max_event_bytes: int
    virtual: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """A Kafka record of one logical topic. `append_ms` is its Kafka timestamp."""

    partition: int
    offset: int
    append_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()


Logs = Mapping[str, Sequence[Record]]
"""Logical topic → its records; those of one partition in offset order."""


# A record


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that is no event: `fate` is its class, `reason` that of its dead letter ("" for a forwarded one)."""

    fate: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A record that is an event. `append_ms` is the original append time, `kafka_ms` that of this very record."""

    topic: str
    partition: int
    offset: int
    append_ms: int
    kafka_ms: int
    body: Prediction | Label | Signal
    content: int
    key: int


def murmur2(data: bytes) -> int:
    """Hash as Kafka's Java client does (32 bits, unsigned).

    >>> [murmur2(name) for name in (b"21", b"foobar", b"abc")]
    [3321034988, 3504634814, 479470107]
    """
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = (0x9747B28C ^ len(data)) & mask
    for start in range(0, len(data) - len(data) % 4, 4):
        k = int.from_bytes(data[start : start + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    tail = data[len(data) - len(data) % 4 :]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


def partition_of(request_id: str, partitions: int) -> int:
    """Give the partition in which everything about a request meets."""
    return (murmur2(request_id.encode()) & 0x7FFFFFFF) % partitions


def read_body(topic: str, record: Record, max_event_bytes: int) -> Prediction | Label | Signal | Refused:
    """Apply rule 1."""
    value = record.value
    if value is None:
        return Refused("dead", "not_json")
    if size_of(record) > max_event_bytes:
        return Refused("dead", "too_large")
    try:
        value.decode("utf-8")
        body = msgspec.json.decode(value, type=KINDS[topic])
    except (ValueError, RecursionError):
        return Refused("dead", "bad_event" if is_json(value) else "not_json")
    if any(map(is_big_integer, values_of(body))):
        return Refused("dead", "bad_event")
    return Refused("dead", "too_large") if len(encode(body)) > max_event_bytes else body


def size_of(record: Record) -> int:
    """Give the bytes of value, key and headers together."""
    parts = [record.value, record.key, *(part for name, value in record.headers for part in (name.encode(), value))]
    return sum(len(part) for part in parts if part is not None)


def values_of(body: Prediction | Label | Signal | JoinPolicy) -> list[object]:
    """Give the values of an event that may be integers of any size."""
    match body:
        case Prediction():
            return [body.prediction, *body.features.values(), *body.slices.values()]
        case JoinPolicy():
            silent = [body.negative_label, *(named.negative_label for named in body.labels)]
            rules = [*body.attribution, *(rule for named in body.labels for rule in named.attribution)]
            return [*silent, *(rule.label for rule in rules)]
        case Label():
            return [body.label]
    return []


def is_big_integer(value: object) -> bool:
    """Say whether a value is an integer beyond 64 bits."""
    return isinstance(value, int) and not -(2**63) <= value < 2**64


def is_json(value: bytes) -> bool:
    """Say whether bytes are JSON of any shape; numbers too large to hold are."""
    try:
        msgspec.json.decode(value.decode("utf-8"))
    except (UnicodeDecodeError, RecursionError):
        return False
    except ValueError as error:
        malformed = isinstance(error, msgspec.DecodeError) and not isinstance(error, msgspec.ValidationError)
        return not malformed  # else a number: beyond a double, or of thousands of digits
    return True


def admit(topic: str, record: Record, policies: Sequence[JoinPolicy], bounds: Bounds) -> Admitted | Refused:
    """Apply rules 1 to 4 to a record. `policies` are those of its partition."""
    body = read_body(topic, record, bounds.max_event_bytes)
    if isinstance(body, Refused):
        return body
    headers = dict(record.headers)
    hopped = "weir-hop" in headers
    append_ms = record.append_ms
    if hopped:
        claimed = headers.get("weir-append-ms") or b""
        if claimed.isdigit() and len(claimed) <= 15 and int(claimed) <= record.append_ms:
            append_ms = int(claimed)
    if partition_of(body.request_id, bounds.partitions) != record.partition:
        return Refused("dead", "misrouted_twice") if hopped else Refused("forwarded")
    if body.at_ms > append_ms + bounds.skew_ms:
        return Refused("quarantined", "clock_skew")
    if isinstance(body, Prediction):
        if body.at_ms < append_ms - bounds.skew_ms:
            return Refused("quarantined", "clock_skew")
        if append_ms > body.at_ms + policy_in_force(policies, body.model, body.at_ms).reach_ms:
            return Refused("dead", "too_late")
    content = xxhash.xxh64(record.value or b"", seed=1).intdigest()
    key = xxhash.xxh64(body.event_id.encode()).intdigest() if body.event_id else content
    return Admitted(topic, record.partition, record.offset, append_ms, record.append_ms, body, content, key)


def policy_in_force(policies: Sequence[JoinPolicy], model: str, at_ms: int) -> JoinPolicy:
    """Give the policy that resolves a prediction of `model` made at `at_ms`."""
    candidates = [policy for policy in policies if policy.model == model and policy.effective_from_ms <= at_ms]
    if not candidates:
        return JoinPolicy(model=model)
    return max(candidates, key=lambda policy: (policy.effective_from_ms, policy.version))  # the first of equals


# A set


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
            records=tuple(sorted(group, key=lambda one: (one.body.at_ms, one.content, one.offset))),
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


# An outcome


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known of a standing prediction. Label null is "nothing"."""

    label: LabelValue | None = None
    kind: LabelKind | None = None
    weight: float = 1.0
    status: Status = "void"
    p_fake_negative: float = 0.0
    labelled_at_ms: int | None = None


def concerns(event: Event, standing: Standing) -> bool:
    """Say whether a label or signal may be about this model."""
    body = event.body
    return not isinstance(body, Prediction) and (body.model is None or body.model == standing.body.model)


def is_about(event: Event, standing: Standing) -> bool:
    """Say whether a label or signal is about this outcome's item, or about the whole like this outcome."""
    return not isinstance(event.body, Prediction) and event.body.item == standing.item


def in_window(event: Event, standing: Standing, bounds: Bounds) -> bool:
    """Say whether a label or signal became true when it would count."""
    last_ms = standing.body.at_ms + standing.policy.horizon_ms
    if isinstance(event.body, Label) and event.body.op == "retract":
        last_ms = standing.reach_until_ms
    return standing.body.at_ms - bounds.skew_ms <= event.body.at_ms <= last_ms


def reaches(event: Event, standing: Standing, bounds: Bounds) -> bool:
    """Say whether a label or signal reaches a standing prediction."""
    in_time = event.append_ms <= standing.reach_until_ms
    not_early = standing.append_ms <= event.append_ms + bounds.early_label_ms
    return concerns(event, standing) and in_time and not_early


def counts(event: Event, standing: Standing, bounds: Bounds) -> bool:
    """Say whether a label or signal is a counted one."""
    if not reaches(event, standing, bounds) or not in_window(event, standing, bounds) or not is_about(event, standing):
        return False
    return not isinstance(event.body, Label) or event.body.name == standing.policy.label_name


def compares(rule: Attribution, value: float | None) -> bool:
    """Say whether a signal's value compares as a rule asks."""
    if rule.compare == "any":
        return True
    if value is None or rule.value is None:
        return False
    return {
        "lt": value < rule.value,
        "le": value <= rule.value,
        "gt": value > rule.value,
        "ge": value >= rule.value,
        "eq": value == rule.value,
    }[rule.compare]


def resolve(standing: Standing, events: Sequence[Event], clock_ms: int, bounds: Bounds) -> Outcome:
    """Resolve one standing prediction from E(r) at a clock: explicit, else implicit, else silence."""
    policy, at_ms = standing.policy, standing.body.at_ms
    final = clock_ms >= standing.deadline_ms
    counted = [event for event in events if counts(event, standing, bounds)]
    labels = [(event.body, event.key) for event in counted if isinstance(event.body, Label)]
    signals = [event.body for event in counted if isinstance(event.body, Signal)]

    speaking: dict[str, tuple[Label, int]] = {}
    for source in {body.source for body, _ in labels}:
        last = max((one for one in labels if one[0].source == source), key=lambda one: (one[0].at_ms, one[1]))
        if last[0].op == "assert":
            speaking[source] = last
    if speaking:
        listed = [source for source in policy.precedence if source in speaking]
        label, _ = speaking[listed[0]] if listed else max(speaking.values(), key=lambda one: (one[0].at_ms, one[1]))
        assert label.label is not msgspec.UNSET
        return Outcome(label.label, "explicit", label.confidence, "final", labelled_at_ms=label.at_ms)

    for rule in policy.attribution:
        within_ms = policy.horizon_ms if rule.within_ms is None else min(rule.within_ms, policy.horizon_ms)
        matching = [
            signal.at_ms
            for signal in signals
            if signal.signal == rule.signal and signal.at_ms <= at_ms + within_ms and compares(rule, signal.value)
        ]
        if matching:
            status: Status = "final" if final else "provisional"
            return Outcome(rule.label, "implicit", rule.weight, status, labelled_at_ms=min(matching))

    if policy.on_timeout == "unlabelled" or (standing.body.items is not None and standing.item is None):
        return Outcome()
    if not is_sampled(standing):
        return Outcome()
    whole = replace(standing, item=None)
    seen = signals + [event.body for event in events if counts(event, whole, bounds) and isinstance(event.body, Signal)]
    if policy.exposure is not None and all(signal.signal != policy.exposure for signal in seen):
        return Outcome()
    if final:
        return Outcome(policy.negative_label, "timeout", 1.0, "final")
    if policy.provisional_after_ms is not None and clock_ms >= at_ms + policy.provisional_after_ms:
        return Outcome(policy.negative_label, "timeout", 1.0, "provisional", policy.p_fake_negative)
    return Outcome()


def is_sampled(standing: Standing) -> bool:
    """Say whether silence about an outcome is among the share that is said: the request and the item decide."""
    words = [standing.body.request_id] if standing.item is None else [standing.body.request_id, standing.item]
    place = xxhash.xxh64("\0".join(words).encode(), seed=2).intdigest() / 2**64
    return standing.policy.negative_sample == 1.0 or place < standing.policy.negative_sample


def same_value(one: object, other: object) -> bool:
    """Compare two JSON values: numbers by value, `true` is no number.

    >>> same_value(1, 1.0), same_value(True, 1), same_value([1.0, "a"], [1, "a"]), same_value("1", 1)
    (True, False, True, False)
    """
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(same_value(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return one == other


# Whole logs


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
        for record in logs.get(topic, ()):
            found = admit(topic, record, policies[record.partition], bounds)
            if isinstance(found, Admitted):
                requests.setdefault(found.body.request_id, []).append(found)
                continue
            expectation.counters[f"{topic}.{found.fate}"] += 1
            if found.fate == "forwarded":
                expectation.forwarded.append((topic, record))
            else:
                expectation.dead_letters.add(Dead(topic, record.partition, record.offset, found.reason))

    for request_id, admitted in requests.items():
        partition = partition_of(request_id, bounds.partitions)
        clock_ms = clock_by_partition.get(partition, 0)
        _expect_request(expectation, request_id, admitted, policies[partition], bounds, partition, clock_ms, said)
    return expectation


def read_command(record: Record, bounds: Bounds) -> Control | Refused:
    """Read a control record."""
    if record.value is None:
        return Refused("dead", "not_json")
    if size_of(record) > bounds.max_event_bytes:
        return Refused("dead", "too_large")
    try:
        record.value.decode("utf-8")
        command: Control = msgspec.json.decode(record.value, type=Control)
    except (ValueError, RecursionError):
        return Refused("dead", "bad_event" if is_json(record.value) else "not_json")
    if isinstance(command, PolicySet) and any(map(is_big_integer, values_of(command.policy))):
        return Refused("dead", "bad_event")
    return Refused("dead", "too_large") if len(encode(command)) > bounds.max_event_bytes else command


def read_policy(record: Record, bounds: Bounds) -> JoinPolicy | Refused | None:
    """Read a control record: the policy that it sets, why it is refused, or None when it is about something else."""
    command = read_command(record, bounds)
    if isinstance(command, Refused):
        return command
    if not isinstance(command, PolicySet):
        return None
    policy = command.policy
    if not bounds.virtual and record.append_ms > policy.effective_from_ms - POLICY_NOTICE_MS:
        return Refused("dead", "policy_too_late")
    return policy


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
        dead = Dead(record.topic, record.partition, record.offset, why_dead(event, outcomes, bounds))
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
        first = min(event.records, key=lambda record: record.offset)
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
