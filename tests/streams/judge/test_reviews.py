"""Decisions looked at again: alarms, figures below a limit and gates, beside naive twins that count all anew."""

from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.control import AllocationSet, DecidePolicySet
from schemas.lifecycle import DecidePolicy, Deployment
from schemas.measures import Drift, Gate, Measures, Metric, Review, Trial
from streams.decide.rollout import judged as decided
from streams.decide.state import Rollout, Stage
from streams.judge.bounds import JudgeBounds
from streams.judge.gates import Layer, conclusion
from streams.judge.processor import Judge
from streams.judge.shares import reference_part
from streams.judge.state import JudgeState
from streams.judge.watch import Watch, labelled
from streams.judge.watched import QUALITY
from streams.measure.ledger import Ledger
from streams.measure.metrics import Accuracy
from streams.measure.tally import ledger_of
from streams.runtime.processor import WHOLE, whole_parts
from tests.streams.judge.test_processor import (
    BOUNDS,
    MINUTE,
    batch,
    columns,
    delta,
    measures,
    read,
    reference,
    run,
    started,
)

DRIFTS = BOUNDS.model_copy(update={"budget": 40.0, "reference_share": 0.5})
"""A budget so large that a change is found within few panes."""
OBSERVED = DecidePolicy(model="m", min_quality={"accuracy": 0.8})


def bad(t: int) -> tuple[list[float], list[int], list[str]]:
    return columns(t, 60, 0.8)


def worse(panes: Sequence[int], until: int) -> list[Measures]:
    """Minute panes from minute 10 on, those of `panes` nearly all wrong, closed for labels up to `until`."""
    found = []
    for t in range(10, until):
        scores, labels, subjects = bad(t) if t in panes else columns(t, 60, 0.1)
        found.append(measures(0, t, (t + 1) * MINUTE - 1, delta(t * MINUTE, ledger_of(scores, labels, subjects))))
    return [*found, measures(0, 1_000, (until + 4) * MINUTE)]


def righted(t: int, rows: int) -> Ledger:
    """What takes the first wrong labels of a pane back and says that they were right."""
    scores, labels, subjects = bad(t)
    true = [int(score >= 0.5) for score in scores]
    new = [*true[:rows], *labels[rows:]]
    return ledger_of(scores, new, subjects) - ledger_of(scores, labels, subjects)


def corrections(state: JudgeState, judge: Judge, *deltas: object, at: int = 100) -> list[Review]:
    outputs = run(judge, state, [measures(0, at * 10, at * MINUTE, *deltas), measures(0, at * 10 + 1, at * MINUTE + 1)])  # type: ignore[arg-type]
    outputs += run(judge, state, [measures(0, at * 10 + 2, (at + 1) * MINUTE)])
    return read(outputs, "reviews", Review)


def test_an_alarm_whose_panes_are_corrected_is_reviewed_once_for_each_answer() -> None:
    judge = Judge(DRIFTS)
    state = started(judge)
    outputs = run(judge, state, worse((14,), 16))
    (alarm,) = (one for one in read(outputs, "drift", Drift) if one.alarmed and one.stream == QUALITY)
    first = corrections(state, judge, delta(14 * MINUTE, righted(14, 1)))
    assert [(one.decision_id, one.stands, one.revision, one.overturned) for one in first] == [(alarm.id, True, 1, 0)]
    assert first[0].topic == "drift"
    assert first[0].then.value is not None
    assert first[0].now.value is not None
    assert first[0].now.value < first[0].then.value
    assert "it would stand" in first[0].sentence
    more = corrections(state, judge, delta(14 * MINUTE, righted(14, 2) - righted(14, 1)), at=102)
    assert more == []  # within `review_ms`, and the answer stays
    turned = corrections(state, judge, delta(14 * MINUTE, righted(14, 60) - righted(14, 2)), at=104)
    assert [(one.stands, one.revision, one.overturned) for one in turned] == [(False, 2, 1)]
    assert turned[0].now.outcome == "inconclusive"
    again = corrections(state, judge, delta(14 * MINUTE, Ledger() - righted(14, 60)), at=106)
    assert [(one.stands, one.overturned) for one in again] == [(True, 1)]
    assert again[0].now.value == pytest.approx(again[0].then.value)
    assert len({one.id for one in (*first, *turned, *again)}) == 3


