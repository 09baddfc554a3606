"""Figures of rankings: how early in the list the relevant items stand. `streams.measure.ranking` defines them.

Each list counts alike, and only those do in which an item is relevant: `relevant_rate` says how many they are, and a
change of it (fewer clicks at all, say) shows in none of the others. A list lies whole in the bucket of its subject, so
the interval is that of every ratio. `maturity` is the share of the lists of which an item has a label.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from streams.measure import ledger as names
from streams.measure.ledger import BUCKETS, RANKING_CELLS, Ledger
from streams.measure.metrics.base import Measured, Ratio, share, wilson


class Ranked(Ratio):
    """A mean over lists."""

    unit: ClassVar[float] = 1e6
    top: ClassVar[int]
    bottom: ClassVar[int] = names.RELEVANT

    def sums(self, ledger: Ledger) -> tuple[int, int]:
        return ledger.get(names.RANKING, self.top), ledger.get(names.RANKING, self.bottom)

    def by_bucket(self, ledger: Ledger) -> tuple[list[int], list[int]]:
        cells = ledger.dense(names.BUCKET_RANKING, BUCKETS * RANKING_CELLS)
        return cells[self.top :: RANKING_CELLS], cells[self.bottom :: RANKING_CELLS]

    def n(self, ledger: Ledger) -> int:
        return ledger.get(names.RANKING, self.bottom)

    def measured(self, ledger: Ledger) -> Measured:
        return super().measured(ledger) if self.n(ledger) else Measured(None, None, None, 0, 0)

    def maturity(self, ledger: Ledger) -> float:
        return share(ledger.get(names.RANKING, names.JUDGED), ledger.get(names.RANKING, names.LISTS))


class Listed(Ranked):
    """A share of lists."""

    unit: ClassVar[float] = 1.0

    def _floor(self, ledger: Ledger, low: float, high: float) -> tuple[float, float]:
        least, most = wilson(*self.sums(ledger))
        return min(low, least), max(high, most)


class NdcgAt5(Ranked):
    """Normalised discounted cumulative gain of the first 5, linear gain, of lists with a relevant item."""

    kind: Literal["ndcg_at_5"] = "ndcg_at_5"
    top = names.NDCG


class NdcgAt10(Ranked):
    """Normalised discounted cumulative gain of the first 10, linear gain, of lists with a relevant item."""

    kind: Literal["ndcg_at_10"] = "ndcg_at_10"
    top = names.NDCG + 1


class Ndcg(Ranked):
    """Normalised discounted cumulative gain of the whole list, linear gain, of lists with a relevant item."""

    kind: Literal["ndcg"] = "ndcg"
    top = names.NDCG + 2


class Mrr(Ranked):
    """Mean reciprocal rank of the first relevant item, of lists that have one."""

    kind: Literal["mrr"] = "mrr"
    top = names.RECIPROCAL


class HitAt1(Listed):
    """The share of the lists with a relevant item in which the first item is relevant."""

    kind: Literal["hit_at_1"] = "hit_at_1"
    top = names.HITS


class HitAt5(Listed):
    """The share of the lists with a relevant item that have one among the first 5."""

    kind: Literal["hit_at_5"] = "hit_at_5"
    top = names.HITS + 1


class HitAt10(Listed):
    """The share of the lists with a relevant item that have one among the first 10."""

    kind: Literal["hit_at_10"] = "hit_at_10"
    top = names.HITS + 2


class RelevantRate(Listed):
    """The share of the lists with a labelled item in which an item is relevant."""

    kind: Literal["relevant_rate"] = "relevant_rate"
    top = names.RELEVANT
    bottom = names.JUDGED
