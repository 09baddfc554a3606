"""Embeddings judged live: against a naive twin, within the budget, through the judge, after a restart."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from numpy.typing import NDArray

from schemas.control import EmbeddingReference, PolicySet, Reference, ReferenceSet
from schemas.measures import Drift, Measures
from streams.judge.bounds import JudgeBounds
from streams.judge.clouds import SPANS, Cloud, Witnesses, cloud, cloud_null
from streams.judge.detectors import ESR, Detector
from streams.judge.esr import ESRTrackers
from streams.judge.evidence import Evidence, Evidences, Null
from streams.judge.mmd import FeatureSums, mmd2
from streams.judge.processor import Judge
from streams.judge.watch import Judged, Watch
from streams.measure.embedding import SCALE, EmbeddingCut, Vector, longest
from streams.measure.ledger import BUCKET_ROWS, EMBEDDING, EMBEDDING_ROWS, Ledger
from streams.measure.reading import bucket
from streams.measure.reference import fault, learn
from tests.streams.judge.naive_watch import NaiveESR
from tests.streams.judge.test_processor import BOUNDS, MINUTE, POLICY, batch, delta, measures, read, run

D = 6


def vectors(seed: int, rows: int, shift: float = 0.0, missing: float = 0.0, odd: float = 0.0) -> list[Vector]:
    draw = np.random.default_rng(seed)
    found: list[Vector] = (draw.normal(size=(rows, D)) + shift).tolist()
    kind = draw.random(rows)
    return [None if k < missing else [1.0] if k < missing + odd else one for one, k in zip(found, kind, strict=True)]


@functools.cache
def reference(rows: int = 20_000) -> Reference:
    nothing = [None] * rows
    return learn("m", "1", {}, nothing, nothing, at_ms=0, embeddings=vectors(0, rows))


def given_() -> EmbeddingReference:
    found = reference().embedding
    assert found is not None
    return found


def pane(told: Sequence[Vector], seed: int = 0) -> Ledger:
    homes = [bucket(f"u{seed}-{i}", "") for i in range(len(told))]
    found = Ledger({BUCKET_ROWS: {home: homes.count(home) for home in set(homes)}, "n": {0: len(told)}})
    found.add(EmbeddingCut.of(given_()).count(told))
    return found


def rows_of(told: Sequence[Vector]) -> NDArray[np.float64]:
    """Give the features of each row, by their definition."""
    cut, found = EmbeddingCut.of(given_()), []
    for one in told:
        counted = cut.count([one])
        kinds = [counted[EMBEDDING_ROWS][at] for at in (1, 2, 3)]
        features = [counted[EMBEDDING][at] / SCALE / 8 for at in range(2 * cut.frequencies)]
        found.append([*features, *(float(kind) for kind in kinds)])
    return np.array(found)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from([0.0, 0.6]), st.sampled_from([0.0, 0.4])), max_size=7))
def test_the_evidence_is_that_of_a_twin_that_remembers_every_row(story: list[tuple[int, float, float]]) -> None:
    about, null = cloud(given_(), delta=0.01, epsilon=0.05), cloud_null(EMBEDDING, given_(), delta=0.01, epsilon=0.05)
    witnesses, many = Witnesses(about, null), ESRTrackers([null], ESR().bets, "subject", 40.0)
    level = 0.0
    each = NaiveESR(null, ESR().bets, "subject", 40.0)
    past: list[NDArray[np.float64]] = []
    for t, (count, shift, gone) in enumerate(story):
        told = vectors(t, count, shift, gone, 0.1)
        ledger = pane(told, t)
        seen = witnesses.pane(ledger, t, t + 1)
        if not told:
            assert seen is None
            continue
        assert seen is not None
        said = many.update(np.zeros(1, np.int64), Evidences.of([seen[0]]), np.array([0.5]), seen[1][None, :]).verdict(0)
        rows = rows_of(told)
        counts, limits = _naive(rows, past, about.mean, about.room, null.limits)
        shown = Evidence(t, t + 1, counts, float(count), seen[0].sizes)
        each.null = Null(null.stream, null.sets, limits, null.names)
        level, _, n, _ = each.update(shown, 0.5)
        assert said.statistic == pytest.approx(math.exp(level), rel=1e-7)
        assert said.n == n
        witnesses.learn(ledger)
        past.append(rows)


def _naive(
    rows: NDArray[np.float64],
    past: list[NDArray[np.float64]],
    mean: NDArray[np.float64],
    room: float,
    shares: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the sums of X and the limits, row by row: X of each lies in [0, 1]."""
    counts, limits = [], []
    for span in SPANS:
        fades = [(1 - 1 / span) ** age for age in range(len(past))][::-1]
        weight = sum(fade * len(one) for fade, one in zip(fades, past, strict=True))
        if not past:
            counts.append(float(len(rows)))
            limits.append(1.0)
            continue
        w = sum(fade * one.sum(axis=0) for fade, one in zip(fades, past, strict=True)) / weight - mean
        w = w / math.sqrt(float(w @ w))
        turning = sum(math.hypot(w[j], w[64 + j]) for j in range(64)) / 8 * longest()
        most = max(turning, *(abs(float(one)) for one in w[128:])) * (1 + 1e-9)
        x = (1 + rows @ w / most) / 2
        assert x.min() >= 0
        assert x.max() <= 1
        limit = (1 + (float(mean @ w) + room) / most) / 2
        counts.append(float(x.sum()) if limit < 1 else float(len(rows)))
        limits.append(min(limit, 1.0))
    return np.array([*counts, *rows[:, 128:].sum(axis=0)]), np.array([*limits, *shares[len(SPANS) :]])


