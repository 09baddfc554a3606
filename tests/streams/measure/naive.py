"""The naive twin of `streams.measure`: ledgers from scratch, from the list of what counts now. It shares no code."""

from __future__ import annotations

import math
import struct
from collections import Counter
from decimal import Decimal, getcontext, localcontext
from fractions import Fraction
from functools import cache
from statistics import NormalDist
from typing import Any

import xxhash
from msgspec.structs import replace

from schemas.control import EmbeddingReference, ParitySet, Reference
from schemas.inputs import Prediction
from streams.join.outcome import Counted, Outcome

Counts = dict[tuple[Any, ...], dict[str, dict[int, int]]]


@cache
def _logit_edges() -> list[float]:
    with localcontext() as context:
        context.prec = 60
        return [float(1 / (1 + (-(Decimal(i) / 64 - 16)).exp())) for i in range(1, 2048)]


@cache
def _spans() -> list[float]:
    with localcontext() as context:
        context.prec = 60
        return [float(Decimal("0.01") * (Decimal(101) / 99) ** i) for i in range(1498)]


@cache
def _nano(j: int) -> int:
    with localcontext() as context:
        context.prec = 60
        return int((Decimal(10) ** 9 * (2 / (1 + Decimal(j) / 1024)).ln()).to_integral_value())


def _at_most(edges: list[float], x: float) -> int:
    return sum(edge <= x for edge in edges)


