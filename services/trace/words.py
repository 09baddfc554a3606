"""Events, rules, spans of time and positions in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from schemas.envelope import place_name
from schemas.inputs import Label, Prediction, Signal
from schemas.records import DeadLetter
from streams.join.naive import Admitted, Event, Standing

Place = tuple[str, int, int, int]
"""Logical topic, partition, offset, index in an envelope."""

MOST_TEXT = 80

REFUSED: Mapping[str, str] = {
    "": "its request belongs to another partition: forwarded there",
    "not_json": "it is not JSON",
    "too_large": "it is larger than `max_event_bytes`",
    "bad_event": "it is JSON, but no event of this topic",
    "misrouted_twice": "it was forwarded once already and is in a wrong partition again",
    "clock_skew": "its `at_ms` is further from Kafka's timestamp than `skew_ms`",
    "too_late": "it reached us after the reach of its policy",
}

ENDED: Mapping[str, str] = {
    "orphan": "orphan: no prediction of this request and model was known in time",
    "unknown_name": "unknown_name: no prediction of this request has an outcome of this label name",
    "unknown_item": "unknown_item: no prediction of this request lists this item",
    "outside_horizon": "outside_horizon: its `at_ms` lies outside the window of every prediction of this request",
    "too_late": "too_late: it reached us after the reach of every prediction of this request",
}


def says(body: Prediction | Label | Signal) -> str:
    """Say an event in a few words.

    >>> says(Label(request_id="r", at_ms=5, label=1, source="desk"))
    'label 1 from `desk`'
    >>> says(Signal(request_id="r", at_ms=5, signal="dwell", value=2.5, item="sofa"))
    'signal dwell 2.5, item sofa'
    """
    if isinstance(body, Prediction):
        words = [f"{body.model} {body.version}".strip()]
        words += [f"on {body.deployment}"] if body.deployment else []
        words += ["as shadow"] if body.role == "shadow" else []
        words += [f"score {short(body.score)}"] if body.score is not None else []
        words += [f"says {short(body.prediction)}"] if body.prediction is not None else []
        words += [f"{len(body.items)} items"] if body.items is not None else []
        return ", ".join(words)
    item = f", item {body.item}" if body.item is not None else ""
    of = f", of {body.model}" if body.model is not None else ""
    if isinstance(body, Signal):
        value = "" if body.value is None else f" {body.value:g}"
        return f"signal {body.signal}{value}{item}{of}"
    source = f" from `{body.source}`" if body.source else ""
    if body.op == "retract":
        return f"`{body.name}` retracted{source}{item}{of}"
    sure = "" if body.confidence == 1.0 else f", confidence {body.confidence:g}"
    return f"{body.name} {short(body.label)}{source}{item}{of}{sure}"


def rule_text(rule: Any) -> str:
    """Say a rule of attribution.

    >>> from schemas.policy import Attribution
    >>> rule_text(Attribution(signal="dwell", label=0, weight=0.5, compare="lt", value=2, within_ms=60_000))
    '`dwell` lt 2 within 1 min gives 0 with weight 0.5'
    """
    asked = "" if rule.compare == "any" else f" {rule.compare} {rule.value:g}"
    within = "" if rule.within_ms is None else f" within {span(rule.within_ms)}"
    weight = "" if rule.weight == 1.0 else f" with weight {rule.weight:g}"
    return f"`{rule.signal}`{asked}{within} gives {short(rule.label)}{weight}"


def place_of(one: Admitted | DeadLetter) -> Place:
    """Say where an event lies, or what a dead letter is about."""
    return one.topic, one.partition, one.offset, one.index


def position(place: Place) -> str:
    """Write a position as dead letters name it."""
    return place_name(*place)


def position_of(event: Event) -> str:
    """Write the position of the record whose content stands."""
    return position(place_of(event.records[0]))


def named(one: Standing) -> str:
    """Say an outcome: model, deployment, label name and item."""
    item = "" if one.item is None else f" of {one.item}"
    at = f" on {one.body.deployment}" if one.body.deployment else ""
    return f"{one.body.model}{at} `{one.policy.label_name}`{item}"


def short(value: object) -> str:
    """Write a value as JSON, cut where it is long."""
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 1] + "…"


def time(at_ms: int | None) -> str:
    """Write a time in UTC, to the millisecond.

    >>> time(1_767_225_600_250)
    '2026-01-01 00:00:00.250'
    """
    if at_ms is None:
        return "?"
    return f"{datetime.fromtimestamp(at_ms // 1000, UTC):%Y-%m-%d %H:%M:%S}.{at_ms % 1000:03d}"


def span(span_ms: int) -> str:
    """Write a span of time.

    >>> span(250), span(5_000), span(90_000), span(7_200_000), span(604_800_000)
    ('250 ms', '5 s', '1.5 min', '2 h', '7 d')
    """
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000)):
        if abs(span_ms) >= size:
            return f"{span_ms / size:.3g} {unit}"
    return f"{span_ms} ms"


def readable(value: bytes | None) -> Any:
    """Give a body as JSON where it is JSON, else as text."""
    if value is None:
        return None
    try:
        return msgspec.json.decode(value)
    except (ValueError, RecursionError):
        return value.decode("utf-8", "replace")
