"""Panes of many independent runs at once: how many rows, and how many errors, fall into each subject bucket.

A pane is two arrays (run, bucket). `rates` are the runs' error rates in this pane: (run,).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from streams.measure.ledger import BUCKETS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Pane = tuple[Floats, Floats]

SUBJECTS, CONCENTRATION = 12, 10.0
DAY = 1_440


def independent(draw: np.random.Generator, rates: Floats, rows: int) -> Pane:
    """Give `rows` rows of as many subjects, each wrong by itself."""
    home = draw.integers(0, BUCKETS, (rates.size, rows))
    return by_bucket(home, np.ones(home.shape), draw.random(home.shape) < rates[:, None])


def clustered(draw: np.random.Generator, rates: Floats, rows: int) -> Pane:
    """Give about `rows` rows of twelve subjects, whose rates are Beta with mean `rates` and concentration 10.

    A subject's rate is drawn anew for each pane: the mean given the past is the run's rate.
    """
    mean = rows / SUBJECTS
    held = draw.geometric(1.0 / mean, (rates.size, SUBJECTS)).clip(max=int(8 * mean))
    own = draw.beta(CONCENTRATION * rates[:, None], CONCENTRATION * (1 - rates[:, None]), held.shape)
    home = draw.integers(0, BUCKETS, held.shape)
    return by_bucket(home, held.astype(np.float64), draw.binomial(held, own).astype(np.float64))


def by_bucket(home: Ints, rows: Floats, errors: NDArray[np.float64] | NDArray[np.bool_]) -> Pane:
    """Sum rows and errors (run, subject) by the subjects' buckets.

    >>> sizes, hits = by_bucket(np.array([[0, 0, 5]]), np.ones((1, 3)), np.array([[True, False, True]]))
    >>> sizes[0, [0, 5]].tolist(), hits[0, [0, 5]].tolist()
    ([2.0, 1.0], [1.0, 1.0])
    """
    runs = len(home)
    flat = (np.arange(runs)[:, None] * BUCKETS + home).ravel()

    def summed(weights: Floats) -> Floats:
        found = np.bincount(flat, weights.ravel(), minlength=runs * BUCKETS).astype(np.float64, copy=False)
        return found.reshape(runs, BUCKETS)

    return summed(rows), summed(errors.astype(np.float64))


def seasonal(rate: float, minute: int, swing: float = 0.2) -> float:
    """Give a rate that goes `swing` up and down with the day.

    >>> round(seasonal(0.1, 360), 3), round(seasonal(0.1, 1080), 3)
    (0.12, 0.08)
    """
    return rate * (1 + swing * math.sin(2 * math.pi * minute / DAY))


def weekly(rate: float, hour: int, swing: float = 0.2, weekend: float = 0.15) -> float:
    """Give a rate, `rate` over the week, that goes `swing` up and down with the day and is higher at week-ends.

    >>> round(weekly(0.1, 6), 4), round(weekly(0.1, 6 + 5 * 24), 4)  # Monday and Saturday at six
    (0.1151, 0.1323)
    >>> round(sum(weekly(0.1, hour) for hour in range(168)) / 168, 4)
    0.1
    """
    level = rate / (1 + weekend * 2 / 7)
    return seasonal(level * (1 + weekend * (hour // 24 % 7 >= 5)), hour * 60, swing)


def next_hour(draw: np.random.Generator, before: Floats, memory: float = 0.9, sd: float = 0.2) -> Floats:
    """Give the next hour's deviations, in logits, of an AR(1) with stationary spread `sd`."""
    return memory * before + sd * math.sqrt(1 - memory**2) * draw.standard_normal(before.size)


def shifted(rate: float, logits: Floats) -> Floats:
    """Give a rate moved by logits.

    >>> shifted(0.1, np.array([0.0, 0.2])).round(4).tolist()
    [0.1, 0.1195]
    """
    return np.asarray(1 / (1 + (1 - rate) / rate * np.exp(-logits)), dtype=np.float64)