def test_what_an_alarm_says_again_equals_a_detector_that_judges_the_corrected_panes_from_the_start() -> None:
    judge = Judge(DRIFTS)
    state = started(judge)
    run(judge, state, worse((14,), 16))
    (told,) = corrections(state, judge, delta(14 * MINUTE, righted(14, 40)), delta(12 * MINUTE, righted(12, 0)))
    watch = Watch(reference(), DRIFTS, part=reference_part(1, 1))
    said = None
    for t in range(10, 15):
        counts = ledger_of(*(bad(t) if t == 14 else columns(t, 60, 0.1)))
        counts.add(righted(t, 40).cells if t == 14 else {})
        pane = labelled(counts, t * MINUTE, (t + 1) * MINUTE)
        assert pane is not None
        said = watch.update(watch.stream(QUALITY), 0, pane, MINUTE / 86_400_000)
        if said.outcome == "fail":
            break
    assert said is not None
    assert (told.now.outcome, told.now.statistic) == (said.outcome, said.statistic)


def test_a_correction_of_another_pane_version_or_slice_reviews_nothing() -> None:
    judge = Judge(DRIFTS)
    state = started(judge)
    run(judge, state, worse((14,), 16))
    elsewhere = msgspec.structs.replace(delta(14 * MINUTE, righted(14, 60)), slice="a=b")
    shadowed = msgspec.structs.replace(delta(14 * MINUTE, righted(14, 60)), role="shadow")
    assert state.reviews["m"].decisions
    assert corrections(state, judge, delta(17 * MINUTE, ledger_of(*bad(17))), elsewhere, shadowed) == []


