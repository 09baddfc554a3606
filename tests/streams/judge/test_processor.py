"""The judge as a processor: closing, corrections, cuts into steps, snapshots, budget."""

import functools
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.control import AllocationSet, Control, Frozen, PolicySet, Reference, ReferenceSet, Thawed
from schemas.event import decode, encode
from schemas.measures import ArmDelta, Drift, Forecast, Gate, Measures, Metric, PaneDelta, Trial
from schemas.policy import JoinPolicy
from schemas.records import DeadLetter
from schemas.settings import Guard
from schemas.verdict import Verdict
from streams.judge.bounds import JudgeBounds
from streams.judge.detectors import ESR
from streams.judge.evidence import Evidence
from streams.judge.processor import Judge
from streams.judge.replay import replay
from streams.judge.shares import reference_part
from streams.judge.state import JudgeState
from streams.judge.watch import Watch
from streams.measure.ledger import Ledger
from streams.measure.reading import bucket
from streams.measure.reference import learn
from streams.measure.tally import ledger_of
from streams.runtime.processor import WHOLE, Batch, Output, whole_parts
from streams.runtime.records import Records

MINUTE = 60_000
POLICY = JoinPolicy(model="m", effective_from_ms=MINUTE, horizon_ms=2 * MINUTE, lateness_ms=MINUTE, retain_ms=MINUTE)
BOUNDS = JudgeBounds(window_panes=3, grace_ms=0, live_ms=30_000)


def columns(seed: int, rows: int, rate: float) -> tuple[list[float], list[int], list[str]]:
    rng = np.random.default_rng(seed)
    scores = rng.beta(2, 2, rows)
    wrong = rng.random(rows) < rate
    labels = np.where(wrong, scores < 0.5, scores >= 0.5).astype(int)
    return scores.tolist(), labels.tolist(), [f"u{seed}-{i}" for i in range(rows)]


@functools.cache
def reference(rate: float = 0.1) -> Reference:
    scores, labels, _ = columns(0, 4_000, rate)
    return learn("m", "1", {}, scores, labels, at_ms=0)


def delta(pane_ms: int, ledger: Ledger, version: str = "1") -> PaneDelta:
    return PaneDelta(
        model="m", version=version, deployment="d", pane_ms=pane_ms, pane_size_ms=MINUTE, cells=ledger.flat()
    )


def measures(source: int, step: int, clock_ms: int, *panes: PaneDelta, sources: int = 1) -> Measures:
    return Measures(source=source, sources=sources, step=step, clock_ms=clock_ms, panes=list(panes))


def batch(step: int, **events: Sequence[object]) -> Batch:
    inputs = {}
    for topic, values in events.items():
        records = inputs[topic] = Records()
        for value in values:
            body = value if isinstance(value, bytes) else encode(value)  # type: ignore[arg-type]
            records.append(len(records), 0, None, body)
    return Batch(0, step, inputs)


def control() -> list[object]:
    return [PolicySet(policy=POLICY), ReferenceSet(reference=reference())]


def started(judge: Judge, *more: object) -> JudgeState:
    state = judge.empty(0)
    judge.step(state, batch(0, control=[*control(), *more]), 0)
    return state


def read(outputs: Sequence[Output], topic: str, kind: type) -> list:  # type: ignore[type-arg]
    return [decode(output.value, kind) for output in outputs if output.topic == topic]


@functools.cache
def stream(panes: int = 12, changed_at: int = 99) -> list[Measures]:
    """Minute panes from minute 10 on, with a correction of each in the second minute after."""
    found = []
    for t in range(10, 10 + panes):
        scores, labels, subjects = columns(t, 60, 0.1 if t < changed_at else 0.8)
        at_once = ledger_of(scores, [None] * 60, subjects)
        later = ledger_of(scores, labels, subjects) - at_once
        found.append(measures(0, 2 * t, (t + 1) * MINUTE - 1, delta(t * MINUTE, at_once)))
        found.append(measures(0, 2 * t + 1, (t + 1) * MINUTE + 500, delta(t * MINUTE, later)))
    found.append(measures(0, 10_000, (10 + panes + 4) * MINUTE))
    return found


