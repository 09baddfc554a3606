"""Real rows in random order: river's Bananas and a fixed model's scores, through error rate, score and features.

The rows that the model was not fitted on are the population; reference and panes are drawn from it with replacement, so
that nothing changes but the draw. The budget is shared over the streams as shipped.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from benchmarks.statistics.counted import Rate
from benchmarks.statistics.nulls import LEARNT, MINUTE_DAYS, MONTH, REFERENCE, ROWS, WEEK, Weeks
from benchmarks.statistics.simulated import by_bucket
from streams.judge.bounds import JudgeBounds
from streams.judge.evidence import Evidences
from streams.judge.replay import _cells
from streams.judge.watch import Watch
from streams.judge.watched import QUALITY
from streams.measure.ledger import BUCKETS
from streams.measure.reference import learn

Floats = NDArray[np.float64]


@cache
def population() -> tuple[dict[str, Floats], Floats, Floats]:
    """Give features, scores and labels of the 2,650 rows that a nearest-neighbour model was not fitted on."""
    from river import datasets
    from sklearn.neighbors import KNeighborsClassifier

    rows = [(list(x.values()), float(y)) for x, y in datasets.Bananas()]
    x, y = np.array([given for given, _ in rows]), np.array([label for _, label in rows])
    order = np.random.default_rng(0).permutation(len(y))
    fitted, held = order[: len(y) // 2], order[len(y) // 2 :]
    model = KNeighborsClassifier(25).fit(x[fitted], y[fitted])
    scores = model.predict_proba(x[held])[:, 1]
    return {f"x{k}": x[held, k] for k in range(x.shape[1])}, scores, y[held]


def weeks(seed: int, references: int, runs: int, budgets: tuple[float, ...], panes: int = WEEK) -> list[Weeks]:
    """Judge `runs` weeks beside each of some references."""
    features, scores, labels = population()
    wrong = (scores >= 0.5) != (labels == 1)
    alarms = dict.fromkeys(budgets, 0)
    every = np.arange(runs)
    for one in range(references):
        draw = np.random.default_rng([seed, one])
        drawn = draw.integers(0, labels.size, REFERENCE)
        columns = {name: column[drawn].tolist() for name, column in features.items()}
        made = learn("m", "1", columns, scores[drawn].tolist(), labels[drawn].tolist(), at_ms=0)
        watches = {budget: Watch(made, JudgeBounds(budget=budget)) for budget in budgets}
        streams = watches[budgets[0]].streams
        groups = {}
        for stream in streams:
            if stream.histogram is not None:
                cells = _cells(made, stream, scores, features)
                assert cells is not None
                groups[stream.name] = stream.histogram.groups[cells]
        trackers = {
            (budget, place): watch.bounds.detectors[0].many([stream.null] * runs, watch.bounds.alarm_days)
            for budget, watch in watches.items()
            for place, stream in enumerate(watch.streams)
        }
        for t in range(panes):
            row = draw.integers(0, labels.size, (runs, ROWS))
            sizes, hits = by_bucket(draw.integers(0, BUCKETS, row.shape), np.ones(row.shape), wrong[row])
            rows = sizes.sum(axis=1)
            for place, stream in enumerate(streams):
                if stream.name == QUALITY:
                    pane = Evidences(t, t + 1, hits.sum(axis=1, keepdims=True), rows, sizes, hits)
                else:
                    width = stream.null.sets.shape[1]
                    flat = every[:, None] * width + groups[stream.name][row]
                    counts = np.bincount(flat.ravel(), minlength=runs * width).reshape(runs, width)
                    pane = Evidences(t, t + 1, counts.astype(np.float64), rows, sizes)
                days = np.full(runs, MINUTE_DAYS * stream.share)
                for budget in budgets:
                    alarms[budget] += int(trackers[budget, place].update(every, pane, days).alarmed.sum())
    total = references * runs
    months = total * panes * MINUTE_DAYS / MONTH
    name = f"real rows (Bananas), {len(streams)} streams"
    found = round(total * panes / WEEK)
    return [Weeks(name, LEARNT, budget, found, Rate.of(alarms[budget], months), budget) for budget in budgets]
