"""The embeddings of a deployment as a stream of the e-SR: bets on a witness chosen before its pane is seen. Pure.

**The null.** "The mean of the features of a prediction's embedding lies within √2·ε of the reference's": an MMD of at
most √2·ε. Where a share ε of the rows are others, MMD is at most that (`mmd`), so ε is the tolerance of any other
traffic stream, `epsilon_share`. A row without a vector, with one of another length, or one that is too far away, has a
feature of its own (`streams.measure.embedding.stacked`).

**The witness.** A direction w of length 1 in the space of features makes of each row a number f = φ·w, whose mean under
the null is at most μ·w + room for *every* w, μ the reference's mean. So w may be anything that is fixed before the pane
is seen, and the best guess is the way in which the panes before have moved: once over some `SPANS[0]` panes, and once
over some `SPANS[1]`, with weights that fade. With R the most that abs(f) can be, X = (1 + f/R)/2 lies in [0, 1] and
its mean is at most m = (1 + (μ·w + room)/R)/2: what a share is to the other streams, so the same detectors bet on it
(`detectors`), with limits that change from pane to pane as those of a season do. The first pane has no witness and no
bet. Where nothing has moved w points where chance did, and the bet loses. Three more witnesses are plain shares: of
rows without a vector, of another length, too far.

**The radius.** μ itself is known from n rows only. The length of its error has a mean of at most 1/√n and moves by at
most 2/n where one row is another, so it exceeds (1 + √(2 ln(1/δ)))/√n with probability δ at most (McDiarmid): room is
that and √2·ε. It holds for all w at once and asks nothing of the law of the rows but independence. With 5,000 rows and
δ = 10⁻³ it is 0.07, as √2·ε is.

**The distance** of the rolling window is told as for two tables: the unbiased MMD², its 95 % quantile when nothing has
changed, and p (`mmd`), from the spectrum that the reference keeps. They raise no alarm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from schemas.control import EmbeddingReference
from streams.judge.evidence import Evidence, Floats, Null
from streams.judge.mmd import quantile, tail
from streams.judge.nulls import FLOOR, upper_share
from streams.judge.trackers import Plain
from streams.measure.embedding import KINDS, longest, stacked
from streams.measure.ledger import BUCKET_ROWS, BUCKETS, EMBEDDING, EMBEDDING_ROWS, Ledger

SPANS: Final = (8, 64)
"""So many panes, with weights that fade, choose each witness."""
_KINDS = ("missing", "of another length", "too far away")
_PARTS = 1 + len(_KINDS)
_TINY = 1e-12


@dataclass(frozen=True)
class Cloud:
    """What embeddings are compared with. `room` is how far the mean of the features may lie from the reference's."""

    given: EmbeddingReference
    room: float

    @cached_property
    def mean(self) -> Floats:
        """The mean of the reference's features."""
        total, n = self.seen(dict(enumerate(self.given.sums)), dict(enumerate(self.given.rows)))
        return np.asarray(total / n, dtype=np.float64)

    @cached_property
    def n(self) -> int:
        """The number of the reference's rows."""
        return sum(self.given.rows)

    @cached_property
    def spectrum(self) -> Floats:
        """The eigenvalues of the covariance of the reference's features."""
        return np.array(self.given.spectrum, dtype=np.float64)

    @cached_property
    def _high(self) -> float:
        return quantile(0.95, self.spectrum) - float(self.spectrum.sum())

    def seen(self, sums: dict[int, int], rows: dict[int, int]) -> tuple[Floats, int]:
        """Give the sums of the features of all rows, and how many rows there are."""
        return stacked(sums, rows, self.given.frequencies)

    def rows_of(self, ledger: Ledger) -> tuple[Floats, int] | None:
        """Give what a ledger holds; None without rows, and where it cannot be: deltas are missing."""
        sums, rows = ledger.cells.get(EMBEDDING, {}), ledger.cells.get(EMBEDDING_ROWS, {})
        known = set(rows) <= set(range(KINDS)) and set(sums) <= set(range(len(self.given.sums)))
        if not rows or not known or min(rows.values()) < 0:
            return None
        total, n = self.seen(sums, rows)
        held = rows.get(0, 0) * longest() / math.sqrt(self.given.frequencies)
        possible = float(np.abs(total[: len(self.given.sums)]).max()) <= held * (1 + 1e-9)
        return (total, n) if possible else None

    def distances(self, window: Ledger) -> dict[str, float]:
        """Give `mmd2`, its quantile `mmd2_q95` and `p` of a window; nothing with fewer than two rows."""
        held = self.rows_of(window)
        if held is None or min(held[1], self.n) < 2:
            return {}
        total, m = held
        n, mu, nu = self.n, self.mean, total / m
        squared = (n * float(mu @ mu) - 1) / (n - 1) + (m * float(nu @ nu) - 1) / (m - 1) - 2 * float(mu @ nu)
        gap = mu - nu
        found = {"mmd2": squared}
        if self.spectrum.size:
            found["mmd2_q95"] = (1 / n + 1 / m) * self._high
            found["p"] = tail(float(gap @ gap) * n * m / (n + m), self.spectrum)
        return found


