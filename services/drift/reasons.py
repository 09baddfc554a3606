"""Why a peer's value is another than ours: one table, by peer, kind of column and measure.

A reason is a step: what the peer does otherwise, and the value once that is done its way, too, by our own code on the
same values. The steps of an entry are taken in order, and the last one ends at the peer's definition. So a step that
moves nothing is no reason here and is not told; and where the last value is the peer's, the difference is explained
without a rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from services.drift import theirs
from services.drift.theirs import Pair, numbers_of
from streams.judge.compare import Floats
from streams.judge.distances import hellinger, jensen_shannon, psi
from streams.judge.samples import ks_of, ks_p_value

MEASURES = {
    "psi": "PSI",
    "js": "JS",
    "hellinger": "Hellinger",
    "wasserstein": "W1",
    "ks": "KS",
    "ks_p": "KS, p",
    "chi2": "χ²",
    "chi2_p": "χ², p",
}
"""Measures as they are headed."""


@dataclass(frozen=True)
class Step:
    """One thing that a peer does otherwise. `label` is what a table has room for, `why` the sentence."""

    label: str
    why: str
    value: Callable[[Pair], float]


def _present(measure: str) -> Step:
    return Step(
        "missing",
        "missing values are left out; here they have a cell",
        lambda pair: _known(getattr(pair.ours, measure)),
    )


def _finite(measure: str) -> Step:
    return Step(*FINITE, lambda pair: _known(getattr(pair.ours_finite, measure)))


POOLED = (
    "pooled cells",
    "its cells are Sturges' equal widths over both tables together, or a cell a value where the reference has up to "
    "20; here they are quantiles of the reference",
)
DISTINCT = (
    "distinct cells",
    "its cells are Sturges' equal widths over the distinct values of both tables, however often each occurs; "
    "here they are quantiles of the reference",
)
DOANE = (
    "Doane's cells",
    "its cells are Doane's equal widths over the reference, and one for all values beyond; "
    "here they are quantiles of the reference",
)
EVERY = "every value", "every value has a cell; here the reference's 100 most frequent ones have, the others share one"
UNSEEN = "unseen together", "every value of the reference has a cell; here its 100 most frequent ones have"
WHOLE = (
    "no cells joined",
    "every value has a cell, however few rows it has; here cells with fewer than 5 expected rows are put together",
)
UNSMOOTHED = (
    "smoothing",
    "not smoothed, but an empty cell gets the share 0.0001 (a millionth of the least one where that is no greater); "
    "here every cell gets half a row more (Jeffreys)",
)
NATS = "nats", "natural logarithm; here bits: its value is ours · √ln 2"
SIGMA = (
    "÷ deviation",
    "divided by the reference's standard deviation, or 0.001 if that is more; here by its quartile distance / 1.349",
)
UNSCALED = "own units", "in the column's own units; here divided by the reference's quartile distance / 1.349"
BINNED = (
    "10,000 bins",
    "from 10,000 rows of the reference on it counts in 10,000 equal bins of its range; here the values themselves are",
)
ROW_MORE = "a row more", "it counts one row more below the reference's range than there is"
FINITE = "infinite", "infinite values are left out; here they are below and above all others"
LAW = (
    "exact law",
    "the exact law up to 10,000 rows a side, an asymptotic one beyond; here Kolmogorov's limit in Stephens' correction",
)
AS_EXACT = (
    "reference exact",
    "the reference's shares are taken as if they were exact, so p is too small; here both tables are samples",
)
YATES = "Yates", "of two by two cells each moves by up to half a row towards what is expected (Yates); here none does"

REASONS: dict[tuple[str, str, str], tuple[Step, ...]] = {
    ("evidently", "numeric", "psi"): (
        _present("psi"),
        _finite("psi"),
        Step(*POOLED, lambda pair: float(psi(*pair.evidently))),
        Step(*UNSMOOTHED, lambda pair: theirs.floored_psi(pair.evidently)),
    ),
    ("evidently", "categorical", "psi"): (
        _present("psi"),
        Step(*EVERY, lambda pair: float(psi(*pair.evidently))),
        Step(*UNSMOOTHED, lambda pair: theirs.floored_psi(pair.evidently)),
    ),
    ("evidently", "numeric", "js"): (
        _present("js"),
        _finite("js"),
        Step(*POOLED, lambda pair: float(jensen_shannon(*pair.evidently))),
        Step(*NATS, lambda pair: theirs.js_in_nats(pair.evidently)),
    ),
    ("evidently", "categorical", "js"): (
        _present("js"),
        Step(*EVERY, lambda pair: float(jensen_shannon(*pair.evidently))),
        Step(*NATS, lambda pair: theirs.js_in_nats(pair.evidently)),
    ),
    ("evidently", "numeric", "hellinger"): (
        _present("hellinger"),
        _finite("hellinger"),
        Step(*DISTINCT, lambda pair: float(hellinger(*pair.distinct))),
    ),
    ("evidently", "categorical", "hellinger"): (
        _present("hellinger"),
        Step(*EVERY, lambda pair: float(hellinger(*pair.distinct))),
    ),
    ("evidently", "numeric", "wasserstein"): (Step(*SIGMA, theirs.by_sigma),),
    ("evidently", "numeric", "ks_p"): (
        Step(*FINITE, lambda pair: ks_p(numbers_of(pair).finite)),
        Step(*LAW, theirs.exact_ks_p),
    ),
    ("evidently", "categorical", "chi2_p"): (
        _present("p"),
        Step(*WHOLE, lambda pair: theirs.chi2_p(*theirs.whole_chi2(pair.evidently))),
        Step(*AS_EXACT, lambda pair: theirs.fit_p(pair.evidently)),
    ),
    ("nannyml", "numeric", "js"): (
        _present("js"),
        Step(*DOANE, lambda pair: float(jensen_shannon(*pair.nannyml))),
    ),
    ("nannyml", "categorical", "js"): (
        _present("js"),
        Step(*UNSEEN, lambda pair: float(jensen_shannon(*pair.nannyml))),
    ),
    ("nannyml", "numeric", "hellinger"): (
        _present("hellinger"),
        Step(*DOANE, lambda pair: float(hellinger(*pair.nannyml))),
    ),
    ("nannyml", "categorical", "hellinger"): (
        _present("hellinger"),
        Step(*UNSEEN, lambda pair: float(hellinger(*pair.nannyml))),
    ),
    ("nannyml", "numeric", "wasserstein"): (
        Step(*UNSCALED, theirs.unscaled),
        Step(*BINNED, theirs.binned_wasserstein),
        Step(*ROW_MORE, lambda pair: theirs.binned_wasserstein(pair, extra=1)),
    ),
    ("nannyml", "numeric", "ks"): (Step(*BINNED, theirs.binned_ks),),
    ("nannyml", "categorical", "chi2"): (
        _present("chi2"),
        Step(*WHOLE, lambda pair: theirs.whole_chi2(pair.evidently)[0]),
        Step(*YATES, lambda pair: theirs.whole_chi2(pair.evidently, yates=True)[0]),
    ),
}
"""What leads from our value to the peer's, by (peer, kind of column, measure)."""


