"""What a ranking counts: how early in the list its relevant items stand. All in integers, request by request.

**The order** is that of `position` where all entries have one, else of `score`, the greatest first, where all have one,
else that of the list. Of equals the one that is earlier in the list comes first, because that is how it was shown (to
average over ties, as scikit-learn does by default, would rate another list than the user saw). Positions only order:
those of a list that begins at the third place do not count as third. Of two entries of one item the first counts.

**The gain** of an item is its label times the outcome's weight: the relevance to be expected. A label is read as binary
(`reading.binary`) or as a number (`reading.number`), a negative one as 0; anything else is no label. An item without a
label gains nothing, as is usual for what was not judged (Sakai, Kando 2008, of TREC's pools). An item is relevant when
its gain is above 0. **A list without a relevant item has no value**, not 0: no order of it is better than another.

**NDCG** (Järvelin, Kekäläinen 2002) with linear gain and discount 1 / log₂(rank + 1), as scikit-learn's `ndcg_score`
and torchmetrics define it; with gains of 0 and 1 the exponential gain is the same. The ideal order is that of all items
of the list. A gain counts as a share of the greatest of its list, g = ⌊gain / greatest · 2²⁰ + ½⌋, and a rank with the
stored discount D (`discounts`), so that DCG = Σ g · D is an integer below 2⁵³, and the value of a list in 1e-6 is
⌊DCG / ideal DCG · 10⁶ + ½⌋: one division of doubles and one multiplication, which any engine rounds alike. The error
is at most about 2e-6. Ranks behind the 1,024th have no discount of their own and count nothing.

**Reciprocal rank** is 1 / the rank of the first relevant item, its mean MRR (Voorhees 1999). **Hit at k** says whether
a relevant item is among the first k.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Context, Decimal, localcontext
from functools import lru_cache
from math import floor
from typing import Final

from schemas.event import LabelValue
from schemas.inputs import Item, Prediction
from streams.join.outcome import Items
from streams.measure.ledger import (
    BUCKET_RANKING,
    CUTS,
    HIT_CUTS,
    HITS,
    JUDGED,
    LISTS,
    NDCG,
    RANKING,
    RANKING_CELLS,
    RECIPROCAL,
    RELEVANT,
)
from streams.measure.reading import binary, bucket_of, number

MOST_RANKS: Final = 1_024
ONE: Final = float(1 << 20)
MICRO: Final = 1_000_000
_DECIMAL: Final = Context(prec=40)
_LAST: Final = 2**63


@lru_cache(maxsize=1)
def discounts() -> tuple[int, ...]:
    """Give the discount of each rank from the first on, 1 / log₂(rank + 1), in units of 2⁻²⁰.

    >>> discounts()[:3], len(discounts())
    ((1048576, 661578, 524288), 1024)
    """
    with localcontext(_DECIMAL):
        two = Decimal(2).ln() * (1 << 20)
        return tuple(round(two / Decimal(rank + 1).ln()) for rank in range(1, MOST_RANKS + 1))


def gain(label: LabelValue | None, weight: float) -> float | None:
    """Give the gain of an item's label; None for what is no label of a ranking.

    >>> [gain(label, 0.5) for label in (1, "1", True, 0, 4.0, -2, "cat", None)]
    [0.5, 0.5, 0.5, 0.0, 2.0, 0.0, None, None]
    """
    said = binary(label)
    value = number(label) if said is None else float(said)
    return None if value is None else max(value, 0.0) * weight


def order(items: Sequence[Item]) -> list[str]:
    """Give the items of a ranking, the first first, each once.

    >>> order([Item(item="a", score=0.1), Item(item="b", score=0.9), Item(item="a", score=1.0)])
    ['b', 'a']
    """
    first: dict[str, Item] = {}
    for entry in items:
        first.setdefault(entry.item, entry)
    entries = list(first.values())
    if all(_placed(entry) for entry in entries):
        entries.sort(key=lambda entry: entry.position or 0)
    elif all(entry.score is not None and entry.score == entry.score for entry in entries):
        entries.sort(key=lambda entry: -(entry.score or 0.0))
    return [entry.item for entry in entries]


def cells_of(gains: Sequence[float | None]) -> list[tuple[int, int]]:
    """Give what one list counts, as (cell of `ranking`, amount), from the gains of its items in their order.

    >>> cells_of([0.0, 1.0, None])
    [(0, 1), (1, 1), (2, 1), (3, 630930), (4, 630930), (5, 630930), (6, 500000), (8, 1), (9, 1)]
    >>> cells_of([0.0, None]), cells_of([None])
    ([(0, 1), (1, 1)], [(0, 1)])
    """
    found = [(LISTS, 1)]
    if all(one is None for one in gains):
        return found
    found.append((JUDGED, 1))
    full = [one or 0.0 for one in gains]
    greatest = max(full)
    if not greatest > 0.0:
        return found
    first = next(rank for rank, one in enumerate(full, 1) if one > 0.0)
    found.append((RELEVANT, 1))
    found += [(NDCG + place, value) for place, value in enumerate(_ndcgs(full, greatest))]
    found.append((RECIPROCAL, (2 * MICRO + first) // (2 * first)))
    found += [(HITS + place, 1) for place, cut in enumerate(HIT_CUTS) if first <= cut]
    return found


def _ndcgs(gains: Sequence[float], greatest: float) -> list[int]:
    table = discounts()
    shares = [floor(one / greatest * ONE + 0.5) for one in gains]
    ideal = sorted(shares, reverse=True)
    found = []
    for cut in (*CUTS, MOST_RANKS):
        best = sum(share * discount for share, discount in zip(ideal[:cut], table, strict=False))
        mine = sum(share * discount for share, discount in zip(shares[:cut], table, strict=False))
        found.append(floor(mine / best * MICRO + 0.5))
    return found


def ranking_cells(prediction: Prediction, items: Items) -> list[tuple[str, int, int]]:
    """Give what a standing prediction that is a ranking counts, by its items' outcomes: (vector, index, amount)."""
    if not prediction.items:
        return []
    said = {item: gain(outcome.label, outcome.weight) for item, outcome in items}
    home = bucket_of(prediction) * RANKING_CELLS
    return [
        (vector, offset + cell, amount)
        for cell, amount in cells_of([said.get(item) for item in order(prediction.items)])
        for vector, offset in ((RANKING, 0), (BUCKET_RANKING, home))
    ]


def _placed(entry: Item) -> bool:
    return entry.position is not None and -_LAST <= entry.position < _LAST
