"""How many labels of a source are due from one arm, and how few there may be by chance. Pure.

**Expectation.** Labels follow predictions, not the time of day: when the site is closed and nobody predicts, no labels
are due. A label that arrives in pane t is about a prediction of pane t − a, where a is its *age*. For each bin of ages
the rate of labels per prediction is learnt, as the count of labels over the count of predictions that were that old;
the expectation is these rates times the predictions that are that old now (the estimate of a reporting delay from
right-truncated counts: Lawless 1994, Canadian Journal of Statistics 22). What is older than a day of minutes is due at
a constant rate. Both sums forget with a half-life, so that the rates follow what slowly changes.

**Least expectation.** Where in its bin a label's age lies is not known, nor where in their panes label and prediction
do; so when traffic suddenly ends or begins, the expectation would do so at another moment than the labels, and that
look like an outage. The bound therefore takes for each bin the *least* traffic that any age could mean, from a pane
before the bin to a pane behind it.

**Bound.** Counts of labels vary more than Poisson counts: they come in batches, and rates move. In a window of w panes
the count is taken as a Poisson count whose mean is gamma distributed around the expectation E, so negative binomial
with variance E + φE² (Farrington et al. 1996, JRSS A 159; Noufaily et al. 2013, Statistics in Medicine 32). φ is learnt
by moments from the errors of past windows, per length of the window, and is taken with what it may be wrong by: two
standard errors, and 1/n for the rates having been learnt from n labels (the gamma posterior's own). The bound is the
greatest count c with P(fewer than c) ≤ p; besides, `share` of the expectation must be lacking, because a quantile calls
a fall of a hundredth significant when there are a million. A bound of 0 says that even no label at all would prove
nothing: the source is too small, or too irregular, for this window.

**Promise.** At each look, p is the chance that a window of a live source falls below its bound. With p = b / (looks in
30 days x lengths) the expected number of false falls of an arm in 30 days is at most b, under any dependence between
looks (they add up), as long as the counts are no wilder than that law. How far that holds is measured in
`benchmarks/RESULTS.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.measure.ages import BINS, EDGES, LIMIT, OLDER

WINDOWS: Final = (1, 5, 15, 60)
"""Lengths of the windows that are looked at, in panes."""
SPAN: Final = LIMIT + max(WINDOWS)
"""How many panes of traffic are asked for."""

Floats = NDArray[np.float64]
_POISSON: Final = 1e-9
"""With less φ than this the count is taken as Poisson's: the two cannot be told apart."""


class Law(NamedTuple):
    """What a bound is made with: the chance of falling below it, and the share of the expectation it is at most."""

    p: float
    share: float


class Due(NamedTuple):
    """What a window should have brought: its expectation, the least of it, and the bound."""

    expected: float
    least: float
    bound: int


class Traffic:
    """The predictions of one arm up to a pane, dense: for each window and bin of ages what was predicted then."""

    def __init__(self, counts: Mapping[int, int], pane: int) -> None:
        first = pane - SPAN + 1
        dense = np.zeros(SPAN, dtype=np.float64)
        for at, count in counts.items():
            if first <= at <= pane:
                dense[at - first] = max(count, 0)
        by_age = dense[::-1]  # [a] is what was predicted a panes ago
        total = np.concatenate(([0.0], np.cumsum(by_age)))
        self.sums: dict[int, Floats] = {}
        self.least: dict[int, Floats] = {}
        for window in WINDOWS:
            of_window = total[window:] - total[:-window]  # [a]: the window that ended a panes ago
            around = np.minimum(of_window[:LIMIT], of_window[1 : LIMIT + 1])
            around[1:] = np.minimum(around[1:], of_window[: LIMIT - 1])
            of_window = of_window[:LIMIT]
            self.sums[window] = np.append(np.add.reduceat(of_window, EDGES[:-1]), float(window))
            widths = np.diff(EDGES)
            self.least[window] = np.append(np.minimum.reduceat(around, EDGES[:-1]) * widths, float(window))