def watched(bounds: JudgeBounds, panes: Sequence[Ledger], days: float = 1 / 1440) -> list[tuple[int, str]]:
    """Give the panes of the alarms of the embeddings, with what was said."""
    watch, alarms = Watch(reference(), bounds), []
    for t, ledger in enumerate(panes):
        for place, _, verdict in Judged.in_order(watch.judge("traffic", ledger, t * MINUTE, (t + 1) * MINUTE, days)):
            if watch.streams[place].name == EMBEDDING and verdict.outcome == "fail":
                alarms.append((t, verdict.sentence))
    return alarms


@pytest.mark.parametrize(
    ("change", "by", "said"),
    [
        ({"shift": 0.6}, 80, "the mean of embedding, along the way it moved in some"),
        ({"missing": 0.25}, 12, "the share of embedding missing is above 0.05"),
        ({"odd": 0.25}, 12, "the share of embedding of another length is above 0.05"),
    ],
)
def test_what_moved_is_found_and_named(change: dict[str, float], by: int, said: str) -> None:
    told = [pane(vectors(t + 1, 200, **change), t) for t in range(by)]
    alarms = watched(JudgeBounds(), told)
    assert alarms
    assert said in alarms[0][1]
    assert not watched(JudgeBounds(), [pane(vectors(t + 1, 200), t) for t in range(by)])


def false_alarms(seed: int) -> tuple[int, float]:
    """Give the alarms of quiet deployments at the very edge of the null, and how many may be expected.

    All vectors are one, and 30 % of the reference's law are missing, of the traffic ε more: of all laws that lie so far
    away the one that a bet gains most from, because X is 0 or 1. Each deployment has a reference of its own.
    """
    draw = np.random.default_rng(seed)
    bounds = JudgeBounds(budget=20.0, epsilon_share=0.1)
    one = EmbeddingCut.of(given_()).count([[0.0] * D])[EMBEDDING]
    alarms, spent = 0, 0.0
    for _ in range(10):
        gone = int(draw.binomial(400, 0.3))
        known = replace(given_(), sums=[n * (400 - gone) for n in one.values()], rows=[400 - gone, gone, 0, 0])
        watch = Watch(replace(reference(), embedding=known), bounds)
        for t in range(150):
            gone = int(draw.binomial(64, 0.4))
            ledger = Ledger({EMBEDDING: {at: n * (64 - gone) for at, n in one.items()}})
            ledger.add({EMBEDDING_ROWS: {0: 64 - gone, 1: gone}, BUCKET_ROWS: dict.fromkeys(range(64), 1)})
            judged = watch.judge("traffic", ledger, t * MINUTE, (t + 1) * MINUTE, 1 / 24)
            alarms += sum(int(verdict.outcome == "fail") for _, _, verdict in Judged.in_order(judged))
            spent += watch.stream(EMBEDDING).share / 24
    return alarms, spent / bounds.alarm_days


