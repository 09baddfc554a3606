"""Adaptive intervals: the promise holds for any sequence and delay; a twin counts by itself."""

import math
from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.judge.conformal import GAMMA, LEAST, LEVEL, Adaptive, Told

AIM = 1.0 - LEVEL


def run(values: list[float], delay: int) -> tuple[Adaptive, int, int]:
    """Tell 0 ± 1 each time, score `delay` later; give the series, the intervals scored and those missed."""
    series, waiting = Adaptive(), deque[tuple[Told, float]]()
    scored = missed = 0
    for value in values:
        waiting.append((series.tell(0.0, 1.0, -math.inf, math.inf), value))
        if len(waiting) > delay:
            told, realised = waiting.popleft()
            series.score(told, realised, len(waiting))
            if told.low is not None and told.high is not None:
                scored += 1
                missed += not told.low <= realised <= told.high
    return series, scored, missed


@given(st.lists(st.floats(-1e6, 1e6), max_size=300), st.integers(0, 40))
def test_misses_stay_within_the_promise_whatever_comes(values: list[float], delay: int) -> None:
    series, scored, missed = run(values, delay)
    tally = series.tally()
    assert (tally.scored, tally.scored - tally.covered) == (scored, missed)
    if scored:
        assert missed / scored <= AIM + (AIM + GAMMA * (delay + 1)) / (GAMMA * scored) + 1e-9
        assert missed / scored <= AIM + tally.bound + 1e-9
    assert -GAMMA * (delay + 1) - 1e-9 <= series.alpha <= 1.0


@given(st.integers(0, 60))
def test_an_opponent_who_knows_the_interval_cannot_break_the_promise(delay: int) -> None:
    series, waiting, missed, scored = Adaptive(), deque[Told](), 0, 0
    for _ in range(600):
        waiting.append(series.tell(0.0, 1.0, -math.inf, math.inf))
        if len(waiting) > delay:
            told = waiting.popleft()
            beyond = 1.0 if told.high is None else min(told.high * 1.01 + 0.01, 1e300)
            series.score(told, beyond, len(waiting))
            if told.low is not None:
                scored += 1
                missed += not beyond <= (told.high or 0.0)
    assert missed / scored <= AIM + series.tally().bound


@pytest.mark.parametrize("delay", [0, 60])
def test_coverage_follows_errors_that_grow_and_hang_together(delay: int) -> None:
    rng = np.random.default_rng(3)
    x, values = 0.0, []
    for t in range(3_000):
        x = 0.95 * x + rng.normal() * 0.3
        values.append(x * (1 + t / 1_000))
    series, scored, missed = run(values, delay)
    assert 0.85 <= 1 - missed / scored <= 0.95
    assert series.tally().coverage == pytest.approx(1 - missed / scored)


def test_there_is_no_interval_before_there_are_scores_and_no_coverage_before_there_is_an_interval() -> None:
    series = Adaptive()
    assert series.tell(0.5, 0.1, 0.0, 1.0).low is None
    assert series.tally().coverage is None
    for _ in range(LEAST):
        series.score(Told(0.5, 0.1), 0.5)
    told = series.tell(0.5, 0.1, 0.0, 1.0)
    assert (told.low, told.high) == (0.5, 0.5)


def test_an_interval_stays_in_the_range_of_its_figure() -> None:
    series = Adaptive(alpha=-1.0)
    for _ in range(LEAST):
        series.score(Told(0.5, 0.1), 0.5)
    assert (series.tell(0.5, 0.1, 0.0, 1.0).low, series.tell(0.5, 0.1, 0.0, 1.0).high) == (0.0, 1.0)


def test_a_series_that_was_kept_goes_on_the_same() -> None:
    series, _, _ = run([0.1 * k for k in range(50)], 3)
    again = Adaptive.load(series.dump())
    assert again == series
    assert again.tell(1.0, 1.0, -9.0, 9.0) == series.tell(1.0, 1.0, -9.0, 9.0)
