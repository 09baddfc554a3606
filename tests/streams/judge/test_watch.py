"""All streams judged as one array, against their naive twins."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.control import Reference
from streams.judge.bounds import JudgeBounds
from streams.judge.detectors import ADWIN, ESR
from streams.judge.esr import ESRTrackers, Unit
from streams.judge.evidence import Evidence, Evidences, Null
from streams.judge.nulls import share_null
from streams.judge.watch import Judged, Watch
from streams.measure.ledger import BUCKET_ROWS, FEATURE, SCORE, Ledger
from streams.measure.reference import learn
from tests.streams.judge import naive_watch
from tests.streams.judge.naive_watch import NaiveESR

BETS = ESR().bets
CELLS, BUCKETS, STREAMS = 5, 4, 3


def null(seed: int) -> Null:
    counts = np.random.default_rng(seed).integers(1, 400, CELLS)
    names = [f"c{i}" for i in range(CELLS)]
    return share_null(f"s{seed}", counts, names, ordered=range(4), delta=0.01, epsilon=0.01)


NULLS = [null(seed) for seed in range(STREAMS)]
pane = st.tuples(
    st.lists(st.integers(0, 30), min_size=CELLS, max_size=CELLS),
    st.lists(st.integers(0, 9), min_size=BUCKETS, max_size=BUCKETS),
    st.booleans(),
)
panes = st.lists(st.lists(pane, min_size=STREAMS, max_size=STREAMS), min_size=1, max_size=12)


def shown(t: int, counts: list[int], sizes: list[int], known: bool) -> Evidence:
    """Give evidence whose units hold all rows, or one whose units nobody counted."""
    held = np.array(sizes, float)
    held[0] += max(sum(counts) - held.sum(), 0)
    held *= sum(counts) / held.sum() if held.sum() else 0
    return Evidence(t, t + 1, np.array(counts), float(sum(counts)), held if known else held * 0)


@given(panes, st.sampled_from(["subject", "event", "pane"]), st.sampled_from([0.0, 1e-3, 1.0]), st.data())
def test_many_streams_at_once_are_judged_like_each_by_itself(
    story: list[list[tuple[list[int], list[int], bool]]], unit: Unit, days: float, data: st.DataObject
) -> None:
    alarm_days = 40.0
    many = ESRTrackers(NULLS, BETS, unit, alarm_days)
    each = [NaiveESR(one, BETS, unit, alarm_days) for one in NULLS]
    for t, told in enumerate(story):
        rows = sorted(data.draw(st.sets(st.integers(0, STREAMS - 1), min_size=1)))
        seen = [shown(t, *told[row]) for row in rows]
        spent = np.array([days * (1 + row) for row in rows])
        said = many.update(np.array(rows), Evidences.of(seen), spent)
        for place, row in enumerate(rows):
            level, alarmed, n, witnesses = each[row].update(seen[place], float(spent[place]))
            verdict = said.verdict(place)
            assert verdict.statistic == pytest.approx(math.exp(level), rel=1e-8, abs=1e-200)
            assert witnesses[said.witness[place]] == pytest.approx(witnesses.max(), rel=1e-8)
            assert verdict.n == n
            if not math.isclose(level, math.log(alarm_days), rel_tol=1e-9):
                assert (verdict.outcome == "fail") == alarmed == bool(said.alarmed[place])


def test_a_state_of_logarithms_still_opens() -> None:
    old = NaiveESR(NULLS[0], BETS, "subject", 1e6)
    for t in range(5):
        old.update(shown(t, [20, 3, 4, 5, 6], [1, 1, 1, 1], True), 0.1)
    many = ESRTrackers(NULLS, BETS, "subject", 1e6)
    many.load(0, dict(old.dump()))
    next_pane = shown(6, [20, 3, 4, 5, 6], [1, 1, 1, 1], True)
    said = many.update(np.array([0]), Evidences.of([next_pane]), np.array([0.1])).verdict(0)
    level, _, n, _ = old.update(next_pane, 0.1)
    assert said.statistic == pytest.approx(math.exp(level))
    assert said.n == n
    with pytest.raises(ValueError, match="e-SR values for s1"):
        many.load(1, {"log_m": [0.0], "rows": 1.0})


def test_a_stream_is_judged_the_same_in_whatever_company() -> None:
    draw = np.random.default_rng(1)
    streams = 700  # several pieces
    nulls = [NULLS[i % STREAMS] for i in range(streams)]
    many, alone = ESRTrackers(nulls, BETS, "subject", 1e9), ESRTrackers(nulls[77:78], BETS, "subject", 1e9)
    for t in range(5):
        seen = [shown(t, draw.integers(0, 30, CELLS).tolist(), [1, 2, 3, 4], True) for _ in range(streams)]
        many.update(np.arange(streams), Evidences.of(seen), np.full(streams, 0.01))
        alone.update(np.array([0]), Evidences.of(seen[77:78]), np.array([0.01]))
    assert many.dump(77) == alone.dump(0)


@functools.cache
def reference() -> Reference:
    draw = np.random.default_rng(3)
    rows = 3_000
    features: dict[str, list[float | str | None]] = {
        "a": draw.normal(size=rows).tolist(),
        "b": draw.lognormal(size=rows).tolist(),
        "c": draw.integers(0, 3, rows).astype(float).tolist(),
        "d": draw.choice(["x", "y", "z"], rows).tolist(),
    }
    scores = draw.beta(2, 2, rows)
    return learn("m", "1", features, scores.tolist(), (draw.random(rows) < scores).astype(int).tolist(), at_ms=0)


def ledger(seed: int) -> Ledger:
    """Give counts of which some streams have none and some less than the others."""
    draw = np.random.default_rng(seed)
    found = Ledger({SCORE: {int(cell): 2 for cell in set(draw.integers(900, 1100, 40).tolist())}})
    rows = found.total(SCORE)
    for name, counts in reference().counts.items():
        if name.startswith(FEATURE) and draw.random() < 0.8:
            shares = (np.array(counts) + 1) / (sum(counts) + len(counts))
            cells = draw.multinomial(rows if draw.random() < 0.7 else rows // 2, shares)
            found.add({name: {cell: int(count) for cell, count in enumerate(cells.tolist()) if count}})
    found.add({BUCKET_ROWS: {i: int(n) for i, n in enumerate(draw.multinomial(rows, [1 / 64] * 64).tolist()) if n}})
    return found


@settings(max_examples=20)
@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=6))
def test_a_watch_says_what_each_of_its_streams_would(seeds: list[int]) -> None:
    bounds = JudgeBounds(budget=5.0)
    watch = Watch(reference(), bounds)
    each = {stream.name: NaiveESR(stream.null, BETS, "subject", bounds.alarm_days) for stream in watch.streams}
    for t, seed in enumerate(seeds):
        now = ledger(seed)
        said = {
            watch.streams[place].name: verdict
            for place, _, verdict in Judged.in_order(watch.judge("traffic", now, t, t + 1, 0.5))
        }
        far = watch.distances("traffic", now)
        for place, stream in enumerate(watch.streams):
            if stream.kind != "traffic":
                continue
            pane = naive_watch.evidence(stream, now, t, t + 1)
            assert (pane is None) == (stream.name not in said)
            if pane is not None:
                level, _, n, _ = each[stream.name].update(pane, 0.5 * stream.share)
                assert said[stream.name].statistic == pytest.approx(math.exp(level), rel=1e-8)
                assert said[stream.name].n == n
                assert far[place] == pytest.approx(naive_watch.distances(stream, now), rel=1e-9, abs=1e-12)
    again = Watch(reference(), bounds)
    again.load(watch.dump())
    assert again.dump() == watch.dump()


def test_a_cell_that_the_reference_does_not_know_is_not_taken_for_the_next_streams() -> None:
    watch = Watch(reference(), JudgeBounds())
    assert watch.judge("traffic", Ledger({FEATURE + "d": {5: 1}}), 0, 1, 0.5) == []


def test_rivers_detectors_stand_beside_it_as_before() -> None:
    watch = Watch(reference(), JudgeBounds(detectors=(ESR(), ADWIN())))
    said = list(Judged.in_order(watch.judge("traffic", ledger(1), 0, 1, 0.5)))
    assert [index for _, index, _ in said] == [0, 1] * (len(said) // 2)
    assert [place for place, _, _ in said] == sorted(place for place, _, _ in said)
    assert all("no single rate" in verdict.sentence for _, index, verdict in said if index == 1)
