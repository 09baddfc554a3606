"""Frozen rows judged live: which feature, what share, which rows; and the same after a restart."""

from __future__ import annotations

import math
from collections import Counter

import msgspec
import pytest
from msgspec.structs import replace

from schemas.control import ParityRow, ParitySet, PolicySet, ReferenceSet
from schemas.inputs import Prediction
from schemas.measures import Drift, Measures
from streams.judge.bounds import DAY_MS, JudgeBounds
from streams.judge.detectors import ESR, Detector
from streams.judge.evidence import Evidence
from streams.judge.frozen_rows import rows_null
from streams.judge.processor import Judge
from streams.judge.shares import reference_part
from streams.judge.state import JudgeState
from streams.judge.watch import Judged, Watch
from streams.measure.ledger import Ledger
from streams.measure.parity import ParityCut
from streams.measure.tally import ledger_of
from streams.runtime.processor import whole_parts
from tests.streams.judge.naive_watch import NaiveESR
from tests.streams.judge.test_processor import (
    BOUNDS,
    MINUTE,
    POLICY,
    batch,
    columns,
    delta,
    measures,
    read,
    reference,
    run,
)

ROWS = [
    ParityRow(key=[f"u{i}"], features={"age": i, "city": "ulm" if i % 2 else None}, score=i / 50) for i in range(50)
]
SET = ParitySet(id="par", model="m", version="1", key=["user"], rows=ROWS)
NAMES = ["parity:rows", "parity:score", "parity:feature:age", "parity:feature:city"]


def pane(t: int, wrong: int, compared: int = 20) -> Ledger:
    """Give a pane of a minute in which so many of the compared predictions have another age."""
    scores, _, subjects = columns(t, 60, 0.1)
    found = ledger_of(scores, [None] * 60, subjects)
    cut, cells = ParityCut(SET), Counter[tuple[str, int]]()
    for i in range(compared):
        row = ROWS[(t * 7 + i) % 50]
        features = dict(row.features) | {"user": row.key[0]} | ({"age": 1e6} if i < wrong else {})
        one = Prediction(request_id="r", at_ms=0, model="m", version="1", features=features, score=row.score)
        cells.update(cut.cells(one))
    for (name, index), n in cells.items():
        found.add({name: {index: n}})
    return found


def story(panes: int, wrong: int) -> list[Measures]:
    return [measures(0, t, (t + 1) * MINUTE, delta(t * MINUTE, pane(t, wrong))) for t in range(10, 10 + panes)]


def started(*more: object) -> tuple[Judge, JudgeState]:
    judge = Judge(BOUNDS)
    state = judge.empty(0)
    control = [PolicySet(policy=POLICY), ReferenceSet(reference=reference()), *more]
    judge.step(state, batch(0, control=control), 0)
    return judge, state


def told(judge: Judge, state: JudgeState, events: list[Measures]) -> list[Drift]:
    return [one for one in read(run(judge, state, events), "drift", Drift) if one.stream.startswith("parity:")]


def test_an_alarm_names_the_feature_the_share_and_the_rows() -> None:
    found = told(*started(SET), story(12, 2))
    alarms = {one.stream: one for one in reversed(found) if one.alarmed}
    assert set(alarms) == {"parity:feature:age", "parity:rows"}
    alarm = alarms["parity:feature:age"]
    assert alarm.to_ms <= 18 * MINUTE
    assert alarm.evidence.value == pytest.approx(0.1)
    assert alarm.evidence.sentence.startswith("the share of rows whose 'age' is not as at training is above 0.001")
    assert "6 of 60 compared rows of the window differ: user u" in alarm.evidence.sentence
    assert " at training); user u" in alarm.evidence.sentence
    assert alarm.distances == {"rows": 60.0, "differ": 6.0, "missing_live": 0.0, "missing_at_training": 0.0}
    assert alarms["parity:rows"].distances == {"rows": 60.0, "differ": 6.0}


