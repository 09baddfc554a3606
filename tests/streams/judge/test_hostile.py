"""What a judge must survive: deltas that are missing, references that cannot be, keys that never come back."""

import functools

import numpy as np
import pytest

from schemas.control import PolicySet, Reference, ReferenceSet
from schemas.measures import Drift, Metric, PaneDelta
from schemas.policy import JoinPolicy
from streams.judge.bounds import DAY_MS, JudgeBounds
from streams.judge.cbpe import expected
from streams.judge.controls import PATIENCE_DAYS, Controls, Worth
from streams.judge.panes import Key
from streams.judge.processor import Judge
from streams.judge.state import JudgeState
from streams.judge.surge import HOUR_MS, HOURS, WEEKS, Law, Surges, Usual
from streams.judge.watch import Watch
from streams.measure.ledger import SCORE_BINS, Ledger
from streams.measure.measure import Measure
from streams.measure.reference import fault, learn
from streams.measure.tally import ledger_of
from streams.runtime.processor import whole_parts
from tests.streams.judge.test_processor import BOUNDS, MINUTE, batch, columns, delta, measures, read, run, started
from tests.streams.judge.test_surge import pane

WHOLE = Key("1", "d", "primary", "")


@functools.cache
def with_feature() -> Reference:
    rng = np.random.default_rng(0)
    scores, labels, _ = columns(0, 4_000, 0.1)
    return learn("m", "1", {"x": rng.normal(size=4_000).tolist()}, scores, labels, at_ms=0)


def test_traffic_that_grows_by_orders_of_magnitude_has_no_bound_and_breaks_nothing() -> None:
    law = Law(1e-6, 3.0, 2 * MINUTE)
    for large in (10**5, 10**6, 10**9, 10**12):
        usual = Usual()
        for number, count in enumerate((1, large, large, 1, large)):
            usual.take(count, number * MINUTE, (number + 1) * MINUTE, law)


def test_a_stream_that_fell_silent_takes_no_part_of_the_budget() -> None:
    surges = Surges()
    gone = Key("0", "d", "primary", "")
    list(surges.take({WHOLE: pane(9, 1), gone: pane(9, 1)}, 0, 0.05, 3.0, HOUR_MS))
    assert len(surges.usual) == 4
    list(surges.take({WHOLE: pane(9, 1)}, HOUR_MS, 0.05, 3.0, HOUR_MS))
    list(surges.take({WHOLE: pane(9, 1)}, (WEEKS * HOURS + 1) * HOUR_MS, 0.05, 3.0, HOUR_MS))
    assert {key for key, _ in surges.usual} == {WHOLE}


def test_a_feature_cell_below_nothing_has_no_distance_and_breaks_nothing() -> None:
    judge = Judge(BOUNDS)
    state = judge.empty(0)
    judge.step(state, batch(0, control=[ReferenceSet(reference=with_feature())]), 0)
    scores, _, subjects = columns(1, 60, 0.1)
    ledger = ledger_of(scores, [None] * 60, subjects) + Ledger({"feature:x": {0: 59, 20: -1}})
    run(judge, state, [measures(0, 1, 10 * MINUTE, delta(10 * MINUTE, ledger))])
    drifts = {one.stream: one for one in read(run(judge, state, [measures(0, 2, 11 * MINUTE)]), "drift", Drift)}
    assert drifts["score"].distances
    assert not drifts["feature:x"].distances


def test_a_judge_that_begins_in_the_middle_tells_nothing_wrong_and_goes_on_watching() -> None:
    """A correction of outcomes that it never read leaves cells below 0; later errors must still alarm."""
    judge = Judge(JudgeBounds(window_panes=3, grace_ms=0, live_ms=30_000, budget=50.0))
    state = started(judge)
    scores, labels, subjects = columns(1, 60, 0.1)
    flipped = ledger_of(scores, [1 - y for y in labels], subjects) - ledger_of(scores, labels, subjects)
    outputs = run(judge, state, [measures(0, 1, 10 * MINUTE, delta(10 * MINUTE, flipped))])
    events = []
    for t in range(11, 60):
        scores, labels, subjects = columns(t, 60, 0.9)
        events.append(measures(0, t, (t + 1) * MINUTE, delta(t * MINUTE, ledger_of(scores, labels, subjects))))
    outputs += run(judge, state, [*events, measures(0, 99, 80 * MINUTE)])
    figures = [one for one in read(outputs, "metrics", Metric) if one.estimator == "realised" and one.value is not None]
    assert figures
    assert all(0 <= one.value <= 1 for one in figures if one.metric in ("accuracy", "precision", "recall", "auc"))
    drifts = [one for one in read(outputs, "drift", Drift) if one.stream == "quality:error"]
    assert any(one.alarmed for one in drifts)
    assert all(one.evidence.statistic is not None and np.isfinite(one.evidence.statistic) for one in drifts)


