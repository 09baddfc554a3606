"""Histories of a join: what arrives in Kafka, when, where, in which bytes. Small sets of values, so that all collides.

One generator serves both uses: with `random.Random(seed)` it makes large histories, with Hypothesis's random it makes
small ones that shrink.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import msgspec
from hypothesis import strategies as st

from schemas.control import Frozen, PolicySet, Thawed
from schemas.event import encode
from schemas.policy import Attribution, JoinPolicy, LabelRule
from schemas.topics import INPUTS
from streams.join.naive import Bounds, partition_of

S = 1_000
T0_MS = 1_000_000 * S
YEAR_MS = 365 * 86_400 * S

BOUNDS = Bounds(
    partitions=3, skew_ms=100 * S, early_label_ms=40 * S, grace_ms=30 * S, max_event_bytes=12_000, virtual=False
)

MODELS = ("m1", "m1", "m1", "m2", "m2", "no-policy")
DEPLOYMENTS = ("", "", "canary")
LABELS: tuple[object, ...] = (0, 1, 1.0, True, "1", "spam", [1, "a"], [1.0, "a"])
SOURCES = ("", "human", "audit")
SIGNALS = ("impression", "click", "dwell")
ITEMS = ("i1", "i2", "i3")

# Differences to a request's base time; horizons and reaches are sums of these, so that both sides of every bound occur.
PREDICTION_DELTAS = (0, 0, 0, 1, 10 * S)
LABEL_DELTAS = (-100 * S, -100 * S - 1, -1, 0, 1, 1, 10 * S, 20 * S, 50 * S, 50 * S + 1, 100 * S, 100 * S + 1, 180 * S)
PREDICTION_DELAYS = (-20 * S, 0, 0, 1, 1, S, 10 * S, 60 * S, 100 * S, 100 * S + 1)
LABEL_DELAYS = (-100 * S, -30 * S, 0, 0, 0, 1, S, S, 5 * S, 5 * S, 20 * S, 50 * S, 70 * S, 110 * S, 250 * S)


def _spoilt(*, drop: str = "", more: str = "", **fields: str) -> bytes:
    """A body that each kind would accept, with some fields replaced by other JSON."""
    body = {"request_id": '"r1"', "at_ms": str(T0_MS), "label": "1", "model": '"m1"', "signal": '"click"'} | fields
    return ("{" + ", ".join(f'"{name}": {text}' for name, text in body.items() if name != drop) + more + "}").encode()


POISON: tuple[bytes | None, ...] = (
    None,
    b"",
    b"not json",
    b"\xff\xfe{}",
    b"[]",
    b"null",
    b"{}",
    _spoilt(at_ms="NaN"),
    _spoilt(label="NaN", score="NaN", value="NaN"),
    _spoilt(label="1e999", score="1e999", value="1e999"),
    _spoilt(request_id='""'),
    _spoilt(drop="request_id"),
    _spoilt(request_id='"' + "x" * 129 + '"'),
    _spoilt(request_id="7"),
    b'{"request_id": 7, "at_ms": ',
    _spoilt(at_ms='"now"'),
    _spoilt(at_ms="1000000000.5"),
    _spoilt(at_ms="-1"),
    _spoilt(label="null", model="null", signal="null"),
    _spoilt(confidence="2", signal='""', propensity="2"),
    _spoilt(label='"\\ud800"', model='"\\ud800"', signal='"\\ud800"'),
    _spoilt(more=', "unknown": "\xff"').replace("\xff".encode(), b"\xff"),
    _spoilt(more=', "unknown": ' + "[" * 11_000),
    _spoilt(more=', "unknown": "' + "y" * 12_000 + '"'),
    _spoilt(label=str(2**65), prediction=str(2**65), value='"1"'),
    _spoilt(label="1" * 5_000, prediction="1" * 5_000),
    _spoilt(label=str(2**64 - 1), prediction=str(2**64 - 1), value=str(2**64)),
)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A record that some producer appends to a topic's partition at `append_ms`."""

    append_ms: int
    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


