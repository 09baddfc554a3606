"""Weeks in which nothing changes, through the real detector: false alarms beside the budget.

Panes are minutes of about 60 rows. The whole budget of the model is the error rate's here (`quality_share` 1), but for
the real rows, where it is shared by error rate, score and features as shipped. Two kinds of run: *as learnt*, the limit
made from a reference of 5,000 rows as `weir` does; *at the limit*, the true rate exactly the greatest that the null
allows, which is the case that the promise is about.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.statistics.counted import Rate
from benchmarks.statistics.simulated import DAY, Pane, clustered, independent, next_hour, seasonal, shifted
from streams.judge.bounds import DAY_MS, JudgeBounds
from streams.judge.esr import ESRTrackers
from streams.judge.evidence import Evidences, Null
from streams.judge.nulls import error_null, upper_share
from streams.judge.trackers import Trackers

Floats = NDArray[np.float64]

ROWS, RATE, REFERENCE = 60, 0.1, 5_000
MINUTE_DAYS = 1 / DAY
WEEK = 7 * DAY
MONTH = 30.0
LEARNT, AT_LIMIT = "as learnt", "at the limit"
STUDENT = 2.353
"""Student's 95 % quantile, one-sided, of three degrees of freedom: four weeks."""


@dataclass(frozen=True)
class Weeks:
    """False alarms per 30 days over some weeks. `promised` is None where the theorem says nothing."""

    name: str
    how: str
    budget: float
    weeks: int
    alarms: Rate
    promised: float | None


def bounds_of(budget: float, epsilon: float = 0.01) -> JudgeBounds:
    """Give bounds whose whole budget is the error rate's."""
    return JudgeBounds(budget=budget, quality_share=1.0, score_share=0.0, epsilon_error=epsilon)


def learnt(draw: np.random.Generator, runs: int, bounds: JudgeBounds, rate: float = RATE) -> list[Null]:
    """Give each run the null that its own reference of 5,000 rows leads to."""
    errors = draw.binomial(REFERENCE, rate, runs) / REFERENCE
    return [
        error_null("quality:error", float(one), REFERENCE, delta=bounds.reference_delta, epsilon=bounds.epsilon_error)
        for one in errors
    ]


def steady(seed: int, runs: int, budgets: tuple[float, ...], panes: int = WEEK) -> list[Weeks]:
    """Judge independent and clustered rows, as learnt and at the limit: the theorem holds for all."""
    found = []
    kinds: dict[str, Callable[[np.random.Generator, Floats, int], Pane]] = {
        "independent rows": independent,
        "rows clustered by subject": clustered,
    }
    for kind, (name, make) in enumerate(kinds.items()):
        for place, how in enumerate((LEARNT, AT_LIMIT)):
            draw = np.random.default_rng([seed, kind, place])
            nulls = {budget: learnt(draw, runs, bounds_of(budget)) for budget in budgets}
            if how == AT_LIMIT:
                nulls = dict.fromkeys(budgets, [Null.of_rate("quality:error", RATE)] * runs)
            trackers = {budget: _start(nulls[budget], bounds_of(budget)) for budget in budgets}
            alarms = dict.fromkeys(budgets, 0)
            rates = np.full(runs, RATE)
            for t in range(panes):
                pane = make(draw, rates, ROWS)
                for budget, tracker in trackers.items():
                    alarms[budget] += _alarms(tracker, t, pane)
            months = runs * panes * MINUTE_DAYS / MONTH
            for budget in budgets:
                part = 1.0 if how == LEARNT else 1 - bounds_of(budget).reference_share
                weeks = round(runs * panes / WEEK)
                found.append(Weeks(name, how, budget, weeks, Rate.of(alarms[budget], months), budget * part))
    return found


def moving(seed: int, runs: int, budget: float, panes: int = WEEK) -> list[Weeks]:
    """Judge a daily cycle and an autocorrelated rate, for which nothing is promised, in several ways.

    - plain: as learnt, from rows of all hours;
    - a wider epsilon;
    - the same hour of the week: the mean of four earlier weeks, plus Student's 95 % bound of the next one by the spread
      between those weeks, plus epsilon;
    - the hour before: its rate at the upper end of a 99 % interval, plus epsilon. A slow rise is then never seen.
    """
    found = []
    for place, name in enumerate(("daily cycle of 20 %", "AR(0.9) by the hour, sd 0.2 logit")):
        ways = {
            "plain": _start(learnt(np.random.default_rng([seed, 7]), runs, bounds_of(budget)), bounds_of(budget)),
            "epsilon 0.03": _with_epsilon(seed, runs, budget, 0.03),
            "epsilon 0.05": _with_epsilon(seed, runs, budget, 0.05),
            "same hour of the week": _with_epsilon(seed, runs, budget, 0.01),
            "the hour before": _with_epsilon(seed, runs, budget, 0.01),
        }
        alarms = dict.fromkeys(ways, 0)
        draw = np.random.default_rng([seed, 8, place])
        logits, hour = 0.2 * draw.standard_normal(runs), np.zeros(runs)
        rates = np.full(runs, RATE)
        for t in range(panes):
            if t % 60 == 0:
                if place:
                    logits = next_hour(draw, logits)
                    rates = shifted(RATE, logits)
                    earlier = shifted(RATE, 0.2 * draw.standard_normal((4, runs)).ravel()).reshape(4, runs)
                else:
                    rates = np.full(runs, seasonal(RATE, t + 30))
                    earlier = np.full((4, runs), rates[0])
                seen = draw.binomial(60 * ROWS, earlier) / (60 * ROWS)
                same = seen.mean(axis=0) + STUDENT * seen.std(axis=0, ddof=1) * np.sqrt(1 + 1 / 4)
                _limit(ways["same hour of the week"], same + 0.01)
                if t:
                    _limit(ways["the hour before"], upper_share(hour, 60 * ROWS, 0.01) + 0.01)
                hour = np.zeros(runs)
            pane = independent(draw, rates, ROWS)
            hour += pane[1].sum(axis=1)
            for way, tracker in ways.items():
                alarms[way] += _alarms(tracker, t, pane)
        months = runs * panes * MINUTE_DAYS / MONTH
        weeks = round(runs * panes / WEEK)
        found += [Weeks(name, way, budget, weeks, Rate.of(count, months), None) for way, count in alarms.items()]
    return found


def _start(nulls: list[Null], bounds: JudgeBounds) -> Trackers:
    return bounds.detectors[0].many(nulls, bounds.alarm_days)


def _with_epsilon(seed: int, runs: int, budget: float, epsilon: float) -> Trackers:
    bounds = bounds_of(budget, epsilon)
    return _start(learnt(np.random.default_rng([seed, 7]), runs, bounds), bounds)


def _limit(trackers: Trackers, limits: Floats) -> None:
    """Give every run another limit from now on, known before the pane: what a reference by the hour would do."""
    assert isinstance(trackers, ESRTrackers)
    trackers.limits[:, 0] = np.clip(limits, 1e-9, 1.0)


def _alarms(trackers: Trackers, t: int, pane: Pane) -> int:
    sizes, hits = pane
    runs = len(sizes)
    panes = Evidences(t * 60_000, (t + 1) * 60_000, hits.sum(axis=1, keepdims=True), sizes.sum(axis=1), sizes, hits)
    return int(trackers.update(np.arange(runs), panes, np.full(runs, 60_000 / DAY_MS)).alarmed.sum())