def run(judge: Judge, state: JudgeState, events: Sequence[Measures], cuts: Sequence[int] = ()) -> list[Output]:
    outputs: list[Output] = []
    edges = [0, *sorted(cuts), len(events)]
    for step, (low, high) in enumerate(pairwise(edges), 1):
        outputs += judge.step(state, batch(step, measures=events[low:high]), 0).outputs
    return outputs


def test_traffic_closes_at_its_end_and_labels_after_their_wait() -> None:
    judge = Judge(BOUNDS)
    state = started(judge)
    scores, labels, subjects = columns(1, 60, 0.1)
    pane = delta(10 * MINUTE, ledger_of(scores, labels, subjects))
    run(judge, state, [measures(0, 1, 10 * MINUTE, pane)])
    outputs = run(judge, state, [measures(0, 2, 11 * MINUTE)])
    assert {d.stream for d in read(outputs, "drift", Drift)} == {
        "score", "placebo:rows", "injected:score", "traffic:requests", "traffic:subject",
    }  # fmt: skip
    assert not [m for m in read(outputs, "metrics", Metric) if m.closed]
    assert not run(judge, state, [measures(0, 3, 14 * MINUTE - 1)])
    outputs = run(judge, state, [measures(0, 4, 14 * MINUTE)])
    assert {d.stream for d in read(outputs, "drift", Drift)} == {
        "quality:error", "placebo:errors", "injected:quality:error",
    }  # fmt: skip
    accuracy = [m for m in read(outputs, "metrics", Metric) if m.metric == "accuracy"]
    assert [(m.from_ms, m.to_ms) for m in accuracy] == [(10 * MINUTE, 11 * MINUTE), (8 * MINUTE, 11 * MINUTE)]
    assert all(m.closed and not m.correction and m.n == 60 and m.maturity == 1.0 for m in accuracy)


def test_a_source_that_was_never_heard_or_lags_holds_everything() -> None:
    judge = Judge(BOUNDS)
    state = started(judge)
    scores, labels, subjects = columns(1, 60, 0.1)
    pane = delta(10 * MINUTE, ledger_of(scores, labels, subjects))
    assert not run(judge, state, [measures(0, 1, 99 * MINUTE, pane, sources=2)])
    assert not [
        m for m in read(run(judge, state, [measures(1, 1, 10 * MINUTE, sources=2)]), "metrics", Metric) if m.closed
    ]
    late = read(run(judge, state, [measures(1, 2, 99 * MINUTE, sources=2)]), "metrics", Metric)
    assert any(m.closed for m in late)


def test_what_comes_after_closing_corrects_figures_and_no_detector_sees_it() -> None:
    judge = Judge(BOUNDS)
    state = started(judge)
    run(judge, state, stream())
    trackers = state.watches["m", "1", "d"].dump()
    scores, labels, subjects = columns(21, 60, 0.1)
    flipped = ledger_of(scores, [1 - y for y in labels], subjects) - ledger_of(scores, labels, subjects)
    outputs = run(judge, state, [measures(0, 20_000, 27 * MINUTE, delta(21 * MINUTE, flipped))])
    found = [m for m in read(outputs, "metrics", Metric) if m.metric == "accuracy" and m.closed]
    assert [(m.from_ms, m.to_ms, m.correction) for m in found] == [
        (21 * MINUTE, 22 * MINUTE, True),
        (19 * MINUTE, 22 * MINUTE, True),
    ]
    right = sum((s >= 0.5) == (y == 1) for s, y in zip(scores, labels, strict=True))
    assert found[0].value == pytest.approx(1 - right / 60)
    assert not read(outputs, "drift", Drift)
    assert state.watches["m", "1", "d"].dump() == trackers