@dataclass(frozen=True, slots=True)
class History:
    """All arrivals in the order of their append times."""

    bounds: Bounds
    arrivals: tuple[Arrival, ...]

    def without(self, requests: set[str]) -> History:
        """Leave out everything about some requests."""
        kept = tuple(arrival for arrival in self.arrivals if request_of(arrival.value) not in requests)
        return replace(self, arrivals=kept)


def request_of(value: bytes | None) -> str | None:
    """Give the request id of an event, if it has one."""
    try:
        body = msgspec.json.decode(value or b"")
    except (ValueError, RecursionError):
        return None
    found = body.get("request_id") if isinstance(body, dict) else None
    return found if isinstance(found, str) else None


def history(random: Random, *, requests: int, events: int, bounds: Bounds = BOUNDS, policies: int = 6) -> History:
    """Make a history of about `events` records about `requests` requests under up to `policies` policies."""
    arrivals: list[Arrival] = []
    for _ in range(random.randint(0, policies)):
        arrivals += policy_arrivals(random, bounds)
    for _ in range(random.choice((0, 0, 1, 2))):
        arrivals += freeze_arrivals(random, requests, bounds)
    bases = {f"r{number}": T0_MS + random.choice(range(0, 60 * requests, 20)) * S for number in range(requests)}
    topics = random.choice((INPUTS, INPUTS, (*INPUTS, "labels", "labels"), ("predictions", "signals")))
    made: list[Arrival] = []
    for _ in range(random.randint(1, events)):
        if made and random.random() < 0.12:
            made.append(again(random, random.choice(made), bounds))
        else:
            request_id = random.choice(list(bases))
            made.append(some_event(random, random.choice(topics), request_id, bases[request_id], bounds))
    ordered = sorted(arrivals + made, key=lambda arrival: arrival.append_ms)
    return History(bounds, tuple(ordered))


def histories(*, requests: int = 3, events: int = 14, bounds: Bounds = BOUNDS) -> st.SearchStrategy[History]:
    """Draw small histories."""
    return st.builds(
        lambda random: history(random, requests=requests, events=events, bounds=bounds),
        st.randoms(use_true_random=False),
    )


def policy_arrivals(random: Random, bounds: Bounds) -> list[Arrival]:
    """Set a policy: one copy in each partition's control log."""
    policy = some_policy(random)
    late_ms = random.choice((0, 0, 0, 0, 0, -1, -30 * S, 1, 50 * S))
    append_ms = max(0, policy.effective_from_ms - 60 * S + late_ms)
    if bounds.virtual:
        append_ms = T0_MS - 500 * S  # before everything: a driver sets policies first
    value = encode(PolicySet(policy=policy))
    if random.random() < 0.05:
        value = random.choice((b"", b"{}", b'{"kind": "policy_set", "policy": {"model": "m1", "horizon": 3}}', b"\xff"))
    return [
        Arrival(append_ms + random.choice((0, 0, 1)), "control", partition, None, value)
        for partition in range(bounds.partitions)
    ]


def freeze_arrivals(random: Random, requests: int, bounds: Bounds) -> list[Arrival]:
    """Freeze a source, and mostly thaw it later: each copy comes when it comes."""
    source = random.choice(("desk", "shop", ""))
    since_ms = T0_MS + random.choice(range(-100, 60 * requests + 300, 20)) * S
    until_ms = since_ms + random.choice((0, 10 * S, 100 * S, 1_000 * S))
    told = [(since_ms, encode(Frozen(source=source)))]
    if random.random() < 0.85:
        told.append((until_ms, encode(Thawed(source=source))))
    return [
        Arrival(append_ms + random.choice((0, 0, 1, 5 * S)), "control", partition, None, value)
        for append_ms, value in told
        for partition in range(bounds.partitions)
    ]


