"""The same events mean the same in envelopes: to the columns, to the objects, to the twin, position by position."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import msgspec
import pytest

from schemas.envelope import ARROW, CONTENT_TYPE
from schemas.topics import INPUTS
from streams.join.columns import lane
from streams.join.naive import expect
from streams.join.processor import JoinProcessor
from streams.join.verify import verify
from streams.runtime.enclose import enclose
from streams.runtime.processor import Batch
from streams.runtime.unfold import unfold
from tests.streams.join.columns.plain import plain_history, processor_of
from tests.streams.join.columns.test_plain import assert_same_steps
from tests.streams.join.driver import Driver
from tests.streams.join.histories import Arrival, History, history

SENT = ((CONTENT_TYPE, ARROW),)
BROKEN = (b"", b"no Arrow", b'{"request_id":"r1"}', None)


def enclosed(arrivals: Sequence[Arrival], random: Random) -> list[Arrival]:
    """Put neighbours of one partition into envelopes; what fits none stays a record. Some envelopes come broken."""
    found: list[Arrival] = []
    held: list[Arrival] = []

    def close() -> None:
        if held:
            value: bytes | None = enclose([one.value or b"" for one in held])
            if random.random() < 0.05:
                value = random.choice((*BROKEN, (value or b"")[:300]))
            found.append(replace(held[-1], key=random.choice((None, b"any")), value=value, headers=SENT))
            held.clear()

    for one in arrivals:
        if one.headers or not _encloses(one.value) or random.random() < 0.1:
            close()
            found.append(one)
            continue
        held.append(one)
        if random.random() < 0.3:
            close()
    close()
    return found


def _encloses(value: bytes | None) -> bool:
    try:
        enclose([value or b""])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def in_envelopes(one: History, seed: int) -> History:
    random = Random(seed)
    logs: dict[tuple[str, int], list[Arrival]] = {}
    for arrival in one.arrivals:
        logs.setdefault((arrival.topic, arrival.partition), []).append(arrival)
    found: list[Arrival] = []
    for (topic, _), log in sorted(logs.items()):
        found += enclosed(log, random) if topic in INPUTS else log
    return replace(one, arrivals=tuple(sorted(found, key=lambda arrival: arrival.append_ms)))


class Doubts:
    """How many events were written by compiled code, and how many it was not sure of."""

    def __init__(self) -> None:
        self.rows = self.scanned = 0


@pytest.fixture
def doubts(monkeypatch: pytest.MonkeyPatch) -> Doubts:
    counted = Doubts()
    take_rows: Any = vars(lane)["take_rows"]

    def counting(*given: Any) -> int:
        done = int(take_rows(*given))
        counted.rows += (done if done >= 0 else -1 - done) - given[7]
        counted.scanned += done < 0
        return done

    monkeypatch.setattr(lane, "take_rows", counting)
    return counted


def assert_same_as_records(driver: Driver[Any], other: JoinProcessor[Any]) -> None:
    """Take a driver's steps again with the events of envelopes as records of their own; compare every byte."""
    for partition, part in enumerate(driver.parts):
        state = other.empty(partition)
        for step in part.steps:
            inputs = {topic: unfold(topic, records) for topic, records in step.batch.inputs.items()}
            stepped = other.step(state, Batch(partition, step.batch.step, inputs), step.clock_ms)
            assert list(stepped.outputs) == list(step.stepped.outputs)
            assert stepped.counters == step.stepped.counters
        assert other.dump(state, whole=True).parts.keys() == other.dump(part.state, whole=True).parts.keys()


def check(one: History, seed: int) -> Driver[Any]:
    driver = Driver(processor_of(one.bounds), one, Random(seed))
    driver.run()
    assert_same_steps(driver, processor_of(one.bounds, columns=False))
    assert_same_as_records(driver, processor_of(one.bounds))
    return driver


@pytest.mark.parametrize("seed", range(20))
def test_plain_requests_mean_the_same_in_envelopes(seed: int, doubts: Doubts) -> None:
    one = in_envelopes(plain_history(Random(seed), requests=30), seed)
    assert sum(arrival.headers == SENT for arrival in one.arrivals) > 10
    driver = check(one, seed)
    assert doubts.rows > 50
    beyond = expect(driver.logs, one.bounds, driver.clocks).beyond
    if not beyond:
        report = verify(
            driver.logs,
            driver.outputs["feedback"],
            one.bounds,
            driver.clocks,
            dead_letters=driver.outputs["dead-letters"],
            counters=driver.counters,
        )
        assert report.ok, [mismatch.sentence for mismatch in report.mismatches[:5]]


@pytest.mark.parametrize("seed", range(30))
def test_colliding_requests_mean_the_same_in_envelopes(seed: int) -> None:
    one = in_envelopes(history(Random(seed), requests=4, events=40), seed)
    check(one, seed)


def test_no_pandas_is_imported_in_a_step() -> None:
    value = enclose([b'{"request_id":"r","at_ms":1,"model":"m","slices":{"a":"b"}}', b'{"request_id":"s","model":"m"}'])
    code = f"""
import sys
from streams.join.columns.warm import warm
from streams.runtime.processor import Batch
from streams.runtime.records import Records
from tests.streams.join.columns.plain import BOUNDS, processor_of

warm()
processor = processor_of(BOUNDS)
records = Records([0], [1], [None], [{value!r}], {{0: {SENT!r}}})
processor.step(processor.empty(0), Batch(0, 1, {{"predictions": records}}), 1)
sys.exit("pandas" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_broken_envelopes_break_nothing() -> None:
    """Neither by a wrong answer, nor by reading where nothing is, nor by not ending. All of them: 20 s."""
    code = [sys.executable, "-m", "tests.streams.join.columns.broken", "5"]
    done = subprocess.run(code, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 100