def _micro_nats(p: float, y: bool) -> int:
    x = p if y else 1.0 - p
    x = 2**-23 if x < 2**-23 else 1 - 2**-23 if x > 1 - 2**-23 else x
    u = int.from_bytes(struct.pack(">d", x), "big")
    halvings, j, rest = 1022 - (u >> 52), (u >> 42) % 1024, (u >> 22) % 2**20
    return (halvings * _nano(0) + _nano(j) - ((_nano(j) - _nano(j + 1)) * rest) // 2**20 + 500) // 1000


def _millionths(p: float, y: bool) -> int:
    d = abs(int((Decimal(p) * 2**21 + Decimal("0.5")).to_integral_value(rounding="ROUND_FLOOR")) - (2**21 if y else 0))
    return (d * d * 10**6 + 2**41) // 2**42


def _class(value: Any) -> bool | None:
    if type(value) is str:
        return {"1": True, "0": False}.get(value)
    if type(value) in (bool, int, float):
        return {1.0: True, 0.0: False}.get(float(value)) if abs(value) < 2 else None
    return None


def _same(a: Any, b: Any) -> bool | None:
    kinds = {type(a), type(b)}
    if kinds in ({str}, {bool}):
        return bool(a == b)
    if kinds == {list}:
        return all(v in b for v in a) and all(v in a for v in b)
    if kinds <= {int, float} and all(abs(v) <= 2**53 and v % 1 == 0 for v in (a, b)):
        return bool(a == b)
    return None


def _magnitude(x: float) -> int | None:
    """The power of two in a number, None below all normal ones."""
    if x < 2**-1022:
        return None
    power = -1022
    while Fraction(2) ** (power + 1) <= Fraction(x):
        power += 1
    return power


def _split(x: float, wide: int, lowest: int) -> tuple[int, int]:
    power = _magnitude(x)
    if power is None:
        return 0, 0
    level = (power + 1023) // wide
    return level, int(Fraction(x) / Fraction(2) ** (wide * level + lowest) + Fraction(1, 2))


def _error(c: Counter[tuple[str, int]], label: float, answer: float, w: int, home: int, fold: int) -> None:
    error = answer - label
    size, side = abs(error), "over" if error > 0 else "under"
    c["measured", 5] += 1
    c["regression", 0] += w
    c["bucket.regression", home] += w
    level, mantissa = _split(size, 4, -1043)
    c[f"error.{side}", level] += w * mantissa
    for limb in (0, 1):
        c["error.square", level * 2 + limb] += w * (mantissa**2 // 2 ** (24 * limb) % 2 ** (24 + 24 * limb))
    level, mantissa = _split(size, 16, -1031)
    c[f"bucket.error.{side}", home * 128 + level] += w * mantissa
    level, mantissa = _split(error * error, 16, -1031)
    c["bucket.error.square", home * 128 + level] += w * mantissa
    if fold > 1:
        return
    power = _magnitude(size)
    octave = -1022 if power is None else power
    c["error.size", int(Fraction(size) / Fraction(2) ** octave * 16) + 16 * (octave + 1022)] += w
    level, mantissa = _split(abs(label), 4, -1043)
    c["label.sum", level] += w * (mantissa if label > 0 else -mantissa)
    for limb in (0, 1):
        c["label.square", level * 2 + limb] += w * (mantissa**2 // 2 ** (24 * limb) % 2 ** (24 + 24 * limb))


def _words(value: Any) -> str:
    if type(value) is bool:
        return str(value).lower()
    if type(value) in (int, float):
        return str(int(value)) if abs(value) <= 2**53 and value % 1 == 0 else repr(value)
    return str(value)


def _feature(reference: Reference, name: str, value: Any) -> int:
    if name in reference.edges:
        edges, (least, greatest) = reference.edges[name], reference.ranges[name]
        if value is None or type(value) is str:
            return len(edges) + 1
        return len(edges) + 2 if value < least else len(edges) + 3 if value > greatest else _at_most(edges, value)
    known = reference.categories[name]
    return len(known) if value is None else known.index(_words(value)) if _words(value) in known else len(known) + 1


@cache
def _frequencies(dimension: int, frequencies: int, seed: int) -> list[list[int]]:
    """Frequency by frequency, a number at a time, in Python's integers."""
    law = NormalDist()
    found: list[list[int]] = []
    for j in range(frequencies):
        found.append([])
        for i in range(dimension):
            z = ((j * dimension + i + 1) * 0x9E3779B97F4A7C15 + seed * 0xD1342543DE82EF95) % 2**64
            z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
            z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
            z ^= z >> 31
            found[-1].append(round(law.inv_cdf((z // 2**52 + 0.5) / 4096) / (2 * math.pi) * 2**14))
    return found


def _embedding(c: Counter[tuple[str, int]], given: EmbeddingReference, vector: Any) -> None:
    """The features of one vector by their definition: angles are whole numbers of a 2⁻³⁰ turn."""
    placed = []
    if vector and len(vector) == given.dimension:
        placed = [(x - m) * (65536 / given.bandwidth) for x, m in zip(vector, given.centre, strict=True)]
    if not placed or any(math.isinf(x) or abs(round(x)) > 512 * 65536 for x in placed):
        c["embedding.rows", 3 if placed else 2 if vector else 1] += 1
        return
    c["embedding.rows", 0] += 1
    for j, frequency in enumerate(_frequencies(given.dimension, given.frequencies, given.seed)):
        step = (sum(round(x) * w for x, w in zip(placed, frequency, strict=True)) + 2**17) // 2**18 % 4096
        c["embedding", j] += round(math.cos(2 * math.pi * step / 4096) * 1024)
        c["embedding", given.frequencies + j] += round(math.cos(2 * math.pi * ((step - 1024) % 4096) / 4096) * 1024)


def _parity(c: Counter[tuple[str, int]], given: ParitySet, p: Prediction) -> None:
    """A prediction beside its frozen row, a value at a time."""
    if p.at_ms < given.at_ms or (given.until_ms and p.at_ms >= given.until_ms):
        return
    own = {"request_id": p.request_id, "subject": p.subject or None}
    key = [own[n] if n in own else p.features[n] if n in p.features else p.slices.get(n) for n in given.key]
    for at, row in enumerate(given.rows):
        if None in key or [_words(one) for one in key] != row.key:
            continue
        pairs = [(f"feature:{name}", one, p.features.get(name)) for name, one in row.features.items()]
        pairs += [] if row.score is None else [("score", row.score, p.score)]  # type: ignore[list-item]
        wrong = False
        for name, a, b in pairs:
            numbers = {type(a), type(b)} <= {int, float}
            room = Fraction(given.absolute) + Fraction(given.relative) * max(abs(a), abs(b)) if numbers else 0  # type: ignore[arg-type]
            same = a == b and type(a) is type(b)
            if numbers:
                same = a == b or (float in (type(a), type(b)) and abs(Fraction(a) - Fraction(b)) <= room)  # type: ignore[arg-type]
            c[f"parity:{name}", 0] += 1
            if not same:
                wrong = True
                for cell in (1, 4 + at, *([2] if b is None else [3] if a is None else [])):
                    c[f"parity:{name}", cell] += 1
        c["parity:rows", 0] += 1
        for cell in (1, 4 + at) if wrong else ():
            c["parity:rows", cell] += 1


def _rank(c: Counter[tuple[str, int]], p: Prediction, items: Any, home: int) -> None:
    """A ranking by the definition, the rounding apart: each sum over the list written out."""
    entries: list[Any] = []
    for entry in p.items or []:
        if all(entry.item != other.item for other in entries):
            entries.append(entry)
    if all(entry.position is not None for entry in entries):
        place = [entry.position for entry in entries]
    elif all(entry.score is not None for entry in entries):
        place = [-entry.score for entry in entries]
    else:
        place = [0 for _ in entries]
    listed = [entries[i].item for i in sorted(range(len(entries)), key=lambda i: (place[i], i))]
    gains: list[float | None] = []
    for item in listed:
        outcome = dict(items).get(item, Outcome())
        y = _class(outcome.label)
        if y is not None:
            gains.append(y * outcome.weight)
        elif type(outcome.label) in (int, float) and abs(outcome.label) <= 2**100:
            gains.append(max(float(outcome.label), 0.0) * outcome.weight)
        else:
            gains.append(None)
    told = {0: 1, 1: 0, 2: 0}
    if any(one is not None for one in gains):
        told[1] = 1
    relevant = [rank for rank, one in enumerate(gains, 1) if one]
    if relevant:
        best = max(one for one in gains if one is not None)
        shares = [int(Fraction((one or 0.0) / best) * 2**20 + Fraction(1, 2)) for one in gains]
        for cell, cut in ((3, 5), (4, 10), (5, 1024)):
            dcg, ideal = (
                sum(one * _discount(rank) for rank, one in enumerate(ranked, 1) if rank <= cut)
                for ranked in (shares, sorted(shares)[::-1])
            )
            told[cell] = int(Fraction(dcg / ideal * 10**6) + Fraction(1, 2))
        told[2] = 1
        told[6] = int(Fraction(10**6, relevant[0]) + Fraction(1, 2))
        told |= {7: relevant[0] == 1, 8: relevant[0] <= 5, 9: relevant[0] <= 10}
    for cell, amount in told.items():
        c["ranking", cell] += amount
        c["bucket.ranking", home * 10 + cell] += amount


@cache
def _discount(rank: int) -> int:
    with localcontext() as context:
        context.prec = 60
        return int((2**20 / ((Decimal(rank) + 1).ln() / Decimal(2).ln())).to_integral_value())


def _under(c: Counter[tuple[str, int]], p: Prediction, other: Any, fold: int) -> None:
    """Another label name: the same again with the score of its output, but for what is of the prediction alone."""
    alone: Counter[tuple[str, int]] = Counter()
    if other.value:
        _amount(alone, p, other.outcome, fold)
        for vector in ("n", "bucket.rows"):
            alone[vector, 0 if vector == "n" else _home(p)] += 1
    else:
        _answered(alone, p, other, fold)
    name = other.name.replace("%", "%25").replace(":", "%3A")
    for (vector, index), total in alone.items():
        if vector != "missing":
            c[f"label:{name}:{vector}", index] += total


def _home(p: Prediction) -> int:
    return xxhash.xxh3_64((p.subject or p.request_id).encode()).intdigest() % 64


def _amount(c: Counter[tuple[str, int]], p: Prediction, outcome: Outcome, fold: int) -> None:
    """A label that is an amount."""
    label = outcome.label
    if label is None:
        return
    w = int(outcome.weight * 1000 + 0.5)
    c["labelled", 0] += 1
    c["labelled", 1] += w
    c["kinds", ["explicit", "implicit", "timeout"].index(str(outcome.kind))] += 1
    if fold == 1 and outcome.kind != "timeout" and outcome.labelled_at_ms is not None:
        c["label_delay", _at_most(_spans(), outcome.labelled_at_ms - p.at_ms)] += 1
    if type(label) not in (int, float) or abs(float(label)) > 2**100:  # type: ignore[arg-type]
        c["measured", 3] += 1
        return
    value = float(label)  # type: ignore[arg-type]
    c["value", 0] += 1
    c["value", 1] += w
    c["bucket.value", _home(p)] += w
    for vector, wide, lowest, home in (("value.sum", 4, -1043, 0), ("bucket.value.sum", 16, -1031, _home(p) * 128)):
        level, mantissa = _split(abs(value), wide, lowest)
        c[vector, home + level] += w * (mantissa if value > 0 else -mantissa)


def _answered(alone: Counter[tuple[str, int]], p: Prediction, other: Any, fold: int) -> None:
    score = (p.outputs or {}).get(other.name, p.score)
    _one(alone, replace(p, score=score, latency_ms=None, features={}), other.outcome, fold, None)
    if other.items is not None:
        _rank(alone, p, other.items, xxhash.xxh3_64((p.subject or p.request_id).encode()).intdigest() % 64)


def count(
    standing: list[Any],
    *,
    pane_ms: int,
    dimension: str = "",
    references: dict[tuple[str, str], Reference] | None = None,
    parities: dict[tuple[str, str], ParitySet] | None = None,
) -> Counts:
    """Count everything again: `Counted`, or (prediction, outcome)."""
    getcontext().prec = 60
    counters: dict[tuple[Any, ...], Counter[tuple[str, int]]] = {}
    for one in standing:
        counted = one if isinstance(one, Counted) else Counted(*one)
        p, outcome = counted.prediction, counted.outcome
        if counted.output is not None:
            p = replace(p, score=(p.outputs or {})[counted.output])
        pane = p.at_ms - p.at_ms % pane_ms
        key = (p.model, p.version, p.deployment, p.role)
        part = p.slices.get(dimension)
        spots = [("", pane)] + ([] if part is None or not dimension else [(f"{dimension}={_words(part)}", pane)])
        for spot in spots:
            reference = (references or {}).get((p.model, p.version))
            _one(counters.setdefault(key + spot, Counter()), p, outcome, 4 if spot[0] else 1, reference)
            if not spot[0] and (p.model, p.version) in (parities or {}):
                _parity(counters[key + spot], (parities or {})[p.model, p.version], counted.prediction)
            if counted.items is not None:
                home = xxhash.xxh3_64((p.subject or p.request_id).encode()).intdigest() % 64
                _rank(counters[key + spot], p, counted.items, home)
            for other in counted.others:
                _under(counters[key + spot], counted.prediction, other, 4 if spot[0] else 1)
    found: Counts = {}
    for key, counter in counters.items():
        for (name, index), total in counter.items():
            if total:
                found.setdefault(key, {}).setdefault(name, {})[index] = total
    return found


def _one(c: Counter[tuple[str, int]], p: Prediction, outcome: Outcome, fold: int, reference: Reference | None) -> None:
    bins = 2048 // fold
    number = type(p.score) in (int, float)
    unit = number and 0 <= p.score <= 1  # type: ignore[operator]
    index = _at_most(_logit_edges(), p.score) if unit else -1  # type: ignore[arg-type]
    home = xxhash.xxh3_64((p.subject or p.request_id).encode()).intdigest() % 64
    c["n", 0] += 1
    c["bucket.rows", home] += 1
    if unit:
        c["score", index // fold] += 1
    elif number:
        c["score", bins + (1 if p.score < 0 else 2)] += 1  # type: ignore[operator]
    else:
        c["score", bins] += 1
    limit = 0.5 if p.threshold is None else p.threshold
    guess = None if not unit else _class(p.prediction) if p.prediction is not None else p.score >= limit  # type: ignore[operator]
    if fold == 1:
        if guess:
            c["score.chosen", index] += 1
        if unit and guess is None:
            c["score.undecided", index] += 1
        if p.latency_ms is not None:
            c["latency", _at_most(_spans(), p.latency_ms)] += 1
        c["missing", 0] += p.score is None and p.prediction is None
        c["missing", 1] += not p.features
        c["missing", 2] += p.subject == ""
        c["missing", 3] += 1
        for name in [*reference.edges, *reference.categories] if reference else []:
            c[f"feature:{name}", _feature(reference, name, p.features.get(name))] += 1  # type: ignore[arg-type]
        if reference and reference.embedding:
            _embedding(c, reference.embedding, p.embedding)
    if outcome.label is None:
        return
    w = int(outcome.weight * 1000 + 0.5)
    c["labelled", 0] += 1
    c["labelled", 1] += w
    c["kinds", ["explicit", "implicit", "timeout"].index(str(outcome.kind))] += 1
    if fold == 1 and outcome.kind != "timeout" and outcome.labelled_at_ms is not None:
        c["label_delay", _at_most(_spans(), outcome.labelled_at_ms - p.at_ms)] += 1
    y = _class(outcome.label)
    if y is not None and unit:
        score = float(p.score)  # type: ignore[arg-type]
        c["measured", 0] += 1
        c["bucket.n", home] += 1
        sign = "pos" if y else "neg"
        c[f"score.{sign}", index // fold] += w
        c[f"bucket.score.{sign}", home * 64 + index // 32] += w
        for name, loss in (("log_loss", _micro_nats(score, y)), ("brier", _millionths(score, y))):
            c[name, 0] += loss * w
            c[f"bucket.{name}", home] += loss * w
        grains = int((Decimal(score) * 2**21 + Decimal("0.5")).to_integral_value(rounding="ROUND_FLOOR"))
        claimed = (Decimal(grains * (2**21 - grains) * 10**6) / 2**42 + Decimal("0.5")) // 1
        slot = 4 * min(14, grains * 15 // 2**21)
        for shift, amount in enumerate((1, grains, int(y), int(claimed))):
            c["calibration", slot + shift] += amount * w
        c["spiegelhalter", 0] += int((claimed * (10**6 - 4 * claimed) / 10**6 + Decimal("0.5")) // 1) * w
        if guess is None:
            c["measured", 4] += 1
            return
        cell = {(True, True): 0, (True, False): 1, (False, True): 2, (False, False): 3}[guess, y]
        c["confusion", cell] += w
        c["bucket.confusion", home * 4 + cell] += w
        c["measured", 1 if guess == y else 2] += 1
        return
    same = _same(outcome.label, p.prediction)
    answer = p.prediction if p.prediction is not None else p.score
    pair = [float(v) for v in (outcome.label, answer) if type(v) in (int, float) and abs(float(v)) <= 2**100]  # type: ignore[arg-type]
    if len(pair) == 2:
        _error(c, pair[0], pair[1], w, home, fold)
        c["bucket.n", home] += 1
    elif same is None:
        c["measured", 3] += 1
    else:
        c["bucket.n", home] += 1
    if same is None:
        return
    c["measured", 1 if same else 2] += 1
    c["agreement", 0 if same else 1] += w
    if type(p.prediction) is str:
        true, guess = ("~other" if len(v.encode()) > 64 else v for v in (str(outcome.label), p.prediction))
        c["measured", 6] += 1
        c[f"class:{true}", 0 if same else 2] += w
        c[f"class:{guess}", 1] += 0 if same else w
    elif type(p.prediction) is list:
        either = [*p.prediction, *(v for v in outcome.label if v not in p.prediction)]  # type: ignore[union-attr]
        either = [v for i, v in enumerate(either) if v not in either[:i]]
        both = sum(v in p.prediction and v in outcome.label for v in either)  # type: ignore[operator]
        share = int(Fraction(10**6 * both, len(either)) + Fraction(1, 2)) if either else 10**6
        c["measured", 7] += 1
        for spot, cells in (("jaccard", 0), ("bucket.jaccard", home * 2)):
            c[spot, cells] += share * w
            c[spot, cells + 1] += w
    c["bucket.agreement", home * 2 + (0 if same else 1)] += w
