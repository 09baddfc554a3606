"""Requests that are put away at any moment, asked for and brought back: what is said in the end is what the log means.

`WEIR_TIER_SEEDS=5000 pytest --timeout 3600 tests/streams/join/test_two_tiers.py` goes on.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from schemas.event import decode
from schemas.measures import Measures
from schemas.recall import Recalled, RecallRequested
from streams.join.processor import JoinProcessor
from streams.measure.ledger import Ledger
from tests.streams.join.columns.plain import chained_of, plain_history
from tests.streams.join.columns.test_plain import assert_same_steps
from tests.streams.join.driver import Driver
from tests.streams.join.histories import History, S, history
from tests.streams.join.test_equality import assert_conserved, assert_equal, comparable, processor_of

SEEDS = int(os.environ.get("WEIR_TIER_SEEDS", "120"))


def two_tiers(one: History, *, columns: bool = True) -> JoinProcessor[None]:
    bounds = replace(processor_of(one).join.bounds, ahead_ms=2 * S)
    return JoinProcessor(bounds, None, columns=columns)


def driver_of(one: History, seed: int, *, reload: bool = False, columns: bool = True) -> Driver[Any]:
    return Driver(
        two_tiers(one, columns=columns),
        one,
        Random(seed),
        reload=Random(seed) if reload else None,
        cuts=Random(seed),
    )


def run_compared(one: History, seed: int) -> Driver[Any]:
    """Run to the end; compare with the twin there, and on the way when no question is open; conservation always."""
    driver = driver_of(one, seed)
    ticks = 0
    while driver.tick():
        ticks += 1
        assert_conserved(driver)
        assert driver.counters["recalls.missing"] == driver.counters["recalls.dead"] == 0
        if ticks % 20 == 0 and not driver.counters["recalls.open"]:
            assert_equal(driver, in_flight=True)
    assert_equal(driver)
    assert all(part.wake_at_ms is None for part in driver.parts), "something is due after the end of everything"
    assert driver.counters["recalls.open"] == 0
    if not any(part.state.join.frozen_ms for part in driver.parts):
        assert driver.counters["recalls.away"] == 0
    return driver


MAKERS: dict[str, Callable[[Random], History]] = {
    "plain": lambda random: plain_history(random, requests=random.choice((3, 12, 40))),
    "anything": lambda random: history(random, requests=random.choice((1, 3, 8)), events=random.choice((5, 20, 60))),
}


@pytest.mark.parametrize("block", range(SEEDS // 20))
@pytest.mark.parametrize("make", MAKERS)
def test_putting_away_changes_nothing_in_the_end(make: str, block: int) -> None:
    for seed in range(20 * block, 20 * block + 20):
        try:
            one = comparable(MAKERS[make](Random(seed)), seed)
            run_compared(one, seed)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.slow
def test_everything_that_may_ask_does() -> None:
    causes: Counter[str] = Counter()
    parts = away = 0
    for seed in range(60):
        for make in MAKERS.values():
            driver = driver_of(make(Random(seed)), seed)
            driver.run()
            causes.update(decode(one.value or b"", RecallRequested).cause for one in driver.outputs["recall-requests"])
            answers = [decode(one.value or b"", Recalled) for part in driver.parts for one in part.logs["recalled"]]
            parts += sum(answer.parts > 1 for answer in answers)
            away += driver.counters["recalls.put_away"]
    assert all(causes[cause] > 3 for cause in ("label", "signal", "prediction", "deadline")), causes
    assert away > 2 * causes.total() / 3
    assert parts


@pytest.mark.slow
def test_measure_counts_what_it_counts_without() -> None:
    for seed in range(SEEDS // 6):
        one = comparable(plain_history(Random(seed), requests=random_size(seed)), seed)
        processors = [chained_of(one.bounds), chained_of(one.bounds)]
        processors[0].join.bounds = replace(processors[0].join.bounds, ahead_ms=2 * S)
        drivers = [
            Driver(processor, one, Random(seed), cuts=cuts)
            for processor, cuts in zip(processors, (Random(seed), None), strict=True)
        ]
        for driver in drivers:
            driver.run()
        assert counted(drivers[0]) == counted(drivers[1]), f"seed {seed}"


def random_size(seed: int) -> int:
    return (3, 12, 40)[seed % 3]


def counted(driver: Driver[Any]) -> dict[tuple[Any, ...], Ledger]:
    """Add up what all steps have told, but for the delays of labels, which follow the order in which they were read."""
    ledgers: dict[tuple[Any, ...], Ledger] = defaultdict(Ledger)
    for record in driver.outputs["measures"]:
        for pane in decode(record.value or b"", Measures).panes:
            place = tuple(getattr(pane, name) for name in pane.__struct_fields__ if name not in ("v", "cells"))
            cells = {name: flat for name, flat in pane.cells.items() if "delay" not in name}
            ledgers[place].add_flat(cells)
    return {place: ledger for place, ledger in ledgers.items() if ledger}


@pytest.mark.slow
@pytest.mark.parametrize("make", MAKERS)
def test_a_snapshot_in_between_changes_nothing(make: str) -> None:
    for seed in range(SEEDS // 4):
        one = MAKERS[make](Random(seed))
        plain, reloaded = driver_of(one, seed), driver_of(one, seed, reload=True)
        plain.run()
        reloaded.run()
        for part, other in zip(plain.parts, reloaded.parts, strict=True):
            assert [step.stepped for step in part.steps] == [step.stepped for step in other.steps], f"seed {seed}"


@pytest.mark.parametrize("make", MAKERS)
def test_columns_put_away_and_ask_for_what_the_objects_do(make: str) -> None:
    for seed in range(SEEDS // 4):
        driver = driver_of(MAKERS[make](Random(seed)), seed)
        driver.run()
        try:
            assert_same_steps(driver, two_tiers(driver.history, columns=False))
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
