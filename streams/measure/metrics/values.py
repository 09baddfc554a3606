"""Amounts that came of predictions (revenue, seconds): their mean and their sum.

They are told of label names that the policy calls a `value`, as `revenue:value_mean`. An amount counts with its weight.
The sums are exact but for the rounding of each amount to 2⁻²¹ of itself. The mean is a ratio over the weight, with the
interval of every ratio. The sum's interval is the mean's times the weight: as many outcomes again, of such subjects.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from streams.measure import ledger as names
from streams.measure.ledger import BUCKETS, Ledger
from streams.measure.metrics.base import MILLI, Measured, Metric, half_width
from streams.measure.metrics.regression import UNIT, bucket_sums, level_sum


class Amounts(Metric):
    """A figure of all amounts: `scale` times their mean."""

    least: ClassVar[float | None] = None
    most: ClassVar[float | None] = None

    def scale(self, ledger: Ledger) -> float:
        """Give by what the mean is multiplied."""
        raise NotImplementedError

    def n(self, ledger: Ledger) -> int:
        return ledger.get(names.VALUE, names.COUNT)

    def value(self, ledger: Ledger) -> float | None:
        weight = ledger.get(names.VALUE, names.WEIGHT)
        if weight <= 0:
            return None
        return self.scale(ledger) * (level_sum(ledger, names.VALUE_SUM) / (weight << UNIT))

    def measured(self, ledger: Ledger) -> Measured:
        value, n = self.value(ledger), self.n(ledger)
        weights = np.array(ledger.dense(names.BUCKET_VALUE, BUCKETS), dtype=np.float64)
        subjects = int(np.sum(weights > 0))
        if value is None or subjects < 2:
            return Measured(value, None, None, n, subjects)
        scale = self.scale(ledger)
        half = scale * half_width(value / scale, bucket_sums(ledger, names.BUCKET_VALUE_SUM), weights)
        return Measured(value, value - half, value + half, n, subjects)


class ValueMean(Amounts):
    """The mean amount, by weight, of the predictions that have one."""

    kind: Literal["value_mean"] = "value_mean"

    def scale(self, ledger: Ledger) -> float:
        return 1.0


class ValueSum(Amounts):
    """The sum of the amounts, each times its weight."""

    kind: Literal["value_sum"] = "value_sum"

    def scale(self, ledger: Ledger) -> float:
        return ledger.get(names.VALUE, names.WEIGHT) / MILLI