BROKEN = {
    "edges without a range": {"edges": {"x": [1.0]}},
    "edges that do not ascend": {"edges": {"x": [2.0, 1.0]}, "ranges": {"x": [0.0, 3.0]}},
    "counts of another length": {"edges": {"x": [1.0]}, "ranges": {"x": [0.0, 3.0]}, "counts": {"feature:x": [1, 2]}},
    "a score of another length": {"counts": {"score": [1, 2, 3]}},
    "counts below 0": {"counts": {"score": [-1] * (SCORE_BINS + 3)}},
    "an error rate above 1": {"error_rate": 1e308, "error_n": 5},
    "half a calibration": {"calibration": [1, 2]},
    "a category twice": {"categories": {"c": ["a", "a"]}},
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_reference_that_cannot_be_is_taken_by_nobody(name: str) -> None:
    broken = Reference(id="b", model="m", version="1", n=10, **BROKEN[name])  # type: ignore[arg-type]
    assert fault(broken)
    good = with_feature()
    assert not fault(good)
    judge, measure = Judge(BOUNDS), Measure(partitions=1)
    told = [ReferenceSet(reference=broken), ReferenceSet(reference=good)]
    state, counting = judge.empty(0), measure.empty(0)
    judge.step(state, batch(0, control=told), 0)
    measure.step(counting, [], told, batch(0), 0)
    assert state.references["m", "1"].id == good.id == counting.references["m", "1"].reference.id
    assert state.counters["refused_references"] == 1
    scores, labels, subjects = columns(1, 60, 0.1)
    run(judge, state, [measures(0, 1, 10 * MINUTE, delta(10 * MINUTE, ledger_of(scores, labels, subjects)))])
    assert run(judge, state, [measures(0, 2, 99 * MINUTE)])


def test_cells_of_another_reference_of_the_version_are_left_out() -> None:
    watch = Watch(with_feature(), BOUNDS)
    ledger = Ledger({"feature:x": {0: 5, 90: 7}, "score": {0: 5}, "bucket.rows": {0: 5}})
    judged = watch.judge("traffic", ledger, 0, MINUTE, 0.001)
    assert judged
    stream = next(one for one in watch.streams if one.name == "feature:x")
    found = watch.evidence(stream, ledger, 0, MINUTE)
    assert found is not None
    assert found.rows == 5


def sliced(minute: int, part: str) -> PaneDelta:
    cells = {"n": [0, 1], "score": [9, 1]}
    return PaneDelta(
        model="m", version="1", deployment="d", slice=part, pane_ms=minute * MINUTE, pane_size_ms=MINUTE, cells=cells
    )


def test_a_key_that_never_comes_back_holds_no_panes() -> None:
    judge = Judge(JudgeBounds(window_panes=5, grace_ms=0, live_ms=MINUTE, keep_panes=20))
    state = judge.empty(0)
    policy = JoinPolicy(model="m", effective_from_ms=MINUTE, horizon_ms=MINUTE, lateness_ms=0, retain_ms=MINUTE)
    judge.step(state, batch(0, control=[PolicySet(policy=policy)]), 0)
    for minute in range(10, 200):
        parts = [sliced(minute, "")] + ([sliced(minute, "country=VA")] if minute == 12 else [])
        run(judge, state, [measures(0, minute, (minute + 1) * MINUTE, *parts)])
    assert len(state.panes.models["m"].panes) <= 25
    again = judge.load(0, whole(judge, state))
    for one in (state, again):
        run(judge, one, [measures(0, 500, 201 * MINUTE, sliced(200, "country=VA"))])
    assert whole(judge, state) == whole(judge, again)


def whole(judge: Judge, state: JudgeState) -> dict[str, bytes]:
    return whole_parts(judge, state)


def test_what_scores_tell_does_not_depend_on_the_order_of_cells() -> None:
    rng = np.random.default_rng(1)
    chances = rng.random(SCORE_BINS)
    cells = {
        int(cell): int(count)
        for cell, count in zip(rng.permutation(SCORE_BINS)[:300], rng.integers(1, 99, 300), strict=True)
    }
    turned = dict(reversed(cells.items()))
    one = expected(chances, Ledger({"score": cells, "score.chosen": cells}))
    other = expected(chances, Ledger({"score": turned, "score.chosen": turned}))
    assert one == other


def test_alarms_of_a_model_without_labels_do_not_pile_up() -> None:
    unlabelled = learn("m", "1", {}, [0.5] * 1_000, [None] * 1_000, at_ms=0)
    watch = Watch(unlabelled, BOUNDS)
    controls = Controls(watch, "w")
    controls.worth["score"] = Worth()
    for number in range(100):
        controls.worth["score"].raised(number * DAY_MS)
        controls.look(Ledger(), number * DAY_MS)
    assert len(controls.worth["score"].open) <= PATIENCE_DAYS + 2
    assert controls.told("score")["unknown"] == 100


def test_panes_that_never_wait_for_labels_leave_no_looks() -> None:
    judge = Judge(JudgeBounds(window_panes=5, grace_ms=10_000, live_ms=MINUTE))
    state = judge.empty(0)
    policy = JoinPolicy(model="m", effective_from_ms=MINUTE, horizon_ms=1, lateness_ms=0, retain_ms=MINUTE)
    judge.step(state, batch(0, control=[PolicySet(policy=policy)]), 0)
    for minute in range(10, 60):
        scores, labels, subjects = columns(minute, 20, 0.1)
        late = delta(minute * MINUTE, ledger_of(scores, labels, subjects))
        run(judge, state, [measures(0, 2 * minute, (minute + 1) * MINUTE + 5_000)])
        run(judge, state, [measures(0, 2 * minute + 1, (minute + 1) * MINUTE + 6_000, late)])
    assert sum(len(one.looks) for one in state.outlooks["m"].arms.values()) <= 1
