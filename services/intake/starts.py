"""Where a mapping goes on reading, or begins."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

import structlog
from confluent_kafka import Consumer, TopicPartition

from schemas.mapping import KafkaSource, SqlSource
from schemas.settings import Settings
from streams.runtime import kafka
from streams.runtime.kafka import Place
from streams.runtime.offsets import Commit

SETTLE_S, PAUSE_S = 3.0, 0.2
"""For how long it is asked whether a later leader knows more of a log that ends before what was read."""

_log = structlog.get_logger()


def starts_of(
    settings: Settings,
    stage: str,
    source: KafkaSource | SqlSource,
    consumer: Consumer,
    found: Mapping[Place, Commit],
    stop: threading.Event,
) -> dict[Place, int]:
    """Give the offset to read from, of every place of an assignment; `found` is what the group has committed of each.

    What was deleted before it was read, and a log that ends before what was read (it was made anew, and is read whole),
    are logged as errors. Raises `KafkaException`.
    """
    admin, places = kafka.make_admin(settings, stage), list(found)
    first, ends = kafka.earliest(admin, places), kafka.ends(admin, places)
    deadline = time.monotonic() + SETTLE_S
    while any(found[place].offset > ends[place][1] for place in places) and time.monotonic() < deadline:
        stop.wait(PAUSE_S)  # a broker that has just become the leader may not know its end yet
        ends = kafka.ends(admin, places)
    starts: dict[Place, int] = {}
    for place, commit in found.items():
        if first[place] <= commit.offset <= ends[place][1]:
            starts[place] = commit.offset
        elif commit.offset >= 0:
            _say_gone(stage, place, commit.offset, first[place])
            starts[place] = first[place]
    topic = source.topic if isinstance(source, KafkaSource) else ""
    fresh = [place for place in places if found[place].offset < 0]
    foreign = [place for place in fresh if place[0] == topic]
    known = any(place[0] == topic and commit.offset >= 0 for place, commit in found.items())
    start = source.start if isinstance(source, KafkaSource) and not known else "earliest"
    stable = {place: ends[place][0] for place in places}
    return starts | {place: first[place] for place in fresh} | _first(settings, start, foreign, first, stable, consumer)


def _first(
    settings: Settings,
    start: str,
    places: Sequence[Place],
    first: Mapping[Place, int],
    ends: Mapping[Place, int],
    consumer: Consumer,
) -> dict[Place, int]:
    """Say where to begin what was never read. A partition that the topic gained later is read whole (`earliest`)."""
    if start == "earliest" or not places:
        return {place: first[place] for place in places}
    if start == "latest":
        return {place: ends[place] for place in places}
    since_ms = max(0, int(time.time() * 1000) - settings.join.skew_ms)
    told = consumer.offsets_for_times([TopicPartition(*place, since_ms) for place in places], timeout=30)
    return {(tp.topic, tp.partition): tp.offset if tp.offset >= 0 else ends[tp.topic, tp.partition] for tp in told}


def _say_gone(stage: str, place: Place, wanted: int, first: int) -> None:
    offsets = [wanted, first]
    if wanted > first:
        effect = "it ends before what was read last, so it is read from its beginning"
        _log.error("topic_made_anew", stage=stage, topic=place[0], partition=place[1], offsets=offsets, effect=effect)
        return
    _log.error(
        "records_gone",
        stage=stage,
        topic=place[0],
        partition=place[1],
        offsets=offsets,
        effect="what lay there never becomes an event",
        fix=f"lengthen retention.ms of {place[0]} beyond the longest downtime",
    )
