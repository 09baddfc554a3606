"""The classical charts on the panes' rates: CUSUM, EWMA, and Gama's DDM. Outside the budget of false alarms.

CUSUM and EWMA see z = (rate − m)/√(m(1 − m)/n), m the null's bound, and look upwards only. Their run lengths are those
of the textbooks where rows are independent and the rate is m (Montgomery, Introduction to Statistical Quality Control,
table of CUSUM run lengths; Lucas and Saccucci 1990, Technometrics 32, for EWMA): below m they alarm less.

- CUSUM: S ← max(0, S + z − k), alarm at S > h (Page 1954).
- EWMA: v ← (1 − λ)v + λz, alarm at v > L√(λ/(2 − λ) · (1 − (1 − λ)^2t)) after t panes (Roberts 1959).
- DDM: with p the error rate over all rows since the last alarm and s = √(p(1 − p)/n), alarm at p + s > p° + 3s°, the
  place where p + s was least, from 30 rows on (Gama et al. 2004). On panes of one row it is river's, alarm for alarm.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from schemas.verdict import Verdict
from streams.judge.detectors.base import Detector
from streams.judge.evidence import Evidence, Null
from streams.judge.trackers import Plain, Tracker

DDM_ROWS = 30
OUTSIDE = "outside the budget of false alarms"


class CUSUM(Detector):
    """Page's one-sided CUSUM with reference value `k` and decision interval `h`, in standard deviations."""

    kind: Literal["cusum"] = "cusum"
    k: float = Field(default=0.5, ge=0)
    h: float = Field(default=5.0, gt=0)

    def load(self, null: Null, alarm_days: float, state: Plain) -> Tracker:
        """See `Detector.load`."""
        return _CUSUMTracker(self, null, state)


class EWMA(Detector):
    """Roberts' one-sided EWMA with weight `share` of the newest pane and limits of `width` standard deviations."""

    kind: Literal["ewma"] = "ewma"
    share: float = Field(default=0.1, gt=0, le=1)
    width: float = Field(default=2.814, gt=0)

    def load(self, null: Null, alarm_days: float, state: Plain) -> Tracker:
        """See `Detector.load`."""
        return _EWMATracker(self, null, state)


class DDM(Detector):
    """Gama's drift detection method; `drifts` is how many least deviations above the least make an alarm."""

    kind: Literal["ddm"] = "ddm"
    drifts: float = Field(default=3.0, gt=0)

    def load(self, null: Null, alarm_days: float, state: Plain) -> Tracker:
        """See `Detector.load`."""
        return _DDMTracker(self, null, state)


def cusum(s: float, z: float, k: float) -> float:
    """Give the next S.

    >>> cusum(0.7, 1.0, 0.5), cusum(0.2, -1.0, 0.5)
    (1.2, 0.0)
    """
    return max(0.0, s + z - k)


def ewma(v: float, z: float, share: float) -> float:
    """Give the next v.

    >>> ewma(1.0, 3.0, 0.25)
    1.5
    """
    return (1.0 - share) * v + share * z


def ewma_limit(share: float, width: float, panes: int) -> float:
    """Give the limit after so many panes.

    >>> round(ewma_limit(0.1, 2.814, 1), 4), round(ewma_limit(0.1, 2.814, 1000), 4)
    (0.2814, 0.6456)
    """
    return width * math.sqrt(share / (2.0 - share) * (1.0 - (1.0 - share) ** (2 * panes)))


class _Chart(Tracker):
    """What the charts share: the standardised rate of a pane."""

    def __init__(self, null: Null) -> None:
        self.null = null

    def _z(self, pane: Evidence) -> tuple[float, float] | None:
        """Give (rate, z); None without rows or without a single rate that can be standardised."""
        m = float(self.null.limits[0])
        if pane.rows <= 0 or self.null.limits.size != 1 or not 0.0 < m < 1.0:
            return None
        rate = float(pane.counts.sum()) / pane.rows
        return rate, (rate - m) / math.sqrt(m * (1.0 - m) / pane.rows)

    def _said(self, found: bool, statistic: float, threshold: float, rate: float, pane: Evidence) -> Verdict:
        return Verdict(
            outcome="fail" if found else "inconclusive",
            gate=self.null.stream,
            statistic=statistic,
            threshold=threshold,
            value=rate,
            n=int(pane.rows),
            sentence=f"{statistic:.3g} of {threshold:.3g} standard deviations; {OUTSIDE}",
        )

    def _nothing(self) -> Verdict:
        return Verdict(outcome="inconclusive", gate=self.null.stream, sentence="no rows, or no single rate")


class _CUSUMTracker(_Chart):
    def __init__(self, spec: CUSUM, null: Null, state: Plain) -> None:
        super().__init__(null)
        self.spec, self.s = spec, float(state.get("s", 0.0))

    def update(self, pane: Evidence, days: float) -> Verdict:
        seen = self._z(pane)
        if seen is None:
            return self._nothing()
        self.s = cusum(self.s, seen[1], self.spec.k)
        said = self._said(self.s > self.spec.h, self.s, self.spec.h, seen[0], pane)
        if said.outcome == "fail":
            self.s = 0.0
        return said

    def dump(self) -> Plain:
        return {"s": self.s}


class _EWMATracker(_Chart):
    def __init__(self, spec: EWMA, null: Null, state: Plain) -> None:
        super().__init__(null)
        self.spec, self.v, self.panes = spec, float(state.get("v", 0.0)), int(state.get("panes", 0))

    def update(self, pane: Evidence, days: float) -> Verdict:
        seen = self._z(pane)
        if seen is None:
            return self._nothing()
        self.v, self.panes = ewma(self.v, seen[1], self.spec.share), self.panes + 1
        limit = ewma_limit(self.spec.share, self.spec.width, self.panes)
        said = self._said(self.v > limit, self.v, limit, seen[0], pane)
        if said.outcome == "fail":
            self.v, self.panes = 0.0, 0
        return said

    def dump(self) -> Plain:
        return {"v": self.v, "panes": self.panes}


class _DDMTracker(_Chart):
    def __init__(self, spec: DDM, null: Null, state: Plain) -> None:
        super().__init__(null)
        self.spec = spec
        self.n, self.p = float(state.get("n", 0.0)), float(state.get("p", 0.0))
        self.least = (float(state.get("p_least", math.inf)), float(state.get("s_least", math.inf)))

    def update(self, pane: Evidence, days: float) -> Verdict:
        if pane.rows <= 0 or self.null.limits.size != 1:
            return self._nothing()
        hits = float(pane.counts.sum())
        self.n += pane.rows
        self.p += (hits - pane.rows * self.p) / self.n
        s = math.sqrt(max(self.p * (1.0 - self.p), 0.0) / self.n)
        limit = math.inf
        if self.n > DDM_ROWS:
            if self.p + s <= sum(self.least):
                self.least = (self.p, s)
            limit = self.least[0] + self.spec.drifts * self.least[1]
        found = self.p + s > limit
        said = Verdict(
            outcome="fail" if found else "inconclusive",
            gate=self.null.stream,
            statistic=self.p + s,
            threshold=None if math.isinf(limit) else limit,
            value=hits / pane.rows,
            n=int(self.n),
            sentence=f"the error rate since the last alarm is {self.p:.4g}; {OUTSIDE}",
        )
        if found:
            self.n, self.p, self.least = 0.0, 0.0, (math.inf, math.inf)
        return said

    def dump(self) -> Plain:
        return {"n": self.n, "p": self.p, "p_least": self.least[0], "s_least": self.least[1]}