def some_policy(random: Random) -> JoinPolicy:
    """Draw a policy of a model that has some."""
    horizon_ms, lateness_ms = random.choice((50 * S, 100 * S)), random.choice((0, 20 * S))
    wait_ms = horizon_ms + lateness_ms
    negative = random.random() < 0.7
    name = random.choice(("label", "label", "label", "other"))
    rules = (
        Attribution(signal="click", label=1, weight=random.choice((1.0, 0.5))),
        Attribution(signal="dwell", label=0, weight=0.5, compare=random.choice(("lt", "le")), value=2.0),
        Attribution(signal="dwell", label=1, compare=random.choice(("gt", "ge", "eq")), value=2.0, within_ms=20 * S),
        Attribution(signal="impression", label="seen", within_ms=random.choice((0, 10 * S, 500 * S))),
    )
    labels = some_rules(random, name, rules) if random.random() < 0.4 else []
    if any(rule.horizon_ms for rule in labels):
        wait_ms = max(wait_ms, 120 * S)
    return JoinPolicy(
        model=random.choice(MODELS[:-1]),
        name=random.choice(("p", "q")),
        version=random.choice((1, 1, 2)),
        effective_from_ms=T0_MS + random.choice((-200 * S, -200 * S, -200 * S, -200 * S, 0, 1, 60 * S)),
        label_name=name,
        horizon_ms=horizon_ms,
        lateness_ms=lateness_ms,
        on_timeout="negative" if negative else "unlabelled",
        negative_label=random.choice((0, False, "no")),
        negative_sample=random.choice((1.0, 1.0, 1.0, 0.5)) if negative else 1.0,
        provisional_after_ms=random.choice((None, 0, 10 * S, 50 * S)) if negative else None,
        p_fake_negative=random.choice((0.0, 0.25)),
        recall_ms=random.choice((0, 0, wait_ms, wait_ms + 50 * S)),
        retain_ms=random.choice((0, 10 * S, 60 * S)),
        exposure=random.choice((None, None, "impression")),
        precedence=random.choice(([], [], ["human"], ["audit", "human"])),
        attribution=random.sample(rules, random.randint(0, 4)) if random.random() < 0.7 else [],
        carry=random.choice(("none", "features")),
        labels=labels,
    )


def some_rules(random: Random, besides: str, rules: tuple[Attribution, ...]) -> list[LabelRule]:
    """Draw further label names, shorter and longer ones."""
    found = []
    for name in random.sample(sorted({"label", "other", "third"} - {besides}), random.randint(1, 2)):
        silence: dict[str, Any] = {
            "on_timeout": "negative",
            "negative_label": random.choice((0, "none")),
            "negative_sample": random.choice((None, None, 0.25)),
            "exposure": random.choice((None, "impression", "click")),
        }
        own = random.choice(({}, silence, {"on_timeout": "unlabelled"}, silence | {"provisional_after_ms": 10 * S}))
        if own and random.random() < 0.6:
            own = own | {"horizon_ms": random.choice((20 * S, 50 * S, 120 * S)), "lateness_ms": 0}
        attribution = random.sample(rules, random.randint(0, 2))
        precedence = random.choice((None, ["audit"]))
        found.append(LabelRule(name=name, attribution=attribution, precedence=precedence, **own))
    return found


