"""The SQL that counts raw rows into the cells of ledgers: what predictions, labelled outcomes and features count.

Each query gives (model, version, deployment, role, slice, pane_ms, vector, place, total). The rules are those of
`streams.measure`, in words of another engine; `recount` runs them and compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.control import Reference, ReferenceSet
from schemas.settings import Settings
from services.record.pieces import (
    GUESS,
    HOME,
    SCORE,
    bin_of,
    binary_of,
    class_of,
    figure_of,
    grouped,
    is_bool,
    is_whole,
    pane_of,
    parted,
    said_sql,
    set_of,
    split_of,
)
from services.record.standing import Cuts, listed, quoted
from streams.measure.ledger import FEATURE, SCORE_BINS
from streams.measure.reading import text
from streams.measure.scale import log_loss_nanos, score_edges, span_edges


def traffic_sql(standing: str, settings: Settings) -> str:
    """Count what standing predictions count: n, bucket.rows, score, score.chosen, score.undecided, missing, latency."""
    nothing = "isNull(score) AND prediction_json = '' AND JSONExtractRaw(body, 'score') IN ('', 'null')"
    return f"""
WITH {listed(score_edges(), square=True)} AS score_edges, {listed(span_edges(), square=True)} AS span_edges,
    {SCORE}, {HOME},
    multiIf(isNull(score), {SCORE_BINS}, p < 0, {SCORE_BINS + 1}, p > 1, {SCORE_BINS + 2}, bin) AS cell,
    {GUESS},
    slice != '' AS sliced, NOT sliced AND prefix = '' AS whole
{
        grouped(
            f'''
    ('n', 0, 1),
    ('bucket.rows', home, 1),
    ('score', if(sliced, if(cell < {SCORE_BINS}, intDiv(cell, 4), cell - {SCORE_BINS} + 512), cell), NOT valued),
    ('score.chosen', bin, NOT valued AND NOT sliced AND inside AND guess = 1),
    ('score.undecided', bin, NOT valued AND NOT sliced AND inside AND guess < 0),
    ('latency', {bin_of("ifNull(latency_ms, 0.)", "span_edges")}, whole AND isNotNull(latency_ms)),
    ('missing', 0, whole AND if({nothing}, 1, 0)),
    ('missing', 1, whole AND if(empty(features) AND empty(features_text), JSONLength(body, 'features') = 0, 0)),
    ('missing', 2, whole AND subject = ''),
    ('missing', 3, whole)''',
            parted(standing, settings),
        )
    }"""


def outcomes_sql(standing: str, settings: Settings, cuts: Cuts | None) -> str:
    """Count what labelled outcomes count: everything else but features."""
    said = said_sql(cuts)
    labelled = f"""
SELECT * FROM ({parted(standing, settings)}) AS s INNER JOIN (SELECT * FROM ({said}) WHERE label_json != '') AS f
ON s.request_id = f.said_of AND s.model = f.said_model AND s.deployment = f.said_deployment
    AND s.label_name = toString(f.said_name)"""
    return f"""
