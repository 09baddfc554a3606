"""Peers' definitions, reckoned by Weir's own code from the same values: their cells, and what they do with them.

`reasons` puts these in an order that leads from our value to a peer's. Nothing here is used for a verdict.

| peer | cells of numbers | cells of categories |
|---|---|---|
| Evidently 0.7.23 | Sturges, both tables; up to 20 values in the reference: one for each | one for each |
| – its Hellinger | Sturges, distinct values of both tables | one for each |
| NannyML 0.13.1 | Doane, reference; one for all values beyond | one for each of the reference, one for all others |

Sturges' and Doane's cells have equal widths. Both peers leave out missing values, Evidently infinite ones, too.
Sources: `legacy/calculations/stattests` and `legacy/calculations/data_drift.py` of Evidently,
`drift/univariate/methods.py` of NannyML.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from streams.judge.compare import Compared, Floats, compare_categories, compare_numbers
from streams.judge.distances import jensen_shannon
from streams.judge.samples import ks_of, wasserstein

Cells = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Rows of the reference and of the current table in each cell."""

FEW, MANY, BINS, FLOOR, LEAST_SIGMA = 20, 10_000, 10_000, 1e-4, 1e-3
"""Evidently's limit for a cell a value; NannyML's rows from which on it bins, and its bins; Evidently's two floors."""


@dataclass
class Numbers:
    """A column of numbers in both tables, NaN for what is missing. `whole`: both tables have integers only."""

    kind: ClassVar[Literal["numeric"]] = "numeric"
    reference: Floats
    current: Floats
    whole: bool = False

    @cached_property
    def there(self) -> tuple[Floats, Floats]:
        """Values that are there, sorted."""
        a, c = (np.sort(side[~np.isnan(side)]) for side in (self.reference, self.current))
        return a, c

    @cached_property
    def finite(self) -> tuple[Floats, Floats]:
        """Values that are there and finite, sorted."""
        a, c = (np.sort(side[np.isfinite(side)]) for side in (self.reference, self.current))
        return a, c

    @cached_property
    def ours(self) -> Compared:
        """What we say of the values that are there."""
        return compare_numbers("", *self.there)

    @cached_property
    def ours_finite(self) -> Compared:
        """What we say of the finite values."""
        return compare_numbers("", *self.finite)

    @cached_property
    def evidently(self) -> Cells:
        """Evidently's cells for PSI and JS."""
        a, c = self.finite
        if len(np.unique(a)) <= FEW:
            keys = np.union1d(a, c)
            edges = np.append(keys, np.inf)
            return self._counted(edges)
        return self._counted(self._sturges(np.concatenate((a, c))))

    @cached_property
    def distinct(self) -> Cells:
        """Evidently's cells for Hellinger."""
        return self._counted(self._sturges(np.union1d(*self.finite)))

    @cached_property
    def nannyml(self) -> Cells:
        """NannyML's cells."""
        edges = np.histogram_bin_edges(self.there[0], bins="doane")
        inside = [np.histogram(side, edges)[0].astype(np.float64) for side in self.there]
        beyond = [len(side) - held.sum() for side, held in zip(self.there, inside, strict=True)]
        return np.append(inside[0], beyond[0]), np.append(inside[1], beyond[1])

    def _sturges(self, values: Floats) -> Floats:
        # NumPy makes no bins narrower than 1 for integers
        found = np.histogram_bin_edges(values.astype(np.int64) if self.whole else values, bins="sturges")
        return np.asarray(found, dtype=np.float64)

    def _counted(self, edges: Floats) -> Cells:
        a, c = (np.histogram(side, edges)[0].astype(np.float64) for side in self.finite)
        return a, c


@dataclass
class Categories:
    """A column of categories in both tables: how often each occurs, None for what is missing."""

    kind: ClassVar[Literal["categorical"]] = "categorical"
    reference: Mapping[str | None, int]
    current: Mapping[str | None, int]

    @cached_property
    def there(self) -> tuple[dict[str, int], dict[str, int]]:
        """The same without what is missing."""
        a, c = ({text: n for text, n in side.items() if text is not None} for side in (self.reference, self.current))
        return a, c

    @cached_property
    def ours(self) -> Compared:
        """What we say of the values that are there."""
        a, c = self.there
        return compare_categories("", dict[str | None, int](a.items()), dict[str | None, int](c.items()))

    @property
    def ours_finite(self) -> Compared:
        """The same: no category is infinite."""
        return self.ours

    @cached_property
    def evidently(self) -> Cells:
        """A cell for each value of either table."""
        a, c = self.there
        keys = sorted({*a, *c})
        return np.array([float(a.get(key, 0)) for key in keys]), np.array([float(c.get(key, 0)) for key in keys])

    @property
    def distinct(self) -> Cells:
        """The same: Evidently's Hellinger counts categories as its other measures do."""
        return self.evidently

    @cached_property
    def nannyml(self) -> Cells:
        """A cell for each value of the reference, one for all others."""
        a, c = self.there
        others = sum(n for text, n in c.items() if text not in a)
        return np.array([*map(float, a.values()), 0.0]), np.array(
            [*(float(c.get(text, 0)) for text in a), float(others)]
        )


