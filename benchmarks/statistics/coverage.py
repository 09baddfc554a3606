"""How often the intervals of forecasts hold: real data through the real judge, labels delayed, all of them at the end.

A logistic model is fitted on the first rows of a set and frozen, so that the concept drifts away from it; the rest is
replayed in the set's order. Each label comes after a log-normal delay, positives sooner than negatives, so that what
is labelled first misleads. The judge tells `projected` and `estimated` figures when a pane's traffic closes; here they
are compared with the realised figure of the same window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.control import PolicySet, Reference, ReferenceSet
from schemas.event import decode, encode
from schemas.measures import Measures, Metric, PaneDelta
from schemas.policy import JoinPolicy
from services.local.datasets import fetch_elec2, fetch_weather
from streams.judge.bounds import JudgeBounds
from streams.judge.processor import Judge
from streams.measure.ledger import Ledger
from streams.measure.reference import learn
from streams.measure.tally import ledger_of
from streams.runtime.processor import Batch
from streams.runtime.records import Records

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

HOUR_MS = 3_600_000
PANE_MS = 24 * HOUR_MS
HORIZON_PANES = 6


@dataclass(frozen=True)
class Fared:
    """Forecasts of one estimator and metric: how many had an interval, how many held, their mean width and error.

    `bias_so_far` is the mean error of the figure over the labels that had come at that moment.
    """

    estimator: str
    metric: str
    panes: int
    held: int
    width: float
    bias: float
    bias_so_far: float

    @property
    def coverage(self) -> float:
        """The share that held."""
        return self.held / self.panes if self.panes else float("nan")


def fitted(features: Floats, labels: Ints, rows: int, *, steps: int = 300) -> Floats:
    """Fit a logistic model on the first `rows` (standardised, gradient descent) and give the scores of all."""
    mean, sd = features[:rows].mean(axis=0), features[:rows].std(axis=0) + 1e-9
    x = np.column_stack([np.ones(len(features)), np.clip((features - mean) / sd, -5, 5)])
    weights = np.zeros(x.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-x[:rows] @ weights))
        weights -= 0.5 * x[:rows].T @ (p - labels[:rows]) / rows
    return np.asarray(1 / (1 + np.exp(-x @ weights)), dtype=np.float64)


def delays(labels: Ints, seed: int) -> Floats:
    """Give each label's delay in panes: median ¼ for positives and 0.6 for negatives, log-normal with σ 1."""
    rng = np.random.default_rng(seed)
    return np.asarray(np.where(labels == 1, 0.25, 0.6) * np.exp(rng.standard_normal(len(labels))))


def replayed(
    scores: Floats, labels: Ints, subjects: list[str], delay: Floats, rows_a_pane: int, reference: Reference
) -> list[Metric]:
    """Let the judge see the rows as they and their labels come; give all figures that it tells."""
    policy = JoinPolicy(model="m", effective_from_ms=60_000, horizon_ms=HORIZON_PANES * PANE_MS, lateness_ms=0)
    judge = Judge(JudgeBounds(window_panes=1, grace_ms=0, live_ms=PANE_MS, distances=False, keep_panes=50))
    state = judge.empty(0)
    judge.step(state, _batch(0, "control", [PolicySet(policy=policy), ReferenceSet(reference=reference)]), 0)
    pane = np.arange(len(scores)) // rows_a_pane
    arrival = np.floor(pane + (np.arange(len(scores)) % rows_a_pane) / rows_a_pane + delay).astype(np.int64)
    arrival = np.where(delay < HORIZON_PANES, arrival, -1)
    last = int(pane[-1])
    found: list[Metric] = []
    for now in range(last + HORIZON_PANES + 3):
        deltas = []
        for at in range(max(now - HORIZON_PANES - 1, 0), min(now, last) + 1):
            born = np.flatnonzero((pane == at) & (at == now))
            said = np.flatnonzero((pane == at) & (arrival == now))
            cells = _cells(scores, labels, subjects, born, said)
            if cells:
                deltas.append(
                    PaneDelta(
                        model="m",
                        version="1",
                        deployment="d",
                        pane_ms=_ms(at),
                        pane_size_ms=PANE_MS,
                        cells=cells.flat(),
                    )
                )
        event = Measures(source=0, sources=1, step=now + 1, clock_ms=_ms(now + 1), panes=deltas)
        outputs = judge.step(state, _batch(now + 1, "measures", [event]), 0).outputs
        found += [decode(output.value, Metric) for output in outputs if output.topic == "metrics"]
    return found