def test_a_change_raises_an_alarm_once_the_labels_have_matured() -> None:
    judge = Judge(BOUNDS)
    alarms = [d for d in read(run(judge, started(judge), stream(20, 15)), "drift", Drift) if d.alarmed]
    assert alarms
    assert {d.stream for d in alarms} == {"quality:error"}
    assert 16 * MINUTE <= alarms[0].to_ms <= 18 * MINUTE
    assert alarms[0].at_ms >= alarms[0].to_ms + POLICY.wait_ms


def test_without_a_reference_there_are_figures_and_no_alarm() -> None:
    judge = Judge(BOUNDS)
    outputs = run(judge, judge.empty(0), stream())
    assert read(outputs, "metrics", Metric)
    drifts = read(outputs, "drift", Drift)
    assert {drift.detector for drift in drifts} == {"surge"}  # traffic is compared with its own past
    assert not any(drift.alarmed for drift in drifts)


@settings(max_examples=8)
@given(st.sets(st.integers(1, 24)), st.sets(st.integers(1, 24), max_size=4))
def test_cuts_into_steps_and_restarts_change_nothing(cuts: set[int], restarts: set[int]) -> None:
    judge = Judge(BOUNDS)
    events = stream(12, 16)
    whole = [output.value for output in run(judge, started(judge), events)]
    state, outputs = started(judge), []
    edges = [0, *sorted(cuts | restarts), len(events)]
    for low, high in pairwise(edges):
        if low in restarts:
            state = judge.load(0, whole_parts(judge, state))
        outputs += run(judge, state, events[low:high])
    assert [output.value for output in outputs] == whole


def test_dump_of_a_loaded_state_is_the_same_bytes() -> None:
    judge = Judge(BOUNDS)
    state = started(judge, AllocationSet(model="m", layer="canary", share=0.5, from_ms=0))
    run(judge, state, stream())
    body = whole_parts(judge, state)
    assert whole_parts(judge, judge.load(0, body)) == body
    with pytest.raises(ValueError, match="expected a snapshot"):
        judge.load(0, {WHOLE: b"something else"})


def test_a_snapshot_of_the_format_before_still_opens() -> None:
    judge = Judge(BOUNDS)
    state = started(judge)
    run(judge, state, stream(3))
    new = whole_parts(judge, state)[WHOLE].removeprefix(b"judge/2\n")
    kept = msgspec.msgpack.decode(new)
    logs = {}
    for name, plain in kept["watches"][0][3].items():
        stream_ = next(one for one in Watch(reference(), BOUNDS).streams if one.name == name.partition("|")[0])
        wealth = np.frombuffer(plain["wealth"]).reshape(-1, stream_.null.limits.size)
        logs[name] = {"log_m": np.log(wealth).T.ravel().tolist(), "rows": plain["rows"]}
    assert logs
    kept["watches"][0][3] = logs
    old = judge.load(0, {WHOLE: b"judge/1\n" + msgspec.msgpack.encode(kept)})
    for name, plain in old.watches["m", "1", "d"].dump().items():
        before = state.watches["m", "1", "d"].dump()[name]
        assert plain["rows"] == before["rows"]
        assert np.frombuffer(plain["wealth"]) == pytest.approx(np.frombuffer(before["wealth"]), rel=1e-12)