@dataclass(slots=True)
class Learnt:
    """What is known of one source's labels about one arm. `panes` is how many panes it was learnt from."""

    labels: Floats = field(default_factory=lambda: np.zeros(BINS + 1))
    exposed: Floats = field(default_factory=lambda: np.zeros(BINS + 1))
    errors: Floats = field(default_factory=lambda: np.zeros(len(WINDOWS)))
    squares: Floats = field(default_factory=lambda: np.zeros(len(WINDOWS)))
    weights: Floats = field(default_factory=lambda: np.zeros(len(WINDOWS)))
    panes: int = 0

    def rates(self) -> Floats:
        """Give the labels per prediction and pane at each age."""
        return np.divide(self.labels, self.exposed, out=np.zeros(BINS + 1), where=self.exposed > 0)

    def expected(self, traffic: Traffic, window: int) -> float:
        """Give how many labels a window should bring."""
        return float(self.rates() @ traffic.sums[window])

    def due(self, traffic: Traffic, window: int, law: Law) -> Due:
        """Give what a window should bring, and how few may come by chance."""
        rates = self.rates()
        expected = float(rates @ traffic.sums[window])
        least = min(float(rates @ traffic.least[window]), expected)
        bound = lower(least, self.dispersion(window), law.p)
        return Due(expected, least, min(bound, int(np.floor(law.share * least))))

    def dispersion(self, window: int) -> float:
        """Give φ of a window's length, with what it may be wrong by."""
        k = WINDOWS.index(window)
        labels, weight, square = float(self.labels.sum()), float(self.weights[k]), float(self.squares[k])
        if labels <= 0 or weight <= 0 or square <= 0:
            return float("inf")
        phi = max(float(self.errors[k]) / square, 0.0)
        mean = float(np.sqrt(square / weight))
        independent = weight / window
        return phi + 2.0 * float(np.sqrt(2.0 / independent)) * (phi + 1.0 / mean) + 1.0 / labels

    def learn(self, traffic: Traffic, bins: Mapping[int, int], seen: Mapping[int, int], keep: float) -> None:
        """Take up the newest pane: its labels by bin of age, and what each window that ends with it has seen.

        `keep` is the weight that the past keeps. A window that is not in `seen` is not known.
        """
        for k, window in enumerate(WINDOWS):
            if window in seen and self.panes >= window:
                expected = self.expected(traffic, window)
                self.errors[k] = keep * self.errors[k] + (seen[window] - expected) ** 2 - expected
                self.squares[k] = keep * self.squares[k] + expected**2
                self.weights[k] = keep * self.weights[k] + 1.0
        self.labels *= keep
        self.exposed *= keep
        for age, count in bins.items():
            self.labels[age] += count
        self.exposed += traffic.sums[1]
        self.panes += 1

    def dump(self) -> list[Any]:
        """Give it as plain data."""
        kept = (self.labels, self.exposed, self.errors, self.squares, self.weights)
        return [*(one.tolist() for one in kept), self.panes]

    @classmethod
    def load(cls, plain: list[Any]) -> Learnt:
        """Take up what `dump` gave."""
        labels, exposed, errors, squares, weights = (np.array(one, dtype=np.float64) for one in plain[:5])
        return cls(labels, exposed, errors, squares, weights, plain[5])


def lower(expected: float, phi: float, p: float) -> int:
    """Give the greatest count c with P(fewer than c) ≤ p, for a negative binomial of variance E + φE².

    >>> lower(20.0, 0.0, 1e-4), lower(20.0, 0.1, 1e-4), lower(5.0, 0.0, 1e-4)
    (6, 1, 0)
    """
    from scipy.special import betainc, gammaincc

    if expected <= 0 or not np.isfinite(phi):
        return 0
    if phi < _POISSON:

        def below(count: int) -> float:
            return float(gammaincc(count, expected)) if count else 0.0
    else:
        size = 1.0 / phi

        def below(count: int) -> float:
            return float(betainc(size, count, size / (size + expected))) if count else 0.0

    low, high = 0, int(expected) + 1
    while low < high:
        middle = (low + high + 1) // 2
        if below(middle) <= p:
            low = middle
        else:
            high = middle - 1
    return low


assert OLDER == BINS