def fared(figures: list[Metric]) -> Iterator[Fared]:
    """Compare what was told with what was realised, by estimator and metric."""
    realised = {(one.metric, one.to_ms): one.value for one in figures if one.closed and one.estimator == "realised"}
    so_far: dict[tuple[str, int], float] = {}
    for one in figures:
        if not one.closed and one.estimator == "realised" and one.value is not None:
            so_far.setdefault((one.metric, one.to_ms), one.value)
    told: dict[tuple[str, str], list[tuple[Metric, float]]] = {}
    for one in figures:
        value = realised.get((one.metric, one.to_ms))
        if one.estimator != "realised" and one.low is not None and value is not None:
            told.setdefault((one.estimator, one.metric), []).append((one, value))
    for (estimator, metric), pairs in sorted(told.items()):
        held = sum(one.low <= value <= one.high for one, value in pairs if one.low is not None and one.high is not None)
        width = float(np.mean([one.high - one.low for one, _ in pairs if one.low is not None and one.high is not None]))
        bias = float(np.mean([one.value - value for one, value in pairs if one.value is not None]))
        early = [so_far[metric, one.to_ms] - value for one, value in pairs if (metric, one.to_ms) in so_far]
        yield Fared(estimator, metric, len(pairs), held, width, bias, float(np.mean(early)) if early else float("nan"))


@dataclass(frozen=True)
class RealSet:
    """A labelled set in its order of time, and how it is cut: rows a pane, rows to fit on, rows of the reference."""

    name: str
    rows_a_pane: int
    fit: int
    reference: int


SETS = (RealSet("elec", 48, 5_000, 5_000), RealSet("weather", 30, 2_000, 2_000))
"""Elec2, a pane of a day; the Nebraska weather, a pane of a month."""


def replay_of(place: int, seed: int) -> tuple[str, list[Fared]]:
    """Replay one of `SETS`; gives its name and how its forecasts fared. The data are fetched where they are absent."""
    one = SETS[place]
    path = fetch_elec2() if one.name == "elec" else fetch_weather()
    table = np.loadtxt(path, delimiter=",", skiprows=1)
    found = coverage(
        table[:, :-1],
        table[:, -1].astype(np.int64),
        rows_a_pane=one.rows_a_pane,
        fit=one.fit,
        reference=one.reference,
        seed=seed,
    )
    return one.name, found


def coverage(features: Floats, labels: Ints, *, rows_a_pane: int, fit: int, reference: int, seed: int) -> list[Fared]:
    """Fit on the first `fit` rows, learn the reference from the next, replay the rest."""
    scores = fitted(features, labels, fit)
    known = slice(fit, fit + reference)
    frozen = learn("m", "1", {}, scores[known].tolist(), labels[known].tolist(), at_ms=0)
    p, y = scores[fit + reference :], labels[fit + reference :]
    subjects = [f"s{i}" for i in range(len(p))]
    return list(fared(replayed(p, y, subjects, delays(y, seed), rows_a_pane, frozen)))


def _cells(scores: Floats, labels: Ints, subjects: list[str], born: Ints, said: Ints) -> Ledger:
    total = Ledger()
    if born.size:
        total = total + ledger_of(scores[born], [None] * born.size, [subjects[i] for i in born])
    if said.size:
        named = [subjects[i] for i in said]
        total = (
            total + ledger_of(scores[said], labels[said], named) - ledger_of(scores[said], [None] * said.size, named)
        )
    return total


def _ms(pane: int) -> int:
    return (pane + 100) * PANE_MS


def _batch(step: int, topic: str, events: list[Any]) -> Batch:
    records = Records()
    for event in events:
        records.append(len(records), 0, None, encode(event))
    return Batch(0, step, {topic: records})
