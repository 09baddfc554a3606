"""How long the join remembers: what a state can be rebuilt from when its beginning is gone (`runtime.window`)."""

from __future__ import annotations

from collections.abc import Iterable

from schemas.policy import JoinPolicy
from streams.join.policies import DEFAULT
from streams.join.resolve import Bounds


def window_ms(policies: Iterable[JoinPolicy], bounds: Bounds) -> int:
    """Give how long after the clock at which it was read a record may matter to what is in state.

    A label or signal waits for a prediction (early label, grace). That prediction, whose `at_ms` may lie ahead of the
    clock (skew), stays until reach and grace are over, and what has met it ends as if it had not: after early label
    and grace from its own time, which the reach of the prediction bounds. A request id that is used again and again can
    hold its labels longer: then the recorded counters differ, and the rebuild is refused.

    >>> from schemas.settings import Settings
    >>> from streams.join.admission import JoinBounds
    >>> window_ms([], JoinBounds.of(Settings())) // 3_600_000
    51
    """
    reach_ms = max(policy.reach_ms for policy in (DEFAULT, *policies))
    return 2 * (bounds.early_label_ms + bounds.grace_ms) + bounds.skew_ms + reach_ms + bounds.grace_ms
