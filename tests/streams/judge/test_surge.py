"""Jumps of traffic: ten times the log-ins are found, a busy Monday is not, and a week is learnt first."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import msgpack
from scipy import stats

from streams.judge.panes import Key, Pane
from streams.judge.surge import ACCEPTED_MS, HOUR_MS, Law, Surges, Usual, upper
from streams.measure.ledger import Ledger

MINUTE = 60_000
DAY = 24 * HOUR_MS
WEEK = 7 * DAY
SIZE = 10 * MINUTE
LAW = Law(0.05 * SIZE / (30 * DAY), 3.0, WEEK)


@given(st.floats(0.1, 500), st.floats(0.0, 2.0), st.sampled_from([1e-2, 1e-5, 1e-8]))
def test_the_bound_is_the_least_count_that_is_rare_enough(expected: float, phi: float, chance: float) -> None:
    bound = upper(expected, phi, chance)
    law = stats.poisson(expected) if phi < 1e-9 else stats.nbinom(1 / phi, 1 / (1 + phi * expected))
    assert law.sf(bound - 1) <= chance * (1 + 1e-6)
    assert bound == 1 or law.sf(bound - 2) > chance * (1 - 1e-6)


def rate(at_ms: int) -> float:
    """Give requests in ten minutes: four times as many by day, half at the week-end."""
    hour, day = at_ms // HOUR_MS % 24, at_ms // DAY % 7
    return (120.0 if 8 <= hour < 20 else 30.0) * (0.5 if day >= 5 else 1.0)


def run(seed: int, days: float, factor: float = 1.0, at_day: float = 1e9) -> tuple[Usual, list[float]]:
    """Bursty traffic (φ = 0.05) that is multiplied from a day on; give the days of the alarms."""
    rng, usual, alarms = np.random.default_rng(seed), Usual(), []
    for pane in range(int(days * DAY / SIZE)):
        start = pane * SIZE
        mean = rate(start) * (factor if start >= at_day * DAY else 1.0)
        count = int(rng.poisson(rng.gamma(20.0, mean / 20.0)))
        if usual.take(count, start, start + SIZE, LAW).outcome == "fail":
            alarms.append(start / DAY)
    return usual, alarms


def test_days_and_weekends_are_no_jumps() -> None:
    """Twelve runs of 49 days after a week of learning: 0.05 · 12 · 49 / 30 = 1 false jump is promised on average.

    Five or more come once in 270 such tests; the seeds are fixed.
    """
    assert sum(len(run(seed, 56)[1]) for seed in range(12)) <= 4


@pytest.mark.parametrize(("factor", "found_within_h"), [(10.0, 1), (5.0, 2)])
def test_a_jump_is_found_and_told_once(factor: float, found_within_h: float) -> None:
    for seed in range(5):
        _, alarms = run(seed, 12, factor, 10.3)
        assert alarms[0] == pytest.approx(10.3, abs=found_within_h / 24 + 0.01)
        assert len(alarms) <= 3


def test_what_doubles_is_no_jump() -> None:
    assert not run(1, 12, 2.0, 10.3)[1]


def test_what_lasts_for_a_day_is_usual_from_then_on() -> None:
    usual, alarms = run(2, 30, 6.0, 10.0)
    assert alarms[0] == pytest.approx(10.0, abs=0.02)
    expected, _ = usual.expected(int(30 * DAY + 12 * HOUR_MS))
    assert expected == pytest.approx(6 * rate(int(30 * DAY + 12 * HOUR_MS)), rel=0.25)
    assert max(alarms) <= 10 + 2 * ACCEPTED_MS / DAY


def test_nothing_alarms_in_the_first_week() -> None:
    usual = Usual()
    for pane in range(int(6 * DAY / SIZE)):
        usual.take(10, pane * SIZE, (pane + 1) * SIZE, LAW)
    verdict = usual.take(10_000, int(6 * DAY), int(6 * DAY) + SIZE, LAW)
    assert verdict.outcome == "inconclusive"
    assert verdict.sentence == "learning, 6.0 of 7 days: 10000 requests"
    assert verdict.threshold is None


def pane(rows: int, busiest: int) -> Pane:
    cells = {"n": {0: rows}, "bucket.rows": {0: busiest, 1: 1}}
    return Pane(SIZE, Ledger(cells))


def test_routes_and_the_busiest_subject_are_streams_of_their_own_and_a_restart_changes_nothing() -> None:
    whole, route, shadow = (
        Key("1", "d", "primary", ""),
        Key("1", "d", "primary", "route=login"),
        Key("1", "e", "shadow", ""),
    )
    one, other = Surges(), Surges()
    rng = np.random.default_rng(3)
    for number in range(int(8 * DAY / SIZE)):
        start = number * SIZE
        jump = number == int(7.5 * DAY / SIZE)
        rows, logins = int(rng.poisson(200)), int(rng.poisson(20)) * (10 if jump else 1)
        at_start = {whole: pane(rows, 10 * (20 if jump else 1)), route: pane(logins, 1), shadow: pane(9, 9)}
        said = list(one.take(at_start, start, 0.05, 3.0, WEEK))
        assert said == list(other.take(at_start, start, 0.05, 3.0, WEEK))
        assert [(key, name) for key, name, _ in said] == [
            (whole, "traffic:requests"),
            (whole, "traffic:subject"),
            (route, "traffic:requests"),
        ]
        if jump:
            assert [verdict.outcome for _, _, verdict in said] == ["pass", "fail", "fail"]
            assert "10 times" in said[2][2].sentence or "times the usual" in said[2][2].sentence
        if number % 100 == 0:
            other = Surges.load(msgpack.decode(msgpack.encode(other.dump())))
            assert other.dump() == one.dump()


def test_a_stream_that_never_spoke_has_no_bound() -> None:
    usual = Usual()
    assert usual.expected(0) == (0.0, 0.0)
    assert upper(0.0, 0.1, 1e-3) == float("inf")
    assert usual.take(0, 0, SIZE, LAW).outcome == "inconclusive"


def test_the_pane_in_which_a_stream_begins_is_not_what_is_usual() -> None:
    usual, hour = Usual(), 3_600_000
    usual.take(8, 0, hour, LAW)  # a version that began a few minutes before the pane's end
    for pane in range(1, 2 * 168):
        verdict = usual.take(100 + pane % 7, pane * hour, (pane + 1) * hour, LAW)
        assert verdict.outcome != "fail", verdict.sentence
