"""The columns give what the objects give, and both what the naive twin expects, where most requests are plain.

`WEIR_COLUMNS_SEEDS=5000 pytest --timeout 3600 tests/streams/join/columns/test_plain.py` goes on.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from msgspec import Struct
from msgspec.structs import asdict

from schemas.event import decode
from schemas.feedback import Feedback
from schemas.measures import Measures, Trial
from schemas.topics import INPUTS
from streams.join.admission import JoinBounds
from streams.join.columns.lane import Columns, Told
from streams.join.naive import expect
from streams.join.processor import JoinProcessor
from streams.join.state import JoinState
from streams.join.verify import verify
from streams.measure.ledger import Ledger
from streams.runtime.processor import Output
from streams.runtime.records import Records
from tests.streams.join.columns.plain import chained_of, plain_history, processor_of
from tests.streams.join.driver import Driver
from tests.streams.join.histories import BOUNDS, History

SEEDS = int(os.environ.get("WEIR_COLUMNS_SEEDS", "40"))


class Share:
    """How many records came, and how many the columns took."""

    def __init__(self) -> None:
        self.came = self.taken = 0


@pytest.fixture
def share(monkeypatch: pytest.MonkeyPatch) -> Share:
    counted = Share()
    take = Columns.take

    def counting(self: Columns, topic: str, records: Records) -> tuple[Told, list[int]]:
        count = len(records)
        told, left = take(self, topic, records)
        counted.came += count
        counted.taken += count - len(left)
        return told, left

    monkeypatch.setattr(Columns, "take", counting)
    return counted


def run(processor: JoinProcessor[Any], one: History, seed: int) -> Driver[Any]:
    driver = Driver(processor, one, Random(seed))
    driver.run()
    return driver


def comparable(one: History, seed: int) -> tuple[History, Driver[Any]]:
    """Leave out the requests of which the log alone does not say what state still knew."""
    while True:
        driver = run(processor_of(one.bounds), one, seed)
        beyond = expect(driver.logs, one.bounds, driver.clocks).beyond
        if not beyond:
            return one, driver
        one = one.without(beyond)


def values(tree: Any) -> Any:
    """Give an event as JSON so that equal numbers are equal, and truth values are no numbers."""
    if isinstance(tree, Struct):
        tree = asdict(tree)
    if isinstance(tree, bool) or not isinstance(tree, list | dict | int):
        return "truth" if tree is True else "lie" if tree is False else tree
    if isinstance(tree, int):
        return float(tree)
    if isinstance(tree, list):
        return [values(one) for one in tree]
    return {name: values(one) for name, one in tree.items()}


def told(outputs: Sequence[Output]) -> dict[tuple[str, object], list[Any]]:
    """Give outputs by topic and, for what is said of requests, by request, in order, as values."""
    found: dict[tuple[str, object], list[Any]] = defaultdict(list)
    cells: dict[tuple[Any, ...], Ledger] = defaultdict(Ledger)
    for one in outputs:
        if one.topic == "feedback":
            found["feedback", one.key].append((one.partition, one.headers, values(decode(one.value, Feedback))))
        elif one.topic == "trials":
            trial = decode(one.value, Trial)
            found["trials", trial.request_id].append(trial)
        elif one.topic == "measures":
            read = decode(one.value, Measures)
            assert not cells or read.clock_ms
            for pane in read.panes:
                names = [name for name in pane.__struct_fields__ if name not in ("v", "cells")]
                cells[tuple(getattr(pane, name) for name in names)].add_flat(pane.cells)
            found["measures", "arms"] += read.arms
            clock = read.clock_ms, read.timers_ms
            found["measures", "clock"].append((one.partition, one.key, read.source, read.step, *clock))
        else:
            found[one.topic, one.key].append(one)
    for place, ledger in cells.items():
        if ledger:
            found["measures", place] = [ledger]
    return found


def next_ms(state: JoinState, bounds: JoinBounds) -> int | None:
    """Give the moment at which something is due, from the objects; their own timers may be earlier."""
    if state.frozen_ms:
        return None
    due = (request.next_due_ms(state.timers_ms, bounds) for request in state.requests.values())
    return min((due_ms for due_ms in due if due_ms is not None), default=None)


def assert_same_steps(driver: Driver[Any], other: JoinProcessor[Any]) -> None:
    """Take a driver's steps again by another processor, without columns; compare all they give."""
    for partition, part in enumerate(driver.parts):
        state = other.empty(partition)
        for number, step in enumerate(part.steps):
            stepped = other.step(state, step.batch, step.clock_ms)
            where = f"partition {partition}, step {number}"
            ours, theirs = told(step.stepped.outputs), told(stepped.outputs)
            for place in ours.keys() | theirs.keys():
                assert ours.get(place) == theirs.get(place), f"{where}, {place}: {ours[place]} != {theirs[place]}"
            assert dict(step.stepped.counters) == dict(stepped.counters), where
            wake_ms, true_ms = step.stepped.wake_at_ms, next_ms(state.join, other.join.bounds)
            assert wake_ms is None or wake_ms > state.join.timers_ms, where
            assert true_ms is None or (wake_ms is not None and wake_ms <= true_ms), where


@pytest.mark.parametrize("block", range(SEEDS // 20))
def test_columns_equal_objects_and_the_twin(block: int, share: Share) -> None:
    for seed in range(20 * block, 20 * block + 20):
        random = Random(seed)
        try:
            drawn = plain_history(random, requests=random.choice((3, 12, 40)))
            one, driver = comparable(drawn, seed)
            report = verify(
                driver.logs,
                driver.outputs["feedback"],
                one.bounds,
                driver.clocks,
                dead_letters=driver.outputs["dead-letters"],
                counters=driver.counters,
                exact=True,
            )
            assert report.ok, "\n".join([report.summary, *(mismatch.sentence for mismatch in report.mismatches)])
            assert all(part.wake_at_ms is None for part in driver.parts)
            assert_same_steps(driver, processor_of(one.bounds, columns=False))
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
    assert share.taken >= 0.8 * share.came, f"{share.taken} of {share.came} records"


@pytest.mark.slow
@pytest.mark.parametrize("block", range(SEEDS // 20))
def test_what_is_beyond_the_twin_is_no_different_either(block: int) -> None:
    for seed in range(20 * block, 20 * block + 20):
        random = Random(10_000 + seed)
        one = plain_history(random, requests=random.choice((3, 30)), oddities=0.1)
        try:
            assert_same_steps(run(processor_of(one.bounds), one, seed), processor_of(one.bounds, columns=False))
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.parametrize("virtual", [False, True])
def test_measure_counts_the_same(virtual: bool, share: Share) -> None:
    for seed in range(SEEDS // 5):
        random = Random(20_000 + seed)
        one = plain_history(random, requests=random.choice((10, 30)), bounds=replace(BOUNDS, virtual=virtual))
        try:
            assert_same_steps(run(chained_of(one.bounds), one, seed), chained_of(one.bounds, columns=False))
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
    assert share.taken >= 0.8 * share.came, f"{share.taken} of {share.came} records"


def test_the_histories_reach_every_class() -> None:
    total: Counter[str] = Counter()
    for seed in range(12):
        total += run(processor_of(BOUNDS), plain_history(Random(seed), requests=30, oddities=0), seed).counters
    for topic in INPUTS:
        wanted = ("joined", "duplicate", "dead") if topic != "predictions" else ("final", "void", "unlabelled")
        assert all(total[f"{topic}.{name}"] for name in wanted), total
