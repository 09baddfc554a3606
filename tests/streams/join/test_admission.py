"""What gets in, what is forwarded, what becomes a dead letter and why."""

from __future__ import annotations

import json
from base64 import b64decode
from dataclasses import replace
from typing import Any

import pytest

from schemas.event import decode
from schemas.policy import JoinPolicy
from schemas.records import DeadLetter
from schemas.settings import Settings
from streams.join.admission import Admitted, JoinBounds, Refused, admit, read_control
from streams.join.partition import partition_of
from streams.runtime.processor import Output
from streams.runtime.records import Headers, Records
from tests.streams.join.timeline import BOUNDS, T

GOOD: dict[str, Any] = {"request_id": "r", "at_ms": T, "model": "m", "label": 1, "signal": "click"}


def admit_one(
    value: bytes | None, topic: str = "predictions", headers: Headers = (), bounds: JoinBounds = BOUNDS, at: int = 0
) -> Admitted | Refused:
    records = Records()
    records.append(7, T + at, b"r", value, headers)
    (record,) = admit(topic, 0, records, bounds, lambda model, at_ms: JoinPolicy(model=model), T).records
    return record


def letter_of(refused: Admitted | Refused) -> DeadLetter:
    assert isinstance(refused, Refused)
    assert refused.output.topic == "dead-letters"
    return decode(refused.output.value, DeadLetter)


def body(**fields: Any) -> bytes:
    return json.dumps(GOOD | fields).encode()


def raw(members: bytes) -> bytes:
    return b'{"request_id": "r", "at_ms": %d, "model": "m", %s}' % (T, members)


BAD: dict[str, tuple[bytes | None, str]] = {
    "no value": (None, "not_json"),
    "empty": (b"", "not_json"),
    "not JSON": (b"{", "not_json"),
    "text after": (body() + b" x", "not_json"),
    "NaN": (raw(b'"score": NaN'), "not_json"),
    "infinity": (raw(b'"score": Infinity'), "not_json"),
    "not UTF-8": (raw(b'"version": "\xff"'), "not_json"),
    "not UTF-8 in a field that is ignored": (raw(b'"other": "\xff"'), "not_json"),
    "half a surrogate pair": (raw(rb'"version": "\ud800"'), "not_json"),
    "byte order mark": (b"\xef\xbb\xbf" + body(), "not_json"),
    "wrong type, then not JSON": (b'{"request_id": 5, ', "not_json"),
    "nested too deeply": (raw(b'"other": ' + b"[" * 4000), "not_json"),
    "nested too deeply after a wrong type": (b'{"request_id": 5, "x": ' + b"[" * 4000, "not_json"),
    "an array": (b"[]", "bad_event"),
    "null": (b"null", "bad_event"),
    "no request id": (b'{"at_ms": 1, "model": "m"}', "bad_event"),
    "empty request id": (body(request_id=""), "bad_event"),
    "long request id": (body(request_id="x" * 129), "bad_event"),
    "long version": (body(version="x" * 129), "bad_event"),
    "long subject": (body(subject="x" * 257), "bad_event"),
    "long name of a layer": (body(experiments={"x" * 129: "a"}), "bad_event"),
    "many layers": (body(experiments={f"layer {n}": "a" for n in range(65)}), "bad_event"),
    "wrong type": (body(request_id=5), "bad_event"),
    "time as text": (body(at_ms="now"), "bad_event"),
    "fraction of a millisecond": (body(at_ms=1.5), "bad_event"),
    "negative time": (body(at_ms=-1), "bad_event"),
    "number out of range": (raw(b'"score": 1e999'), "bad_event"),
    "integer beyond 64 bits": (body(features={"a": 2**64}), "bad_event"),
    "integer of thousands of digits": (raw(b'"features": {"a": %s}' % (b"9" * 5000)), "bad_event"),
    "large": (body(features={"a": "x" * 10_000}), "too_large"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_becomes_a_dead_letter(name: str) -> None:
    value, reason = BAD[name]
    refused = admit_one(value)
    letter = letter_of(refused)
    assert isinstance(refused, Refused)
    assert (refused.counted, letter.reason) == ("dead", reason)
    assert refused.output.key == b"predictions/0/7"
    assert letter.detail
    if reason != "too_large":
        assert (None if letter.value is None else b64decode(letter.value)) == value


def test_value_of_a_too_large_record_is_left_out() -> None:
    letter = letter_of(admit_one(body(features={"a": "x" * 10_000})))
    assert letter.value is None
    assert (letter.topic, letter.partition, letter.offset) == ("predictions", 0, 7)


@pytest.mark.parametrize(("headers", "large"), [((("h", b"x" * 9_800),), False), ((("h", b"x" * 9_960),), True)])
def test_key_and_headers_count_too(headers: Headers, large: bool) -> None:
    """Else a record could be taken that is too large to be forwarded."""
    admitted = admit_one(body(), headers=headers)
    if not large:
        assert isinstance(admitted, Admitted)
        return
    letter = letter_of(admitted)
    assert (letter.reason, len(letter.headers)) == ("too_large", 1)


def test_numbers_count_as_they_are_written_again() -> None:
    """Else a record could be taken whose feedback is too large to be sent."""
    assert isinstance(admit_one(raw(b'"score": [%s1]' % (b"1e15," * 500))), Admitted)
    letter = letter_of(admit_one(raw(b'"score": [%s1]' % (b"1e15," * 600))))
    assert (letter.reason, letter.value) == ("too_large", None)


def test_a_letter_is_never_too_large_to_be_sent() -> None:
    headers = (("h", bytes(3_000_000)),)
    letter = letter_of(admit_one(body(), headers=headers))
    assert (letter.reason, letter.key, letter.headers, letter.offset) == ("too_large", None, [], 7)


def test_letter_says_whom_it_concerns_as_far_as_can_be_seen() -> None:
    assert letter_of(admit_one(body(model=5))).request_id == "r"
    assert letter_of(admit_one(body(at_ms=0))).model == "m"


@pytest.mark.parametrize("at_ms", [T - BOUNDS.skew_ms, T + BOUNDS.skew_ms])
def test_edge_of_the_skew_is_accepted(at_ms: int) -> None:
    assert isinstance(admit_one(body(at_ms=at_ms)), Admitted)


def test_labels_may_lie_far_back() -> None:
    assert isinstance(admit_one(body(at_ms=0), "labels"), Admitted)


@pytest.mark.parametrize("value", [2**64 - 1, -(2**63), 1e300, True, None])
def test_every_other_feature_is_accepted(value: object) -> None:
    assert isinstance(admit_one(body(features={"a": value})), Admitted)


def test_unknown_fields_are_ignored() -> None:
    assert isinstance(admit_one(body(other={"deep": [1]})), Admitted)


@pytest.mark.parametrize("said", [{"label": None}, {"label": 2**64}, {"op": "undo"}, {"confidence": 1.5}])
def test_bad_labels(said: dict[str, Any]) -> None:
    assert letter_of(admit_one(body(**said), "labels")).reason == "bad_event"


def test_assertion_needs_a_label_and_retraction_none() -> None:
    bare = {name: GOOD[name] for name in ("request_id", "at_ms")}
    assert letter_of(admit_one(json.dumps(bare).encode(), "labels")).reason == "bad_event"
    assert isinstance(admit_one(json.dumps(bare | {"op": "retract"}).encode(), "labels"), Admitted)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([("weir-append-ms", b"5")], 0),
        ([("weir-hop", b"labels/1/2"), ("weir-append-ms", b"%d" % (T - 9))], -9),
        ([("weir-hop", b"labels/1/2"), ("weir-append-ms", b"%d" % (T + 9))], 0),
        ([("weir-hop", b"labels/1/2")], 0),
        ([("weir-hop", None), ("weir-append-ms", b"soon")], 0),
        ([("weir-hop", b""), ("weir-append-ms", b"9" * 5000)], 0),
    ],
)
def test_append_time_of_a_forwarded_record(headers: Headers, expected: int) -> None:
    record = admit_one(body(), "labels", headers)
    assert isinstance(record, Admitted)
    assert record.append_ms == T + expected


