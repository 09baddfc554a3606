"""Figures of the traffic, which need no label: how long predictions took, and what they lack.

Latency is counted in bins 2 % wide, so a quantile is told within 1 %, with the interval of its order statistics
(`quantiles`). The shares of what is missing have Wilson's interval. Both take predictions as independent: requests of
one subject are not, but neither the time they took nor what they lack is known by subject. `n` counts predictions.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from streams.measure import ledger as names
from streams.measure.ledger import Ledger
from streams.measure.metrics.base import Better, Measured, Metric, wilson
from streams.measure.metrics.quantiles import quantile
from streams.measure.scale import span_value


class Traffic(Metric):
    """A figure of the predictions themselves, told of the whole alone."""

    better: ClassVar[Better] = "lower"
    sliced: ClassVar[bool] = False
    labelled: ClassVar[bool] = False

    def value(self, ledger: Ledger) -> float | None:
        return self.measured(ledger).value


class Latency(Traffic):
    """A quantile of `latency_ms`, over the predictions that tell it."""

    most: ClassVar[float | None] = None
    share: ClassVar[float]

    def n(self, ledger: Ledger) -> int:
        return ledger.total(names.LATENCY)

    def measured(self, ledger: Ledger) -> Measured:
        n = self.n(ledger)
        value, low, high = quantile(ledger.cells.get(names.LATENCY, {}), self.share, span_value, n) or (None,) * 3
        return Measured(value, low, high, n, _subjects(ledger))


class LatencyP50(Latency):
    """The median of `latency_ms`."""

    kind: Literal["latency_p50"] = "latency_p50"
    share = 0.5


class LatencyP95(Latency):
    """The 95 % quantile of `latency_ms`."""

    kind: Literal["latency_p95"] = "latency_p95"
    share = 0.95


class LatencyP99(Latency):
    """The 99 % quantile of `latency_ms`."""

    kind: Literal["latency_p99"] = "latency_p99"
    share = 0.99


class Missing(Traffic):
    """A share of the predictions that lack something."""

    cell: ClassVar[int]

    def n(self, ledger: Ledger) -> int:
        return ledger.get(names.MISSING, names.LOOKED)

    def measured(self, ledger: Ledger) -> Measured:
        n, lacking = self.n(ledger), ledger.get(names.MISSING, self.cell)
        if n <= 0:
            return Measured(None, None, None, n, _subjects(ledger))
        share = min(max(lacking / n, 0.0), 1.0)
        low, high = self._clip(*wilson(share * n, n))
        return Measured(share, min(low, share), max(high, share), n, _subjects(ledger))


class MissingScore(Missing):
    """The share of predictions with neither `score` nor `prediction`."""

    kind: Literal["missing_score"] = "missing_score"
    cell = names.NO_SCORE


class MissingFeatures(Missing):
    """The share of predictions without `features`."""

    kind: Literal["missing_features"] = "missing_features"
    cell = names.NO_FEATURES


class MissingSubject(Missing):
    """The share of predictions without `subject`: their intervals take each request for a subject of its own."""

    kind: Literal["missing_subject"] = "missing_subject"
    cell = names.NO_SUBJECT


def _subjects(ledger: Ledger) -> int:
    return len(ledger.cells.get(names.BUCKET_ROWS, {}))