@pytest.mark.parametrize(
    "changed",
    [
        BOUNDS.model_copy(update={"cells": 8}),
        BOUNDS.model_copy(update={"detectors": (ESR(bets=(0.05, 0.5)),)}),
        BOUNDS.model_copy(update={"detectors": (ESR(bets=(0.02, 0.03, 0.06, 0.15, 0.35, 0.8)),)}),  # as many as before
        BOUNDS.model_copy(update={"detectors": (ESR(unit="pane"),)}),
    ],
)
@pytest.mark.parametrize("shapes_told", [True, False])
def test_trackers_of_other_settings_begin_anew_and_say_so(changed: JudgeBounds, shapes_told: bool) -> None:
    judge, other = Judge(BOUNDS), Judge(changed)
    state = started(judge)
    events = stream(12)
    run(judge, state, events[:16])
    body = whole_parts(judge, state)[WHOLE]
    if not shapes_told:  # as the version before wrote it: what has another length is known by that alone
        kept = msgspec.msgpack.decode(body.removeprefix(b"judge/2\n"))
        kept["watches"][0][3] = {
            name: {at: one for at, one in plain.items() if at != "shape"}
            for name, plain in kept["watches"][0][3].items()
            if name != "~anew"
        }
        for one in kept["controls"][0][3]["injected"].values():
            one.pop("shape")
        body = b"judge/2\n" + msgspec.msgpack.encode(kept)
    loaded = other.load(0, {WHOLE: body})
    sizes = {len(one.bets) for one in changed.detectors if isinstance(one, ESR)} | {changed.cells}
    seen_by_length = sizes != {6, 16}
    if not (shapes_told or seen_by_length):
        assert not loaded.remarks  # nothing tells the two apart; the budget holds all the same
        return
    cells_alone = changed.detectors == BOUNDS.detectors
    assert loaded.counters["begun_anew"] == (1 if cells_alone else 2)  # the error rate has no cells
    assert "begin anew" in loaded.remarks[0]
    assert "score|0:e_sr" in loaded.remarks[0]
    again = other.load(0, whole_parts(other, loaded))  # said once, and kept in the evidence
    assert not again.remarks
    outputs = run(other, again, events[16:])
    said = {one.stream: one.evidence.sentence for one in read(outputs, "drift", Drift)}
    assert "began anew on 1970-01-01 00:1" in said["score"]
    assert ("began anew" in said["quality:error"]) is not cells_alone
    assert outputs == run(other, other.load(0, whole_parts(other, other.load(0, {WHOLE: body}))), events[16:])


def test_what_began_anew_says_so_for_one_period() -> None:
    watch = Watch(reference(), BOUNDS)
    watch.anew = {"score|0:e_sr": -1}
    place = next(at for at, one in enumerate(watch.streams) if one.name == "score")
    said = Verdict(outcome="inconclusive", sentence="no alarm")
    assert watch.noted(place, 0, said, 5_000).sentence.startswith("no alarm; began anew on 1970-01-01 00:00 UTC")
    assert watch.noted(place, 0, said, BOUNDS.period_ms + 4_999) != said
    assert watch.noted(place, 0, said, BOUNDS.period_ms + 5_000) == said
    assert watch.anew == {}


def test_a_snapshot_of_unchanged_settings_begins_nothing_anew() -> None:
    judge = Judge(BOUNDS)
    state = started(judge)
    run(judge, state, stream(3))
    loaded = judge.load(0, whole_parts(judge, state))
    assert (loaded.remarks, loaded.counters.get("begun_anew")) == ([], None)


def test_panes_that_nothing_can_revise_are_forgotten_and_later_deltas_counted() -> None:
    judge = Judge(BOUNDS)
    state = started(judge)
    run(judge, state, stream(30))
    run(judge, state, [measures(0, 20_000, 500 * MINUTE), measures(0, 20_001, 502 * MINUTE)])
    assert len(state.panes.models["m"].panes) <= 2 * BOUNDS.window_panes
    scores, labels, subjects = columns(1, 5, 0.1)
    lost = measures(0, 20_002, 503 * MINUTE, delta(10 * MINUTE, ledger_of(scores, labels, subjects)))
    stepped = judge.step(state, batch(9, measures=[lost]), 0)
    assert stepped.counters["lost_deltas"] == 1
    assert not stepped.outputs


