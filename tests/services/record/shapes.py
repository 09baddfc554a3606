"""Histories for the recount: predictions of every odd shape, and the reference that some of them are counted in."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random
from typing import Any

from schemas.control import ParityRow, ParitySet, PolicySet, Reference, ReferenceSet
from schemas.event import encode
from schemas.policy import Attribution, JoinPolicy, LabelRule
from streams.join.naive import Bounds, partition_of
from streams.measure.reference import learn
from tests.streams.join.histories import ITEMS, T0_MS, Arrival, History, S, request_of

DIMENSION = "country"
LABELS = (0, 1, 0.0, 1.0, True, False, "0", "1", "yes", "no", 2, 7.0, 2.5, -1, 2**53, 2**53 + 1, 2**63, ["a"])
LISTS: tuple[list[Any], ...] = (["a", "b"], ["b", "a", "a", "c"], [1, "1"], [0.0], [-0.0], [])
WORDS = ("cat", "dog", 'it\'s\\ "ü"', "ü" * 33)
FIGURES = (0.25, -3.75, 1e-7, 123456.789, -1e6, 2.0**100, 1e31, 5e-324)
VALUES = (*LABELS, *FIGURES, *LISTS, *WORDS)
SLICES: tuple[dict[str, Any], ...] = (
    {},
    {DIMENSION: "DE"},
    {DIMENSION: 3.0},
    {DIMENSION: None},
    {DIMENSION: ""},
    {DIMENSION: "ü'\\"},
    {"x": 1},
)
SUBJECTS = ("", *(f"user-{number}" for number in range(40)), "ü")


def reference(model: str, version: str, *, at_ms: int = 0) -> ReferenceSet:
    """Freeze a reference of numbers, of words, of words that look like numbers, of one value."""
    random = Random(7)
    rows = 400
    one: Reference = learn(
        model,
        version,
        {
            "price": [random.choice((None, round(random.gauss(0, 1), 2), 1, 1)) for _ in range(rows)],
            "constant": [3.0] * rows,
            "plan": [random.choice(("free", "pro", True, 7, 0.5, "1e16", "it's")) for _ in range(rows)],
        },
        [random.random() for _ in range(rows)],
        [random.randrange(2) for _ in range(rows)],
        at_ms=T0_MS,
        embeddings=[[random.gauss(0, 1), random.gauss(9, 2), random.random()] for _ in range(rows)],
    )
    return ReferenceSet(reference=one, at_ms=at_ms)


def frozen(model: str, version: str) -> ParitySet:
    """Freeze rows that predictions of a country are compared with."""
    rows = [
        ParityRow(key=["DE"], features={"price": 1, "constant": 3, "plan": "free"}, score=0.5),
        ParityRow(key=["3"], features={"price": 0.25, "plan": True, "gone": None}),
        ParityRow(key=[""], features={"constant": 2.9}, score=1.1),
    ]
    return ParitySet(id="par", model=model, version=version, key=[DIMENSION], rows=rows, absolute=0.75)


def shape(random: Random) -> dict[str, Any]:
    """Draw what a prediction may carry beside its identity."""
    features = {
        "price": random.choice((None, True, "much", random.gauss(0, 1), random.gauss(0, 1), 1, 99, -99.5)),
        "constant": random.choice((3, 3.0, 2.9, None)),
        "plan": random.choice(("free", "true", True, 7, 7.0, "7", 0.5, "0.5", "gone", 1e16, "1e16", "it's", None)),
    }
    score: Any = random.choice(
        (None, 0, 1, 0.5, 1e-9, 1 - 1e-12, -0.1, 1.1, [0.2, 0.8], [], *(random.random() for _ in range(20)))
    )
    return {
        "score": score,
        "features": {name: features[name] for name in random.sample(sorted(features), random.randrange(4))},
        "slices": random.choice(SLICES),
        "subject": random.choice(SUBJECTS),
        **random.choice(({}, {}, {}, {"prediction": random.choice(VALUES)}, {"prediction": None})),
        **vector(Random(f"{score} {features}")),
        **random.choice(({}, {"threshold": random.choice((0.1, 0.9, 1))})),
        **random.choice(({}, {"latency_ms": random.choice((0, 0.005, 0.01, 12.5, random.uniform(1, 900), 1e12))})),
    }


def vector(random: Random) -> dict[str, Any]:
    """Draw an embedding, or none; of a generator of its own, so that what else is drawn stays."""
    usual = [random.gauss(0, 1), random.gauss(9, 2), random.random()]
    return random.choice(({}, *({"embedding": one} for one in (None, [], [1], [0, 9.5, 1e9], usual, usual, usual))))


def ranking(random: Random) -> list[dict[str, Any]]:
    """Draw a list of up to a dozen entries, with the items that labels are about somewhere among them."""
    names = [*ITEMS, *random.choices([*ITEMS, *(f"o{number}" for number in range(9))], k=random.randrange(10))]
    random.shuffle(names)
    kind = random.choice(("bare", "scores", "positions", "some"))
    found: list[dict[str, Any]] = [{"item": name} for name in names]
    for place, entry in enumerate(found):
        if kind == "scores" or random.random() < 0.3:
            entry["score"] = random.choice((0, 0.5, 0.5, -1.5, 1e-300, random.random()))
        if kind == "positions" or (kind == "some" and place % 2):
            entry["position"] = random.choice((place, -place, 3))
    return found


def enriched(history: History) -> History:
    """Give each prediction of a history a shape of its own (equal bodies stay equal) and labels more values."""
    return replace(history, arrivals=tuple(map(_enriched, history.arrivals)))


def _enriched(arrival: Arrival) -> Arrival:
    if request_of(arrival.value) is None or arrival.topic not in ("predictions", "labels"):
        return arrival
    body = json.loads(arrival.value or b"")
    if "at_ms" not in body or not isinstance(body["at_ms"], int):
        return arrival
    random = Random((arrival.value or b"").decode())
    if arrival.topic == "predictions":
        body = shape(random) | {name: value for name, value in body.items() if name != "score"}
        if random.random() < 0.6:
            body["items"] = ranking(random)
    elif "label" in body:
        body["label"] = random.choice((0, 1, 0, 1, 0, 1, *VALUES))
        if random.random() < 0.5:
            body |= {"item": random.choice(ITEMS), "label": random.choice((1, True, "1", 2, 0.7, 0, body["label"]))}
    return replace(arrival, value=json.dumps(body).encode())


def announced(history: History, *commands: ReferenceSet | ParitySet) -> History:
    """Put references and frozen rows before everything else into every partition's control log."""
    first = history.arrivals[0].append_ms - S if history.arrivals else T0_MS
    said = [
        Arrival(min(first, T0_MS - 1_000 * S), "control", partition, None, encode(one))
        for one in commands
        for partition in range(history.bounds.partitions)
    ]
    return replace(history, arrivals=(*said, *history.arrivals))