def test_misrouted_record_is_forwarded_even_with_a_bad_clock() -> None:
    bounds = replace(BOUNDS, partitions=97)
    assert partition_of(b"r", 97) != 0
    refused = admit_one(body(at_ms=0), bounds=bounds)
    assert isinstance(refused, Refused)
    assert (refused.counted, refused.output.partition) == ("forwarded", partition_of(b"r", 97))
    assert refused.output.value == body(at_ms=0)


def test_key_may_be_any_bytes() -> None:
    records = Records()
    for offset, key in enumerate((b"r", b"\xff", None, b"")):
        records.append(offset, T, key, body())
    admission = admit("labels", 0, records, BOUNDS, lambda model, at_ms: JoinPolicy(model=model), T)
    assert all(isinstance(record, Admitted) for record in admission.records)
    assert admission.differing == 3


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"{", "not_json"),
        (b"{}", "bad_event"),
        (b'{"kind": "policy_set", "policy": {"model": "m", "horizon": 5}}', "bad_event"),
        (b'{"kind": "policy_set", "policy": {"model": "m", "negative_label": 18446744073709551616}}', "bad_event"),
        (
            b'{"kind": "policy_set", "policy": {"model": "m", "labels": [{"name": "a", "on_timeout": "negative", '
            b'"negative_label": 18446744073709551616}]}}',
            "bad_event",
        ),
        (b'{"kind": "clock_advanced", "now_ms": 5' + b" " * 10_000 + b"}", "too_large"),
    ],
)
def test_bad_control(value: bytes, reason: str) -> None:
    records = Records()
    records.append(0, T, None, value)
    output = read_control(0, records, 0, BOUNDS, T)
    assert isinstance(output, Output)
    assert decode(output.value, DeadLetter).reason == reason


def test_bounds_come_from_the_settings() -> None:
    bounds = JoinBounds.of(Settings(partitions=8, clock="virtual"))
    assert (bounds.partitions, bounds.virtual, bounds.grace_ms) == (8, True, 60_000)
