"""The SQL that counts rankings from raw predictions and the last revisions of their items' outcomes.

The rules are those of `streams.measure.ranking`. A list is an array of (item, score, position), and a gain is looked
up by item; a `position` or a `score` that its column cannot hold is none.
"""

from __future__ import annotations

from schemas.settings import Settings
from services.record.pieces import HOME, binary_of, figure_of, grouped, parted, said_sql
from services.record.standing import Cuts, listed
from streams.measure.ledger import CUTS, HIT_CUTS, HITS, JUDGED, LISTS, NDCG, RANKING_CELLS, RECIPROCAL, RELEVANT
from streams.measure.ranking import MOST_RANKS, discounts

_ITEMS = "Array(Tuple(item String, score Nullable(Float64), position Nullable(Int64)))"


def rankings_sql(standing: str, settings: Settings, cuts: Cuts | None) -> str:
    """Count what rankings count: `ranking` and `bucket.ranking`, of the whole and of slices."""
    gains = f"""
SELECT said_of, said_model, said_deployment, said_name, groupArray(said_item) AS said_items, groupArray(gain) AS gains
FROM (
    SELECT *, {binary_of("label", "label_json")} AS y, {figure_of("label", "label_json")} AS figure,
        multiIf(y >= 0, toFloat64(y), abs(figure) <= exp2(100), greatest(figure, 0.), NULL) * weight AS gain
    FROM ({said_sql(cuts, items=True)}) WHERE label_json != ''
) WHERE isNotNull(gain) GROUP BY said_of, said_model, said_deployment, said_name"""
    lists = f"""
SELECT * FROM (
    SELECT *, JSONExtract(ifNull(body, ''), 'items', '{_ITEMS}') AS items FROM ({parted(standing, settings)})
    WHERE NOT valued AND notEmpty(items)
) AS s LEFT JOIN ({gains}) AS f
ON s.request_id = f.said_of AND s.model = f.said_model AND s.deployment = f.said_deployment
    AND s.label_name = toString(f.said_name)"""
    cells = [(LISTS, "1"), (JUDGED, "judged"), (RELEVANT, "first > 0")]
    cells += [(NDCG + place, _ndcg(cut)) for place, cut in enumerate((*CUTS, MOST_RANKS))]
    cells.append((RECIPROCAL, "if(first > 0, intDiv(2000000 + first, 2 * greatest(first, 1)), 0)"))
    cells += [(HITS + place, f"first BETWEEN 1 AND {cut}") for place, cut in enumerate(HIT_CUTS)]
    told = [
        f"('{vector}', {offset}{cell}, {value})"
        for cell, value in cells
        for vector, offset in (("ranking", ""), ("bucket.ranking", f"home * {RANKING_CELLS} + "))
    ]
    return f"""
WITH {listed(discounts(), square=True)} AS discounts, {HOME},
    arrayMap(one -> one.item, items) AS entered,
    arrayFilter((one, place) -> indexOf(entered, one.item) = place, items, arrayEnumerate(items)) AS once,
    arrayAll(one -> isNotNull(one.position), once) AS placed,
    arrayAll(one -> isNotNull(one.score), once) AS scored,
    arraySort(arrayMap((one, place) -> (
        if(placed, ifNull(one.position, 0), 0), if(NOT placed AND scored, -ifNull(one.score, 0.), 0.), place, one.item
    ), once, arrayEnumerate(once))) AS ordered,
    arrayMap(one -> indexOf(said_items, one.4), ordered) AS told,
    arrayMap(place -> if(place = 0, 0., assumeNotNull(gains[place])), told) AS gained,
    arrayMax(told) > 0 AS judged,
    toInt64(arrayFirstIndex(one -> one > 0, gained)) AS first,
    arrayMax(gained) AS most,
    arrayMap(one -> if(most > 0, toInt64(floor(one / most * 1048576. + 0.5)), 0), gained) AS shares,
    arrayReverseSort(shares) AS ideal
{grouped(", ".join(told), lists)}"""


def _ndcg(cut: int) -> str:
    """Give the value of one list at a cut in 1e-6, 0 where nothing is relevant."""

    def gained(shares: str) -> str:
        kept = f"arraySlice({shares}, 1, {cut})"
        return f"arraySum((share, discount) -> share * discount, {kept}, arraySlice(discounts, 1, length({kept})))"

    return f"if(most > 0, toInt64(floor({gained('shares')} / {gained('ideal')} * 1000000. + 0.5)), 0)"
