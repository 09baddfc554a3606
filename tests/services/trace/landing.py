"""A shop whose recommendations are clicked, bought or ignored, played through the real join and landed as it would be.

Small and seeded, with everything a story can have: early and late labels, corrections, retractions, duplicates,
conflicts, a forwarded record, signals, a policy that changes in the middle, dead letters, silence.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from random import Random
from typing import Any

from pydantic import SecretStr

from schemas.control import PolicySet
from schemas.event import encode
from schemas.policy import Attribution, JoinPolicy, LabelRule
from schemas.records import Step
from schemas.settings import ClickHouse, Join, Settings
from services.local.clickhouse import LocalClickHouse
from services.record.land import Span, Store
from services.record.tables import migrate
from streams.join.admission import JoinBounds
from streams.join.naive import Bounds, Record, partition_of
from streams.join.processor import JoinProcessor
from streams.measure.measure import Measure
from streams.runtime.records import Records
from tests.streams.join.driver import TOPICS, Driver
from tests.streams.join.histories import Arrival, History

S, MIN, HOUR = 1_000, 60_000, 3_600_000
T0_MS = 1_767_225_600_000
PANE_MS = 10 * MIN
QUIET_MS = 2 * HOUR
BOUNDS = Bounds(
    partitions=2, skew_ms=HOUR, early_label_ms=10 * MIN, grace_ms=30 * S, max_event_bytes=100_000, virtual=False
)
POLICY = JoinPolicy(
    model="shop",
    name="clicks",
    effective_from_ms=T0_MS - HOUR,
    horizon_ms=20 * MIN,
    lateness_ms=5 * MIN,
    retain_ms=30 * MIN,
    on_timeout="negative",
    provisional_after_ms=10 * MIN,
    p_fake_negative=0.25,
    precedence=["desk"],
    attribution=[
        Attribution(signal="click", label=1, within_ms=15 * MIN),
        Attribution(signal="dwell", label=0, weight=0.5, compare="lt", value=2.0),
    ],
    labels=[LabelRule(name="bought", horizon_ms=30 * MIN, on_timeout="unlabelled")],
)
LATER = JoinPolicy(
    model="shop", name="clicks", version=2, effective_from_ms=T0_MS + HOUR, horizon_ms=15 * MIN, on_timeout="negative"
)


def settings_of(server: LocalClickHouse, database: str, **more: Any) -> Settings:
    """Give the settings of a namespace in one database."""
    at = ClickHouse(
        host=server.host,
        port=server.port,
        user=server.user,
        password=SecretStr(server.password),
        database=database,
    )
    join = Join(
        skew_ms=BOUNDS.skew_ms,
        early_label_ms=BOUNDS.early_label_ms,
        grace_ms=BOUNDS.grace_ms,
        max_event_bytes=BOUNDS.max_event_bytes,
        pane_ms=PANE_MS,
        slice_dimension="country",
    )
    return Settings(namespace="shop", clickhouse=at, partitions=BOUNDS.partitions, join=join, **more)


def event(topic: str, append_ms: int, *, astray: bool = False, key: str = "", **body: Any) -> Arrival:
    """Give an event in the partition of its request, or (`astray`) in another one."""
    home = partition_of(body["request_id"], BOUNDS.partitions)
    number = (home + 1) % BOUNDS.partitions if astray else home
    headers = (("traceparent", b"00-abc"),) if astray else ()
    return Arrival(append_ms, topic, number, (key or body["request_id"]).encode(), json.dumps(body).encode(), headers)


def policy(one: JoinPolicy, append_ms: int) -> list[Arrival]:
    """Set a policy in every partition."""
    value = encode(PolicySet(policy=one))
    return [Arrival(append_ms, "control", number, None, value) for number in range(BOUNDS.partitions)]


def shop(seed: int = 0, requests: int = 400, span_ms: int = 2 * HOUR) -> History:
    """Make the history: a prediction every 18 s, and what follows it."""
    random = Random(seed)
    found = [*policy(POLICY, T0_MS - 2 * HOUR), *policy(LATER, T0_MS)]
    for number in range(requests):
        at_ms = T0_MS + number * span_ms // requests
        found += story(random, f"r{number:04d}", at_ms)
    for minute in range(0, (span_ms + QUIET_MS) // MIN, 2):  # another model's traffic lets the clock go on
        at_ms = T0_MS + minute * MIN
        for number in range(6):
            beat: dict[str, Any] = {"request_id": f"beat-{minute}-{number}", "model": "other", "at_ms": at_ms}
            found.append(event("predictions", at_ms, **beat))
    return History(BOUNDS, tuple(sorted(found, key=lambda one: one.append_ms)))


def story(random: Random, request_id: str, at_ms: int) -> list[Arrival]:
    """Draw what happens to one request."""
    true = random.random()
    score = round(min(0.98, max(0.02, 0.8 * true + random.gauss(0.1, 0.15))), 3)
    clicked = random.random() < true * true
    said: dict[str, Any] = {"request_id": request_id, "model": "shop", "version": "v1"}
    answer = {
        **said,
        "at_ms": at_ms,
        "score": score,
        "subject": f"u{random.randrange(60)}",
        "slices": {"country": random.choice(("de", "fr"))},
        "features": {"price": round(random.random(), 3)},
    }
    fate = random.random()
    found = [event("predictions", at_ms + random.randrange(2 * S), astray=fate < 0.02, **answer)]
    if 0.02 < fate < 0.05:
        found.append(event("predictions", at_ms + 3 * S, **{**answer, "at_ms": at_ms + S, "score": 0.5}))
    if 0.05 < fate < 0.08:
        found.append(event("predictions", at_ms + 4 * S, **answer))
    heard: dict[str, Any] = {"request_id": request_id}
    if random.random() < 0.9:
        seen_ms = at_ms + random.randrange(30 * S)
        found.append(event("signals", seen_ms, at_ms=seen_ms, signal="impression", **heard))
    if clicked:
        click_ms = at_ms + int(random.expovariate(1 / (4 * MIN)))
        found.append(event("signals", click_ms + 500, at_ms=click_ms, signal="click", **heard))
        if random.random() < 0.4:
            bought_ms = click_ms + random.randrange(20 * MIN)
            found.append(event("labels", bought_ms + S, at_ms=bought_ms, name="bought", label=1, **heard))
    elif random.random() < 0.15:
        left_ms = at_ms + 40 * S
        found.append(event("signals", left_ms, at_ms=left_ms, signal="dwell", value=1.5, **heard))
    kind = random.random()
    if kind < 0.15:
        label_ms = at_ms + random.randrange(18 * MIN)
        late_ms = label_ms + random.choice((S, S, 5 * S, 12 * MIN, 40 * MIN))
        found.append(event("labels", late_ms, at_ms=label_ms, label=int(clicked), source="desk", **heard))
        if kind < 0.05:
            again: dict[str, Any] = {"at_ms": label_ms + 1, "label": 1 - int(clicked), "source": "desk"}
            found.append(event("labels", late_ms + 2 * MIN, **again, **heard))
        elif kind < 0.07:
            back: dict[str, Any] = {"at_ms": label_ms + 1, "op": "retract", "source": "desk"}
            found.append(event("labels", late_ms + 3 * MIN, **back, **heard))
    if kind > 0.97:
        found.append(event("labels", at_ms + 5 * S, at_ms=at_ms, label=1, request_id=f"nobody-{request_id}"))
    if 0.95 < kind < 0.97:
        found.append(event("labels", at_ms + 5 * S, at_ms=at_ms + 9 * HOUR, label=1, **heard))
    return found


def played(given: History, seed: int = 0, *, until_ms: int | None = None) -> Driver[Any]:
    """Run a history through join and measure in memory, to its last record or until some moment."""
    measure = Measure(partitions=given.bounds.partitions, pane_ms=PANE_MS, slice_dimension="country")
    driver = Driver(JoinProcessor(JoinBounds(**asdict(given.bounds)), measure), given, Random(seed))
    last_ms = given.arrivals[-1].append_ms
    until_ms = last_ms if until_ms is None else min(until_ms, last_ms)
    while driver.now_ms < until_ms or (until_ms == last_ms and not all(part.drained for part in driver.parts)):
        driver.tick()
    return driver


def land(settings: Settings, driver: Driver[Any]) -> None:
    """Land all that was read and said, and the steps, as the recorder would."""
    migrate(settings)
    store = Store(settings)
    said = {topic: driver.logs[topic] for topic in TOPICS} | dict(driver.outputs) | {"steps": steps_of(driver)}
    for topic, records in said.items():
        spans = []
        for number in sorted({one.partition for one in records}):
            mine = sorted((one for one in records if one.partition == number), key=lambda one: one.offset)
            spans.append(Span(number, mine[0].offset, mine[-1].offset + 1, packed(mine)))
        if spans:
            store.land(topic, spans)
    store.close()


def packed(said: list[Record]) -> Records:
    """Give records column by column."""
    return Records(
        [one.offset for one in said],
        [one.append_ms for one in said],
        [one.key for one in said],
        [one.value for one in said],
        {place: tuple(one.headers) for place, one in enumerate(said) if one.headers},
    )


def steps_of(driver: Driver[Any]) -> list[Record]:
    """Give the steps that were taken, as the runtime writes them."""
    found = []
    for number, part in enumerate(driver.parts):
        offsets = dict.fromkeys(TOPICS, 0)
        for place, step in enumerate(part.steps):
            for topic, read in step.batch.inputs.items():
                if read:
                    offsets[topic] = read.offsets[-1] + 1
            told = Step(
                stage="join",
                partition=number,
                number=place,
                offsets=dict(offsets),
                clock_ms=step.clock_ms,
                counters={name: count for name, count in step.stepped.counters.items() if count},
                processor="test",
                outputs=len(step.stepped.outputs),
                digest="",
            )
            found.append(Record(number, place, max(step.clock_ms, 0), b"join", encode(told)))
    return found
