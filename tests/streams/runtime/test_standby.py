"""A standby against a real Kafka: warm, quick, safe when it guessed wrong, and silent when it must not take over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import USAGE, WeirError
from schemas.settings import Settings
from services.local.kafka import LocalKafka
from streams.runtime.backlog import lags
from streams.runtime.failures import FENCED, NOT_RESTORED
from streams.runtime.standby import Standby
from streams.runtime.topics import ensure_topics
from tests.streams.runtime.counting import Counting
from tests.streams.runtime.harness import (
    DEADLINE_S,
    assert_exactly_once,
    configuration,
    recorded,
    reflected,
    send,
    snapshots,
    until,
)
from tests.streams.runtime.test_kills import Feed

pytestmark = pytest.mark.kafka

INPUTS = ("predictions", "labels")


class Life:
    """One process of the slot, on a machine of its own: its data directory is not shared."""

    def __init__(self, given: dict[str, Any], name: str, version: str, **runtime: Any) -> None:
        self.given = {
            **given,
            "data_dir": str(Path(given["data_dir"]) / name),
            "runtime": {**given["runtime"], **runtime},
        }
        self.settings = Settings(**self.given)
        self._log = Path(given["data_dir"]) / f"{name}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.streams.runtime.counting", json.dumps(self.given)],
                env={**os.environ, "COUNTING_VERSION": version},
                stdout=log,
                stderr=log,
            )

    def log(self) -> str:
        return self._log.read_text()

    def every(self, event: str) -> list[dict[str, Any]]:
        """Give the lines of its log about an event. A line that is being written does not count yet."""
        whole = self.log().rpartition("\n")[0].splitlines()
        return [said for line in whole if line.startswith("{") and (said := json.loads(line))["event"] == event]

    def said(self, event: str) -> dict[str, Any] | None:
        """Give the first line of its log about an event."""
        return next(iter(self.every(event)), None)

    def holder(self) -> str | None:
        """Whom it follows: the member of the group that it last found to hold the slot."""
        held = self.every("slot_held")
        return held[-1]["by"] if held else None

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        try:
            return until(condition, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()[-4_000:]}") from None

    def ready(self) -> dict[str, Any] | None:
        """Give what `/readyz` says when it is 200."""
        said = self.said("following") or self.said("working")
        if said is None:
            return None
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{said['health_port']}/readyz", timeout=5) as answer:
                return dict(json.load(answer))
        except (urllib.error.URLError, ConnectionError):
            return None

    def warm(self) -> bool:
        """Whether it is a standby that has every partition and no step to catch up with."""
        return (said := self.ready()) is not None and said.get("following") is True and not said["lag_steps"]

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)


@contextmanager
def life(given: dict[str, Any], name: str, *, version: str = "1", **runtime: Any) -> Iterator[Life]:
    one = Life(given, name, version, **runtime)
    try:
        yield one
    finally:
        if one.process.poll() is None:
            one.process.send_signal(signal.SIGCONT)
            one.process.kill()
        one.process.wait(DEADLINE_S)


def drained(settings: Settings) -> bool:
    return not sum(lags(settings, "join", INPUTS).values())


@pytest.fixture
def given(kafka: LocalKafka, tmp_path: Path) -> dict[str, Any]:
    given = configuration(kafka.bootstrap, tmp_path)
    ensure_topics(Settings(**given))
    return given


def finish(active: Life, feed: Feed) -> None:
    """Let the worker read everything, stop it cleanly, and compare all that it wrote with a recomputation."""
    sent = feed.end()
    active.until(lambda: drained(active.settings), "the end of the inputs")
    assert active.end() == 0, active.log()[-4_000:]
    assert len(reflected(active.settings)) == sent
    assert_exactly_once(active.settings)


@contextmanager
def fed(settings: Settings) -> Iterator[Feed]:
    feed = Feed(settings, 5)
    try:
        yield feed
    finally:
        feed.end()


def test_killed_worker_is_followed_by_a_warm_standby(given: dict[str, Any]) -> None:
    with life(given, "first") as first, life(given, "second", standby=True) as second:
        first.until(first.ready, "the worker")
        with fed(first.settings) as feed:
            second.until(second.warm, "a warm standby")
            before = {partition: recorded(first.settings, partition)[-1].number for partition in range(2)}
            second.until(lambda: after(second, before), "following")
            first.end(signal.SIGKILL)
            second.until(lambda: second.said("took_over"), "the takeover")
            assert second.said("slot_taken")["behind"] == []  # type: ignore[index]
            assert "restored" not in second.log().partition("taking_over")[2], "nothing was left to restore"
            finish(second, feed)


def after(one: Life, steps: dict[int, int]) -> bool:
    """Whether a standby that is warm got there by following: it kept snapshots of later steps."""
    kept = {int(path.parent.name): int(path.stem) for path in snapshots(one.settings)}
    return all(kept.get(partition, 0) > step for partition, step in steps.items())


def test_worker_that_was_only_asleep_is_fenced_and_nothing_is_lost_or_doubled(given: dict[str, Any]) -> None:
    with life(given, "first") as first, life(given, "second", standby=True) as second:
        first.until(first.ready, "the worker")
        with fed(first.settings) as feed:
            second.until(second.warm, "a warm standby")
            first.process.send_signal(signal.SIGSTOP)
            second.until(lambda: second.said("took_over"), "the takeover")
            first.process.send_signal(signal.SIGCONT)
            assert first.process.wait(DEADLINE_S) == FENCED, first.log()[-4_000:]
            assert "is no longer this process's" in first.log()
            with life(given, "third", standby=True) as third:  # as a supervisor starts it again
                third.until(third.warm, "the one that was asleep, following")
                assert third.end() == 0, third.log()[-4_000:]
            finish(second, feed)


def test_of_two_standbys_one_goes_on(given: dict[str, Any]) -> None:
    names = ("second", "third")
    with life(given, "first") as first, ExitStack() as stack:
        standbys = [stack.enter_context(life(given, name, standby=True)) for name in names]
        first.until(first.ready, "the worker")
        with fed(first.settings) as feed:
            for one in standbys:
                one.until(one.warm, "a warm standby")
            killed = {one.holder() for one in standbys}
            first.end(signal.SIGKILL)

            def settled() -> list[Life]:
                """Give the one that works, once the other follows it or has ended.

                One that is warm may still be about to take over from the dead: it has to name the new holder.
                """
                working = [one for one in standbys if one.process.poll() is None and one.said("took_over")]
                idle = [one for one in standbys if one not in working]
                done = len(working) == 1 and all(
                    one.process.poll() is not None or (one.warm() and one.holder() not in {None, *killed})
                    for one in idle
                )
                return working if done else []

            [winner] = until(settled, "one that works")
            [other] = [one for one in standbys if one is not winner]
            assert (other.end() if other.process.poll() is None else other.process.poll()) in (0, FENCED)
            finish(winner, feed)


@pytest.mark.parametrize(
    ("version", "why"), [("2", "were taken by version '1'"), ("1 but different", "taken again differs")]
)
def test_standby_that_computes_something_else_says_so_and_leaves(given: dict[str, Any], version: str, why: str) -> None:
    with life(given, "first") as first:
        first.until(first.ready, "the worker")
        send(first.settings, "predictions", [b"v%d" % number for number in range(20)])
        with life(given, "second", version=version, standby=True) as second:
            assert second.process.wait(DEADLINE_S) == NOT_RESTORED, second.log()[-4_000:]
            assert why in second.log()
        steps = len(recorded(first.settings, 0))
        until(lambda: len(recorded(first.settings, 0)) > steps, "the worker, undisturbed")


def test_virtual_clock_has_no_sign_of_life(tmp_path: Path) -> None:
    settings = Settings(**{**configuration("127.0.0.1:1", tmp_path, clock="virtual"), "runtime": {"standby": True}})
    with pytest.raises(WeirError, match="a standby needs a broker's clock") as raised:
        Standby(Counting(), settings)
    assert raised.value.code == USAGE
