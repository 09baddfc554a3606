"""What a standby may conclude: only silence that it could have heard counts, and only a settled group is believed."""

from __future__ import annotations

import pytest
from confluent_kafka import ConsumerGroupState, Node, TopicPartition
from confluent_kafka.admin import ConsumerGroupDescription, MemberAssignment, MemberDescription

from streams.runtime.vigil import DEAF_S, Holder, Vigil, holder

INPUTS = ("predictions", "labels")


def listened(vigil: Vigil, start: float, end: float, every_s: float = 0.1) -> None:
    for tick in range(round((end - start) / every_s) + 1):
        vigil.look(start + tick * every_s)


def test_ticks_of_an_idle_worker_are_never_silence() -> None:
    vigil = Vigil(1.5, now=0.0)
    for tick in range(1, 20):
        listened(vigil, tick - 1, tick * 1.15)
        assert not vigil.silent(tick * 1.15)
        vigil.sign(tick * 1.15)


def test_own_absence_starts_the_count_anew() -> None:
    vigil = Vigil(1.5, now=0.0)
    listened(vigil, 0.0, 1.4)
    vigil.look(1.4 + DEAF_S + 0.1)
    assert not vigil.silent(3.0)
    listened(vigil, 2.0, 3.5)
    assert vigil.silent(3.5)


def group(*members: tuple[str, str, list[tuple[str, int]]], state: ConsumerGroupState) -> ConsumerGroupDescription:
    described = [
        MemberDescription(
            member, "client", "host", MemberAssignment([TopicPartition(*place) for place in places]), instance
        )
        for member, instance, places in members
    ]
    return ConsumerGroupDescription("join", False, described, "range", state, Node(1, "broker", 9092))


@pytest.mark.parametrize(
    ("state", "settled"),
    [
        (ConsumerGroupState.STABLE, True),
        (ConsumerGroupState.PREPARING_REBALANCING, False),
        (ConsumerGroupState.COMPLETING_REBALANCING, False),
    ],
)
def test_slot_is_found_by_its_instance_with_its_whole_partitions(state: ConsumerGroupState, settled: bool) -> None:
    mine = [("predictions", 2), ("labels", 2), ("predictions", 0), ("labels", 0), ("labels", 7)]
    found = group(("a", "slot.1", [("predictions", 1), ("labels", 1)]), ("b", "slot.0", mine), state=state)
    assert holder(found, "slot.0", INPUTS, 5.0) == Holder("b", (0, 2), settled, 5.0)


def test_slot_that_nobody_holds() -> None:
    assert holder(group(state=ConsumerGroupState.EMPTY), "slot.0", INPUTS, 5.0) == Holder(None, (), True, 5.0)
