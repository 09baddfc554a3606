"""Rankings counted from arrays: what a trainer or a report counts over many lists at once, the cells of `ranking`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streams.measure.ledger import (
    BUCKET_RANKING,
    BUCKETS,
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
    Ledger,
)
from streams.measure.ranking import MICRO, MOST_RANKS, ONE, discounts
from streams.measure.reading import bucket
from streams.measure.scale import Floats, Ints


def ledger_of_lists(
    gains: Sequence[Sequence[float | None]],
    subjects: Sequence[str],
    scores: Sequence[Sequence[float]] | None = None,
) -> Ledger:
    """Count lists into one ledger: the gains of each one's items (None or NaN: no label) and its subject.

    Items stand in their order, or (`scores`) the greatest score first. Equal, integer for integer, to the sum of
    `ranking.cells_of` over the lists. A list without items is none. Raises `ValueError` when lengths differ.

    >>> found = ledger_of_lists([[0.0, 1.0], [0.0, None]], ["a", "b"])
    >>> [found.get(RANKING, cell) for cell in (LISTS, JUDGED, RELEVANT)]
    [2, 2, 1]
    """
    given = {"gains": len(gains), "subjects": len(subjects)} | ({} if scores is None else {"scores": len(scores)})
    if len(set(given.values())) > 1:
        raise ValueError(f"there must be one length, got {given}")
    by_length: dict[int, list[int]] = {}
    for place, one in enumerate(gains):
        if scores is not None and len(scores[place]) != len(one):
            raise ValueError(f"list {place} must have as many scores as gains, got {len(scores[place])}, {len(one)}")
        if len(one):
            by_length.setdefault(len(one), []).append(place)
    full = np.zeros((BUCKETS, RANKING_CELLS), dtype=np.int64)
    homes = {subject: bucket(subject, "") for subject in set(subjects)}
    for places in by_length.values():
        table = np.array([gains[place] for place in places], dtype=np.float64)
        if scores is not None:
            ranked = np.argsort(-np.array([scores[place] for place in places], dtype=np.float64), axis=1, kind="stable")
            table = np.take_along_axis(table, ranked, axis=1)
        np.add.at(full, [homes[subjects[place]] for place in places], _cells(table))
    ledger = Ledger()
    ledger.add_pairs(RANKING, enumerate(full.sum(axis=0).tolist()))
    ledger.add_pairs(BUCKET_RANKING, enumerate(full.ravel().tolist()))
    return ledger


def _cells(table: Floats) -> Ints:
    """Give what each list counts, lists of one length in rows."""
    found = np.zeros((len(table), RANKING_CELLS), dtype=np.int64)
    found[:, LISTS] = 1
    found[:, JUDGED] = ~np.isnan(table).all(axis=1)
    full = np.nan_to_num(table, nan=0.0, posinf=np.inf)
    good = full.max(axis=1) > 0.0
    full, greatest = full[good], full[good].max(axis=1, keepdims=True)
    found[good, RELEVANT] = 1
    shares = np.floor(full / greatest * ONE + 0.5).astype(np.int64)
    ideal = -np.sort(-shares, axis=1)
    weights = np.array(discounts(), dtype=np.int64)[: full.shape[1]]
    for place, cut in enumerate((*CUTS, MOST_RANKS)):
        mine, best = (_gained(one, weights, cut) for one in (shares, ideal))
        found[good, NDCG + place] = np.floor(mine / best * MICRO + 0.5).astype(np.int64)
    first = np.argmax(full > 0.0, axis=1) + 1
    found[good, RECIPROCAL] = (2 * MICRO + first) // (2 * first)
    for place, cut in enumerate(HIT_CUTS):
        found[good, HITS + place] = first <= cut
    return found


def _gained(shares: Ints, weights: Ints, cut: int) -> Ints:
    kept = min(cut, len(weights))
    total: Ints = (shares[:, :kept] * weights[:kept]).sum(axis=1)
    return total