def test_where_all_agrees_there_is_no_alarm_and_without_rows_no_word() -> None:
    quiet = told(*started(SET), story(12, 0))
    assert {one.stream for one in quiet} == set(NAMES)
    assert not any(one.alarmed for one in quiet)
    assert all(one.distances["differ"] == 0 for one in quiet)
    silent = [measures(0, t, (t + 1) * MINUTE, delta(t * MINUTE, pane(t, 0, 0))) for t in range(10, 14)]
    assert told(*started(SET), silent) == []
    assert told(*started(), story(3, 2)) == []


def test_one_row_is_a_finding_where_the_limit_is_zero() -> None:
    found = told(*started(replace(SET, limit=0.0)), story(1, 1))
    assert {one.stream for one in found if one.alarmed} == {"parity:rows", "parity:feature:age"}


def test_a_restart_changes_nothing_and_rows_may_come_while_the_model_is_watched() -> None:
    judge, state = started(SET)
    whole = told(judge, state, story(12, 2))
    judge, state = started(SET)
    first = told(judge, state, story(12, 2)[:5])
    state = judge.load(0, whole_parts(judge, state))
    assert first + told(judge, state, story(12, 2)[5:]) == whole

    judge, state = started()
    run(judge, state, story(6, 2))
    before = state.watches["m", "1", "d"].dump()
    judge.step(state, batch(1, control=[SET, replace(SET, id="later", limit=1.0)]), 0)
    assert state.watches["m", "1", "d"].dump() == before
    later = told(judge, state, story(12, 2)[6:])
    assert {one.stream for one in later if one.alarmed} == {"parity:rows", "parity:feature:age"}


def test_rows_with_a_fault_are_refused_and_counted() -> None:
    judge, state = started(replace(SET, key=[]))
    assert state.counters["refused_parities"] == 1
    assert told(judge, state, story(3, 2)) == []


@pytest.mark.parametrize("kind", sorted(Detector.members))
def test_every_detector_takes_the_streams(kind: str) -> None:
    bounds = JudgeBounds(detectors=(Detector.parse({"kind": kind}),))
    watch = Watch(reference(), bounds, parity=SET)
    judged = watch.judge("traffic", pane(0, 2), 0, MINUTE, 0.01)
    assert [watch.streams[place].name for place, _, _ in Judged.in_order(judged)] == ["score", *NAMES]


def test_the_evidence_is_that_of_the_twin_and_the_budget_is_not_exceeded() -> None:
    bounds = JudgeBounds()
    watch = Watch(reference(), bounds, part=reference_part(1, 1), parity=SET)
    assert sum(stream.share for stream in watch.streams) == pytest.approx(1.0)
    stream = watch.stream("parity:feature:age")
    assert stream.share == pytest.approx(0.25 / 4)
    twin, days = NaiveESR(rows_null(stream.name, SET.limit), ESR().bets, "subject", bounds.alarm_days), MINUTE / DAY_MS
    for t in range(3):
        judged = watch.judge("traffic", pane(t, t), t * MINUTE, (t + 1) * MINUTE, days)
        said = {watch.streams[place].name: verdict for place, _, verdict in Judged.in_order(judged)}
        cells = pane(t, t).cells[stream.name]
        shown = watch.evidence(stream, pane(t, t), t * MINUTE, (t + 1) * MINUTE)
        assert isinstance(shown, Evidence)
        assert (shown.rows, shown.counts.tolist(), shown.sizes.size) == (cells[0], [cells.get(1, 0)], 0)
        level, _, _, _ = twin.update(shown, days * stream.share)
        assert said[stream.name].statistic == pytest.approx(math.exp(level))


def test_counts_that_cannot_be_are_left_out() -> None:
    watch = Watch(reference(), JudgeBounds(), parity=SET)
    for cells in ({0: -3}, {0: 3, 1: 4}, {1: 2}, {0: 3, 1: -1}):
        assert watch.judge("traffic", Ledger({"parity:rows": cells}), 0, MINUTE, 0.1) == []


def test_a_snapshot_from_before_there_were_frozen_rows_opens() -> None:
    judge, state = started(SET)
    ((name, body),) = whole_parts(judge, state).items()
    head, _, held = body.partition(b"\n")
    kept = msgspec.msgpack.decode(held)
    assert len(kept.pop("parities")) == 1
    old = judge.load(0, {name: head + b"\n" + msgspec.msgpack.encode(kept)})
    assert old.parities == {}
    assert old.references == state.references