def cloud(given: EmbeddingReference, *, delta: float, epsilon: float) -> Cloud:
    """Give the cloud of a reference with rows, whose radius is too small with probability `delta` at most.

    >>> from streams.measure.embedding import learn_embedding
    >>> given = learn_embedding([[float(i % 7), float(i % 5)] for i in range(5_000)])
    >>> round(cloud(given, delta=1e-3, epsilon=0.0).room, 3)
    0.072
    """
    radius = (1 + math.sqrt(2 * math.log(1 / (delta / _PARTS)))) / math.sqrt(max(sum(given.rows), 1))
    return Cloud(given, longest() * (math.sqrt(2) * epsilon + radius))


def cloud_null(stream: str, given: EmbeddingReference, *, delta: float, epsilon: float) -> Null:
    """Give the null of a cloud. The limits of the first witnesses are those of no bet: each pane has its own."""
    names = [f"the mean of {stream}, along the way it moved in some {span} panes before," for span in SPANS]
    names += [f"the share of {stream} {kind}" for kind in _KINDS]
    shares = upper_share(given.rows[1:], sum(given.rows), delta / _PARTS) + epsilon
    limits = np.concatenate((np.ones(len(SPANS)), np.clip(shares, FLOOR, 1.0)))
    return Null(stream, np.eye(len(names), dtype=np.int64), limits, tuple(names))


class Witnesses:
    """The way in which the panes before have moved: fading sums of their features, one a span."""

    def __init__(self, about: Cloud, null: Null) -> None:
        self.cloud, self.null = about, null
        self.totals = np.zeros((len(SPANS), about.mean.size))
        self.rows = np.zeros(len(SPANS))

    def pane(self, ledger: Ledger, start: int, end: int) -> tuple[Evidence, Floats] | None:
        """Give what a closed pane shows, and the limits it is judged by; None where it has no rows, or cannot be.

        The pane itself moves no witness: `learn` does, once it has been judged.
        """
        held = self.cloud.rows_of(ledger)
        if held is None:
            return None
        total, n = held
        limits, counts = self.null.limits.copy(), np.empty(self.null.limits.size)
        for at in range(len(SPANS)):
            counts[at], limits[at] = self._along(at, total, n)
        counts[len(SPANS) :] = total[2 * self.cloud.given.frequencies :]
        sizes = np.array(ledger.dense(BUCKET_ROWS, BUCKETS), dtype=np.float64)
        return Evidence(start, end, counts, float(n), sizes if sizes.sum() == n else np.zeros(0)), limits

    def _along(self, at: int, total: Floats, n: int) -> tuple[float, float]:
        """Give the sum of X and its limit for one witness; where there is none yet, what nobody can bet on."""
        if self.rows[at] <= 0:
            return float(n), 1.0
        moved = self.totals[at] / self.rows[at] - self.cloud.mean
        length = math.sqrt(float(moved @ moved))
        if length <= _TINY:
            return float(n), 1.0
        w, wide = moved / length, self.cloud.given.frequencies
        turning = float(np.hypot(w[:wide], w[wide : 2 * wide]).sum()) / math.sqrt(wide) * longest()
        most = max(turning, float(np.abs(w[2 * wide :]).max())) * (1 + 1e-9)
        limit = (1 + (float(self.cloud.mean @ w) + self.cloud.room) / most) / 2
        if limit >= 1.0:
            return float(n), 1.0
        return min(max((n + float(total @ w) / most) / 2, 0.0), float(n)), max(limit, FLOOR)

    def learn(self, ledger: Ledger) -> None:
        """Let a pane that has been judged move the witnesses."""
        held = self.cloud.rows_of(ledger)
        if held is not None:
            fade = 1 - 1 / np.array(SPANS, dtype=np.float64)
            self.totals = self.totals * fade[:, None] + held[0]
            self.rows = self.rows * fade + held[1]

    def dump(self) -> Plain:
        """Give them as plain data, the sums as little-endian float64; nothing before the first pane."""
        if not self.rows.any():
            return {}
        return {"totals": self.totals.astype("<f8").tobytes(), "rows": self.rows.tolist()}

    def load(self, state: Plain) -> None:
        """Go on from what `dump` gave; what is of another shape is forgotten, and the witnesses begin anew."""
        totals = np.frombuffer(state.get("totals", b""), dtype="<f8")
        rows = np.array(state.get("rows", []), dtype=np.float64)
        if totals.size == self.totals.size and rows.size == self.rows.size:
            self.totals, self.rows = totals.reshape(self.totals.shape).copy(), rows
        else:
            self.totals, self.rows = np.zeros_like(self.totals), np.zeros_like(self.rows)
