"""What moves the clock of a partition in which nothing, or not everything, moves. Only for a broker's clock.

Every partition steps at least once a second. Such a tick's record gets an append time S from the broker; an input that
is drained when asked after that holds nothing unread from before S, so its clock may move there (`clock`). A timer is
met the same way: a tick when the broker's time has passed it, a question, a step. The local clock only schedules this;
what is due is decided by the broker's time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streams.runtime import kafka
from streams.runtime.clock import TIMELESS
from streams.runtime.partition import Partition
from streams.runtime.transaction import Transactions

StateT = TypeVar("StateT")

TICK_S = 1.0
ASK_AGAIN_S = 0.25

_log = structlog.get_logger()


def confirm(
    partitions: Iterable[Partition[StateT]],
    moment_ms: int | None,
    admin: AdminClient,
    topics: Mapping[str, str],
    now: float,
) -> bool:
    """Ask whether silent inputs are drained, at most once a second (oftener for a timer), and move their clocks.

    `moment_ms` is the append time of this worker's last step less the bound for broker skew; `topics` gives Kafka's
    name of each input. When a broker does not answer the clocks stay, and the answer is False: ask with another client
    next time, because one that saw a broker die may be told of a fenced leader for ever.
    """
    if moment_ms is None:
        return True
    asked: dict[kafka.Place, tuple[Partition[StateT], str]] = {}
    for part in partitions:
        clock, wake_at_ms = part.at.clock, part.at.wake_at_ms
        waits = wake_at_ms is not None and clock.ms < wake_at_ms <= moment_ms
        if now - part.asked_at < (ASK_AGAIN_S if waits else TICK_S):
            continue
        part.asked_at = now
        for name, topic in topics.items():
            if name not in TIMELESS and clock.seen.get(name, -1) < moment_ms and not part.gathered[name]:
                asked[topic, part.number] = part, name
    try:
        ends = kafka.ends(admin, list(asked), patience_s=0)
    except KafkaException as error:
        _log.warning("ends_unknown", reason=kafka.reason(error), effect="the clock stays")
        return False
    for place, (part, name) in asked.items():
        stable, high = ends[place]
        if part.position[name] == stable == high:
            part.held.pop(name, None)
            part.at.clock.confirm(name, moment_ms)
        else:
            part.held[name] = "unread" if part.position[name] < stable else "open transaction"
        part.at.clock.advance()
    return True


def ticking(
    partitions: Iterable[Partition[StateT]], out: Transactions, skew_ms: int, now: float
) -> list[Partition[StateT]]:
    """Give the partitions that need a step although nothing was read: silent for a second, or a timer to be met.

    One that is almost due ticks along with another, so that idle partitions share a transaction.
    """
    partitions = list(partitions)
    overdue = any(now - part.stepped_at >= TICK_S for part in partitions)
    estimate_ms, moment_ms = out.estimate_ms(now), out.moment_ms
    found = []
    for part in partitions:
        wake_at_ms = part.at.wake_at_ms
        met = (
            wake_at_ms is not None
            and estimate_ms is not None
            and moment_ms is not None
            and part.at.clock.ms < wake_at_ms
            and moment_ms - skew_ms < wake_at_ms <= estimate_ms - skew_ms
        )
        if met or (overdue and now - part.stepped_at >= TICK_S / 2):
            found.append(part)
    return found