def test_at_the_edge_of_the_tolerance_false_alarms_stay_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    alarms, expected = false_alarms(8)
    assert alarms <= expected
    # Without the tolerance, and the radius of the reference, the same traffic would alarm far more often.
    monkeypatch.setattr("streams.judge.watched.cloud", lambda given, **_: Cloud(given, 0.0))
    assert false_alarms(8)[0] > 2 * expected


def test_the_distance_of_the_window_is_the_unbiased_one() -> None:
    about = cloud(given_(), delta=0.01, epsilon=0.05)
    told = vectors(5, 300, 0.5, 0.05)
    far = about.distances(pane(told))
    a, c = (FeatureSums(131) for _ in range(2))
    a.add(rows_of(vectors(0, 20_000)[:2_000]))
    c.add(rows_of(told))
    assert far["mmd2"] == pytest.approx(mmd2(a, c), abs=0.01)
    assert far["mmd2"] > 10 * far["mmd2_q95"]
    assert far["p"] < 1e-9
    quiet = [about.distances(pane(vectors(seed, 300))) for seed in range(100, 160)]
    assert 0.02 < np.mean([one["mmd2"] > one["mmd2_q95"] for one in quiet]) + 0.02 < 0.15
    assert 0.35 < np.mean([one["p"] for one in quiet]) < 0.65
    assert about.distances(pane(told[:1])) == {} == about.distances(Ledger())


@pytest.mark.parametrize("kind", sorted(Detector.members))
def test_every_detector_takes_the_stream(kind: str) -> None:
    bounds = JudgeBounds(detectors=(Detector.parse({"kind": kind}),))
    watch = Watch(reference(), bounds)
    for t in range(3):
        judged = watch.judge("traffic", pane(vectors(t, 50), t), t * MINUTE, (t + 1) * MINUTE, 0.01)
        assert [watch.streams[place].name for place, _, _ in Judged.in_order(judged)] == [EMBEDDING]


