"""Mean losses of a score: log loss and Brier."""

from __future__ import annotations

from typing import ClassVar, Literal

from streams.measure import ledger as names
from streams.measure.ledger import BUCKET_SCORE_BINS, BUCKETS, Ledger
from streams.measure.metrics.base import Better, Ratio


class Lossy(Ratio):
    """A mean loss: a sum in units of 1e-6 times the milli-weight, over the weight."""

    better: ClassVar[Better] = "lower"
    unit: ClassVar[float] = 1e6
    vector: ClassVar[str]
    bucketed: ClassVar[str]

    def sums(self, ledger: Ledger) -> tuple[int, int]:
        return ledger.get(self.vector), ledger.total(names.SCORE_POS) + ledger.total(names.SCORE_NEG)

    def by_bucket(self, ledger: Ledger) -> tuple[list[int], list[int]]:
        weights = [0] * BUCKETS
        for vector in (names.BUCKET_SCORE_POS, names.BUCKET_SCORE_NEG):
            for index, weight in ledger.cells.get(vector, {}).items():
                weights[index // BUCKET_SCORE_BINS] += weight
        return ledger.dense(self.bucketed, BUCKETS), weights


class LogLoss(Lossy):
    """Mean −[y ln p + (1 − y) ln(1 − p)] in nats, p clipped to [2⁻²³, 1 − 2⁻²³]."""

    kind: Literal["log_loss"] = "log_loss"
    most: ClassVar[float | None] = None
    vector = names.LOG_LOSS
    bucketed = names.BUCKET_LOG_LOSS


class Brier(Lossy):
    """Mean (p − y)²."""

    kind: Literal["brier"] = "brier"
    vector = names.BRIER
    bucketed = names.BUCKET_BRIER
