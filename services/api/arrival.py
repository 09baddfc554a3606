"""How long labels take, from outcomes that have their label and predictions that still wait.

Young predictions have not had the time to get a late label, so the share of labels by age is not "labelled / all". Each
prediction without a label says only that its delay is longer than its age; the estimator that uses exactly this is
Kaplan and Meier's: S(t) = Π over ages ≤ t of (1 − arrived / at risk). Ages are counted in log-spaced bins (ten per
decade), which the database can do.
"""

from __future__ import annotations

from collections.abc import Mapping

PER_DECADE = 10
Curve = list[tuple[int, float]]


def edge_ms(number: int) -> int:
    """Give the upper edge of a bin.

    >>> edge_ms(0), edge_ms(9), edge_ms(30)
    (1, 10, 1259)
    """
    return round(10 ** ((number + 1) / PER_DECADE))


def bin_sql(expression: str) -> str:
    """Give SQL for the bin of a delay in milliseconds; what is below 1 ms counts as 1 ms."""
    return f"toInt32(floor(log10(greatest({expression}, 1)) * {PER_DECADE} + 1e-9))"


def arrival_curve(arrived: Mapping[int, int], waiting: Mapping[int, int]) -> Curve:
    """Give (age, share of labels that have come by that age) at each bin in which one came.

    `arrived` counts labels by the bin of their delay, `waiting` predictions without a label by the bin of their age.

    >>> arrival_curve({10: 50}, {20: 50})
    [(13, 0.5)]
    >>> arrival_curve({10: 50}, {5: 50})  # those that wait are younger than any label's delay: they tell nothing
    [(13, 1.0)]
    """
    at_risk = sum(arrived.values()) + sum(waiting.values())
    left, curve = 1.0, []
    for number in sorted({*arrived, *waiting}):
        came = arrived.get(number, 0)
        if came > 0 and at_risk > 0:
            left *= 1 - came / at_risk
            curve.append((edge_ms(number), 1 - left))
        at_risk -= came + waiting.get(number, 0)
    return curve


def quantile(curve: Curve, share: float) -> int | None:
    """Give the age by which this share of *all* predictions has its label; None when that many never come.

    >>> quantile([(13, 0.4), (100, 0.9)], 0.5), quantile([(13, 0.4)], 0.5)
    (100, None)
    """
    return next((age for age, reached in curve if reached >= share), None)
