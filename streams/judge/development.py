"""How the counts of a pane grow to their final size as its labels come, and what counts so far say of the final ones.

**Law.** When a pane is a panes old, a part of what it will have counted in the end is there: of each cell (true and
false positives and negatives, agreements) its own part F(a), because positives may come before negatives, and clicks of
a high score before those of a low one. The parts are learnt from panes that have closed, cell by cell, as the sum of
the counts at that age over the sum of the final ones (the development factors of a run-off triangle: Mack 1993, ASTIN
Bulletin 23). Whatever shapes the counts is in them: delay, timeouts, corrections, provisional negatives. Sums forget
with a half-life of `HALF_LIFE` panes, so the law follows what slowly changes; a sudden change of delay makes every
projection wrong in proportion until the panes with the new delay have closed.

**Projection.** Of a window of panes with N_s predictions each, ages a_s and counts c_s so far, the rate of a cell is
estimated by exposure, rate = Σ c_s / Σ N_s F(a_s), the maximum-likelihood estimate for Poisson counts (statistics of
delayed feedback: Chapelle 2014, KDD). Its final count is rate · Σ N_s. What has no exposure yet (negatives that silence
alone will tell) gets the rest of the labels that are due, in the proportions of the closed panes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from streams.measure.ages import BIN_OF, BINS, EDGES, LIMIT
from streams.measure.ledger import AGREEMENT, CONFUSION, Ledger, N

Floats = NDArray[np.float64]

CELLS: Final = 6
"""Four of `confusion`, two of `agreement`."""
HALF_LIFE: Final = 500.0
KEEP: Final = 0.5 ** (1.0 / HALF_LIFE)
LEAST_EXPOSURE: Final = 0.02
"""Below this share of a window's predictions a cell's counts so far say nothing."""


def counted(ledger: Ledger) -> tuple[int, ...]:
    """Give the cells of a ledger that are projected, milli-weights."""
    return (*ledger.dense(CONFUSION, 4), *ledger.dense(AGREEMENT, 2))


@dataclass(slots=True)
class Development:
    """The law of one arm: `early[k]` sums what closed panes had counted in age bin k, `late[k]` the same panes' end.

    `ages[k]` and `panes[k]` sum the ages at which they were looked at, and how many there were. `rows` and `final` sum
    predictions and final counts over all closed panes.
    """

    early: Floats = field(default_factory=lambda: np.zeros((BINS + 1, CELLS)))
    late: Floats = field(default_factory=lambda: np.zeros((BINS + 1, CELLS)))
    ages: Floats = field(default_factory=lambda: np.zeros(BINS + 1))
    panes: Floats = field(default_factory=lambda: np.zeros(BINS + 1))
    rows: float = 0.0
    final: Floats = field(default_factory=lambda: np.zeros(CELLS))
    closed: int = 0

    def learn(self, rows: int, looks: Sequence[tuple[int, Sequence[int]]], final: Sequence[int]) -> None:
        """Take up a pane that has closed: what it had counted at which ages (in panes), and its final counts."""
        for sums in (self.early, self.late, self.ages, self.panes, self.final):
            sums *= KEEP
        self.rows = self.rows * KEEP + rows
        end = np.asarray(final, dtype=np.float64)
        self.final += end
        for age, cells in looks:
            k = int(BIN_OF[min(age, LIMIT)])
            self.early[k] += cells
            self.late[k] += end
            self.ages[k] += age
            self.panes[k] += 1.0
        self.closed += 1

    def parts(self, ages: Sequence[int]) -> Floats:
        """Give F at each age (row) and cell: linear between the mean ages of the bins that were looked at.

        A cell that was never counted in the end develops like all of them together: a kind of error that is new must
        not be overlooked until the first pane with it has closed. NaN while nothing was ever counted; before the first
        look F is that of the first.
        """
        seen = np.flatnonzero(self.panes > 0)
        found = np.full((len(ages), CELLS), np.nan)
        if not seen.size:
            return found
        at = self.ages[seen] / self.panes[seen]
        asked = np.asarray(ages, dtype=np.float64)

        def curve(early: Floats, late: Floats) -> Floats | None:
            known = late > 0
            return np.interp(asked, at[known], early[known] / late[known]) if known.any() else None

        together = curve(self.early[seen].sum(axis=1), self.late[seen].sum(axis=1))
        if together is not None:
            for cell in range(CELLS):
                own = curve(self.early[seen, cell], self.late[seen, cell])
                found[:, cell] = together if own is None else own
        return found

    def project(self, rows: Sequence[int], ages: Sequence[int], cells: Sequence[Sequence[int]]) -> Ledger | None:
        """Give the final cells that a window of panes points to; None while the law is not known.

        `rows`, `ages` and `cells` are by pane; an age below 0 marks a pane that has closed.

        >>> law = Development()
        >>> law.learn(100, [(0, [10, 0, 0, 0, 0, 0]), (1, [40, 0, 0, 0, 0, 0])], [40, 0, 0, 60, 0, 0])
        >>> projected = law.project([100, 100], [1, 0], [[20, 0, 0, 0, 0, 0], [5, 0, 0, 0, 0, 0]])
        >>> projected.cells["confusion"]  # 25 of the exposure 100·1 + 100·¼; the rest are negatives
        {0: 40, 3: 160}
        """
        n = np.asarray(rows, dtype=np.float64)
        if not self.closed or self.rows <= 0 or n.sum() <= 0:
            return None
        part = self.parts(ages)
        part[np.asarray(ages) < 0] = 1.0
        exposure = (n[:, None] * np.nan_to_num(part)).sum(axis=0)
        so_far = np.asarray(cells, dtype=np.float64).reshape(-1, CELLS).sum(axis=0)
        enough = exposure >= LEAST_EXPOSURE * n.sum()
        rate = np.divide(so_far, exposure, out=np.zeros(CELLS), where=enough)
        blind = ~enough & (self.final > 0)
        if blind.any():
            due = float(self.final.sum()) / self.rows
            rest = max(due - float(rate.sum()), 0.0)
            rate[blind] = rest * self.final[blind] / self.final[blind].sum()
        whole = np.rint(rate * n.sum()).astype(np.int64)
        return Ledger(
            {
                N: {0: int(n.sum())},
                CONFUSION: {i: int(c) for i, c in enumerate(whole[:4]) if c},
                AGREEMENT: {i: int(c) for i, c in enumerate(whole[4:]) if c},
            }
        )

    def dump(self) -> list[Any]:
        """Give it as plain data."""
        arrays = (self.early.ravel(), self.late.ravel(), self.ages, self.panes, self.final)
        return [*(one.tolist() for one in arrays), self.rows, self.closed]

    @classmethod
    def load(cls, plain: list[Any]) -> Development:
        """Take up what `dump` gave."""
        early, late, ages, panes, final = (np.array(one, dtype=np.float64) for one in plain[:5])
        shape = (BINS + 1, CELLS)
        return cls(early.reshape(shape), late.reshape(shape), ages, panes, plain[5], final, plain[6])


def ages_between(before: int | None, now: int) -> list[int]:
    """Give the ages k at which a pane is first in its age bin, `now` panes old and `before` at the look before.

    >>> [age for age in range(20) if ages_between(age - 1, age)]
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18]
    """
    new = int(BIN_OF[min(now, LIMIT)])
    return [now] if before is None or before < 0 or int(BIN_OF[min(before, LIMIT)]) != new else []


assert len(EDGES) == BINS + 1
