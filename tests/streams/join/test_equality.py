"""The fast join equals its naive twin: on any history, in any order of reading, through any snapshot.

`WEIR_JOIN_SEEDS=5000 HYPOTHESIS_PROFILE=explore pytest --timeout 3600 tests/streams/join/test_equality.py` goes on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.event import decode
from schemas.feedback import Feedback
from schemas.topics import INPUTS
from streams.join.admission import JoinBounds
from streams.join.naive import OutcomeId, expect
from streams.join.processor import JoinProcessor
from streams.join.verify import CLASSES, Report, verify
from streams.runtime.processor import Batch, whole_parts
from streams.runtime.records import Records
from tests.streams.join.driver import END_MS, Driver
from tests.streams.join.histories import BOUNDS, History, S, histories, history

SEEDS = int(os.environ.get("WEIR_JOIN_SEEDS", "400"))
EXAMPLES = settings.default.max_examples if settings.default else 100  # 100, or what the profile says


def processor_of(one: History) -> JoinProcessor[None]:
    return JoinProcessor(JoinBounds(**asdict(one.bounds)), None)


def driver_of(one: History, seed: int, *, reload: bool = False) -> Driver[Any]:
    return Driver(processor_of(one), one, Random(seed), reload=Random(seed) if reload else None)


def report_of(driver: Driver[Any], *, in_flight: bool) -> Report:
    return verify(
        driver.logs,
        driver.outputs["feedback"],
        driver.history.bounds,
        driver.clocks,
        dead_letters=driver.outputs["dead-letters"],
        counters=driver.counters,
        exact=True,
        in_flight=in_flight,
    )


def assert_equal(driver: Driver[Any], *, in_flight: bool = False) -> None:
    report = report_of(driver, in_flight=in_flight)
    assert report.ok, "\n".join([report.summary, *(mismatch.sentence for mismatch in report.mismatches)])


def assert_conserved(driver: Driver[Any]) -> None:
    for part in driver.parts:
        for topic in INPUTS:
            classes = {name: count for name, count in part.counters.items() if name in CLASSES}
            counted = sum(count for name, count in classes.items() if name.startswith(f"{topic}."))
            assert counted == part.read[topic], (topic, classes)
            assert all(count >= 0 for count in classes.values()), classes


def comparable(one: History, seed: int) -> History:
    """Leave out the requests of which the log alone does not say what state still knew."""
    while True:
        driver = driver_of(one, seed)
        driver.run()
        beyond = expect(driver.logs, one.bounds, driver.clocks).beyond
        if not beyond:
            return one
        one = one.without(beyond)


def last_revisions(driver: Driver[Any]) -> Mapping[OutcomeId, tuple[object, ...]]:
    last: dict[OutcomeId, tuple[object, ...]] = {}
    for record in driver.outputs["feedback"]:
        one = decode(record.value or b"", Feedback)
        shown = (one.predicted_at_ms, one.version, one.score, one.subject) if one.label is not None else ()
        said = (repr(one.label), one.label_kind, one.weight, *shown)
        last[one.request_id, one.model, one.deployment, one.name, one.item or ""] = said
    return last


def run_compared(one: History, seed: int, *, every: int = 7) -> Driver[Any]:
    """Run to the end; compare with the twin now and then on the way, conservation always."""
    driver = driver_of(one, seed)
    ticks = 0
    while driver.tick():
        ticks += 1
        assert_conserved(driver)
        if ticks % every == 0:
            assert_equal(driver, in_flight=True)
    assert_equal(driver)
    assert all(part.wake_at_ms is None for part in driver.parts), "something is due after the end of everything"
    return driver


@settings(max_examples=EXAMPLES)
@given(one=histories(), seed=st.integers(0, 2**16))
def test_fast_path_equals_its_twin(one: History, seed: int) -> None:
    run_compared(comparable(one, seed), seed)


@settings(max_examples=EXAMPLES // 2)
@given(one=histories(requests=1, events=8), seeds=st.tuples(st.integers(0, 99), st.integers(100, 199)))
def test_any_batching_gives_the_same_last_revisions(one: History, seeds: tuple[int, int]) -> None:
    for seed in seeds:
        one = comparable(one, seed)
    first, second = (run_compared(one, seed) for seed in seeds)
    assert last_revisions(first) == last_revisions(second)


@settings(max_examples=EXAMPLES // 2)
@given(one=histories(), seed=st.integers(0, 2**16))
def test_a_snapshot_in_between_changes_nothing(one: History, seed: int) -> None:
    plain, reloaded = driver_of(one, seed), driver_of(one, seed, reload=True)
    plain.run()
    reloaded.run()
    for part, other in zip(plain.parts, reloaded.parts, strict=True):
        assert [step.stepped for step in part.steps] == [step.stepped for step in other.steps]


@settings(max_examples=EXAMPLES // 3)
@given(one=histories(), seed=st.integers(0, 2**16))
def test_recorded_steps_taken_again_give_the_same_bytes(one: History, seed: int) -> None:
    driver = driver_of(one, seed)
    driver.run()
    again = processor_of(one)
    for partition, part in enumerate(driver.parts):
        state = again.empty(partition)
        for step in part.steps:
            assert again.step(state, step.batch, step.clock_ms) == step.stepped
        assert whole_parts(again, state) == whole_parts(driver.processor, part.state)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(SEEDS // 50))
def test_fast_path_equals_its_twin_on_larger_histories(block: int) -> None:
    for seed in range(50 * block, 50 * block + 50):
        random = Random(seed)
        one = history(random, requests=random.choice((1, 3, 8)), events=random.choice((5, 20, 60)))
        try:
            run_compared(comparable(one, seed), seed, every=25)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise


def test_requests_that_outlive_their_state_harm_nobody_else() -> None:
    beyond = 0
    for seed in range(20):
        driver = run_compared(history(Random(seed), requests=8, events=100), seed, every=50)
        beyond += report_of(driver, in_flight=False).beyond
    assert beyond > 0


def test_requests_with_many_events_are_no_different() -> None:
    bounds = replace(BOUNDS, early_label_ms=400 * S, grace_ms=300 * S)  # few are beyond
    for seed in range(25):
        one = history(Random(seed), requests=1, events=150, bounds=bounds)
        run_compared(comparable(one, seed), seed, every=15)


def test_virtual_namespace_takes_policies_from_the_past() -> None:
    bounds = replace(BOUNDS, virtual=True)
    for seed in range(20):
        run_compared(comparable(history(Random(seed), requests=3, events=20, bounds=bounds), seed), seed, every=25)


def test_nothing_happens_before_the_wake_up_time() -> None:
    idle = {topic: Records() for topic in ("control", *INPUTS)}
    for seed in range(20):
        driver = driver_of(history(Random(seed), requests=3, events=20), seed)
        while driver.tick():
            for partition, part in enumerate(driver.parts):
                wake_ms = part.wake_at_ms
                assert wake_ms is None or wake_ms > part.clock_ms
                state = driver.processor.load(partition, whole_parts(driver.processor, part.state))
                clock_ms = max(part.clock_ms, (wake_ms or END_MS) - 1)
                if part.steps:
                    stepped = driver.processor.step(state, Batch(partition, len(part.steps), idle), clock_ms)
                    assert not stepped.outputs
                    assert dict(stepped.counters) == dict(part.counters)
