"""One column of two tables: the same cells as a live reference has, the distances, and a verdict with its evidence.

The verdict answers two questions, and says so when the rows cannot:

| verdict | chance | size |
|---|---|---|
| `drift` | ruled out: adjusted p ≤ alpha | at least `least` of the rows differ |
| `slight` | ruled out | fewer: many rows make any difference significant |
| `steady` | not ruled out | a difference of `least` would stand out at this n |
| `unclear` | not ruled out | it would not: more rows are needed |

Size is the total variation, the share of rows that would have to be others. `p` is that of χ² over the cells, with
missing values, unseen categories and values beyond the reference's range among them; `judge_all` adjusts it for the
number of columns (`samples.adjusted`). Rows are taken as independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.judge.distances import hellinger, jensen_shannon, kolmogorov_smirnov, null_quantiles, psi, total_variation
from streams.judge.samples import adjusted, homogeneity, ks_of, spread, wasserstein
from streams.measure.reference import BINS, CATEGORIES, edges_of

Floats = NDArray[np.float64]
Verdict = Literal["drift", "slight", "steady", "unclear"]
Cell = tuple[str, int, int]

ALPHA, LEAST = 0.05, 0.05


class Compared(msgspec.Struct, kw_only=True):
    """A column of both tables. `cells`: (what is in it, rows of the reference, rows of the current table).

    `ks` is exact for numbers, over the cells of a categorical column None. `wasserstein` is in robust standard
    deviations of the reference, None for categories and for a constant reference. `chance_tv`: total variation stays
    below it in 95 % of quiet windows of this size. `p_adjusted` and `verdict` come from `judge_all`.

    Of an embedding `tv` is a lower bound (`mmd.rows_that_differ`), `p` that of MMD; PSI, JS and Hellinger are NaN.
    `mmd2` is the unbiased estimate, `bandwidth` the kernel's σ, `dimension` the vectors' length, `moved` what moved
    most.
    """

    name: str
    kind: Literal["numeric", "categorical", "embedding"]
    n: int
    m: int
    missing_n: int
    missing_m: int
    tv: float
    chance_tv: float
    psi: float
    js: float
    hellinger: float
    ks: float | None = None
    wasserstein: float | None = None
    chi2: float = 0.0
    dof: int = 0
    p: float = math.nan
    p_adjusted: float = math.nan
    verdict: Verdict = "unclear"
    sentence: str = ""
    cells: list[Cell] = []
    mmd2: float | None = None
    bandwidth: float | None = None
    dimension: int | None = None
    moved: str = ""


def compare_numbers(name: str, reference: Floats, current: Floats, *, count: int = BINS) -> Compared:
    """Compare two columns of numbers, NaN for what is missing.

    >>> found = compare_numbers("x", np.arange(1000.0), np.arange(1000.0) + 500)
    >>> found.tv, found.ks, round(found.wasserstein, 2)
    (0.5, 0.5, 1.35)
    """
    a, missing_n = _sorted(reference)
    c, missing_m = _sorted(current)
    finite = _finite(a)
    edges = edges_of(finite, count)
    least, greatest = (float(finite[0]), float(finite[-1])) if len(finite) else (math.inf, -math.inf)
    rows = [_in_cells(a, edges, least, greatest), _in_cells(c, edges, least, greatest)]
    names = cell_names(edges, least, greatest)
    cells = [(name, *pair) for name, *pair in zip(names, *rows, strict=True)]
    cells.append(("missing", missing_n, missing_m))
    width = spread(finite)
    distance = wasserstein(finite, _finite(c)) / width if width > 0 else math.nan
    ks = ks_of(a, c)
    return _compared(name, "numeric", cells, ks=_known(ks), wasserstein=_known(distance))


def _sorted(values: Floats) -> tuple[Floats, int]:
    """Give the values that are there, sorted, and how many are missing."""
    ordered = np.sort(values)  # NaN comes last
    there = int(np.searchsorted(ordered, np.nan, side="left"))
    return ordered[:there], len(ordered) - there


def _finite(ordered: Floats) -> Floats:
    first, last = np.searchsorted(ordered, -np.inf, side="right"), np.searchsorted(ordered, np.inf, side="left")
    return ordered[first:last]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def compare_categories(name: str, reference: Mapping[str | None, int], current: Mapping[str | None, int]) -> Compared:
    """Compare two columns of categories, given how often each occurs; None is what is missing.

    The reference's most frequent ones have a cell each, all others share one.

    >>> found = compare_categories("x", {"a": 50, "b": 50}, {"a": 50, "b": 25, "c": 25})
    >>> found.tv, found.cells[-1]
    (0.25, ('other', 0, 25))
    """
    ranked = sorted((value for value in reference if value is not None), key=lambda value: (-reference[value], value))
    known = ranked[:CATEGORIES]
    cells = [(value, reference[value], current.get(value, 0)) for value in known]
    sides = reference, current
    others = [sum(side.values()) - side.get(None, 0) - sum(side.get(value, 0) for value in known) for side in sides]
    cells.append(("other", others[0], others[1]))
    cells.append(("missing", reference.get(None, 0), current.get(None, 0)))
    return _compared(name, "categorical", cells, ks=None, wasserstein=None)


def judge_all(columns: Sequence[Compared], *, alpha: float = ALPHA, least: float = LEAST) -> list[Compared]:
    """Adjust the p-values for the number of columns and give each its verdict; the worst come first."""
    for one, p in zip(columns, adjusted([one.p for one in columns]).tolist(), strict=True):
        one.p_adjusted = p
        one.verdict, one.sentence = _verdict(one, alpha, least)
    rank = {"drift": 0, "slight": 1, "unclear": 2, "steady": 3}
    return sorted(columns, key=lambda one: (rank[one.verdict], -one.tv if one.tv == one.tv else 0.0, one.name))


def _verdict(one: Compared, alpha: float, least: float) -> tuple[Verdict, str]:
    if not one.n or not one.m:
        return "unclear", f"no rows {'to compare with' if not one.n else 'to compare'}"
    if one.kind == "embedding" and math.isnan(one.p):
        return "unclear", f"too few rows: {one.moved}"
    if one.p_adjusted <= alpha:
        bound = "at least " if one.kind == "embedding" else ""
        size = f"{bound}{one.tv:.1%} of the rows differ, {one.chance_tv:.1%} by chance"
        if one.kind == "embedding":
            return ("drift" if one.tv >= least else "slight"), f"{size}; most in {one.moved}"
        moved = max(one.cells, key=lambda cell: abs(cell[2] / one.m - cell[1] / one.n))
        where = f"most in {moved[0]}: {moved[1] / one.n:.1%} → {moved[2] / one.m:.1%}"
        return ("drift" if one.tv >= least else "slight"), f"{size}; {where}"
    if not one.dof and not one.tv:
        same = one.n == one.missing_n and one.m == one.missing_m
        return "steady", "all values are missing in both" if same else "one value, the same in both"
    if one.chance_tv < least:
        return "steady", f"{one.tv:.1%} of the rows differ; chance alone makes up to {one.chance_tv:.1%}"
    return (
        "unclear",
        f"too few rows: chance alone makes up to {one.chance_tv:.1%}, more than the {least:.1%} asked about",
    )


def _compared(
    name: str,
    kind: Literal["numeric", "categorical"],
    cells: list[tuple[str, int, int]],
    *,
    ks: float | None,
    wasserstein: float | None,
) -> Compared:
    a, c = (np.array([cell[side] for cell in cells], dtype=np.float64) for side in (1, 2))
    chi2, dof, p = homogeneity(a, c)
    return Compared(
        name=name,
        kind=kind,
        n=int(a.sum()),
        m=int(c.sum()),
        missing_n=cells[-1][1],
        missing_m=cells[-1][2],
        tv=float(total_variation(a, c)) if a.any() and c.any() else math.nan,
        chance_tv=null_quantiles(a, c)["tv"],
        psi=float(psi(a, c)),
        js=float(jensen_shannon(a, c)),
        hellinger=float(hellinger(a, c)),
        ks=ks if ks is not None or kind == "categorical" else float(kolmogorov_smirnov(a, c)[0]),
        wasserstein=wasserstein,
        chi2=chi2,
        dof=dof,
        p=p,
        cells=[cell for cell in cells if cell[1] or cell[2]],
    )


def _in_cells(values: Floats, edges: Sequence[float], least: float, greatest: float) -> list[int]:
    """Count sorted values in the cells of a reference: below its range, the inner ones, above it."""
    if least > greatest:
        return [0, len(values), 0]
    bounds = [
        *np.searchsorted(values, [least, *edges], side="left").tolist(),
        int(np.searchsorted(values, greatest, side="right")),
    ]
    return [bounds[0], *np.diff(bounds).tolist(), len(values) - bounds[-1]]


def cell_names(edges: Sequence[float], least: float, greatest: float) -> list[str]:
    """Name the cells of a reference: below its range, the inner ones, above it."""
    if least > greatest:
        return ["below", "any number", "above"]
    inner = [f"{low:.4g} to {high:.4g}" for low, high in zip([least, *edges], [*edges, greatest], strict=True)]
    return [f"below {least:.4g}", *inner, f"above {greatest:.4g}"]
