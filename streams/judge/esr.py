"""The e-SR of many streams at once: wealth in one array (stream, bet, witness). `detectors` says what it is and why.

Wealth is kept itself, not its logarithm: adding the pane's days is then one addition, and a pane's growth costs one
exponential a value. Between alarms no value exceeds the alarm's bound times the number of values. In the pane of an
alarm it may, and then the stream is reckoned in logarithms. The streams are taken in pieces that fit the processor's
cache; a stream's figures do not depend on which others are judged with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from schemas.verdict import Verdict
from streams.judge.evidence import Evidence, Evidences, Floats, Ints, Null
from streams.judge.trackers import Bools, Plain, Trackers, Verdicts

Unit = Literal["subject", "event", "pane"]

CAP: Final = 0.95
"""No bet risks more than this share of the wealth on one unit."""
MOST: Final = 1e300
"""Evidence above this is an alarm whatever the bound."""
PIECE: Final = 32_768
"""How many values are reckoned at once."""
SERIAL: Final = 200_000
"""Products of matrices with fewer multiplications than this start no threads, which would spin for longer than that."""


def log_growth(null: Null, pane: Evidence, bets: Floats, unit: Unit, limits: Floats | None = None) -> Floats:
    """Give log L for each (witness, bet) of one pane of one stream: the definition (see `detectors`).

    `limits` (witness) stand for the null's in this pane; they are fixed before it, as the null's are.
    """
    m = (null.limits if limits is None else limits)[:, None]
    rows = pane.rows
    if rows <= 0:
        return np.zeros((m.size, bets.size))
    hits = (null.sets @ pane.counts).astype(np.float64)[:, None]
    if unit == "subject" and pane.unit_hits is not None:
        n = pane.sizes[pane.sizes > 0].astype(np.float64)
        s = pane.unit_hits[pane.sizes > 0].astype(np.float64)
        # λ_j·(s_j − m·n_j), with λ = bet/m; the cap keeps every factor above 1 − CAP.
        stake = np.minimum(bets[:, None] / m, CAP / (m * n))
        return np.asarray(np.log1p(stake * (s - m * n)).sum(axis=-1), dtype=np.float64)[None, :]
    if unit == "event":
        units, largest = float(rows), 1.0
    elif unit == "pane" or not pane.sizes.any():
        units, largest = 1.0, float(rows)
    else:
        units, largest = float((pane.sizes > 0).sum()), float(pane.sizes.max())
    if units == 1.0:  # one unit: the linear factor itself, not its chord
        return np.log1p(bets * (hits / rows / m - 1.0))
    inside = hits / largest + m * (units - rows / largest)
    win, lose = np.log1p(bets * (1.0 / m - 1.0)), np.log1p(-bets)
    return np.asarray(inside * win + (units - inside) * lose, dtype=np.float64)


@dataclass(frozen=True)
class Said(Verdicts):
    """By place: the evidence, the witness that says most, its share in the pane, and the rows since the last alarm.

    `limits` (place, witness) are those that the pane was judged by where they are not the nulls'.
    """

    nulls: Sequence[Null]
    rows: Ints
    alarm_days: float
    alarmed: Bools
    evidence: Floats
    witness: Ints
    share: Floats
    n: Floats
    limits: Floats | None = None

    def verdict(self, place: int) -> Verdict:
        """See `Verdicts.verdict`."""
        null, witness = self.nulls[self.rows[place]], self.witness[place]
        evidence, alarmed, share = float(self.evidence[place]), bool(self.alarmed[place]), float(self.share[place])
        limit = float((null.limits if self.limits is None else self.limits[place])[witness])
        return Verdict(
            outcome="fail" if alarmed else "inconclusive",
            gate=null.stream,
            statistic=evidence,
            threshold=self.alarm_days,
            value=None if math.isnan(share) else share,
            n=int(self.n[place]),
            sentence=_sentence(null.names[witness], evidence, self.alarm_days, limit, share, alarmed),
        )


class ESRTrackers(Trackers):
    """The e-SR on streams whose nulls have the same sets."""

    def __init__(self, nulls: Sequence[Null], bets: Sequence[float], unit: Unit, alarm_days: float) -> None:
        self.nulls, self.unit, self.alarm_days = nulls, unit, alarm_days
        self.bets = np.minimum(np.asarray(bets, dtype=np.float64), CAP)
        self.sets = nulls[0].sets.T.astype(np.float64)
        self.limits = np.array([null.limits for null in nulls])
        # A unit in the set multiplies wealth by exp(win + lose), one outside by exp(lose).
        self.lose = np.log1p(-self.bets)[:, None]
        self.win = self._win(self.limits)
        self.wealth = np.zeros(self.win.shape)
        self.seen = np.zeros(len(nulls))

    def _win(self, limits: Floats) -> Floats:
        return np.asarray(np.log1p(self.bets[:, None] * (1.0 / limits[:, None, :] - 1.0)) - self.lose, dtype=np.float64)

    def update(self, rows: Ints, panes: Evidences, days: Floats, limits: Floats | None = None) -> Said:
        """See `Trackers.update`."""
        self.seen[rows] += panes.rows
        n, count = self.seen[rows], rows.size
        hits = np.empty((count, self.sets.shape[1]))
        few = max(SERIAL // self.sets.size, 1)
        for start in range(0, count, few):
            np.matmul(panes.counts[start : start + few], self.sets, out=hits[start : start + few])
        grows = self._grows(rows, panes, hits, limits)
        evidence, witness = np.empty(count), np.empty(count, dtype=np.int64)
        values = self.wealth[0].size * (1 if panes.unit_hits is None else panes.sizes.shape[1])
        step = max(PIECE // values, 1)
        for start in range(0, count, step):
            part = slice(start, min(start + step, count))
            evidence[part], witness[part] = self._piece(rows[part], days[part], grows(part))
        alarmed = evidence >= min(self.alarm_days, MOST)
        self.seen[rows[alarmed]] = 0.0
        share = np.full(count, math.nan)
        np.divide(hits[np.arange(count), witness], panes.rows, out=share, where=panes.rows > 0)
        return Said(self.nulls, rows, self.alarm_days, alarmed, evidence, witness, share, n, limits)

    def _piece(self, rows: Ints, days: Floats, growth: Floats) -> tuple[Floats, Ints]:
        """Move the wealth of some streams by log L; give the evidence and which witness says most."""
        where = _where(rows)
        wealth = self.wealth[where]  # a view when the streams lie together, else a copy
        wealth += days[:, None, None]
        with np.errstate(over="ignore", invalid="ignore"):
            after = np.exp(growth)
            after *= wealth
        flat = after.reshape(len(after), -1)
        mean = flat.sum(axis=1) / flat.shape[1]
        best = flat.argmax(axis=1)
        burst = np.flatnonzero(~np.isfinite(mean))
        if burst.size:
            with np.errstate(divide="ignore"):
                logs = (np.log(wealth[burst]) + growth[burst]).reshape(burst.size, -1)
            top = logs.max(axis=1)
            level = top + np.log(np.exp(logs - top[:, None]).mean(axis=1))
            mean[burst], best[burst] = np.exp(np.minimum(level, 700.0)), logs.argmax(axis=1)
            flat[burst] = np.exp(np.minimum(logs, 700.0))
        after[mean >= min(self.alarm_days, MOST)] = 0.0
        self.wealth[where] = after
        return mean, best % after.shape[2]

    def _grows(self, rows: Ints, panes: Evidences, hits: Floats, limits: Floats | None) -> Callable[[slice], Floats]:
        """Give what gives log L (stream, bet, witness) of a part of the streams; see `log_growth`."""
        m, n = self.limits[_where(rows)] if limits is None else limits, panes.rows[:, None]
        if self.unit == "subject" and panes.unit_hits is not None:
            return self._by_unit(m, panes.sizes, panes.unit_hits)
        held = np.where(n > 0, n, 1.0)
        if self.unit == "event":
            units, largest = n, np.ones_like(n)
        elif self.unit == "pane":
            units, largest = np.ones_like(n), held
        else:
            counted = np.asarray(panes.sizes.any(axis=1))[:, None]
            units = np.where(counted, (panes.sizes > 0).sum(axis=1)[:, None], np.ones_like(n))
            largest = np.where(counted, panes.sizes.max(axis=1, initial=0.0)[:, None], held)
        inside: Floats = hits / largest
        inside += m * (units - n / largest)
        # Of one unit the linear factor itself, not its chord.
        alone: Bools = np.asarray(units[:, 0] == 1.0)
        nothing: Bools = np.asarray(n[:, 0] <= 0)
        single, none = bool(alone.any()), bool(nothing.any())
        win: Floats = self.win if limits is None else self._win(limits)
        where = _where(rows) if limits is None else slice(0, rows.size)

        def of(part: slice) -> Floats:
            found: Floats = inside[part, None, :] * (win[where][part] if isinstance(where, slice) else win[rows[part]])
            found += units[part, None] * self.lose
            if single:
                these = np.flatnonzero(alone[part])
                gain = (hits[part][these] / held[part][these] / m[part][these] - 1.0)[:, None, :]
                found[these] = np.log1p(self.bets[:, None] * gain)
            if none:
                found[nothing[part]] = 0.0
            return found

        return of

    def _by_unit(self, limits: Floats, sizes: Floats, unit_hits: Floats) -> Callable[[slice], Floats]:
        def of(part: slice) -> Floats:
            m, s = limits[part, :, None], unit_hits[part, None, :]
            n = (sizes if len(sizes) == 1 else sizes[part])[:, None, :]
            stake = np.minimum(self.bets[:, None] / m, CAP / (m * np.where(n > 0, n, 1.0)))
            gain = np.where(n > 0, s - m * n, 0.0)
            return np.asarray(np.log1p(stake * gain).sum(axis=-1)[:, :, None], dtype=np.float64)

        return of

    def dump(self, row: int) -> Plain:
        """See `Trackers.dump`: the wealth as little-endian float64, bet by bet."""
        wealth = self.wealth[row]
        if not wealth.any() and not self.seen[row]:
            return {}
        return {"wealth": wealth.astype("<f8").tobytes(), "rows": float(self.seen[row])}

    def load(self, row: int, state: Plain) -> None:
        """See `Trackers.load`; `log_m` is how an earlier version told it. Raises `ValueError` for another null's."""
        if not state:
            self.wealth[row], self.seen[row] = 0.0, 0.0
            return
        bets, witnesses = self.wealth[row].shape
        if "log_m" in state:
            wealth = np.exp(np.asarray(state["log_m"], dtype=np.float64))
        else:
            wealth = np.frombuffer(state["wealth"], dtype="<f8")
        if wealth.size != bets * witnesses:
            raise ValueError(f"expected {bets * witnesses} e-SR values for {self.nulls[row].stream}, got {wealth.size}")
        self.wealth[row] = wealth.reshape(witnesses, bets).T if "log_m" in state else wealth.reshape(bets, witnesses)
        self.seen[row] = float(state["rows"])


def _where(rows: Ints) -> slice | Ints:
    """Give adjacent rows as a slice, so that they are read and written in place."""
    together = rows[-1] - rows[0] == rows.size - 1
    return slice(int(rows[0]), int(rows[-1]) + 1) if together else rows


def _sentence(name: str, evidence: float, alarm_days: float, limit: float, share: float, alarmed: bool) -> str:
    if alarmed:
        here = "" if math.isnan(share) else f" ({share:.3g} in this pane)"
        return (
            f"{name} is above {limit:.4g}{here}: evidence {evidence:.3g} reached {alarm_days:.3g} days per false alarm"
        )
    return f"no alarm: the evidence that {name} is above {limit:.4g} is {evidence:.3g} of {alarm_days:.3g}"
