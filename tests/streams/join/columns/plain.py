"""Histories of requests that are mostly plain: one prediction, a few labels and signals, as apps send them every day.

`tests.streams.join.histories` makes everything collide, so most of its requests become objects. These stay in the
columns, except for the few odd records that `oddities` asks for.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from random import Random
from typing import Any

from schemas.control import PolicySet
from schemas.event import encode
from schemas.policy import Attribution, JoinPolicy
from streams.join.admission import JoinBounds
from streams.join.naive import Bounds, partition_of
from streams.join.processor import JoinProcessor
from streams.measure.measure import Measure, MeasureState
from tests.streams.join.histories import (
    BOUNDS,
    POISON,
    T0_MS,
    Arrival,
    History,
    S,
    freeze_arrivals,
    placed,
    some_event,
)

MODELS = ("m1", "m1", "m2", "m3", "no-policy")
SOURCES = ("", "", "human", "audit", "queue")
LABELS: tuple[object, ...] = (0, 1, 1, True, "spam", 'to "quote"', "späm")


def processor_of(bounds: Bounds, *, columns: bool = True) -> JoinProcessor[None]:
    """Make the join alone."""
    return JoinProcessor(JoinBounds(**asdict(bounds)), None, columns=columns)


def chained_of(bounds: Bounds, *, columns: bool = True) -> JoinProcessor[MeasureState]:
    """Make the join with `measure` behind it, as `streams.stages` does."""
    measure = Measure(partitions=bounds.partitions, pane_ms=60 * S, slice_dimension="country")
    return JoinProcessor(JoinBounds(**asdict(bounds)), measure, columns=columns)


def plain_history(
    random: Random, *, requests: int, oddities: float = 0.02, bounds: Bounds = BOUNDS, freezes: bool = True
) -> History:
    """Make a history about `requests` requests. `oddities` is the share of records that the columns cannot take."""
    arrivals: list[Arrival] = []
    for policy in policies(random):
        append_ms = T0_MS - 500 * S if bounds.virtual else max(0, policy.effective_from_ms - 60 * S)
        value = encode(PolicySet(policy=policy))
        arrivals += [
            Arrival(append_ms + random.choice((0, 0, 1)), "control", partition, None, value)
            for partition in range(bounds.partitions)
        ]
    if freezes and random.random() < 0.3:
        arrivals += freeze_arrivals(random, requests, bounds)
    for number in range(requests):
        request_id = random.choice((*["r{}"] * 8, *["a-much-longer-request-id-{}"] * 3, "ré{}")).format(number)
        base_ms = T0_MS + random.randrange(0, 20 * requests) * S
        made = plain_request(random, request_id, base_ms, bounds)
        for one in made[:]:
            if random.random() < 0.06:
                made.append(replace(one, append_ms=one.append_ms + random.choice((0, 1, 10 * S, 40 * S))))
            if random.random() < oddities:
                made.append(oddity(random, request_id, base_ms, bounds))
        arrivals += made
    return History(bounds, tuple(sorted(arrivals, key=lambda arrival: arrival.append_ms)))


def policies(random: Random) -> list[JoinPolicy]:
    """Draw policies, one or two for most models: the second takes over while the first one's predictions are open."""
    found = []
    for model in ("m1", "m2", "m3"):
        since_ms = T0_MS - 200 * S
        for version in range(1, random.choice((1, 2, 2, 3))):
            found.append(some_policy(random, model, version, since_ms))
            since_ms = T0_MS + random.choice((0, 30 * S, 60 * S, 100 * S))
    return found


def some_policy(random: Random, model: str, version: int, since_ms: int) -> JoinPolicy:
    """Draw a policy that the columns know all of."""
    horizon_ms, lateness_ms = random.choice((50 * S, 100 * S)), random.choice((0, 20 * S))
    wait_ms = horizon_ms + lateness_ms
    negative = random.random() < 0.7
    rules = (
        Attribution(signal="click", label=1, weight=random.choice((1.0, 0.5))),
        Attribution(signal="dwell", label=0, weight=0.5, compare=random.choice(("lt", "le")), value=2.0),
        Attribution(signal="dwell", label=1, compare=random.choice(("gt", "ge", "eq")), value=2.0, within_ms=20 * S),
        Attribution(signal="impression", label="seen", within_ms=random.choice((0, 10 * S, 500 * S))),
    )
    return JoinPolicy(
        model=model,
        version=version,
        effective_from_ms=since_ms,
        label_name=random.choice(("label", "label", "clicked")),
        horizon_ms=horizon_ms,
        lateness_ms=lateness_ms,
        on_timeout="negative" if negative else "unlabelled",
        negative_label=random.choice((0, 0, False, "no")),
        provisional_after_ms=random.choice((None, 0, 10 * S, 50 * S, wait_ms)) if negative else None,
        p_fake_negative=random.choice((0.0, 0.25)),
        recall_ms=random.choice((0, 0, wait_ms, wait_ms + 50 * S)),
        retain_ms=random.choice((0, 10 * S, 60 * S, 4 * 3600 * S)),
        exposure=random.choice((None, None, "impression")),
        precedence=random.choice(([], ["human"], ["audit", "human"])),
        attribution=random.sample(rules, random.randint(1, 4)) if random.random() < 0.7 else [],
        carry=random.choice(("none", "features")),
    )