def test_windows_are_the_sums_of_their_panes() -> None:
    judge = Judge(BOUNDS)
    state = started(judge)
    for event in stream():
        run(judge, state, [event])
        for windows in (*state.panes.models["m"].windows.values(), state.panes.models["m"].live):
            for key, window in windows.items():
                total = Ledger()
                for start in window.starts:
                    total.add(state.panes.models["m"].panes[start][key].open().cells)
                assert window.ledger.cells.items() <= total.cells.items()
                assert window.ledger.get("n") == total.get("n")


def test_unreadable_records_become_dead_letters() -> None:
    judge = Judge(BOUNDS)
    stepped = judge.step(judge.empty(0), batch(1, measures=[b"{"], trials=[b"\xff"], control=[b"?"]), 5)
    letters = read(stepped.outputs, "dead-letters", DeadLetter)
    assert [(letter.topic, letter.stage) for letter in letters] == [("trials", "judge"), ("measures", "judge")]
    assert stepped.counters["unreadable_control"] == 1


def test_trials_become_a_gate() -> None:
    judge = Judge(BOUNDS)
    state = started(judge, AllocationSet(model="m", layer="canary", share=0.5, from_ms=0, window_ms=1_000))
    trials = [
        Trial(
            request_id=f"r{i}",
            model="m",
            layer="canary",
            arm="challenger" if i % 2 else "champion",
            subject=f"u{i}",
            at_ms=10 * MINUTE + i,
            value=1.0,
            source=0,
            step=1,
        )
        for i in range(10)
    ]
    outputs = judge.step(state, batch(1, trials=trials, measures=[measures(0, 1, 30 * MINUTE)]), 0).outputs
    (gate,) = read(outputs, "gates", Gate)
    assert (gate.n, gate.champions, gate.challengers) == (10, 5, 5)


def test_replay_says_what_the_processor_says() -> None:
    judge = Judge(BOUNDS)
    outputs = run(judge, started(judge), stream(20, 15))
    said = list(read(outputs, "drift", Drift))
    at, scores, labels, homes = [], [], [], []
    for t in range(10, 30):
        s, y, subjects = columns(t, 60, 0.1 if t < 15 else 0.8)
        at += [t * MINUTE + i for i in range(60)]
        scores += s
        labels += y
        homes += [bucket(subject, "") for subject in subjects]
    part = reference_part(1, 1)
    done = replay(reference(), BOUNDS, at_ms=at, scores=scores, labels=labels, buckets=homes, part=part)
    assert [(a.stream, a.pane_ms) for a in done.alarms] == [
        (d.stream, d.to_ms - MINUTE) for d in sorted(said, key=lambda d: (d.to_ms, d.stream)) if d.alarmed
    ]
    for name, verdict in done.last.items():
        assert verdict == [d for d in said if d.stream == name][-1].evidence


def test_traffic_is_judged_by_the_rows_of_each_bucket() -> None:
    watch = Watch(reference(), BOUNDS)

    def shown(cells: dict[str, dict[int, int]]) -> Evidence:
        ((_, panes),) = watch._evidence("traffic", Ledger(cells), 0, MINUTE)
        return panes[0]

    pane = shown({"score": {7: 2, 900: 1}, "bucket.rows": {3: 2, 9: 1}})
    assert {i: int(n) for i, n in enumerate(pane.sizes) if n} == {3: 2, 9: 1}
    assert pane.rows == 3
    assert not shown({"score": {7: 2}, "bucket.rows": {3: 2, 9: 1}}).sizes.any()


def test_bounds_read_detectors_from_plain_data_and_print_them() -> None:
    bounds = JudgeBounds.model_validate({"detectors": [{"kind": "e_sr", "unit": "event"}, {"kind": "adwin"}]})
    assert [detector.kind for detector in bounds.detectors] == ["e_sr", "adwin"]
    assert JudgeBounds.model_validate_json(bounds.model_dump_json()) == bounds
    assert msgspec.json.decode(bounds.model_dump_json())["detectors"][0]["unit"] == "event"


