"""The twin by itself: small timelines whose answers were worked out by hand from docs/join.md."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import msgspec
import pytest
import xxhash

from schemas.control import Frozen, PolicySet, Thawed
from schemas.event import encode
from schemas.policy import Attribution, JoinPolicy
from schemas.settings import Join, Settings
from streams.join.admission import JoinBounds
from streams.join.naive import (
    Bounds,
    Dead,
    Expectation,
    Outcome,
    Record,
    expect,
    murmur2,
    partition_of,
    same_value,
    timers_clock,
)

BOUNDS = Bounds(partitions=1, skew_ms=1_000, early_label_ms=200, grace_ms=100, max_event_bytes=500)
T = 10_000_000
LATE = T + 100_000_000

# A minute and more before every prediction; horizon 1,000, deadline 1,100, reach 1,600.
POLICY: dict[str, Any] = {
    "model": "m",
    "effective_from_ms": 60_000,
    "horizon_ms": 1_000,
    "lateness_ms": 100,
    "retain_ms": 500,
    "on_timeout": "negative",
    "precedence": ["human", "audit"],
}


class Log:
    """Writes whole logs by hand; times are relative to T, `append` defaults to `at`."""

    def __init__(self, bounds: Bounds = BOUNDS, **policy: Any) -> None:
        self.bounds = bounds
        self.records: dict[str, list[Record]] = {name: [] for name in ("control", "predictions", "labels", "signals")}
        self.policy(**policy)

    def put(self, topic: str, append_ms: int, value: bytes | None, partition: int = 0, **headers: bytes) -> Log:
        log = self.records[topic]
        log.append(Record(partition, len(log), append_ms, b"r", value, tuple(headers.items())))
        return self

    def policy(self, append_ms: int = 0, **changes: Any) -> Log:
        return self.put("control", append_ms, encode(PolicySet(policy=msgspec.convert(POLICY | changes, JoinPolicy))))

    def event(self, topic: str, at: int, append: int | None, fields: dict[str, Any]) -> Log:
        append_ms = T + (at if append is None else append)
        body = {"request_id": "r", "at_ms": T + at} | fields
        return self.put(topic, append_ms, json.dumps(body).encode())

    def predict(self, at: int = 0, append: int | None = None, **fields: Any) -> Log:
        return self.event("predictions", at, append, {"model": "m"} | fields)

    def label(self, at: int, label: object = 1, append: int | None = None, **fields: Any) -> Log:
        return self.event("labels", at, append, {"label": label} | fields)

    def retract(self, at: int, append: int | None = None, **fields: Any) -> Log:
        return self.event("labels", at, append, {"op": "retract"} | fields)

    def signal(self, at: int, signal: str, append: int | None = None, **fields: Any) -> Log:
        return self.event("signals", at, append, {"signal": signal} | fields)

    def expect(self, clock_ms: int = LATE) -> Expectation:
        return expect(self.records, self.bounds, {0: clock_ms})

    def outcome(self, clock: int | None = None, model: str = "m") -> Outcome:
        return self.expect(LATE if clock is None else T + clock).outcomes["r", model, "", "label", ""].outcome

    def classes(self, clock: int | None = None) -> dict[str, int]:
        return {
            name: count for name, count in self.expect(LATE if clock is None else T + clock).counters.items() if count
        }

    def reasons(self) -> dict[tuple[str, int], str]:
        return {(dead.topic, dead.offset): dead.reason for dead in self.expect().dead_letters}


def said(outcome: Outcome) -> tuple[object, object, float, str]:
    return (outcome.label, outcome.kind, outcome.weight, outcome.status)


NOTHING = (None, None, 1.0, "void")


def test_partition_is_that_of_javas_client() -> None:
    # From the Java client's own tests.
    known = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536, b"abc": 479470107}
    assert {name: murmur2(name) for name in known} == {name: value % 2**32 for name, value in known.items()}
    assert partition_of("abc", 10) == 7


def test_label_within_the_horizon_is_final_at_once() -> None:
    log = Log().predict().label(1_000, confidence=0.5)
    assert said(log.outcome(clock=1_000)) == (1, "explicit", 0.5, "final")
    assert log.classes() == {"predictions.final": 1, "labels.joined": 1}


@pytest.mark.parametrize(
    ("at", "append", "counts"),
    [
        (1_000, 1_600, True),  # horizon and reach, both to the millisecond
        (1_001, 1_001, False),  # after the horizon
        (1_000, 1_601, False),  # out of reach
        (-1_000, -200, True),  # skew and early bound
        (-1_001, -200, False),
        (-1_000, -201, False),
    ],
)
def test_bounds_of_an_assertion(at: int, append: int, counts: bool) -> None:
    log = Log().predict().label(at, append=append)
    assert said(log.outcome()) == ((1, "explicit", 1.0, "final") if counts else (0, "timeout", 1.0, "final"))
    assert log.classes()["labels.joined" if counts else "labels.dead"] == 1


def test_retraction_counts_up_to_the_reach_and_silences_its_source_alone() -> None:
    log = Log().predict().label(10).retract(1_600)
    assert said(log.outcome()) == (0, "timeout", 1.0, "final")
    assert said(log.outcome(clock=1_099)) == NOTHING  # silence is no answer yet
    other = Log().predict().label(10, source="a").label(5, "b", source="b").retract(20, source="a")
    assert other.outcome().label == "b"


def test_latest_label_of_a_source_speaks_then_precedence_then_the_latest() -> None:
    assert Log().predict().label(20, "new").label(10, "old").outcome().label == "new"
    tie = Log().predict().label(10, "a", event_id="2").label(10, "b", event_id="10")
    assert tie.outcome().label == ("a" if hashed("2") > hashed("10") else "b")
    listed = Log().predict().label(10, "h", source="human").label(20, "a", source="audit").label(30, "x", source="x")
    assert listed.outcome().label == "h"
    unlisted = Log().predict().label(10, "x", source="x").label(20, "y", source="y")
    assert unlisted.outcome().label == "y"


def test_signals_speak_in_the_order_of_the_rules() -> None:
    rules = [
        Attribution(signal="dwell", label=0, weight=0.5, compare="lt", value=2.0),
        Attribution(signal="click", label=1, within_ms=100),
    ]
    log = Log(attribution=rules).predict().signal(100, "click").signal(50, "click", value=9)
    assert said(log.outcome(clock=100)) == (1, "implicit", 1.0, "provisional")
    assert said(log.outcome(clock=1_100)) == (1, "implicit", 1.0, "final")
    assert log.outcome().labelled_at_ms == T + 50
    assert said(log.signal(500, "dwell", value=1.9).outcome()) == (0, "implicit", 0.5, "final")
    assert said(log.label(900).outcome()) == (1, "explicit", 1.0, "final")
    late = Log(attribution=rules).predict().signal(101, "click").signal(5, "dwell").signal(6, "dwell", value=2)
    assert late.outcome().kind == "timeout"
    assert late.classes()["signals.joined"] == 3  # they count, though no rule matches


def test_silence_becomes_negative_provisionally_then_finally() -> None:
    log = Log(provisional_after_ms=300, p_fake_negative=0.25).predict()
    assert said(log.outcome(clock=299)) == NOTHING
    assert log.classes(clock=299) == {"predictions.open": 1}
    assert said(log.outcome(clock=300)) == (0, "timeout", 1.0, "provisional")
    assert log.outcome(clock=300).p_fake_negative == 0.25
    assert log.classes(clock=1_099) == {"predictions.provisional": 1}
    assert said(log.outcome(clock=1_100)) == (0, "timeout", 1.0, "final")
    assert log.outcome(clock=1_100).p_fake_negative == 0.0


def test_silence_says_nothing_without_exposure_or_when_asked_to() -> None:
    assert said(Log(exposure="seen").predict().signal(1_001, "seen").outcome()) == NOTHING
    assert said(Log(exposure="seen").predict().signal(1_000, "seen").outcome()) == (0, "timeout", 1.0, "final")
    quiet = Log(on_timeout="unlabelled").predict()
    assert said(quiet.outcome()) == NOTHING
    assert quiet.classes() == {"predictions.unlabelled": 1}
    identity = ("r", "m", "", "label", "")
    assert expect(quiet.records, BOUNDS, {0: LATE}, said={identity}).counters["predictions.void"] == 1


def test_least_prediction_of_an_identity_stands_and_others_conflict() -> None:
    log = Log().predict(5, score=0.9).predict(4, append=10, score=0.1).predict(0, append=11, deployment="canary")
    found = log.expect().outcomes
    assert found["r", "m", "", "label", ""].standing.body.score == 0.1
    assert set(found) == {("r", "m", "", "label", ""), ("r", "m", "canary", "label", "")}
    assert log.classes() == {"predictions.final": 2, "predictions.conflict": 1}


def test_one_event_id_is_one_event_but_not_across_identities() -> None:
    log = Log().predict(event_id="e").predict(event_id="e", append=3).predict(event_id="e", deployment="canary")
    assert log.classes() == {"predictions.final": 2, "predictions.duplicate": 1}
    labels = Log().predict().label(10, "b", event_id="e").label(10, "a", event_id="e").label(9, "z", event_id="e")
    assert labels.outcome().label == "z"  # the least (at_ms, content hash)
    tie = Log().predict().label(10, "b", event_id="e").label(10, "a", event_id="e")
    least = min(tie.records["labels"], key=lambda record: hashed(record.value or b"", 1))
    assert tie.outcome().label == json.loads(least.value or b"")["label"]
    assert labels.classes()["labels.duplicate"] == 2


def test_without_ids_equal_bytes_make_one_event() -> None:
    log = Log().predict().label(10).label(10, append=20).label(10, 1.0).label(10, unknown=1)
    assert log.classes() == {"predictions.final": 1, "labels.joined": 3, "labels.duplicate": 1}
    spaced = json.dumps({"request_id": "r", "at_ms": T + 10, "label": 1}, separators=(",", ":")).encode()
    assert Log().predict().label(10).put("labels", T + 10, spaced).classes()["labels.joined"] == 2


def hashed(text: str | bytes, seed: int = 0) -> int:
    return xxhash.xxh64_intdigest(text.encode() if isinstance(text, str) else text, seed)


def test_the_timers_clock_stops_where_the_step_before_was() -> None:
    log = Log().put("control", T, encode(Frozen(source="a"))).put("control", T, encode(Frozen(source="b")))
    log.put("control", T, encode(Thawed(source="a"))).put("control", T, encode(Thawed(source="b")))

    def clock(*steps: tuple[int, int]) -> int:
        return timers_clock(log.records["control"], steps, BOUNDS)

    assert clock((1, 5), (1, 9)) == 9
    assert clock((1, 5), (2, 9), (2, 20)) == 5
    assert clock((1, 5), (2, 9), (3, 20), (4, 30)) == 9  # b froze when the clock was 9
    assert clock((1, 5), (2, 9), (3, 20), (4, 30), (5, 40)) == 40
    assert clock((5, 40)) == 40
    assert clock((3, 40)) == 0


def test_each_item_of_a_ranking_has_its_outcome_and_silence_says_nothing_of_the_whole() -> None:
    items = [{"item": "a", "score": 0.9}, {"item": "b"}, {"item": "a"}]
    log = Log(exposure="seen").predict(items=items).label(10, item="a").signal(5, "seen").label(20, "fine")
    found = {identity[3:]: said(one.outcome) for identity, one in log.expect().outcomes.items()}
    assert found == {
        ("label", ""): ("fine", "explicit", 1.0, "final"),
        ("label", "a"): (1, "explicit", 1.0, "final"),
        ("label", "b"): (0, "timeout", 1.0, "final"),
    }
    quiet = Log().predict(items=[])
    assert said(quiet.outcome()) == NOTHING


def test_each_label_name_has_its_outcome() -> None:
    other = {"name": "other", "horizon_ms": 2_000, "lateness_ms": 0}
    log = Log(labels=[other]).predict().label(10, "x", name="other").label(1_500, "late", name="other")
    found = {identity[3]: said(one.outcome) for identity, one in log.expect().outcomes.items()}
    assert found == {"label": (0, "timeout", 1.0, "final"), "other": ("late", "explicit", 1.0, "final")}
    assert log.expect().outcomes["r", "m", "", "label", ""].standing.reach_until_ms == T + 2_500


def test_policy_in_force_at_the_prediction_resolves_it() -> None:
    log = Log().policy(append_ms=1, version=2, negative_label="two", effective_from_ms=T)
    log.policy(append_ms=2, version=1, negative_label="one", effective_from_ms=T)
    log.policy(append_ms=3, version=2, negative_label="not twice", effective_from_ms=T)
    log.policy(append_ms=T - 60_000 + 1, version=3, effective_from_ms=T)  # notice too short
    log.predict(0).predict(-1, deployment="canary")
    found = log.expect().outcomes
    assert found["r", "m", "", "label", ""].outcome.label == "two"
    assert found["r", "m", "canary", "label", ""].outcome.label == 0
    assert log.reasons() == {("control", 4): "policy_too_late"}
    assert said(Log().predict(model="unheard of").outcome(model="unheard of")) == NOTHING  # the default policy


def test_models_hear_their_own_labels_and_those_of_nobody() -> None:
    log = Log().policy(model="n").predict().predict(model="n", role="shadow").label(10, "all").label(20, "n", model="n")
    assert (log.outcome().label, log.outcome(model="n").label) == ("all", "n")


@pytest.mark.parametrize(
    ("topic", "value", "reason"),
    [
        ("labels", None, "not_json"),
        ("labels", b"{", "not_json"),
        ("labels", b"\xff", "not_json"),
        ("labels", b'{"request_id": "r", "at_ms": NaN, "label": 1}', "not_json"),
        ("labels", b'{"request_id": "r", "at_ms": 10000000, "label": 1, "more": "\xff"}', "not_json"),
        ("labels", b'{"request_id": 1, "at_ms"', "not_json"),
        ("labels", b"[" * 400, "not_json"),
        ("labels", b"[]", "bad_event"),
        ("labels", b'{"request_id": "r", "at_ms": 10000000}', "bad_event"),
        ("labels", b'{"request_id": "r", "at_ms": 10000000, "label": 1e999}', "bad_event"),
        ("labels", b'{"request_id": "r", "at_ms": 10000000, "label": 18446744073709551616}', "bad_event"),
        ("labels", b'{"request_id": "' + b"x" * 129 + b'", "at_ms": 10000000, "label": 1}', "bad_event"),
        ("labels", b'{"request_id": "r", "at_ms": 10001001, "label": 1}', "clock_skew"),
        ("labels", b" " * 501, "too_large"),
        ("labels", b'{"request_id": "r", "at_ms": 10000000, "label": [%s1]}' % (b"1e15," * 50), "too_large"),
        ("predictions", b'{"request_id": "r", "at_ms": 9998999, "model": "m"}', "clock_skew"),
        ("control", b"{}", "bad_event"),
        ("control", b"", "not_json"),
    ],
)
def test_bad_input_ends_as_a_dead_letter(topic: str, value: bytes | None, reason: str) -> None:
    log = Log()
    offset = len(log.records[topic])
    assert log.put(topic, T, value).expect().dead_letters == {Dead(topic, 0, offset, reason)}
    fate = "quarantined" if reason == "clock_skew" else "dead"
    assert log.classes() == ({} if topic == "control" else {f"{topic}.{fate}": 1})


def test_prediction_that_comes_out_of_its_own_reach_is_dead() -> None:
    bounds = Bounds(**{name: getattr(BOUNDS, name) for name in BOUNDS.__slots__} | {"skew_ms": 10_000})
    assert Log(bounds).predict(0, append=1_600).reasons() == {}
    assert Log(bounds).predict(0, append=1_601).reasons() == {("predictions", 0): "too_late"}


def test_label_that_counts_for_nobody_dies_of_the_nearest_reason() -> None:
    assert Log().label(0).reasons() == {("labels", 0): "orphan"}
    assert Log().predict().label(0, model="x").reasons() == {("labels", 0): "orphan"}
    assert Log().predict().label(0, name="x").reasons() == {("labels", 0): "unknown_name"}
    assert Log().predict().label(0, item="i").reasons() == {("labels", 0): "unknown_item"}
    assert Log().predict().label(1_001, item="i").reasons() == {("labels", 0): "unknown_item"}
    assert Log().predict(items=[{"item": "i"}]).label(1_001, item="i").reasons() == {("labels", 0): "outside_horizon"}
    assert Log().predict().label(1_001).reasons() == {("labels", 0): "outside_horizon"}
    assert Log().predict().label(10, append=1_601).reasons() == {("labels", 0): "too_late"}
    assert Log().predict().label(10, append=1_700).reasons() == {("labels", 0): "too_late"}
    assert Log().predict().label(10, append=1_701).reasons() == {("labels", 0): "orphan"}  # nobody remembers
    assert Log().predict().label(0, append=-299).reasons() == {("labels", 0): "too_late"}  # too early, that is
    assert Log().predict().label(0, append=-300).reasons() == {("labels", 0): "orphan"}
    assert Log().predict().signal(1_001, "click").reasons() == {("signals", 0): "outside_horizon"}


def test_label_is_parked_until_it_may_end() -> None:
    log = Log().label(0)
    assert log.classes(clock=299) == {"labels.parked": 1}
    assert log.classes(clock=300) == {"labels.dead": 1}
    waiting = Log().predict().label(0, name="x")
    assert waiting.classes(clock=1_700)["labels.parked"] == 1
    assert waiting.classes(clock=1_701)["labels.dead"] == 1


def test_misrouted_record_is_forwarded_once_and_keeps_its_time() -> None:
    two = Bounds(**{name: getattr(BOUNDS, name) for name in BOUNDS.__slots__} | {"partitions": 2})
    home = partition_of("r", 2)
    value = json.dumps({"request_id": "r", "at_ms": T, "label": 1}).encode()
    log = Log(two).put("labels", T, value, partition=1 - home)
    hop = {"weir-hop": b"labels/0/0", "weir-append-ms": b"%d" % (T - 1_001)}
    log.put("labels", T, value, partition=1 - home, **hop)
    log.put("labels", T, value, partition=home, **hop)
    log.put("labels", T, value, partition=home, **(hop | {"weir-append-ms": b"%d" % (T + 1)}))
    found = expect(log.records, two, {0: LATE, 1: LATE})
    assert {(dead.offset, dead.reason) for dead in found.dead_letters} == {
        (1, "misrouted_twice"),
        (2, "clock_skew"),
        (3, "orphan"),
    }
    assert [(topic, record.offset) for topic, record in found.forwarded] == [("labels", 0)]
    assert found.counters["labels.forwarded"] == 1


def test_requests_that_outlive_their_state_are_named() -> None:
    assert not Log().label(0, event_id="e").label(0, event_id="e", append=299).expect().beyond
    assert Log().label(0, event_id="e").label(0, event_id="e", append=300).expect().beyond == {"r"}
    assert not Log().predict().label(0, event_id="e").label(0, event_id="e", append=1_700).expect().beyond
    assert Log().predict().label(0, event_id="e").label(0, event_id="e", append=1_701).expect().beyond == {"r"}
    assert not Log().predict().predict(1_700).expect().beyond
    assert Log().predict().predict(1_701).expect().beyond == {"r"}


def test_labels_are_compared_as_json() -> None:
    assert same_value(1, 1.0)
    assert same_value([1, "a"], [1.0, "a"])
    for one, other in ((True, 1), (False, 0), ("1", 1), (None, 0), ([1], 1), ([1], [1, 1]), ([True], [1])):
        assert not same_value(one, other)


def test_bounds_come_from_the_settings_as_those_of_the_fast_path_do() -> None:
    settings = Settings(partitions=8, clock="virtual", join=Join(skew_ms=7, early_label_ms=8, grace_ms=9))
    assert asdict(Bounds.of(settings)).items() <= asdict(JoinBounds.of(settings)).items()
