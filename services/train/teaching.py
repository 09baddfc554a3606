"""Which outcome teaches, and how much it weighs: one rule for data set, `weir trace` and `weir policy replay`. Pure.

An outcome teaches when nothing but a correction can change it any more. It was said as `final`; or as `provisional`, an
early negative or a signal's label, and the timers have passed its deadline since: then it is what `resolve` gives at
the deadline, else a revision would have said otherwise. (Feedback does not say so itself: a change of status alone is
no revision.) While a freeze holds the timers, no deadline passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from schemas.policy import JoinPolicy

Waits = Mapping[tuple[str, str], int]
"""(`policy` as feedback names it, label name) → from the prediction's `at_ms` to the outcome's deadline."""


def waits_of(model: str, policies: Iterable[JoinPolicy]) -> dict[tuple[str, str], int]:
    """Give how long the outcomes of a model wait, under each of its policies and without one.

    >>> waits_of("m", [JoinPolicy(model="m", name="p", version=2, horizon_ms=90, lateness_ms=10)])
    {('default@1', 'label'): 3900000, ('p@2', 'label'): 100}
    """
    mine = [JoinPolicy(model=model), *(policy for policy in policies if policy.model == model)]
    return {(policy.label, one.label_name): one.wait_ms for policy in mine for one in policy.outcomes}


def is_settled(status: str, kind: str | None, due_ms: int | None, clock_ms: int) -> bool:
    """Say whether an outcome may teach. `due_ms` is its deadline, None when unknown; `clock_ms` the timers' clock.

    >>> is_settled("final", "explicit", None, 0), is_settled("provisional", "timeout", 100, 100)
    (True, True)
    >>> is_settled("provisional", "implicit", 100, 99), is_settled("provisional", "timeout", None, 100)
    (False, False)
    """
    if status == "final":
        return True
    late = due_ms is not None and clock_ms >= due_ms
    return status == "provisional" and kind in ("implicit", "timeout") and late


def weight_of(kind: str | None, weight: float, log_odds_correction: float | None) -> float:
    """Give what an outcome weighs: a negative of silence stands for all that were not said (`negative_sample`).

    >>> weight_of("timeout", 1.0, math.log(0.25)), weight_of("explicit", 0.5, math.log(0.25))
    (4.0, 0.5)
    """
    if kind != "timeout" or log_odds_correction is None:
        return weight
    return weight * math.exp(-log_odds_correction)