# The outage guard and freezes.


def guarded(partitions: int = 3) -> Judge:
    return Judge(BOUNDS, guard=Guard(warm_up_ms=0, false_freezes=10.0), partitions=partitions)


def minutes(first: int, count: int, made: int, came: int) -> list[Measures]:
    """Give minutes of one arm: `made` predictions, and `came` labels of them at once."""
    found = []
    for pane in range(first, first + count):
        labels = {"market": [pane, 0, came]} if came else {}
        arm = ArmDelta(model="m", pane_size_ms=MINUTE, predictions=[pane, made], labels=labels)
        told = measures(0, pane, (pane + 1) * MINUTE)
        found.append(msgspec.structs.replace(told, arms=[arm]))
    return found


def test_a_freeze_goes_into_every_partition_of_control_and_so_does_the_thaw() -> None:
    judge = guarded()
    state = started(judge)
    outputs = run(judge, state, [*minutes(0, 40, 100, 50), *minutes(40, 3, 100, 0), *minutes(43, 5, 100, 50)])
    control = [output for output in outputs if output.topic == "control"]
    said = [msgspec.json.decode(output.value, type=Control) for output in control]
    assert [output.partition for output in control] == [0, 1, 2, 0, 1, 2]
    assert [type(event) for event in said] == [Frozen] * 3 + [Thawed] * 3
    assert said[0] == said[1] == said[2]
    assert said[3] == said[4] == said[5]
    forecasts = read(outputs, "forecasts", Forecast)
    assert {one.state for one in forecasts} == {"learning", "watched", "frozen"}
    assert len({one.id for one in forecasts}) == len(forecasts)
    assert state.counters["guard.frozen"] == 0


@pytest.mark.parametrize("cuts", [(), (7,), (41, 42, 44)])
def test_the_guard_says_the_same_however_its_measures_are_cut_and_kept(cuts: Sequence[int]) -> None:
    story = [*minutes(0, 40, 100, 50), *minutes(40, 3, 100, 0), *minutes(43, 5, 100, 50)]
    judge = guarded()
    expected = [output for output in run(judge, started(judge), story) if output.topic in ("control", "forecasts")]
    state = started(judge)
    found: list[Output] = []
    bounds = [0, *cuts, len(story)]
    for start, end in pairwise(bounds):
        state = judge.load(0, whole_parts(judge, state))
        found += judge.step(state, batch(start, measures=story[start:end]), 0).outputs
    assert [output for output in found if output.topic in ("control", "forecasts")] == expected


def test_only_partition_0_guards() -> None:
    judge = guarded()
    state = judge.empty(1)
    assert state.guard is None
    assert not run(judge, state, minutes(0, 40, 100, 50))


def test_label_panes_wait_for_the_timers_that_a_freeze_holds() -> None:
    judge = Judge(BOUNDS)
    state = started(judge)
    scores, labels, subjects = columns(1, 50, 0.1)
    pane = delta(10 * MINUTE, ledger_of(scores, labels, subjects))

    def closed(clock: int, timers: int | None, *panes: PaneDelta, step: int) -> list[Metric]:
        told = msgspec.structs.replace(measures(0, step, clock * MINUTE, *panes), timers_ms=timers and timers * MINUTE)
        return [one for one in read(run(judge, state, [told]), "metrics", Metric) if one.closed]

    assert not closed(12, None, pane, step=1)
    assert not closed(13, 12, step=2)
    assert not closed(30, 12, step=3)  # due at 14, but what silence would say of it is withheld
    assert state.counters["closed_traffic"] == 1
    assert whole_parts(judge, judge.load(0, whole_parts(judge, state))) == whole_parts(judge, state)
    assert closed(30, None, step=4)  # the thaw comes with no later clock
    assert state.counters["closed_labels"] == 1
