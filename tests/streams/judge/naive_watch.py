"""The naive twins of `watch` and `esr`: one stream at a time, in logarithms, a cell and a pair of cells at a time."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from streams.judge.distances import (
    chi2_quantile,
    hellinger,
    jensen_shannon,
    kolmogorov_smirnov,
    ks_quantile,
    psi,
    total_variation,
)
from streams.judge.esr import CAP, Unit, log_growth
from streams.judge.evidence import Evidence, Null
from streams.judge.watch import labelled
from streams.judge.watched import Histogram, Stream
from streams.measure.ledger import BUCKET_ROWS, BUCKETS, Ledger

Ints = NDArray[np.int64]


class NaiveESR:
    """The e-SR on one stream: log M by (witness, bet)."""

    def __init__(self, null: Null, bets: tuple[float, ...], unit: Unit, alarm_days: float) -> None:
        self.null, self.unit, self.alarm_days = null, unit, alarm_days
        self.bets = np.minimum(np.asarray(bets), CAP)
        self.log_m = np.full((null.limits.size, self.bets.size), -np.inf)
        self.rows = 0.0

    def update(self, pane: Evidence, days: float) -> tuple[float, bool, int, NDArray[np.float64]]:
        """Give the log of the evidence, whether it is an alarm, the rows, and the greatest log M of each witness."""
        if days > 0:
            self.log_m = np.logaddexp(self.log_m, math.log(days))
        self.log_m = self.log_m + log_growth(self.null, pane, self.bets, self.unit)
        self.rows += pane.rows
        top = float(self.log_m.max())
        level = top if top == -math.inf else top + math.log(float(np.exp(self.log_m - top).mean()))
        n, witnesses = int(self.rows), self.log_m.max(axis=1)
        alarmed = level >= math.log(self.alarm_days)
        if alarmed:
            self.log_m = np.full_like(self.log_m, -np.inf)
            self.rows = 0.0
        return level, alarmed, n, witnesses

    def dump(self) -> dict[str, object]:
        """Give the state as snapshots held it before wealth was kept itself."""
        return {"log_m": self.log_m.ravel().tolist(), "rows": self.rows}


def counts(histogram: Histogram, ledger: Ledger) -> Ints:
    """Give a ledger's counts by group, a cell at a time."""
    found = np.zeros(histogram.reference.size, dtype=np.int64)
    for cell, count in ledger.cells.get(histogram.vector, {}).items():
        found[histogram.groups[cell]] += count
    return found


def evidence(stream: Stream, ledger: Ledger, start: int, end: int) -> Evidence | None:
    """Give what a pane shows of a stream, None without rows."""
    if stream.histogram is None:
        return labelled(ledger, start, end)
    found = counts(stream.histogram, ledger)
    rows = int(found.sum())
    sizes = np.array(ledger.dense(BUCKET_ROWS, BUCKETS), dtype=np.int64)
    return Evidence(start, end, found, rows, sizes if sizes.sum() == rows else sizes * 0) if rows > 0 else None


def distances(stream: Stream, window: Ledger) -> dict[str, float]:
    """Give the distances of a window to the reference, each beside its 95 % quantile under no drift."""
    if stream.histogram is None:
        return {}
    a, c = stream.histogram.reference, counts(stream.histogram, window)
    if a.sum() == 0 or c.sum() <= 0:
        return {}
    ks, bound = kolmogorov_smirnov(a, c)
    n, m = float(a.sum()), float(c.sum())
    noise = 1 / n + 1 / m
    chi2 = noise * chi2_quantile(0.95, int(((a > 0) | (c > 0)).sum()) - 1)
    return {
        "psi": float(psi(a, c)),
        "js": float(jensen_shannon(a, c)),
        "hellinger": float(hellinger(a, c)),
        "tv": float(total_variation(a, c)),
        "ks": float(ks),
        "ks_bound": float(bound),
        "psi_q95": chi2,
        "js_q95": math.sqrt(chi2 / 8 / math.log(2)),
        "hellinger_q95": math.sqrt(chi2 / 8),
        "tv_q95": tv_quantile((a + c) / (n + m), noise),
        "ks_q95": ks_quantile(n, m),
    }


def tv_quantile(pooled: NDArray[np.float64], noise: float) -> float:
    """Give the normal approximation's 95 % quantile of half the sum of absolute multinomial noise."""
    p = pooled[pooled > 0]
    if p.size < 2:
        return 0.0
    mean = variance = 0.0
    for i, pi in enumerate(p.tolist()):
        mean += math.sqrt(2 / math.pi * pi * (1 - pi) * noise)
        for j, pj in enumerate(p.tolist()):
            both = math.sqrt(pi * (1 - pi) * pj * (1 - pj)) * noise
            rho = 1.0 if i == j else -min(math.sqrt(pi * pj / ((1 - pi) * (1 - pj))), 1.0)
            variance += 2 / math.pi * (rho * math.asin(rho) + math.sqrt(1 - rho**2) - 1) * both
    return (mean + 1.6448536269514722 * math.sqrt(max(variance, 0.0))) / 2