def test_a_figure_below_its_limit_is_reviewed() -> None:
    judge = Judge(BOUNDS)
    state = started(judge, DecidePolicySet(policy=OBSERVED))
    outputs = run(judge, state, worse((13, 14, 15), 16))
    figures = {one.id: one for one in read(outputs, "metrics", Metric)}
    kept = [one for one in state.reviews["m"].decisions if one.topic == "metrics"]
    assert all(figures[one.id].high < 0.8 for one in kept)
    assert len(kept) == 2  # a pane's and a window's, when they came below: not each pane anew
    told = corrections(state, judge, *(delta(t * MINUTE, righted(t, 60)) for t in (13, 14, 15)))
    told = [one for one in told if one.topic == "metrics"]
    assert {(one.decision_id, one.stands, one.overturned) for one in told} == {(one.id, False, 1) for one in kept}
    for one in told:
        whole = Ledger()
        for t in range(one.from_ms // MINUTE, one.to_ms // MINUTE):
            whole.add(ledger_of(*(bad(t) if t in (13, 14, 15) else columns(t, 60, 0.1))).cells)
            whole.add(righted(t, 60).cells if t in (13, 14, 15) else {})
        assert one.now.value == Accuracy().value(whole)
        assert one.then.value == figures[one.decision_id].value


def test_a_loss_above_its_ceiling_is_reviewed() -> None:
    judge = Judge(BOUNDS)
    state = started(judge, DecidePolicySet(policy=DecidePolicy(model="m", max_loss={"brier": 0.3})))
    figures = {one.id: one for one in read(run(judge, state, worse((13, 14, 15), 16)), "metrics", Metric)}
    kept = [one for one in state.reviews["m"].decisions if one.topic == "metrics"]
    assert kept
    for one in kept:
        assert one.then.threshold == 0.3
        assert one.then.statistic == figures[one.id].low > 0.3
    told = corrections(state, judge, *(delta(t * MINUTE, righted(t, 60)) for t in (13, 14, 15)))
    told = [one for one in told if one.topic == "metrics"]
    assert {(one.decision_id, one.stands) for one in told} == {(one.id, False) for one in kept}


@settings(max_examples=6, deadline=None)
@given(st.sets(st.integers(1, 9), max_size=2), st.sets(st.integers(0, 9), max_size=2))
def test_reviews_depend_on_nothing_but_the_sequence(cuts: set[int], restarts: set[int]) -> None:
    events = [*worse((14, 15), 16)]
    for at, t in ((100, 14), (102, 15)):
        events.append(measures(0, at, at * MINUTE, delta(t * MINUTE, righted(t, 60))))
    events.append(measures(0, 999, 104 * MINUTE))
    judge = Judge(DRIFTS)
    whole = run(judge, started(judge, DecidePolicySet(policy=OBSERVED)), events)
    assert read(whole, "reviews", Review)
    state, outputs = started(judge, DecidePolicySet(policy=OBSERVED)), []
    edges = [0, *sorted(cuts | restarts), len(events)]
    for low, high in pairwise(edges):
        if low in restarts:
            state = judge.load(0, whole_parts(judge, state))
        outputs += run(judge, state, events[low:high])
    assert [output.value for output in outputs] == [output.value for output in whole]


def test_what_is_remembered_is_bounded_and_none_is_none() -> None:
    few = DRIFTS.model_copy(update={"reviews": 1, "review_panes": 1})
    judge = Judge(few)
    state = started(judge, DecidePolicySet(policy=OBSERVED))
    run(judge, state, worse((14, 15), 16))
    (kept,) = state.reviews["m"].decisions
    assert len(kept.looks) <= 1
    assert all(len(looks) <= 1 for looks in state.reviews["m"].looks.values())
    none = Judge(DRIFTS.model_copy(update={"reviews": 0}))
    state = started(none, DecidePolicySet(policy=OBSERVED))
    run(none, state, worse((14, 15), 16))
    assert corrections(state, none, delta(14 * MINUTE, righted(14, 60))) == []


def test_a_snapshot_from_before_reviews_opens() -> None:
    judge = Judge(DRIFTS)
    state = started(judge, AllocationSet(model="m", layer="canary:r", share=0.5, from_ms=0))
    run(judge, state, worse((14,), 16))
    kept = msgspec.msgpack.decode(whole_parts(judge, state)[WHOLE].removeprefix(b"judge/2\n"))
    del kept["reviews"]
    for name in ("before", "kept", "corrected", "concluded"):
        del kept["layers"][0][name]
    old = judge.load(0, {WHOLE: b"judge/2\n" + msgspec.msgpack.encode(kept)})
    assert old.reviews == {}
    assert run(judge, old, [measures(0, 2_000, 60 * MINUTE, delta(60 * MINUTE, ledger_of(*columns(60, 9, 0.1))))])
    assert run(judge, old, [measures(0, 2_001, 70 * MINUTE)])


# --- gates


def trial(subject: int, value: float, revision: int = 1, arm: str = "", void: bool = False) -> Trial:
    return Trial(
        request_id=f"r{subject}",
        model="m",
        layer="canary:r",
        arm=arm or ("challenger" if subject % 2 else "champion"),
        subject=f"s{subject}",
        at_ms=10 * MINUTE + subject,
        value=value,
        revision=revision,
        void=void,
        source=0,
        step=1,
    )


def shares() -> AllocationSet:
    return AllocationSet(model="m", layer="canary:r", share=0.5, from_ms=0, window_ms=1_000)


@pytest.mark.parametrize("review_ms", [0, 60 * 30_000])  # a gate may be looked at again after half a minute
def test_a_gate_whose_trials_are_corrected_is_reviewed(review_ms: int) -> None:
    judge = Judge(BOUNDS.model_copy(update={"settle_ms": 0, "review_ms": review_ms}))
    state = started(judge, shares())
    trials = [trial(i, float(i % 2)) for i in range(200)]  # the challenger is always right, the champion never
    judge.step(state, batch(1, trials=trials), 0)
    outputs = run(judge, state, [measures(0, 1, 10 * MINUTE), measures(0, 2, 13 * MINUTE + 30_000)])
    (gate,) = read(outputs, "gates", Gate)
    (kept,) = state.reviews["m"].decisions
    assert (kept.id, kept.then.outcome, kept.closed) == (gate.id, "pass", 200)
    judge.step(state, batch(2, trials=[trial(1, 0.0, revision=2), trial(3, 0.0, void=True, revision=2)]), 0)
    (told,) = read(run(judge, state, [measures(0, 3, 14 * MINUTE)]), "reviews", Review)
    assert (told.decision_id, told.layer, told.topic, told.stands) == (gate.id, "canary:r", "gates", True)
    assert told.now.n == 199
    judge.step(state, batch(3, trials=[trial(i, 0.0, revision=3) for i in range(1, 200, 2)]), 0)
    (turned,) = read(run(judge, state, [measures(0, 4, 14 * MINUTE + 30_000)]), "reviews", Review)
    assert (turned.stands, turned.overturned) == (False, 1)
    assert turned.now.value == pytest.approx(0.0, abs=0.01)
    late = trial(1, 0.0, revision=3)
    judge.step(state, batch(4, trials=[late]), 0)  # heard twice: nothing new
    assert not read(run(judge, state, [measures(0, 5, 15 * MINUTE)]), "reviews", Review)


def test_a_gate_is_not_counted_again_at_every_correction() -> None:
    judge = Judge(BOUNDS.model_copy(update={"settle_ms": 0, "review_ms": 60 * 45_000}))
    state = started(judge, shares())
    judge.step(state, batch(1, trials=[trial(i, float(i % 2)) for i in range(200)]), 0)
    run(judge, state, [measures(0, 1, 10 * MINUTE), measures(0, 2, 13 * MINUTE + 30_000)])
    judge.step(state, batch(2, trials=[trial(1, 0.0, revision=2)]), 0)
    assert (
        len(
            read(
                run(judge, state, [measures(0, 3, 13 * MINUTE + 30_001), measures(0, 4, 14 * MINUTE)]),
                "reviews",
                Review,
            )
        )
        == 1
    )
    judge.step(state, batch(3, trials=[trial(i, 0.0, revision=3) for i in range(1, 200, 2)]), 0)
    assert not read(run(judge, state, [measures(0, 5, 14 * MINUTE + 30_000)]), "reviews", Review)
    (one,) = state.reviews["m"].decisions
    assert one.moved  # and it is looked at when its rest is over, as far as it is kept then


def wait(at_ms: int) -> int:
    return 1_000


def reach(at_ms: int) -> int:
    return 10_000_000


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 11), st.integers(2, 4), st.sampled_from([0.0, 0.5, 1.0, None])), max_size=12),
    st.integers(0, 12),
    st.integers(1, 12),
    st.sampled_from([3, 6, 100]),
)
def test_counting_again_equals_a_layer_that_heard_the_corrections_in_time(
    changes: list[tuple[int, int, float | None]], heard: int, closed: int, keep: int
) -> None:
    """The twin counts the same subjects in the same order with the corrected trials, those kept at the time alone."""
    layer = Layer("m", "canary:r", 1_000, keep)
    layer.allocate(shares())
    values: dict[int, tuple[int, float | None]] = {i: (1, float(i % 3 == 0)) for i in range(12)}
    for i in range(12):
        layer.take(trial(i, values[i][1] or 0.0), wait)
    layer.close(10**9, 0, wait, lambda at_ms: 10**9)
    for i, revision, value in changes[:heard]:
        if i >= 12 - keep and revision > values[i][0]:
            values[i] = (revision, value)
        layer.take(trial(i, value or 0.0, revision, void=value is None), wait)
    layer = Layer.load(msgspec.msgpack.decode(msgspec.msgpack.encode(layer.dump())), keep)
    found, known = layer.again(closed)
    assert known == (closed > 12 - keep)
    if not known:
        return
    twin = Layer("m", "canary:r", 1_000)
    twin.allocate(shares())
    for i in range(closed):
        if values[i][1] is not None:
            twin.take(trial(i, values[i][1] or 0.0), wait)
    twin.close(10**9, 0, wait)
    policy = DecidePolicy(model="m")
    one, other = layer.gate(policy, found, 0), twin.gate(policy, twin.sums, 0)
    assert (one.n, one.effect, one.e_above, one.e_below) == (other.n, other.effect, other.e_above, other.e_below)