def traffic(random: Random, requests: int, bounds: Bounds) -> History:
    """Make a live stream: two models, a shadow, everything at least once that an at-least-once producer does.

    A tenth of the labels is corrected and another tenth taken back; of predictions and labels some come twice, of
    predictions some contradict each other, lie in the wrong partition, or come with a clock of their own.
    """
    arrivals: list[Arrival] = []

    def send(topic: str, append_ms: int, body: dict[str, Any]) -> None:
        partition = partition_of(body["request_id"], bounds.partitions)
        if random.random() < 0.05:
            partition = random.randrange(bounds.partitions)
        value = json.dumps(body).encode()
        for _ in range(1 + (random.random() < 0.05)):
            arrivals.append(Arrival(append_ms, topic, partition, body["request_id"].encode(), value))
            append_ms += random.choice((0, S))

    rules = [LabelRule(name="refund"), LabelRule(name="revenue", metrics="value")]
    policies = (
        JoinPolicy(
            model="m1",
            horizon_ms=120 * S,
            lateness_ms=20 * S,
            retain_ms=600 * S,
            on_timeout="negative",
            provisional_after_ms=60 * S,
            attribution=[Attribution(signal="click", label=1, weight=0.3335)],
        ),
        JoinPolicy(model="m2", horizon_ms=120 * S, retain_ms=600 * S, carry="features"),
        JoinPolicy(model="m3", horizon_ms=120 * S, retain_ms=600 * S, labels=rules),
    )
    arrivals += [
        Arrival(T0_MS - 500 * S, "control", partition, None, encode(PolicySet(policy=policy)))
        for policy in policies
        for partition in range(bounds.partitions)
    ]
    for number in range(requests):
        at_ms = T0_MS + number * S
        body = {
            "request_id": f"q{number}",
            "at_ms": at_ms,
            "model": random.choice(("m1", "m1", "m2", "m3")),
            "version": "1",
        }
        one = shape(random) | body | random.choice(({}, {"event_id": f"e{number}"}))
        if random.random() < 0.3:
            one["items"] = ranking(random)
        if random.random() < 0.5:
            one["outputs"] = random.choice(({"label": random.random()}, {"refund": random.random(), "label": 1}, {}))
        send("predictions", at_ms + random.randrange(2 * S), one)
        if random.random() < 0.2:
            shadow = {"deployment": "shadow", "role": "shadow", "version": "2", "score": random.random()}
            send("predictions", at_ms + 2 * S, one | shadow)
        if random.random() < 0.1:  # another prediction under the same id
            moved = {"at_ms": at_ms + random.choice((-S, 0, S)), "event_id": random.choice(("", f"d{number}"))}
            send("predictions", at_ms + 3 * S, shape(random) | body | moved)
        if random.random() < 0.02:
            send("predictions", at_ms, one | {"request_id": f"skewed{number}", "at_ms": at_ms + 10 * bounds.skew_ms})
        if random.random() < 0.2:
            send("signals", at_ms + 5 * S, {"request_id": f"q{number}", "at_ms": at_ms + 4 * S, "signal": "click"})
        if random.random() < 0.75:
            said_ms = at_ms + random.randrange(S, 100 * S)
            label = {
                "request_id": f"q{number}",
                "at_ms": said_ms,
                "label": random.choice((0, 1, 0, 1, *VALUES)),
            }
            if body["model"] == "m3" and random.random() < 0.7:
                label["name"] = random.choice(("refund", "revenue"))
            if random.random() < (0.7 if "items" in one else 0.05):
                label["item"] = random.choice(ITEMS)
                about = {
                    "request_id": f"q{number}",
                    "at_ms": said_ms,
                    "item": label["item"],
                    "label": 0.7,
                    "name": label.get("name", "label"),
                }
                send("labels", said_ms + random.randrange(20 * S), about | {"source": "human"})
            send("labels", said_ms + random.randrange(20 * S), label | {"confidence": random.choice((1.0, 1.0, 0.25))})
            fate = random.random()
            if fate < 0.3:
                changed = {"op": "retract"} if fate < 0.1 else {"label": label["label"] if fate > 0.2 else 1}
                kept = {name: label[name] for name in ("request_id", "item", "name") if name in label} | {
                    "at_ms": said_ms + 10 * S
                }
                send("labels", said_ms + 40 * S, kept | changed)
    return History(bounds, tuple(sorted(arrivals, key=lambda arrival: arrival.append_ms)))
