"""`verify` finds each kind of fault: a run that is right, then one thing after another broken in it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from xxhash import xxh64_intdigest

from schemas.event import decode, encode
from schemas.feedback import Feedback, Was
from schemas.policy import LabelRule
from schemas.records import DeadLetter
from streams.join.naive import Bounds, Record, expect, partition_of
from streams.join.verify import Report, verify
from tests.streams.join.test_naive import LATE, POLICY, Log, T

BOUNDS = Bounds(partitions=2, skew_ms=2_000, early_label_ms=2_000, grace_ms=100, max_event_bytes=500)
HOME = partition_of("r", 2)
CLOCKS = {0: LATE, 1: LATE}
PREDICTED: dict[str, Any] = {"policy": "default@1", "predicted_at_ms": T, "score": 0.25}

Run = tuple[list[Feedback], list[DeadLetter], dict[str, int]]


def logs() -> dict[str, list[Record]]:
    """A prediction, replaced by an earlier one; silence, two labels; an orphan, a misrouted signal and its copy."""
    log = Log(BOUNDS)
    log.predict(0, score=0.25).predict(-1, append=1_300, score=0.75)
    log.label(10, "first", append=1_200).label(20, "second", append=1_400).label(0, model="x")
    records = {topic: [moved(record, HOME) for record in records] for topic, records in log.records.items()}
    stray = Record(1 - HOME, 0, T, b"r", b'{"request_id": "r", "at_ms": 10000000, "signal": "click"}')
    hop = (("weir-append-ms", b"%d" % T), ("weir-hop", b"signals/%d/0" % (1 - HOME)))
    copy = Record(HOME, 0, T, b"r", stray.value, hop)
    return records | {"signals": [stray, copy]}


def moved(record: Record, partition: int) -> Record:
    return Record(partition, record.offset, record.append_ms, record.key, record.value, record.headers)


def right_run() -> Run:
    """What a right join says of these logs, worked out by hand."""
    silence = Feedback(
        request_id="r", model="m", revision=1, status="final", label=0, label_kind="timeout", joined_at_ms=T + 1_150,
        **PREDICTED,
    )  # fmt: skip
    first = msgspec.structs.replace(
        silence, revision=2, label="first", label_kind="explicit", joined_at_ms=T + 1_200, labelled_at_ms=T + 10,
        was=Was(status="final", label=0, label_kind="timeout"),
    )  # fmt: skip
    replaced = msgspec.structs.replace(
        first, revision=3, predicted_at_ms=T - 1, score=0.75, joined_at_ms=T + 1_300,
        was=Was(
            status="final", label="first", label_kind="explicit", predicted_at_ms=T, score=0.25, role="primary",
        ),
    )  # fmt: skip
    second = msgspec.structs.replace(
        replaced, revision=4, label="second", joined_at_ms=T + 1_400, labelled_at_ms=T + 20,
        was=Was(status="final", label="first", label_kind="explicit"),
    )  # fmt: skip
    orphan = DeadLetter(
        reason="orphan", detail="", stage="join", topic="labels", partition=HOME, offset=2, append_ms=T, at_ms=T
    )
    counters = {
        "predictions.final": 1,
        "predictions.conflict": 1,
        "labels.joined": 2,
        "labels.dead": 1,
        "signals.joined": 1,
        "signals.forwarded": 1,
    }
    return [silence, first, replaced, second], [orphan], counters


def compare(run: Run, clocks: dict[int, int] = CLOCKS, **records: list[Record]) -> Report:
    feedback, dead_letters, counters = run
    return verify(
        logs() | records,
        [Record(HOME, offset, T, one.request_id.encode(), encode(one)) for offset, one in enumerate(feedback)],
        BOUNDS,
        clocks,
        dead_letters=[Record(0, offset, T, None, encode(one)) for offset, one in enumerate(dead_letters)],
        counters=counters,
    )


def kinds(report: Report) -> set[str]:
    return {mismatch.kind for mismatch in report.mismatches}


def test_right_run_is_equal() -> None:
    report = compare(right_run())
    assert report.ok, report.mismatches
    compared = (
        "8 records, 1 standing predictions (1 due, 0 before their deadline), 4 revisions, 0 requests not comparable"
    )
    assert report.summary == f"equal: {compared}"


def change(number: int, **fields: Any) -> Callable[[Run], None]:
    def apply(run: Run) -> None:
        run[0][number] = msgspec.structs.replace(run[0][number], **fields)

    return apply


def drop(number: int) -> Callable[[Run], None]:
    return lambda run: run[0].__delitem__(number)


def change_was(number: int, **fields: Any) -> Callable[[Run], None]:
    def apply(run: Run) -> None:
        was = run[0][number].was
        assert was is not None
        run[0][number] = msgspec.structs.replace(run[0][number], was=msgspec.structs.replace(was, **fields))

    return apply


BROKEN: dict[str, tuple[Callable[[Run], None], set[str]]] = {
    "a revision is lost": (drop(1), {"gap", "was"}),
    "the first revision is lost": (drop(0), {"gap", "was"}),
    "a revision comes twice": (lambda run: run[0].insert(2, run[0][1]), {"gap", "was", "repeated"}),
    "numbers start at 0": (change(0, revision=0), {"gap"}),
    "time goes back": (change(1, joined_at_ms=T), {"clock"}),
    "`was` has another label": (change_was(1, label=1), {"was"}),
    "`was` confuses 0 and false": (change_was(1, label=False), {"was"}),
    "`was` has another status": (change_was(1, status="provisional"), {"was"}),
    "`was` has another weight": (change_was(3, weight=0.5), {"was"}),
    "`was` is absent": (change(1, was=None), {"was"}),
    "`was` in the first revision": (change(0, was=Was(status="void")), {"was"}),
    "`was` has another prediction": (change_was(2, score=0.5), {"was"}),
    "`was` hides that the prediction changed": (
        change(2, was=Was(status="final", label="first", label_kind="explicit")), {"was", "repeated"}
    ),
    "a change of status alone": (change(1, label=0, label_kind="timeout", status="provisional"), {"repeated", "was"}),
    "the first revision says nothing": (change(0, label=None, label_kind=None, status="void"), {"repeated", "was"}),
    "a label without kind": (change(3, label_kind=None), {"different"}),
    "another last label": (change(3, label="third"), {"different"}),
    "another last weight": (change(3, weight=0.5), {"different"}),
    "another last kind": (change(3, label_kind="implicit"), {"different"}),
    "another last score": (change(3, score=0.3), {"different", "was"}),
    "features nobody asked for": (change(3, features={"x": 1}), {"different"}),
    "the last revision is lost": (drop(3), {"different"}),
    "nothing was said": (lambda run: run[0].clear(), {"missing"}),
    "somebody else's feedback": (
        lambda run: run[0].append(msgspec.structs.replace(run[0][0], model="x")), {"unexpected"}
    ),
    "a dead letter is lost": (lambda run: run[1].clear(), {"dead_missing"}),
    "a dead letter comes twice": (lambda run: run[1].append(run[1][0]), {"dead_unexpected"}),
    "a dead letter has another reason": (
        lambda run: run[1].__setitem__(0, msgspec.structs.replace(run[1][0], reason="too_late")),
        {"dead_missing", "dead_unexpected"},
    ),
    "a dead letter too many": (
        lambda run: run[1].append(msgspec.structs.replace(run[1][0], offset=0)), {"dead_unexpected"},
    ),
    "a counter differs": (lambda run: run[2].update({"labels.joined": 3}), {"counter"}),
    "a class that nothing is in": (lambda run: run[2].update({"signals.parked": 1}), {"counter"}),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_each_fault_is_found(name: str) -> None:
    run = right_run()
    spoil, expected = BROKEN[name]
    spoil(run)
    report = compare(run)
    assert kinds(report) == expected, report.mismatches
    assert not report.ok
    assert "mismatches" in report.summary
    assert all(mismatch.sentence for mismatch in report.mismatches)


def test_lost_or_doubled_forward_is_found() -> None:
    stray, copy = logs()["signals"]
    feedback, dead_letters, counters = right_run()
    lost = compare((feedback, dead_letters, counters | {"signals.joined": 0}), signals=[stray])
    assert kinds(lost) == {"unforwarded"}
    again = Record(copy.partition, 1, copy.append_ms, copy.key, copy.value, copy.headers)
    doubled = compare((feedback, dead_letters, counters | {"signals.duplicate": 1}), signals=[stray, copy, again])
    assert kinds(doubled) == {"unforwarded"}
    unread = verify(logs() | {"signals": [stray]}, records_of(feedback), BOUNDS, CLOCKS, in_flight=True)
    assert unread.ok


def records_of(feedback: list[Feedback]) -> list[Record]:
    return [Record(HOME, offset, T, b"r", encode(one)) for offset, one in enumerate(feedback)]


def test_unreadable_and_misplaced_feedback_is_found() -> None:
    records = records_of(right_run()[0])
    broken = Record(HOME, 9, T, b"r", b"{}")
    assert kinds(verify(logs(), [*records, broken], BOUNDS, CLOCKS)) == {"unreadable"}
    for elsewhere in (Record(1 - HOME, 0, T, b"r", records[0].value), Record(HOME, 0, T, b"q", records[0].value)):
        assert kinds(verify(logs(), [elsewhere, *records[1:]], BOUNDS, CLOCKS)) == {"misplaced"}


def test_before_the_deadline_only_the_chain_is_compared_unless_the_cut_is_exact() -> None:
    feedback = right_run()[0][:1]
    early = {0: T + 1_000, 1: T + 1_000}
    report = verify(logs(), records_of(feedback), BOUNDS, early)
    assert report.ok
    assert (report.due, report.pending) == (0, 1)
    assert kinds(verify(logs(), records_of(feedback), BOUNDS, early, exact=True)) == {"different"}


def test_requests_beyond_are_counted_not_compared() -> None:
    log = Log(BOUNDS).predict().predict(1_701)
    records = {topic: [moved(record, HOME) for record in some] for topic, some in log.records.items()}
    report = verify(records, records_of(right_run()[0][1:]), BOUNDS, CLOCKS)
    assert report.ok
    assert report.beyond == 1


def test_void_and_unlabelled_are_told_apart_by_what_was_said() -> None:
    log = Log(BOUNDS, **(POLICY | {"on_timeout": "unlabelled"})).predict(score=0.25).label(10).retract(20)
    records = {topic: [moved(record, HOME) for record in some] for topic, some in log.records.items()}
    assert expect(records, BOUNDS, CLOCKS).counters["predictions.unlabelled"] == 1
    said = decode(encode(right_run()[0][0]), Feedback)
    said = msgspec.structs.replace(said, label=1, label_kind="explicit")
    taken_back = msgspec.structs.replace(
        said,
        revision=2,
        status="void",
        label=None,
        label_kind=None,
        was=Was(status="final", label=1, label_kind="explicit"),
    )
    counters = {"predictions.void": 1, "labels.joined": 2}
    report = verify(records, records_of([said, taken_back]), BOUNDS, CLOCKS, counters=counters)
    assert report.ok, report.mismatches


def about_items() -> tuple[dict[str, list[Record]], list[Feedback]]:
    """A ranking of two items whose feedback is half by silence, half sampled out, and a second label name."""
    rules = [LabelRule(name="bought", on_timeout="negative", negative_label="no", negative_sample=0.5)]
    items = [{"item": "a", "score": 0.75, "position": 0, "propensity": 0.5}, {"item": "b", "position": 1}]
    log = Log(BOUNDS, on_timeout="unlabelled", labels=rules).predict(items=items, score=0.25, outputs={"bought": 0.125})
    log.label(10, item="a").label(20, "yes", name="bought")
    shown: dict[str, Any] = {
        "request_id": "r",
        "model": "m",
        "policy": "default@1",
        "predicted_at_ms": T,
        "joined_at_ms": T + 2_000,
    }
    share: dict[str, Any] = {"name": "bought", "log_odds_correction": math.log(0.5)}
    whole = Feedback(
        **shown, **share, score=0.125, revision=1, status="final", label="yes", label_kind="explicit",
        labelled_at_ms=T + 20,
    )  # fmt: skip
    item = Feedback(
        **shown, item="a", score=0.75, position=0, propensity=0.5, revision=1, status="final", label=1,
        label_kind="explicit", labelled_at_ms=T + 10,
    )  # fmt: skip
    said = [whole, item]
    for name, score, position, propensity in (("a", 0.75, 0, 0.5), ("b", None, 1, None)):
        if xxh64_intdigest(f"r\0{name}".encode(), 2) < 2**63:
            entry = {"item": name, "score": score, "position": position, "propensity": propensity}
            silence = {"revision": 1, "status": "final", "label": "no", "label_kind": "timeout"}
            said.append(msgspec.convert({**shown, **share, **entry, **silence}, Feedback))
    return {topic: [moved(record, HOME) for record in some] for topic, some in log.records.items()}, said


def test_a_right_run_of_a_ranking_is_equal() -> None:
    logs, said = about_items()
    report = verify(logs, records_of(said), BOUNDS, CLOCKS)
    assert report.ok, report.mismatches
    assert (report.identities, report.due, report.revisions) == (1, 1, 3)


@pytest.mark.parametrize(
    ("number", "fields", "kind"),
    [
        (0, {"score": 0.25}, "different"),
        (0, {"log_odds_correction": None}, "different"),
        (0, {"name": "sold"}, "different"),
        (1, {"item": "z"}, "different"),
        (1, {"score": 0.25}, "different"),
        (1, {"position": None}, "different"),
        (1, {"propensity": None}, "different"),
        (2, {"label": "yes"}, "different"),
    ],
)
def test_faults_of_items_and_names_are_found(number: int, fields: dict[str, Any], kind: str) -> None:
    logs, said = about_items()
    said[number] = msgspec.structs.replace(said[number], **fields)
    found = kinds(verify(logs, records_of(said), BOUNDS, CLOCKS))
    assert kind in found
    assert found <= {kind, "missing"}  # under a wrong name or item it is also missing where it belongs


def test_what_another_policy_said_has_to_be_taken_back() -> None:
    logs, said = about_items()
    gone = msgspec.structs.replace(said[0], name="seen", label="yes", log_odds_correction=None)
    assert kinds(verify(logs, records_of([*said, gone]), BOUNDS, CLOCKS)) == {"different"}
    was = Was(status="final", label="yes", label_kind="explicit")
    void = msgspec.structs.replace(gone, revision=2, status="void", label=None, label_kind=None, was=was)
    report = verify(logs, records_of([*said, gone, void]), BOUNDS, CLOCKS)
    assert report.ok, report.mismatches