def plain_request(random: Random, request_id: str, base_ms: int, bounds: Bounds) -> list[Arrival]:
    """Draw one prediction (rarely none) and what is heard of it: late, early, corrected, taken back."""
    partition = partition_of(request_id, bounds.partitions)
    key = request_id.encode()
    made = []
    if random.random() < 0.93:
        append_ms = base_ms + random.choice((-20 * S, 0, 0, 1, 1, S, S, 10 * S, 60 * S, 100 * S))
        made.append(Arrival(append_ms, "predictions", partition, key, prediction(random, request_id, base_ms)))
    if random.random() < 0.06:  # the id's next life, as what was heard in the first is about to end
        again_ms = base_ms + random.choice((100 * S, 130 * S, 150 * S, 170 * S, 200 * S, 300 * S))
        made.append(Arrival(again_ms + S, "predictions", partition, key, prediction(random, request_id, again_ms)))
    name = random.choice(("label", "label", "clicked"))
    sources = random.sample(SOURCES, 2)
    for _ in range(random.choice((0, 0, 1, 1, 2, 3))):
        at_ms = base_ms + random.choice((-100 * S, -1, 0, 1, S, 10 * S, 20 * S, 50 * S, 50 * S + 1, 100 * S, 130 * S))
        append_ms = at_ms + random.choice((-30 * S, 0, 1, S, S, 5 * S, 20 * S, 50 * S, 110 * S, 250 * S))
        value = label(random, request_id, at_ms, name, random.choice(sources))
        made.append(Arrival(append_ms, "labels", partition, key, value))
    for _ in range(random.choice((0, 0, 1, 2))):
        at_ms = base_ms + random.choice((-1, 0, 0, S, 10 * S, 10 * S, 20 * S, 20 * S + 1, 100 * S))
        append_ms = at_ms + random.choice((-30 * S, 0, 1, S, 20 * S, 110 * S))
        made.append(Arrival(append_ms, "signals", partition, key, signal(random, request_id, at_ms)))
    return made


def prediction(random: Random, request_id: str, at_ms: int) -> bytes:
    """Draw a prediction with any of the fields that the columns keep."""
    body: dict[str, Any] = {"request_id": request_id, "at_ms": at_ms, "model": random.choice(MODELS)}
    given = {
        "version": random.choice(("", "v1", "v2")),
        "deployment": random.choice(("", "canary")),
        "role": random.choice(("primary", "shadow")),
        "app_version": "1.2",
        "score": random.choice((0, 0.5, 0.25, 1e-3, 1)),
        "prediction": random.choice((0, 1, "spam", True, None)),
        "threshold": random.choice((0.5, None)),
        "features": random.choice(({}, {"x": 1, "y": None}, {"größe": "groß", "n": 1.5})),
        "embedding": random.choice((*[None] * 9, [0.1, 2])),
        "slices": random.choice(({}, {"country": "DE"}, {"country": "FR", "new": True})),
        "subject": random.choice(("", "u1", "ü\n2")),
        "experiments": random.choice(({}, {"canary": "new"}, {"canary": "old", "page": "b"})),
        "action": random.choice((None, "show")),
        "propensity": random.choice((0, 0.25, 1.0)),
        "latency_ms": random.choice((0, 12, 3.5)),
    }
    body |= {name: value for name, value in given.items() if random.random() < 0.4}
    return written(random, body)


def label(random: Random, request_id: str, at_ms: int, name: str, source: str) -> bytes:
    """Draw a label, one in six a retraction."""
    body: dict[str, Any] = {"request_id": request_id, "at_ms": at_ms}
    body |= {"op": "retract"} if random.random() < 0.17 else {"label": random.choice(LABELS)}
    if name != "label" or random.random() < 0.2:
        body["name"] = name
    if source or random.random() < 0.2:
        body["source"] = source
    if random.random() < 0.2:
        body["confidence"] = random.choice((0, 0.5, 0.75, 1, 1.0))
    if random.random() < 0.1:
        body["model"] = random.choice((*MODELS, None))
    return written(random, body)


def signal(random: Random, request_id: str, at_ms: int) -> bytes:
    """Draw a signal, with values on both sides of what the rules ask for."""
    body: dict[str, Any] = {"request_id": request_id, "at_ms": at_ms}
    body["signal"] = random.choice(("impression", "click", "dwell", "dwell", "skip"))
    if body["signal"] == "dwell" or random.random() < 0.1:
        body["value"] = random.choice((1, 1.999, 2, 2.0, 2.001, 30, -1.5, None))
    if random.random() < 0.1:
        body["model"] = random.choice((*MODELS, None))
    return written(random, body)


def written(random: Random, body: dict[str, Any]) -> bytes:
    """Write an event as one app or another does."""
    if random.random() < 0.2:
        body["event_id"] = f"e{random.randrange(10**6)}"
    if random.random() < 0.1:
        body["unknown"] = random.choice((1, {"a": [1, {"b": "ü"}], "c": {}}, [], "x"))
    items = list(body.items())
    if random.random() < 0.3:
        random.shuffle(items)
    separators = random.choice(((",", ":"), (", ", ": "), (" ,\n", "\t: ")))
    return json.dumps(dict(items), separators=separators, ensure_ascii=random.random() < 0.5).encode()


def oddity(random: Random, request_id: str, base_ms: int, bounds: Bounds) -> Arrival:
    """Draw a record that is not plain: anything of the other histories, or a plain one in the wrong place."""
    if random.random() < 0.2:
        return Arrival(base_ms, "labels", random.randrange(bounds.partitions), b"r1", random.choice(POISON))
    topic = random.choice(("predictions", "labels", "labels", "signals"))
    if random.random() < 0.5:
        return some_event(random, topic, request_id, base_ms, bounds)
    at_ms = base_ms + random.choice((0, S, 20 * S))
    if topic == "predictions":
        value = prediction(random, request_id, at_ms)
    elif topic == "labels":
        value = label(random, request_id, at_ms, "label", "human")
    else:
        value = signal(random, request_id, at_ms)
    return replace(placed(random, at_ms + S, topic, request_id, value, bounds), headers=(("trace", b"1"),))