WITH {listed(score_edges(), square=True)} AS score_edges, {listed(span_edges(), square=True)} AS span_edges,
    {listed(log_loss_nanos(), square=True)} AS T, {SCORE}, {HOME},
    slice != '' AS sliced,
    toInt64(floor(weight * 1000. + 0.5)) AS w,
    {binary_of("label", "label_json")} AS y,
    y >= 0 AND inside AND NOT valued AS scored,
    {GUESS},
    startsWith(label_json, '[') AND startsWith(prediction_json, '[') AS listed,
    {set_of("label_json")} AS label_set, {set_of("prediction_json")} AS prediction_set,
    toInt64(length(arrayIntersect(label_set, prediction_set))) AS common,
    toInt64(length(label_set)) + toInt64(length(prediction_set)) - common AS every,
    multiIf(
        valued, toInt8(-1),
        listed, toInt8(common = every),
        startsWith(label_json, '"') AND startsWith(prediction_json, '"'), toInt8(label_json = prediction_json),
        {is_bool("label_json")} AND {is_bool("prediction_json")}, toInt8(label_json = prediction_json),
        {is_bool("label_json")} OR {is_bool("prediction_json")}, toInt8(-1),
        {is_whole("label", "label_json")} AND {is_whole("prediction", "prediction_json")}, toInt8(label = prediction),
        toInt8(-1)) AS same,
    NOT scored AND same >= 0 AS compared,
    compared AND startsWith(label_json, '"') AND startsWith(prediction_json, '"') AS classed,
    if(compared AND listed, w, 0) AS sets,
    sets * if(every = 0, 1000000, intDiv(2000000 * common + every, 2 * every)) AS shared,
    if(prediction_json = '', score, {figure_of("prediction", "prediction_json")}) AS answer,
    isNotNull({figure_of("label", "label_json")}) AND abs(label) <= exp2(100) AS plain,
    NOT valued AND NOT scored AND plain AND isNotNull(answer) AND abs(answer) <= exp2(100) AS regressed,
    if(regressed, w, 0) AS rw,
    valued AND plain AS amounted,
    if(amounted, w, 0) AS aw,
    if(regressed OR amounted, assumeNotNull(label), 0.) AS truth,
    if(regressed, assumeNotNull(answer) - truth, 0.) AS error,
    if(truth > 0, aw, -aw) AS signed,
    {split_of("abs(truth)", "amount", 4, 44)},
    abs(error) AS size,
    {split_of("size", "narrow", 2, 32)},
    {split_of("size", "wide", 4, 44)},
    {split_of("size * size", "squared", 4, 44)},
    {split_of("abs(truth)", "told", 2, 32)},
    narrow.2 * narrow.2 AS square,
    told.2 * told.2 AS told_square,
    scored AND guess >= 0 AS decided,
    multiIf(y = 1, if(guess = 1, 0, 2), guess = 1, 1, 3) AS quadrant,
    if(scored, p, 0.5) AS q,
    least(greatest(if(y = 1, q, 1. - q), exp2(-23)), 1. - exp2(-23)) AS x,
    reinterpretAsUInt64(x) AS u,
    toInt64(bitAnd(bitShiftRight(u, 42), 1023)) + 1 AS i,
    toInt64(bitAnd(bitShiftRight(u, 22), 1048575)) AS f,
    (1022 - toInt64(bitShiftRight(u, 52))) * T[1] + T[i] - bitShiftRight((T[i] - T[i + 1]) * f, 20) AS nano,
    if(scored, w * intDiv(nano + 500, 1000), 0) AS log_loss,
    abs(grain - y * 2097152) AS d,
    if(scored, w * bitShiftRight(d * d * 1000000 + bitShiftLeft(toInt64(1), 41), 42), 0) AS brier,
    toInt64(floor(q * 2097152. + 0.5)) AS grain,
    least(bitShiftRight(grain * 15, 21), 14) * 4 AS slot,
    bitShiftRight(grain * (2097152 - grain) * 1000000 + bitShiftLeft(toInt64(1), 41), 42) AS spread,
    intDiv(spread * (1000000 - 4 * spread) + 500000, 1000000) AS twist,
    if(scored AND y = 1, w, 0) AS positive,
    if(scored AND y = 0, w, 0) AS negative,
    home * 64 + intDiv(bin, 32) AS coarse
{
        grouped(
            f'''
    ('labelled', 0, 1),
    ('labelled', 1, w),
    ('kinds', multiIf(kind = 'explicit', 0, kind = 'implicit', 1, 2), 1),
    ('measured', 0, scored),
    ('measured', 1, (decided AND guess = y) OR (compared AND same = 1)),
    ('measured', 2, (decided AND guess != y) OR (compared AND same = 0)),
    ('measured', 3, NOT scored AND same < 0 AND NOT regressed AND NOT amounted),
    ('value', 0, amounted),
    ('value', 1, aw),
    ('value.sum', told.1, signed * told.2),
    ('bucket.value', home, aw),
    ('bucket.value.sum', home * 128 + amount.1, signed * amount.2),
    ('measured', 5, regressed),
    ('measured', 6, classed),
    ('measured', 7, compared AND listed),
    (if(classed, {class_of("label_json")}, ''), if(same = 1, 0, 2), if(classed, w, 0)),
    (if(classed, {class_of("prediction_json")}, ''), 1, if(classed AND same = 0, w, 0)),
    ('jaccard', 0, shared),
    ('jaccard', 1, sets),
    ('bucket.jaccard', home * 2, shared),
    ('bucket.jaccard', home * 2 + 1, sets),
    ('regression', 0, rw),
    (if(error > 0, 'error.over', 'error.under'), narrow.1, rw * narrow.2),
    ('error.square', narrow.1 * 2, rw * bitAnd(square, 16777215)),
    ('error.square', narrow.1 * 2 + 1, rw * bitShiftRight(square, 24)),
    ('error.size', toInt64(bitShiftRight(reinterpretAsUInt64(size), 48)), if(sliced, 0, rw)),
    ('label.sum', told.1, if(sliced, 0, rw * if(truth > 0, told.2, -told.2))),
    ('label.square', told.1 * 2, if(sliced, 0, rw * bitAnd(told_square, 16777215))),
    ('label.square', told.1 * 2 + 1, if(sliced, 0, rw * bitShiftRight(told_square, 24))),
    ('bucket.regression', home, rw),
    (if(error > 0, 'bucket.error.over', 'bucket.error.under'), home * 128 + wide.1, rw * wide.2),
    ('bucket.error.square', home * 128 + squared.1, rw * squared.2),
    ('measured', 4, scored AND guess < 0),
    ('score.pos', intDiv(bin, if(sliced, 4, 1)), positive),
    ('score.neg', intDiv(bin, if(sliced, 4, 1)), negative),
    ('log_loss', 0, log_loss),
    ('brier', 0, brier),
    ('calibration', slot, if(scored, w, 0)),
    ('calibration', slot + 1, if(scored, w * grain, 0)),
    ('calibration', slot + 2, positive),
    ('calibration', slot + 3, if(scored, w * spread, 0)),
    ('spiegelhalter', 0, if(scored, w * twist, 0)),
    ('confusion', quadrant, if(decided, w, 0)),
    ('agreement', 1 - same, if(compared, w, 0)),
    ('bucket.n', home, scored OR compared OR regressed),
    ('bucket.confusion', home * 4 + quadrant, if(decided, w, 0)),
    ('bucket.agreement', home * 2 + 1 - same, if(compared, w, 0)),
    ('bucket.log_loss', home, log_loss),
    ('bucket.brier', home, brier),
    ('bucket.score.pos', coarse, positive),
    ('bucket.score.neg', coarse, negative),
    ('label_delay', {bin_of("toFloat64(ifNull(labelled_at_ms, 0) - at_ms)", "span_edges")},
        NOT sliced AND isNotNull(labelled_at_ms) AND kind != 'timeout')''',
            labelled,
        )
    }"""


def features_sql(standing: str, settings: Settings, given: ReferenceSet) -> str:
    """Count the features of one version in the bins of its reference."""
    one = given.reference
    cells = []
    for name in sorted({*one.edges, *one.categories}):
        cell = _numeric(one, name) if name in one.edges else _categorical(one, name)
        cells.append(f"({quoted(FEATURE + name)}, {cell}, 1)")
    mine = f"model = {quoted(one.model)} AND version = {quoted(one.version)} AND at_ms >= {given.at_ms}"
    of_version = f"SELECT *, '' AS slice, '' AS prefix, {pane_of(settings)} AS pane_ms FROM ({standing}) WHERE {mine}"
    return grouped(", ".join(cells), of_version)


def bodies_sql(standing: str, settings: Settings, model: str, version: str, at_ms: int) -> str:
    """Give (version, deployment, role, pane_ms, body) of the predictions of a version from `at_ms` on."""
    mine = f"model = {quoted(model)} AND version = {quoted(version)} AND at_ms >= {at_ms}"
    return f"SELECT version, deployment, role, {pane_of(settings)} AS pane_ms, body FROM ({standing}) WHERE {mine}"


def _numeric(one: Reference, name: str) -> str:
    key, edges = quoted(name), one.edges[name]
    least, greatest = one.ranges[name]
    # A string is missing, but a boolean is a number: `features_text` holds both, the body tells them apart.
    said = f"if(mapContains(features_text, {key}), JSONExtractRaw(body, 'features', {key}), '')"
    value = (
        f"if(mapContains(features, {key}), toNullable(features[{key}]), "
        f"multiIf({said} = 'true', toNullable(1.), {said} = 'false', toNullable(0.), NULL))"
    )
    inner = len(edges) + 1
    place = bin_of(f"ifNull({value}, 0.)", listed(edges, square=True), first=edges[0]) if edges else "0"
    return (
        f"multiIf(isNull({value}), {inner}, {value} < {least!r}, {inner + 1}, {value} > {greatest!r}, {inner + 2}, "
        f"{place})"
    )


def _categorical(one: Reference, name: str) -> str:
    key, known = quoted(name), one.categories[name]
    count = len(known)
    index = {value: i for i, value in enumerate(known)}
    numbers = {float(value): i for value, i in index.items() if _names_number(value)}

    def found(value: str, among: Mapping[Any, int]) -> str:
        if not among:
            return str(count + 1)
        names = ", ".join(quoted(one) if isinstance(one, str) else repr(one) for one in among)
        return f"transform({value}, [{names}], {listed(among.values(), square=True)}, {count + 1})"

    return (
        f"multiIf(mapContains(features_text, {key}), {found(f'features_text[{key}]', index)}, "
        f"mapContains(features, {key}), {found(f'features[{key}]', numbers)}, {count})"
    )


def _names_number(category: str) -> bool:
    """Say whether a category is what a number would be written as."""
    try:
        return text(float(category)) == category
    except (ValueError, OverflowError):
        return False