Pair = Numbers | Categories


def floored_psi(cells: Cells) -> float:
    """Give Evidently's PSI: an empty cell's share is `FLOOR`, or a millionth of the least one where that is no greater.

    >>> round(floored_psi((np.array([50.0, 50.0, 0.0]), np.array([60.0, 30.0, 10.0]))), 4)
    0.8105
    """

    def shares(counts: Floats) -> Floats:
        share = counts / counts.sum()
        least = float(share[share > 0].min())
        return np.where(share > 0, share, least / 1e6 if least <= FLOOR else FLOOR)

    p, q = shares(cells[0]), shares(cells[1])
    return float(np.sum((p - q) * np.log(p / q)))


def js_in_nats(cells: Cells) -> float:
    """Give the Jensen–Shannon distance by the natural logarithm: that in bits · √ln 2."""
    return float(jensen_shannon(*cells)) * math.sqrt(math.log(2))


def by_sigma(pair: Pair) -> float:
    """Give Evidently's Wasserstein distance: in standard deviations of the reference, `LEAST_SIGMA` at least."""
    a, c = _finite(pair)
    return wasserstein(a, c) / max(float(np.std(a)), LEAST_SIGMA)


def unscaled(pair: Pair) -> float:
    """Give the Wasserstein distance in the column's own units."""
    return wasserstein(*_finite(pair))


def binned_wasserstein(pair: Pair, extra: int = 0) -> float:
    """Give NannyML's Wasserstein distance: exact below `MANY` rows of the reference, else by bins of its range.

    `extra`: rows counted below the range beyond those that are there; NannyML has 1 where there are any.
    """
    a, c = _finite(pair)
    if len(a) < MANY:
        return wasserstein(a, c)
    of_reference, edges = np.histogram(a, bins=BINS)
    below, above = c[c < edges[0]], c[c > edges[-1]]
    outside = float(np.sum(edges[0] - below) + np.sum(above - edges[-1])) / len(c)
    start = (len(below) + extra) / len(c) if len(below) else 0.0
    gaps = np.cumsum(of_reference / len(a)) - (np.cumsum(np.histogram(c, bins=edges)[0] / len(c)) + start)
    return outside + float(np.sum(np.abs(gaps)) * (edges[1] - edges[0]))


def binned_ks(pair: Pair) -> float:
    """Give NannyML's KS distance: exact below `MANY` rows of the reference, else at the edges of bins of its range."""
    a, c = numbers_of(pair).there
    if len(a) < MANY:
        return ks_of(a, c)
    edges = np.linspace(a[0], a[-1], BINS + 1)
    p, q = (np.cumsum(np.histogram(side, edges)[0] / len(side)) for side in (a, c))
    return float(np.max(np.abs(p - (q + np.count_nonzero(c < edges[0]) / len(c)))))


def exact_ks_p(pair: Pair) -> float:
    """Give Evidently's p-value of KS, SciPy's: the exact law up to 10,000 rows a side, beyond it an asymptotic one."""
    from scipy.stats import ks_2samp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says so when the exact law overflows, and takes the other
        return float(ks_2samp(*_finite(pair)).pvalue)


def whole_chi2(cells: Cells, *, yates: bool = False) -> tuple[float, int]:
    """Give χ² of homogeneity and its degrees of freedom, no cells put together; `yates` corrects two by two cells.

    >>> whole_chi2((np.array([50.0, 50.0]), np.array([60.0, 40.0])), yates=True)
    (1.6363636363636362, 1)
    """
    observed = np.array(cells)[:, np.add(*cells) > 0]
    expected = np.outer(observed.sum(axis=1), observed.sum(axis=0)) / observed.sum()
    off = np.abs(observed - expected)
    dof = observed.shape[1] - 1
    if yates and dof == 1:
        off = off - np.minimum(off, 0.5)
    return float(np.sum(off**2 / expected)), dof


def chi2_p(chi2: float, dof: int) -> float:
    """Give the chance of at least this χ²; NaN without degrees of freedom."""
    from scipy.special import gammaincc

    return float(gammaincc(dof / 2, chi2 / 2)) if dof > 0 else math.nan


def fit_p(cells: Cells) -> float:
    """Give Evidently's p-value of χ²: how well the current table fits the reference's shares, taken as exact."""
    a, c = cells
    expected = a * c.sum() / a.sum()
    with np.errstate(divide="ignore"):
        return chi2_p(float(np.sum((c - expected) ** 2 / expected)), len(a) - 1)


def numbers_of(pair: Pair) -> Numbers:
    """Give a pair that only numbers can be here, as that."""
    assert isinstance(pair, Numbers)
    return pair


def _finite(pair: Pair) -> tuple[Floats, Floats]:
    return numbers_of(pair).finite
