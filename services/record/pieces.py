"""Pieces of the SQL that counts raw rows: the rules of `streams.measure.reading` and `scale` in words of ClickHouse."""

from __future__ import annotations

from schemas.settings import Settings
from services.record.standing import Cuts, any_of, quoted
from streams.measure.ledger import CLASS, LABEL, OTHER
from streams.measure.measure import MOST_NAME_BYTES

EXACT = 2**53


def bin_of(value: str, edges: str, *, first: float | None = None) -> str:
    """Count the edges ≤ a value: the greatest of them is found by halving, then its place by a table."""
    least = f"{edges}[1]" if first is None else repr(first)
    places = f"arrayEnumerate({edges})"
    return f"if({value} < {least}, 0, transform(roundDown({value}, {edges}), {edges}, {places}, 0))"


SCORE = f"""ifNull(score, -1.) AS p, isNotNull(score) AND p >= 0 AND p <= 1 AS inside,
    if(inside, {bin_of("p", "score_edges")}, 0) AS bin"""
HOME = "toInt64(xxh3(if(subject = '', request_id, subject)) % 64) AS home"


def binary_of(value: str, json: str) -> str:
    return (
        f"multiIf({json} = '', toInt8(-1), {json} = '\"1\"', toInt8(1), {json} = '\"0\"', toInt8(0), "
        f"{value} = 1, toInt8(1), {value} = 0, toInt8(0), toInt8(-1))"
    )


GUESS = f"""if(prediction_json = '', toInt8(p >= ifNull(threshold, 0.5)),
    {binary_of("prediction", "prediction_json")}) AS guess"""


def set_of(json: str) -> str:
    """Give the distinct elements of a list of labels, empty for anything else. Minus nought is nought."""
    elements = f"JSONExtractArrayRaw(if(listed, {json}, '[]'))"
    return f"arrayDistinct(arrayMap(one -> if(one IN ('-0.0', '-0', '0.0'), '0', one), {elements}))"


def class_of(json: str) -> str:
    """Give the vector of a class."""
    name = f"JSONExtractString({json})"
    return f"concat('{CLASS}', if(length({name}) > 64, '{OTHER}', {name}))"


def figure_of(value: str, json: str) -> str:
    """Give a plain number; NULL for a boolean and for what is no number."""
    return f"if({is_bool(json)}, NULL, {value})"


def split_of(value: str, name: str, power: int, shift: int) -> str:
    """Name the (level, mantissa) of a number that is not negative: `scale.split` with 2 and 32, wide with 4 and 44."""
    return f"""reinterpretAsUInt64({value}) AS {name}_bits,
    toInt64(bitShiftRight({name}_bits, 52)) AS {name}_power,
    {shift} - bitAnd({name}_power, {(1 << power) - 1}) AS {name}_drop,
    (toInt64(bitShiftRight({name}_power, {power})), if({name}_power = 0, toInt64(0), bitShiftRight(
        toInt64(bitAnd({name}_bits, {(1 << 52) - 1})) + {1 << 52} + bitShiftLeft(toInt64(1), {name}_drop - 1),
        {name}_drop))) AS {name}"""


def is_bool(json: str) -> str:
    return f"{json} IN ('true', 'false')"


def is_whole(value: str, json: str) -> str:
    return (
        f"(isNotNull({value}) AND abs({value}) <= {EXACT} AND {value} = trunc({value}) "
        f"AND (NOT match({json}, '^-?[0-9]+$') OR abs(toInt128OrZero({json})) <= {EXACT}))"
    )


def pane_of(settings: Settings) -> str:
    return f"intDiv(at_ms, {settings.join.pane_ms}) * {settings.join.pane_ms}"


def by_name(standing: str) -> str:
    """Give each prediction once for each label name of its policy: `label_name`, the score that its outcome is about,
    what stands before the names of its vectors (`prefix`), and whether its labels are amounts (`valued`).
    """
    quoted_name = "replaceAll(replaceAll(one_name, '%', '%25'), ':', '%3A')"
    return f"""
SELECT * REPLACE (
    one_name AS label_name, if(mapContains(outputs, one_name), toNullable(outputs[one_name]), score) AS score)
FROM (
    SELECT *, arrayJoin(arrayConcat([label_name], arrayFilter(name -> length(name) <= {MOST_NAME_BYTES}, other_names)))
        AS one_name, if(one_name = label_name, '', concat('{LABEL}', {quoted_name}, ':')) AS prefix,
        has(value_names, one_name) AS valued
    FROM ({standing})
)"""


def parted(standing: str, settings: Settings) -> str:
    """Give each prediction once for the whole and, where it is in a slice, once for that."""
    parts = "['']"
    if settings.join.slice_dimension:
        key = quoted(settings.join.slice_dimension)
        there = (
            f"mapContains(slices, {key}) AND (slices[{key}] != '' OR JSONExtractRaw(body, 'slices', {key}) = '\"\"')"
        )
        parts = f"if({there}, ['', concat({key}, '=', slices[{key}])], [''])"
    return f"SELECT *, arrayJoin({parts}) AS slice, {pane_of(settings)} AS pane_ms FROM ({standing})"


def grouped(cells: str, parted: str) -> str:
    """Sum (vector, index, value) of all rows by pane; what is zero stays away."""
    return f"""
SELECT model, version, deployment, role, slice, pane_ms,
    concat(prefix, cell_of.1) AS vector, cell_of.2 AS place, sum(cell_of.3) AS total
FROM (
    SELECT model, version, deployment, role, slice, pane_ms, prefix, arrayJoin(
        CAST([{cells}], 'Array(Tuple(String, Int64, Int64))')) AS cell_of
    FROM ({parted})
)
WHERE cell_of.3 != 0 GROUP BY model, version, deployment, role, slice, pane_ms, vector, place"""


def said_sql(cuts: Cuts | None, *, items: bool = False) -> str:
    """Give the last revision of each outcome: of predictions as a whole, or of the items of rankings."""
    until = ""
    if cuts is not None:
        places = (f"(partition = {n} AND joined_at_ms <= {step.clock_ms})" for n, step in cuts.items())
        until = f"AND ({any_of(places)})"
    return f"""
SELECT request_id AS said_of, model AS said_model, deployment AS said_deployment, name AS said_name, label, label_json,
    toString(ifNull(label_kind, 'explicit')) AS kind, weight, labelled_at_ms, ifNull(item, '') AS said_item
FROM feedback WHERE unreadable = '' AND {"isNotNull" if items else "isNull"}(item) {until}
ORDER BY (offset, idx) DESC LIMIT 1 BY request_id, model, deployment, name, item"""