def steps(peer: str, measure: str, pair: Pair, ours: float | None) -> list[tuple[Step, float]]:
    """Give the steps that move the value, each with where it leads; fewer where a definition does not bear the values.

    >>> import numpy as np
    >>> pair = theirs.Numbers(np.arange(100.0), np.arange(100.0) + 10)
    >>> [(step.label, round(value, 3)) for step, value in steps("nannyml", "wasserstein", pair, 0.27)]
    [('own units', 10.0)]
    """
    found: list[tuple[Step, float]] = []
    at = math.nan if ours is None else ours
    if not pair.ours.n or not pair.ours.m:
        return []
    for step in REASONS[peer, pair.kind, measure]:
        try:
            value = step.value(pair)
        except (ValueError, ArithmeticError, MemoryError):  # NumPy cannot cut a range of 1e300 into bins, say
            return found
        if not near(at, value, measure):
            found.append((step, value))
            at = value
    return found


def near(one: float, other: float, measure: str) -> bool:
    """Say whether two values are the same but for rounding: to a millionth, or to 1e-7 (W1, which has units: 1e-12).

    >>> near(0.1, 0.1 + 1e-9, "psi"), near(0.1, 0.1001, "psi"), near(1e-9, 2e-9, "wasserstein")
    (True, False, False)
    """
    return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-12 if measure == "wasserstein" else 1e-7)


def ks_p(sides: tuple[Floats, Floats]) -> float:
    """Give our p-value of KS of two sorted samples."""
    return ks_p_value(ks_of(*sides), *map(len, sides))


def _known(value: float | None) -> float:
    return math.nan if value is None else value
