"""A record of the log alone: is it an event, or why not. Rules 1 to 4 of docs/join.md, and control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import msgspec
import xxhash

from schemas.control import Control, PolicySet
from schemas.envelope import ARROW, CONTENT_TYPE
from schemas.event import encode
from schemas.inputs import Label, Prediction, Signal
from schemas.policy import JoinPolicy
from streams.join.naive.envelopes import KINDS, is_json, table_of, text_of

if TYPE_CHECKING:
    from schemas.settings import Settings

POLICY_NOTICE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of a namespace that admission and `resolve` depend on. See `schemas.settings.Join`."""

    partitions: int
    skew_ms: int
    early_label_ms: int
    grace_ms: int
    max_event_bytes: int
    virtual: bool = False

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Give the bounds of a namespace."""
        join = settings.join
        return cls(
            partitions=settings.partitions,
            skew_ms=join.skew_ms,
            early_label_ms=join.early_label_ms,
            grace_ms=join.grace_ms,
            max_event_bytes=join.max_event_bytes,
            virtual=settings.clock == "virtual",
        )


@dataclass(frozen=True, slots=True)
class Record:
    """A Kafka record of one logical topic, or event `index` of an envelope. `append_ms` is its Kafka timestamp."""

    partition: int
    offset: int
    append_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()
    index: int = 0


Logs = Mapping[str, Sequence[Record]]
"""Logical topic → its records; those of one partition in offset order."""


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
    index: int = 0

    @property
    def place(self) -> tuple[int, int]:
        """Offset, and index in an envelope."""
        return self.offset, self.index


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
    if dict(record.headers).get(CONTENT_TYPE) == ARROW:
        broken = table_of(topic, value)
        return Refused("dead", broken if isinstance(broken, str) else "bad_envelope")
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


def events_in(topic: str, record: Record) -> list[Record]:
    """Give the events of an envelope as records of their own; of what is none, or cannot be read, the record itself."""
    if dict(record.headers).get(CONTENT_TYPE) != ARROW:
        return [record]
    table = table_of(topic, record.value)
    if isinstance(table, str):
        return [record]
    headers = [header for header in record.headers if header[0] != CONTENT_TYPE]
    found = []
    for index, row in enumerate(table.to_pylist()):
        key = row.get("request_id")
        found.append(
            replace(
                record,
                key=key.encode() if isinstance(key, str) else None,
                value=text_of(topic, row),
                headers=headers,
                index=index,
            )
        )
    return found


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
    place = record.partition, record.offset
    return Admitted(topic, *place, append_ms, record.append_ms, body, content, key, record.index)


def policy_in_force(policies: Sequence[JoinPolicy], model: str, at_ms: int) -> JoinPolicy:
    """Give the policy that resolves a prediction of `model` made at `at_ms`."""
    candidates = [policy for policy in policies if policy.model == model and policy.effective_from_ms <= at_ms]
    if not candidates:
        return JoinPolicy(model=model)
    return max(candidates, key=lambda policy: (policy.effective_from_ms, policy.version))  # the first of equals


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