def test_deltas_that_are_missing_are_no_evidence() -> None:
    watch = Watch(reference(), JudgeBounds())
    for cells in (
        {EMBEDDING: {0: 5_000}, EMBEDDING_ROWS: {0: 1}},
        {EMBEDDING: {0: 5}, EMBEDDING_ROWS: {0: -1, 1: 3}},
        {EMBEDDING: {0: 5}},
        {EMBEDDING: {500: 5}, EMBEDDING_ROWS: {0: 1}},
        {"n": {0: 3}},
    ):
        assert watch.judge("traffic", Ledger(cells), 0, MINUTE, 0.1) == []
        assert watch.distances("traffic", Ledger(cells)) == {}
    assert watch.dump() == {}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-1024, 1024), min_size=8, max_size=8),
    st.lists(st.integers(0, 10**7), min_size=4, max_size=4),
    st.lists(st.sampled_from([1.0, 0.3, 1e-3, 2e-6]), max_size=12),
    st.lists(
        st.tuples(
            st.dictionaries(st.integers(-1, 8), st.integers(-(10**9), 10**9), max_size=8),
            st.dictionaries(st.integers(-1, 4), st.integers(-1, 10**6), max_size=4),
        ),
        max_size=4,
    ),
)
def test_no_reference_and_no_counts_stop_the_judge(
    mean: list[int], rows: list[int], spectrum: list[float], story: list[tuple[dict[int, int], dict[int, int]]]
) -> None:
    odd = EmbeddingReference(
        dimension=2, bandwidth=1e-12, centre=[1e9, 0.0], frequencies=4, rows=rows, spectrum=spectrum,
        sums=[one * rows[0] // 2 for one in mean],
    )  # fmt: skip
    known = replace(reference(), embedding=odd)
    if fault(known):
        return
    watch = Watch(known, JudgeBounds())
    for t, (sums, kinds) in enumerate(story):
        ledger = Ledger({EMBEDDING: sums, EMBEDDING_ROWS: kinds})
        for _, _, verdict in Judged.in_order(watch.judge("traffic", ledger, t * MINUTE, (t + 1) * MINUTE, 0.1)):
            assert verdict.statistic is not None
            assert math.isfinite(verdict.statistic)
        for far in watch.distances("traffic", ledger).values():
            assert all(math.isfinite(value) for value in far.values())


def story(panes: int, changed_at: int) -> list[Measures]:
    found = []
    for t in range(10, 10 + panes):
        told = vectors(t, 150, 1.0 if t >= changed_at else 0.0)
        found.append(measures(0, t, (t + 1) * MINUTE, delta(t * MINUTE, pane(told, t))))
    return found


def started() -> tuple[Judge, object]:
    judge = Judge(BOUNDS.model_copy(update={"budget": 5.0}))
    state = judge.empty(0)
    judge.step(state, batch(0, control=[PolicySet(policy=POLICY), ReferenceSet(reference=reference())]), 0)
    return judge, state


def test_the_judge_raises_one_alarm_with_its_evidence_and_goes_on_after_a_restart() -> None:
    judge, state = started()
    whole = read(run(judge, state, story(40, 30)), "drift", Drift)  # type: ignore[arg-type]
    mine = [one for one in whole if one.stream == EMBEDDING]
    alarms = [one for one in mine if one.alarmed]
    assert len(mine) == 40
    assert alarms
    assert alarms[0].to_ms > 30 * MINUTE
    assert alarms[0].evidence.statistic >= alarms[0].evidence.threshold
    assert alarms[0].distances["mmd2"] > alarms[0].distances["mmd2_q95"]
    assert alarms[0].reference == reference().id
    judge, state = started()
    again = run(judge, state, story(40, 30)[:33])  # type: ignore[arg-type]
    state = judge.load(0, judge.dump(state, whole=True).parts)  # type: ignore[arg-type]
    again += run(judge, state, story(40, 30)[33:])
    assert read(again, "drift", Drift) == whole


def test_a_state_without_witnesses_begins_them_anew() -> None:
    bounds = JudgeBounds()
    watch, other = Watch(reference(), bounds), Watch(reference(), bounds)
    for t in range(3):
        watch.judge("traffic", pane(vectors(t, 50), t), t * MINUTE, (t + 1) * MINUTE, 0.01)
    state = watch.dump()
    assert f"{EMBEDDING}|witnesses" in state
    assert other.load({name: plain for name, plain in state.items() if "witnesses" not in name}) == []
    other.judge("traffic", pane(vectors(9, 50), 9), 9 * MINUTE, 10 * MINUTE, 0.01)
    assert other.load(state) == []
    assert other.dump() == state


def test_features_and_embedding_share_their_part_of_the_budget() -> None:
    rows: list[float | None] = [float(i % 9) for i in range(500)]
    both = learn("m", "1", {"x": rows, "y": rows}, rows, [None] * 500, at_ms=0, embeddings=vectors(0, 500))
    shares = {one.name: one.share for one in Watch(both, JudgeBounds()).streams}
    assert shares["feature:x"] == shares["feature:y"] == shares[EMBEDDING] == pytest.approx(0.25 / 3)
