"""The short form of `make faults`, and the proof that it can fail: what is taken from what a reader sees is found."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import msgspec
import pytest

from schemas.event import decode
from schemas.feedback import Feedback
from streams.join.naive import Record
from streams.join.verify import verify
from streams.runtime.phase import Phase
from tests.faults.audit import Balance, Findings, Told, balance, judge, told_of
from tests.faults.campaign import KILLED, Campaign, Report, print_report
from tests.faults.crew import stop_in
from tests.faults.nursery import Life
from tests.faults.plan import CHUNK, DOWNTIME_MS, PARTITIONS, Plan, plan
from tests.processes import until
from tests.streams.join.driver import Driver
from tests.streams.join.histories import history
from tests.streams.join.test_equality import comparable, driver_of

KILLS = 50


# --- the harness can fail


@functools.cache
def ran() -> Driver[None]:
    """Run a history in memory whose last revisions include a second and a third one."""
    for seed in range(100):
        one = comparable(history(Random(seed), requests=20, events=200), seed)
        driver = driver_of(one, seed)
        driver.run()
        if any(decode(record.value or b"", Feedback).revision >= 3 for record in driver.outputs["feedback"]):
            return driver
    raise AssertionError("no history has a third revision")


def findings_of(driver: Driver[None], tamper: Callable[[list[Record]], list[Record]]) -> Findings:
    """Judge what a reader would see if what it sees were tampered with."""
    told = driver.outputs["feedback"]
    seen = tamper(list(told))
    report = verify(driver.logs, seen, driver.history.bounds, driver.clocks, exact=True)
    expected = [told_of("feedback", record) for record in told]
    return judge(balance(expected, [told_of("feedback", record) for record in seen]), report.mismatches)


def middle(records: list[Record]) -> int:
    """Give the place of a second revision that has a third."""
    shown = [decode(record.value or b"", Feedback) for record in records]
    thirds = {one.request_id for one in shown if one.revision == 3}
    return next(n for n, one in enumerate(shown) if one.revision == 2 and one.request_id in thirds)


def removed(records: list[Record]) -> list[Record]:
    del records[middle(records)]
    return records


def doubled(records: list[Record]) -> list[Record]:
    place = middle(records)
    return [*records[: place + 1], records[place], *records[place + 1 :]]


def broken(records: list[Record]) -> list[Record]:
    place = middle(records)
    body = msgspec.json.decode(records[place].value or b"")
    body["was"]["weight"] = 0.123
    records[place] = replace(records[place], value=json.dumps(body).encode())
    return records


def test_an_untouched_run_is_well() -> None:
    assert findings_of(ran(), list).ok


@pytest.mark.parametrize(
    ("tamper", "lost", "duplicated", "wrong"), [(removed, 1, 0, 0), (doubled, 0, 1, 0), (broken, 0, 0, 1)]
)
def test_what_is_taken_or_added_is_found(
    tamper: Callable[[list[Record]], list[Record]], lost: int, duplicated: int, wrong: int
) -> None:
    found = findings_of(ran(), tamper)
    assert (found.lost, found.duplicated, found.wrong, found.broken_chains) == (lost, duplicated, wrong, 1)
    assert found.sentences


def test_each_record_is_accounted_for_once() -> None:
    def letter(key: bytes, value: bytes = b"x") -> Told:
        return Told("dead-letters", key, value)

    found = balance(
        [letter(b"lost"), letter(b"twice"), letter(b"changed")],
        [letter(b"twice"), letter(b"twice"), letter(b"changed", b"y"), letter(b"new")],
    )
    assert found == Balance([letter(b"lost")], [letter(b"twice")], [letter(b"changed", b"y")], [letter(b"new")])


# --- it hits what it aims at

RESTLESS = """
import sys, time
from pathlib import Path
from streams.runtime.phase import Phase, Told
teller = Told(Path(sys.argv[1]))
while True:
    for phase in Phase:
        teller.enter(phase)
        time.sleep(0.003)
"""


@pytest.mark.parametrize("wanted", [Phase.STEP, Phase.COMMIT, None])
def test_a_process_is_stopped_in_the_phase_that_was_aimed_at(tmp_path: Path, wanted: Phase | None) -> None:
    life = Life([], tmp_path / "phase")
    process = subprocess.Popen([sys.executable, "-c", RESTLESS, str(tmp_path / "phase")])
    try:
        life.born(process.pid)
        until(lambda: any(life.doing()), "its first phase")
        found = stop_in(life, wanted, Random(5), 20, lambda: None)
        assert found is not None
        assert wanted in (None, found)
        assert life.stopped()
        assert life.doing()[0] is found, "and it stays there"
    finally:
        process.kill()
        process.wait()


# --- what it feeds and reports


def test_a_plan_stretches_time_and_keeps_its_seed() -> None:
    drawn = plan("7", 20)
    assert drawn == plan("7", 20)
    assert isinstance(drawn, Plan)
    assert sum(chunk.down for chunk in drawn.chunks) == 1
    assert next(chunk.jump_ms for chunk in drawn.chunks if chunk.down) >= DOWNTIME_MS
    assert sum(len(chunk.arrivals) for chunk in drawn.chunks) == drawn.records
    assert all(len(chunk.arrivals) <= CHUNK for chunk in drawn.chunks)
    moments = [chunk.now_ms for chunk in drawn.chunks]
    assert moments == sorted(moments)
    assert {arrival.topic for arrival in drawn.chunks[0].arrivals} == {"control"}
    assert {arrival.partition for arrival in drawn.chunks[0].arrivals} == set(range(PARTITIONS))


def test_a_report_is_well_only_when_nobody_was_spared(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(seed=3, wanted=60, counts=Counter(kills=60))
    report.phases.update(dict.fromkeys(KILLED, 10))
    assert report.ok
    report.phases[Phase.COMMIT] = 0
    assert not report.ok
    print_report(report, as_json=True)
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["phases"]["commit"] == 0
    assert said["phases"]["recall"] == 10
    assert [said[name] for name in ("kills", "lost", "duplicated", "wrong", "broken_chains", "residual")] == [60] + [
        0
    ] * 5


# --- the short form


@pytest.mark.kafka
@pytest.mark.clickhouse
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fifty_kills_and_more_change_nothing(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, kills=KILLS, seed=20_260_101)
    report = campaign.run()
    shown = report.as_text()
    assert report.ok, shown
    assert report.kills >= KILLS
    assert report.findings.revisions > 100, shown
    assert report.findings.beyond == 0, "so that counters and dead letters were compared too"
    for name in ("zombies", "broker_kills", "commit_timeouts", "downtimes", "clock_jumps", "record_kills"):
        assert report.counts[name] > 0, shown
