"""Slices, worst first: by how much, at least, each is worse than the whole. Pure.

Sorted by their values, the smallest slices would stand first: they scatter most. So slices are ordered by the lower
bound of their gap. With S slices each interval is widened to the one-sided error α/(S + 1), the whole's too, by
Student's quantiles with as many degrees of freedom as there are subject buckets less one; the gap's bound is the
whole's worst end less the slice's best end. (Of a metric that is best at 0 the sizes are compared, with half the error
to either side.) Hence **with about 1 − α all bounds hold at once**, whatever the dependence between slices and the
whole that they are parts of, as far as an interval of bucket means is Student's. Nothing is promised of the order
itself, of looking again every minute, or of slices that have no interval (fewer than two buckets): those come last. A
slice that is worse may be harder by nature: this is where to look, no alarm.
"""

from __future__ import annotations

from typing import Any, Final

from services.api.store import Row

LEVEL: Final = 0.95
MOST: Final = 1_000


def worst_first(whole: Row, slices: list[Row], better: str) -> list[dict[str, Any]]:
    """Order slices by how much worse than the whole they are at least; both have value, low, high, n and subjects.

    `gap` is how much worse a slice's value is (negative: better), `gap_low` its lower bound, null without an interval,
    and `worse` says that the bound is above 0. `better` is the metric's; of `neither` there is no worse.

    >>> whole = {"value": 0.9, "low": 0.89, "high": 0.91, "n": 9000, "subjects": 64}
    >>> few = {"slice": "c=few", "value": 0.2, "low": -0.5, "high": 0.9, "n": 9, "subjects": 6}
    >>> many = {"slice": "c=many", "value": 0.8, "low": 0.78, "high": 0.82, "n": 900, "subjects": 64}
    >>> [(one["slice"], one["worse"]) for one in worst_first(whole, [few, many], "higher")]
    [('c=many', True), ('c=few', False)]
    """
    error = (1.0 - LEVEL) / (len(slices) + 1)
    found = []
    for one in slices:
        gap = low = None
        if whole["value"] is not None and one["value"] is not None and better != "neither":
            gap = _gap(whole["value"], one["value"], better)
            ends = (_reach(whole, better, error, best=False), _reach(one, better, error, best=True))
            if ends[0] is not None and ends[1] is not None:
                low = gap - ends[0] - ends[1]
        found.append({**one, "gap": gap, "gap_low": low, "worse": low is not None and low > 0})
    return sorted(found, key=_place)


def _place(one: dict[str, Any]) -> tuple[bool, float, bool, float, str]:
    low, gap = one["gap_low"], one["gap"]
    return low is None, -(low or 0.0), gap is None, -(gap or 0.0), one["slice"]


def _gap(whole: float, part: float, better: str) -> float:
    return whole - part if better == "higher" else part - whole if better == "lower" else abs(part) - abs(whole)


def _reach(row: Row, better: str, error: float, *, best: bool) -> float | None:
    """Give how far a value may lie towards its best (or its worst) side; None without an interval."""
    if better == "zero":
        sides = _side(row, True, error / 2), _side(row, False, error / 2)
        return None if sides[0] is None or sides[1] is None else max(sides[0], sides[1])
    return _side(row, (better == "higher") == best, error)


def _side(row: Row, above: bool, error: float) -> float | None:
    from scipy.special import stdtrit

    end = row["high"] if above else row["low"]
    if end is None or row["subjects"] < 2:
        return None
    freedom = row["subjects"] - 1
    wider = float(stdtrit(freedom, 1.0 - error) / stdtrit(freedom, 0.975))
    return float(abs(end - row["value"])) * wider
