"""Admission: each record of an input becomes an admitted event, a forward to its own partition, or a dead letter.

Rules 1 to 4 of docs/join.md, in their order, a column at a time: decode all, hash all request ids together, then check
each. What a record gives depends on the record, its append time and the policies in force, never on other records.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec
from msgspec import Struct
from xxhash import xxh64_intdigest

from schemas.control import Control, PolicySet
from schemas.envelope import ARROW, content_type
from schemas.event import Input, encode
from schemas.inputs import Label, Prediction, Signal
from schemas.policy import JoinPolicy, LabelRule
from schemas.settings import Settings
from streams.join.dead import Origin, dead_letter
from streams.join.partition import partitions_of
from streams.join.resolve import Bounds
from streams.runtime.processor import Output
from streams.runtime.records import Headers, Records
from streams.runtime.unfold import refusal

APPEND_HEADER = "weir-append-ms"
HOP_HEADER = "weir-hop"

_INTEGERS = range(-(2**63), 2**64)
_APPEND_DIGITS = 15  # as many as the year 9999 has
_ID_SEED, _CONTENT_SEED = 0, 1  # apart, so that an id that spells out another event's value is not its key
_GROWTH = 4  # `1e15,` becomes `1000000000000000.0,` in what we write of it, and nothing grows more

DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "predictions": msgspec.json.Decoder(Prediction),
    "labels": msgspec.json.Decoder(Label),
    "signals": msgspec.json.Decoder(Signal),
    "control": msgspec.json.Decoder(Control),
}


@dataclass(frozen=True, slots=True)
class JoinBounds(Bounds):
    """The namespace's bounds of the join. `virtual`: its clock is virtual, so policies may come at any time.

    `ahead_ms`: how long before something is due a request that was put away is asked for.
    """

    partitions: int
    max_event_bytes: int
    virtual: bool
    ahead_ms: int = 30_000

    @classmethod
    def of(cls, settings: Settings) -> JoinBounds:
        """Take the bounds from the settings.

        >>> JoinBounds.of(Settings()).early_label_ms
        3600000
        """
        join = settings.join
        return cls(
            skew_ms=join.skew_ms,
            early_label_ms=join.early_label_ms,
            grace_ms=join.grace_ms,
            partitions=settings.partitions,
            max_event_bytes=join.max_event_bytes,
            virtual=settings.clock == "virtual",
            ahead_ms=settings.recall.ahead_ms,
        )


class Admitted(Struct, gc=False):
    """An event that belongs to E(r), the place of its record in the batch, its (original) append time and two hashes.

    `key` tells events apart, `content` the contents of one event; both are unsigned 64-bit integers.
    """

    index: int
    event: Any
    append_ms: int
    key: int
    content: int


@dataclass(slots=True)
class Refused:
    """A record that does not: the class it counts in, and what is said of it."""

    counted: Literal["dead", "forwarded", "quarantined"]
    output: Output


@dataclass(slots=True)
class Admission:
    """The records of one input, in offset order, and how many had a Kafka key that differs from their request id."""

    records: list[Admitted | Refused]
    differing: int


class _Unreadable(Exception):
    """Rule 1: the reason, a sentence, and the request id if one can be seen."""

    def __init__(self, reason: str, detail: str, request_id: str = "") -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.request_id = request_id


def origin_of(topic: str, partition: int, records: Records, index: int, append_ms: int | None = None) -> Origin:
    """Name a record of a batch."""
    return Origin(
        topic,
        partition,
        records.offsets[index],
        records.append_ms[index] if append_ms is None else append_ms,
        records.keys[index],
        records.values[index],
        records.headers.get(index, ()),
        records.indexes.get(index, 0),
    )


def admit(
    topic: str,
    partition: int,
    records: Records,
    bounds: JoinBounds,
    in_force: Callable[[str, int], JoinPolicy],
    clock_ms: int,
) -> Admission:
    """Apply rules 1 to 4 to the records of `predictions`, `labels` or `signals`."""
    events: list[Any] = []
    keys: list[bytes] = []
    given = records.keys
    differing = 0
    decode = DECODERS[topic].decode
    headers = records.headers
    for index, value in enumerate(records.values):
        try:
            beside = 0
            if headers and index in headers:
                if content_type(headers[index]) == ARROW:  # one that could be read is there as its events
                    raise _Unreadable(*refusal(topic, value))
                beside = _header_bytes(headers[index])
            event = _read(decode, given[index], value, beside, bounds.max_event_bytes)
            key = event.request_id.encode()
            if key != given[index]:
                differing += 1
        except _Unreadable as error:
            event, key = error, b""
        events.append(event)
        keys.append(key)
    targets = partitions_of(keys, bounds.partitions)
    result: list[Admitted | Refused] = []
    appended = records.append_ms
    predicted = topic == "predictions"
    for index, event in enumerate(events):
        append_ms = appended[index]
        hopped = False
        if headers and index in headers:
            hopped, append_ms = _hop(headers[index], append_ms)
        if isinstance(event, _Unreadable):
            origin = origin_of(topic, partition, records, index, append_ms)
            result.append(_unreadable(event, origin, clock_ms))
            continue
        if targets[index] != partition:
            origin = origin_of(topic, partition, records, index, append_ms)
            result.append(_misrouted(event, keys[index], origin, targets[index], hopped, clock_ms))
            continue
        at_ms = event.at_ms
        if at_ms > append_ms + bounds.skew_ms or (predicted and at_ms < append_ms - bounds.skew_ms):
            problem = "clock_skew", _skewed(at_ms, append_ms, bounds.skew_ms)
        elif not predicted:
            result.append(_admitted(index, event, append_ms, records.values[index]))
            continue
        else:
            reach_ms = in_force(event.model, at_ms).reach_ms
            if append_ms <= at_ms + reach_ms:
                result.append(_admitted(index, event, append_ms, records.values[index]))
                continue
            problem = (
                "too_late",
                (
                    f"the prediction reached us {append_ms - at_ms} ms after its `at_ms`; its policy waits {reach_ms}: "
                    "send predictions sooner, or lengthen `recall_ms` or `retain_ms` of the policy"
                ),
            )
        origin = origin_of(topic, partition, records, index, append_ms)
        output = dead_letter(origin, *problem, clock_ms, request_id=event.request_id, model=event.model or "")
        result.append(Refused("quarantined" if problem[0] == "clock_skew" else "dead", output))
    return Admission(result, differing)


def content_of(value: bytes) -> int:
    """Hash a record's value as it came.

    >>> content_of(b'{"request_id": "r"}') == content_of(b'{"request_id":"r"}')
    False
    """
    return xxh64_intdigest(value, _CONTENT_SEED)


def key_of(event_id: str, content: int) -> int:
    """Give the event key: two records of one kind and request with one key are one event.

    >>> key_of("e1", 7) == key_of("e1", 8), key_of("", 7)
    (True, 7)
    """
    return xxh64_intdigest(event_id.encode(), _ID_SEED) if event_id else content


def admitted_again(topic: str, records: Records, index: int) -> Admitted:
    """Read a record that has been admitted before."""
    value = records.values[index]
    append_ms = records.append_ms[index]
    if index in records.headers:
        _, append_ms = _hop(records.headers[index], append_ms)
    return _admitted(index, DECODERS[topic].decode(value or b""), append_ms, value)


def _admitted(index: int, event: Any, append_ms: int, value: bytes | None) -> Admitted:
    assert value is not None
    content = content_of(value)
    return Admitted(index, event, append_ms, key_of(event.event_id, content), content)


def read_control(partition: int, records: Records, index: int, bounds: JoinBounds, clock_ms: int) -> Control | Output:
    """Read a control record: the event, or its dead letter."""
    try:
        beside = _header_bytes(records.headers.get(index, ()))
        event: Control = _read(
            DECODERS["control"].decode, records.keys[index], records.values[index], beside, bounds.max_event_bytes
        )
    except _Unreadable as error:
        return _unreadable(error, origin_of("control", partition, records, index), clock_ms).output
    return event


def _header_bytes(headers: Headers) -> int:
    return sum(len(name.encode()) + len(value or b"") for name, value in headers)


def _read(
    decode: Callable[[bytes], Any], key: bytes | None, value: bytes | None, beside: int, max_event_bytes: int
) -> Any:
    """Read a record whose headers have `beside` bytes."""
    if value is None:
        raise _Unreadable("not_json", "the record has no value: expected a JSON object")
    size = len(value) + len(key or b"") + beside
    if size > max_event_bytes:
        raise _Unreadable(
            "too_large",
            f"value ({len(value)}), key and headers have {size} bytes together; at most {max_event_bytes} are accepted",
        )
    try:
        if not value.isascii():
            value.decode()  # the decoder does not look into fields that it ignores
        event = decode(value)
    except UnicodeDecodeError as error:
        raise _Unreadable("not_json", f"the value is not UTF-8: byte {error.start} is wrong") from None
    except RecursionError:
        raise _Unreadable("not_json", "the value is nested too deeply") from None
    except ValueError as error:  # msgspec's errors, and integers of thousands of digits
        raise _wrong(value, error) from None
    large = _large_integer(event)
    if large:
        raise _Unreadable("bad_event", f"an integer in `{large}` does not fit 64 bits: send a float or a string")
    if size * _GROWTH > max_event_bytes:
        size = len(encode(event))
        if size > max_event_bytes:
            raise _Unreadable(
                "too_large",
                f"with its numbers written out the event has {size} bytes; at most {max_event_bytes} are accepted",
            )
    return event


def _wrong(value: bytes, error: ValueError) -> _Unreadable:
    """Tell what is not JSON from JSON that is no event: the typed decoder stops at the first of either."""
    try:
        tree = msgspec.json.decode(value)
    except RecursionError:
        return _Unreadable("not_json", "the value is nested too deeply")
    except ValueError as malformed:
        # The untyped decoder's one ValidationError is a number beyond a double, which JSON allows.
        if isinstance(malformed, msgspec.DecodeError) and not isinstance(malformed, msgspec.ValidationError):
            return _Unreadable("not_json", f"the value is not JSON: {malformed}")
        tree = None
    request_id = tree.get("request_id") if isinstance(tree, dict) else None
    seen = request_id[:128] if isinstance(request_id, str) else ""
    return _Unreadable("bad_event", f"the value is JSON, but no event of this topic: {error}", seen)


def _large_integer(event: Any) -> str:
    """Name the first field with an integer beyond 64 bits: neither our snapshots nor a column could hold it."""
    if isinstance(event, Prediction):
        if type(event.prediction) is int and event.prediction not in _INTEGERS:
            return "prediction"
        for name, values in (("features", event.features), ("slices", event.slices)):
            for value in values.values():
                if type(value) is int and value not in _INTEGERS:
                    return name
    elif isinstance(event, Label):
        if type(event.label) is int and event.label not in _INTEGERS:
            return "label"
    elif isinstance(event, PolicySet):
        named: list[JoinPolicy | LabelRule] = [event.policy, *event.policy.labels]
        said = [one.negative_label for one in named] + [rule.label for one in named for rule in one.attribution]
        if any(type(label) is int and label not in _INTEGERS for label in said):
            return "policy"
    return ""


def _unreadable(error: _Unreadable, origin: Origin, clock_ms: int) -> Refused:
    if error.reason == "too_large":
        origin = replace(origin, value=None)  # its letter would be larger still; the position says where it is
    return Refused("dead", dead_letter(origin, error.reason, error.detail, clock_ms, request_id=error.request_id))


def _hop(headers: Headers, append_ms: int) -> tuple[bool, int]:
    """Say whether a record has been forwarded, and its original append time."""
    named = dict(headers)  # the last of a name counts: forwarding adds ours after the app's own
    if HOP_HEADER not in named:
        return False, append_ms
    said = named.get(APPEND_HEADER) or b""
    if said.isdigit() and len(said) <= _APPEND_DIGITS:
        return True, min(int(said), append_ms)
    return True, append_ms


def _misrouted(event: Input, key: bytes, origin: Origin, target: int, hopped: bool, clock_ms: int) -> Refused:
    if hopped:
        detail = (
            f"forwarded once already, and its request belongs to partition {target}, not {origin.partition}: "
            "the partition count of the input topics differs from the settings' or between topics"
        )
        named: Any = event
        return Refused(
            "dead",
            dead_letter(
                origin, "misrouted_twice", detail, clock_ms, request_id=named.request_id, model=named.model or ""
            ),
        )
    kept = tuple((name, value or b"") for name, value in origin.headers)
    hop = ((APPEND_HEADER, b"%d" % origin.append_ms), (HOP_HEADER, origin.position.encode()))
    assert origin.value is not None
    # With a virtual clock we set the copy's timestamp; earlier than the original's it would hide that.
    append_ms = max(clock_ms, origin.append_ms)
    return Refused("forwarded", Output(origin.topic, key, origin.value, target, kept + hop, append_ms))


def _skewed(at_ms: int, append_ms: int, skew_ms: int) -> str:
    distance = at_ms - append_ms
    side = "after" if distance > 0 else "before"
    return (
        f"`at_ms` {at_ms} lies {abs(distance)} ms {side} the Kafka timestamp {append_ms}; at most {skew_ms} are "
        "accepted: check the producer's clock, and that it sends milliseconds"
    )
