"""A judgement with its evidence. It may say "I cannot tell"."""

from __future__ import annotations

from typing import Literal

from schemas.event import Event, Share

Outcome = Literal["pass", "fail", "inconclusive", "error"]


class Verdict(Event, frozen=True, kw_only=True, omit_defaults=True):
    """What a gate or detector concluded, and from what.

    `inconclusive` holds and `error` alerts; no evidence is inconclusive, never a pass. `statistic` is compared with
    `threshold`; [`low`, `high`] is the interval of the measured effect, `n` the number of independent units behind it,
    `maturity` the share of the labels due to come that have come, and `sentence` says all this to a person.
    """

    outcome: Outcome
    gate: str = ""
    statistic: float | None = None
    threshold: float | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    maturity: Share | None = None
    sentence: str = ""