def some_event(random: Random, topic: str, request_id: str, base_ms: int, bounds: Bounds) -> Arrival:
    """Draw one record about a request, now and then a bad one."""
    at_ms = base_ms + random.choice(PREDICTION_DELTAS if topic == "predictions" else LABEL_DELTAS)
    append_ms = at_ms + random.choice(PREDICTION_DELAYS if topic == "predictions" else LABEL_DELAYS)
    if random.random() < 0.03:
        value = random.choice(POISON)
        partition = random.randrange(bounds.partitions)
        return Arrival(base_ms, topic, partition, random.choice((None, b"r1")), value)
    body: dict[str, object] = {"request_id": request_id, "at_ms": at_ms}
    if topic == "predictions":
        body |= {
            "model": random.choice(MODELS),
            "deployment": random.choice(DEPLOYMENTS),
            "score": random.choice((0, 0.5, 1)),
        }
        if random.random() < 0.2:
            body |= {"items": some_items(random)}
        body |= random.choice(({}, {}, {}, {"outputs": {"label": 0.25, "third": 0.5}}))
        body |= random.choice(({}, {}, {"version": "v2", "role": "shadow"}, {"prediction": 1, "features": {"x": 1}}))
    elif topic == "labels":
        body |= {"op": "retract"} if random.random() < 0.25 else {"label": random.choice(LABELS)}
        body |= {"source": random.choice(SOURCES)}
        body |= random.choice(
            ({}, {}, {}, {"confidence": 0.5}, {"name": "other"}, {"name": "third"}, {"model": random.choice(MODELS)})
        )
    else:
        body |= {"signal": random.choice(SIGNALS)}
        body |= random.choice(({}, {"value": 1}, {"value": 2.0}, {"value": 3}, {"model": random.choice(MODELS)}))
    if random.random() < 0.3:
        body["event_id"] = f"e{random.randrange(10)}"
    if random.random() < 0.03:
        body["at_ms"] = append_ms + random.choice((YEAR_MS, bounds.skew_ms, bounds.skew_ms + 1))
    if topic != "predictions" and random.random() < 0.15:
        body["item"] = random.choice(ITEMS)
    if random.random() < 0.1:
        body["unknown"] = random.choice((1, {"a": [1]}))
    return placed(random, append_ms, topic, request_id, json.dumps(body).encode(), bounds)


def some_items(random: Random) -> list[dict[str, object]]:
    """Draw a ranking, maybe empty, maybe with an item twice."""
    chosen = random.choices(ITEMS, k=random.randint(0, 3))
    return [
        {
            "item": item,
            **random.choice(({}, {"score": 0.5, "position": place}, {"propensity": 0.25, "position": place})),
        }
        for place, item in enumerate(chosen)
    ]


def placed(random: Random, append_ms: int, topic: str, request_id: str, value: bytes, bounds: Bounds) -> Arrival:
    """Put a record where it belongs, or rarely elsewhere, under its key, or rarely another."""
    partition = partition_of(request_id, bounds.partitions)
    if random.random() < 0.08:
        partition = random.randrange(bounds.partitions)
    key = random.choice((None, b"elsewhere", b"\xff")) if random.random() < 0.08 else request_id.encode()
    headers: tuple[tuple[str, bytes | None], ...] = random.choice(((), (("trace", b"1"), ("empty", None))))
    if random.random() < 0.03:  # somebody else's idea of our headers
        claimed = random.choice(
            (b"1", b"x", b"-1", b"", None, str(append_ms - S).encode(), str(append_ms + 1).encode())
        )
        hop = random.choice(((), (("weir-hop", b"labels/0/999999"),)))
        headers = (*headers, ("weir-append-ms", claimed), *hop)
    return Arrival(append_ms, topic, partition, key, value, headers)


def again(random: Random, arrival: Arrival, bounds: Bounds) -> Arrival:
    """Repeat a record, a little later or earlier, maybe misrouted: the same bytes, or other fields and one event id."""
    shifted = replace(arrival, append_ms=arrival.append_ms + random.choice((0, 0, 1, 10 * S, 40 * S, -10 * S)))
    if request_of(arrival.value) is None:
        return shifted
    if random.random() < 0.2:
        shifted = replace(shifted, partition=random.randrange(bounds.partitions))
    if random.random() < 0.5:
        body = msgspec.json.decode(arrival.value or b"")
        body["event_id"] = body.get("event_id", "e1")
        body |= random.choice(({"unknown": 2}, {"source": "human"}, {"score": 0.75}, {"value": 2.5}, {"subject": "s"}))
        if isinstance(body.get("at_ms"), int) and random.random() < 0.3:
            body["at_ms"] += random.choice((-1, 1))
        shifted = replace(shifted, value=json.dumps(body).encode())
    return shifted