def test_closed_subjects_are_kept_until_nothing_can_revise_them() -> None:
    layer = Layer("m", "canary:r", 1_000, 100)
    layer.allocate(shares())
    for i in range(4):
        layer.take(trial(i, 1.0), wait)
    layer.close(10 * MINUTE + 5_000, 0, wait, reach)
    assert len(layer.kept) == 4
    layer.close(10 * MINUTE + 10_000_001, 0, wait, reach)
    assert len(layer.kept) == 2
    layer.close(10 * MINUTE + 10_000_004, 0, wait, reach)
    assert not layer.kept
    assert layer.before.dump() == layer.sums.dump()
    assert layer.dump()["before"] is None


@settings(max_examples=200, deadline=None)
@given(
    st.booleans(),
    st.floats(0.0, 1e4),
    st.floats(0.0, 1e4),
    st.integers(0, 40),
    st.sampled_from([None, -0.01, 0.2]),
)
def test_a_gate_concludes_as_decide_reads_it(
    paired: bool, above: float, below: float, n: int, high: float | None
) -> None:
    policy = DecidePolicy(model="m")
    stage: Stage = "shadow" if paired else "canary"
    gate = Gate(
        id="g", model="m", layer=f"{stage}:r", paired=paired, effect=0.1, low=None if high is None else -0.1, high=high,
        alpha=policy.alpha, alpha_rollback=policy.alpha_rollback / 2, e_above=above, e_below=below, n=n, at_ms=5,
        bar=policy.shadow_margin if paired else -policy.margin,
    )  # fmt: skip
    one = Deployment(deployment="d", version="1", weight=1.0)
    rollout = Rollout(id="r", stage=stage, since_ms=0, champion=one, challenger=one, gate=gate)
    assert conclusion(gate, policy).outcome == decided(policy, rollout).outcome


def test_bounds_of_reviews_are_checked() -> None:
    with pytest.raises(ValueError, match="reviews"):
        JudgeBounds(reviews=-1)
    assert np.isfinite(JudgeBounds().review_ms)
