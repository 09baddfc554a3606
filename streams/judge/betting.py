"""A confidence sequence for the mean of bounded differences, valid at every look.

Units come one by one with a difference D in [least, greatest], the ends known before D is seen. For a candidate effect
δ let H⁺(δ) be "E[D | the past] ≤ δ at every unit". For 0 ≤ f < 1 the factor

    1 + λ(D − δ) = 1 − f + f·(D − least)/(δ − least),   λ = f/(δ − least),

is nonnegative and has mean ≤ 1 under H⁺(δ), so the product over units is a supermartingale that starts at 1, and so is
the mean of products over several f. By Ville's inequality it ever reaches 1/α with probability at most α: at any look,
at any stopping time, for ends that change from unit to unit (stages with other shares). It falls in δ, so the δ with
wealth ≥ 1/α are a lower set and its end is the lower limit; on a grid of candidates the limit errs on the safe side.
H⁻(δ), "at least δ", is the same for −D. The null is about every unit, not about an average: an effect that is above δ
in the morning and below it at night is not covered. (Waudby-Smith and Ramdas 2024 for the wealth; the mixture over f in
place of their running guess keeps the state free of the order in which arrays are summed.)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

GRID: Floats = np.unique(np.round(np.concatenate([np.linspace(-1, 1, 81), np.linspace(-0.2, 0.2, 161)]), 4))
"""Candidate effects: steps of 0.0025 within ±0.2, of 0.025 beyond."""
RISKS: Floats = np.array([0.95 * 0.5**i for i in range(10)])
"""Shares of the wealth that a unit may lose. The smallest suit a canary of 1 %, whose differences reach 100."""


class Wealth:
    """Log wealth against "at most δ" (`above`) and "at least δ" (`below`) for each candidate and risk."""

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        shape = (GRID.size, RISKS.size)
        self.above, self.below = np.zeros(shape), np.zeros(shape)
        if state:
            above, below = (np.asarray(state[side], dtype=np.float64) for side in ("above", "below"))
            if above.size != self.above.size or below.size != self.below.size:
                raise ValueError(f"expected {self.above.size} values of wealth a side, got {above.size}, {below.size}")
            self.above, self.below = above.reshape(shape), below.reshape(shape)

    def update(self, difference: float, least: float, greatest: float) -> None:
        """Take the next unit. Raises `ValueError` when the difference lies outside its ends."""
        if not least <= difference <= greatest:
            raise ValueError(f"expected a difference in [{least}, {greatest}], got {difference}")
        self.above += _log_factors(difference, least, GRID)
        self.below += _log_factors(-difference, -greatest, -GRID)

    def e_above(self, bar: float) -> float:
        """Give the evidence against "the effect is at most `bar`"; between grid points, the next safer one's."""
        return _evidence(self.above[min(int(np.searchsorted(GRID, bar - 1e-9)), GRID.size - 1)])

    def e_below(self, bar: float) -> float:
        """Give the evidence against "the effect is at least `bar`"."""
        return _evidence(self.below[max(int(np.searchsorted(GRID, bar + 1e-9, side="right")) - 1, 0)])

    def limits(self, alpha_low: float, alpha_high: float) -> tuple[float, float]:
        """Give the lower limit at 1 − `alpha_low` and the upper one at 1 − `alpha_high`."""
        refuted = np.flatnonzero(_log_means(self.above) >= -math.log(alpha_low))
        low = float(GRID[refuted[-1]]) if refuted.size else -1.0
        refuted = np.flatnonzero(_log_means(self.below) >= -math.log(alpha_high))
        high = float(GRID[refuted[0]]) if refuted.size else 1.0
        return low, high

    def dump(self) -> dict[str, Any]:
        """Give the state as plain data."""
        return {"above": self.above.ravel().tolist(), "below": self.below.ravel().tolist()}


def _log_factors(x: float | Floats, least: float | Floats, candidates: float | Floats) -> Floats:
    """Give log factors (candidate, risk) of one unit, or (unit, risk) of many units for one candidate."""
    room = candidates - least
    # A candidate at the very end of the range cannot be refuted by bounded bets: no bet.
    gain = np.where(room > 1e-9, (x - least) / np.where(room > 1e-9, room, 1.0) - 1.0, 0.0)
    return np.asarray(np.log1p(np.outer(gain, RISKS)), dtype=np.float64)


def _log_means(log_wealth: Floats) -> Floats:
    top = log_wealth.max(axis=1)
    return np.asarray(top + np.log(np.exp(log_wealth - top[:, None]).mean(axis=1)), dtype=np.float64)


def _evidence(log_wealth: Floats) -> float:
    return math.exp(min(float(_log_means(log_wealth[None, :])[0]), 700.0))
