"""An outage on real Kafka: labels of a source stop, no negative leaves, and in the end nothing is wrong."""

from __future__ import annotations

import json
import urllib.request
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import KafkaException

from schemas.control import ClockAdvanced, Control, Frozen, PolicySet, Thawed
from schemas.event import decode, encode
from schemas.feedback import Feedback
from schemas.inputs import Label, Prediction
from schemas.lifecycle import Alert
from schemas.measures import Forecast
from schemas.policy import JoinPolicy
from schemas.settings import Guard, Join, Kafka, Runtime, Settings
from schemas.topics import INPUTS
from services.cli.verify import verification
from services.kafka import Sender, read_to_end
from services.local.kafka import LocalKafka
from streams.runtime.backlog import Backlog
from streams.runtime.kafka import ends, make_admin
from streams.runtime.topics import ensure_topics
from tests.processes import Process, process, until

pytestmark = pytest.mark.kafka

MINUTE = 60_000
T0_MS = 1_767_225_600_000
PARTITIONS = 3
EACH = 60
"""Predictions of an arm in a minute. Every second one gets a label two minutes later, and silence means no."""
POLICY = JoinPolicy(
    model="ctr", horizon_ms=5 * MINUTE, lateness_ms=MINUTE, on_timeout="negative", retain_ms=200 * MINUTE
)
STAGES = {"join": ("control", *INPUTS), "judge": ("control", "measures", "trials")}


class Shop:
    """A shop whose minutes are virtual. `late` keeps the labels that an outage holds up."""

    def __init__(self, settings: Settings, running: dict[str, Process]) -> None:
        self.settings, self.running = settings, running
        self.admin = make_admin(settings)
        self.backlogs = {name: Backlog(settings, name, inputs, self.admin) for name, inputs in STAGES.items()}
        self.sender = Sender(settings, "shop")
        self.minute = 0
        self.due: dict[int, list[tuple[str, Label]]] = defaultdict(list)
        self.late: list[Label] = []
        self.truth: dict[str, int] = {}

    def go(self, minutes: int, *versions: str, silent: tuple[str, ...] = ()) -> None:
        """Let minutes pass, at once as far as the clock is concerned.

        The labels about `silent` versions stay away, and come when no version is silent any more.
        """
        for _ in range(minutes):
            start_ms = T0_MS + self.minute * MINUTE
            for version in versions:
                for number in range(EACH):
                    self.predict(version, number, start_ms + number * MINUTE // EACH)
            self.late += [label for version, label in self.due[self.minute] if version in silent]
            going = [label for version, label in self.due.pop(self.minute) if version not in silent]
            if not silent:
                going, self.late = going + self.late, []
            for label in going:
                self.send("labels", label, start_ms + MINUTE - 1)
            self.minute += 1
        self.advance(T0_MS + self.minute * MINUTE)

    def predict(self, version: str, number: int, at_ms: int) -> None:
        request_id = f"{version}-{self.minute}-{number}"
        deployment = "" if version == "v1" else "canary"
        event = Prediction(
            request_id=request_id, at_ms=at_ms, model="ctr", version=version, deployment=deployment, score=0.5
        )
        self.send("predictions", event, at_ms)
        self.truth[request_id] = number % 2
        if number % 2:
            label = Label(request_id=request_id, at_ms=at_ms + 1_000, label=1, source="market")
            self.due[self.minute + 2].append((version, label))

    def send(self, topic: str, event: Any, append_ms: int) -> None:
        self.sender.send(topic, encode(event), key=event.request_id.encode(), append_ms=append_ms)

    def advance(self, now_ms: int) -> None:
        """Let everything arrive, then the time, then what follows from it."""
        self.sender.flush()
        self.drained("join", *INPUTS)
        for partition in range(PARTITIONS):
            self.sender.send("control", encode(ClockAdvanced(now_ms=now_ms)), partition=partition, append_ms=now_ms)
        self.sender.flush()
        for stage in ("join", "judge", "decide", "join", "judge", "decide"):
            self.drained(stage)

    def drained(self, stage: str, *inputs: str) -> None:
        def done() -> bool:
            if not self.running[stage].alive:
                self.running[stage].start()  # as a supervisor does
            try:
                return self.decided() if stage == "decide" else self.backlogs[stage].drained(*inputs)
            except KafkaException:  # a broker under load moves leaders
                return False

        until(done, f"{stage} to drain in minute {self.minute}", of=self.running[stage])

    def decided(self) -> bool:
        try:
            port = json.loads((self.settings.data_dir / "run" / "decide.json").read_text())["port"]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/progress", timeout=5) as answer:
                applied: dict[str, int] = json.load(answer)
        except (OSError, ValueError):
            return False
        places = {(name.rpartition("/")[0], int(name.rpartition("/")[2])): at for name, at in applied.items()}
        last = ends(self.admin, list(places))
        return bool(places) and all(at >= last[place][1] for place, at in places.items())

    def close(self) -> None:
        self.sender.close()
        for backlog in self.backlogs.values():
            backlog.close()

    # What was said.

    def control(self) -> dict[int, list[Frozen | Thawed]]:
        """Give the freezes and thaws of each partition."""
        found: dict[int, list[Frozen | Thawed]] = {number: [] for number in range(PARTITIONS)}
        for message in read_to_end(self.settings, "control"):
            event: Any = msgspec.json.decode(message.value() or b"", type=Control)
            if isinstance(event, Frozen | Thawed):
                found[message.partition() or 0].append(event)
        return found

    def said(self, topic: str, kind: Any) -> list[Any]:
        return [decode(message.value() or b"", kind) for message in read_to_end(self.settings, topic)]


@contextmanager
def shop(kafka: LocalKafka, folder: Path) -> Iterator[Shop]:
    settings = Settings(
        namespace=f"outage{uuid.uuid4().hex[:8]}",
        clock="virtual",
        partitions=PARTITIONS,
        data_dir=folder,
        kafka=Kafka(bootstrap=kafka.bootstrap),
        join=Join(pane_ms=MINUTE, skew_ms=60 * MINUTE, early_label_ms=60 * MINUTE, grace_ms=0),
        runtime=Runtime(commit_ms=20),
        judge={"grace_ms": 0, "live_ms": MINUTE},
        guard=Guard(warm_up_ms=20 * MINUTE, false_freezes=1.0),
    )
    ensure_topics(settings)
    with ExitStack() as stack:
        running = {name: stack.enter_context(process(name, settings)) for name in ("join", "judge", "decide")}
        one = Shop(settings, running)
        stack.callback(one.close)
        policy = encode(PolicySet(policy=POLICY))
        for partition in range(PARTITIONS):
            one.sender.send("control", policy, partition=partition, append_ms=T0_MS - MINUTE)
        one.advance(T0_MS)
        yield one


@pytest.mark.serial
@pytest.mark.timeout(300)
def test_an_outage_is_seen_and_survived(kafka: LocalKafka, tmp_path: Path) -> None:
    with shop(kafka, tmp_path) as one:
        both = ("v1", "v2")
        one.go(26, *both)
        watched: Forecast = one.said("forecasts", Forecast)[-1]
        assert (watched.source, watched.state, len(watched.arms)) == ("market", "watched", 2)
        assert 0 < watched.bound < watched.expected
        assert not any(one.control().values())

        one.go(2, *both, silent=both)  # the first pane without a label ends: frozen
        (frozen,) = one.control()[0]
        assert isinstance(frozen, Frozen)
        assert frozen.evidence is not None
        assert (frozen.source, frozen.by, frozen.evidence.statistic) == ("market", "guard", 0)
        assert all(copies == [frozen] for copies in one.control().values())
        before = Counter(said.label_kind for said in one.said("feedback", Feedback))
        closed = sum(metric["closed"] for metric in metrics(one))

        one.go(12, *both, silent=both)  # longer than horizon and lateness together
        after = Counter(said.label_kind for said in one.said("feedback", Feedback))
        assert before["timeout"] > 0
        assert after["timeout"] == before["timeout"]
        assert sum(metric["closed"] for metric in metrics(one)) == closed  # no pane is judged without its negatives
        assert [len(copies) for copies in one.control().values()] == [1] * PARTITIONS
        assert one.said("forecasts", Forecast)[-1].state == "frozen"

        one.go(8, *both)  # the late labels come all at once, then as ever
        told = one.control()
        assert all([type(event) for event in copies] == [Frozen, Thawed] for copies in told.values())
        assert all(copies == told[0] for copies in told.values())
        assert one.said("forecasts", Forecast)[-1].state == "watched"

        one.go(12)
        said: dict[str, Feedback] = {}
        for feedback in one.said("feedback", Feedback):
            said[feedback.request_id] = max(feedback, said.get(feedback.request_id, feedback), key=revision)
        assert {request: feedback.label for request, feedback in said.items()} == one.truth
        assert all(feedback.revision == 1 for feedback in said.values())  # nothing was said falsely in between
        assert sum(metric["closed"] for metric in metrics(one)) > closed

        alerts = [alert for alert in one.said("alerts", Alert) if alert.rule == "outage:market"]
        assert [alert.status for alert in alerts] == ["firing", "resolved"]
        assert alerts[0].fingerprint == alerts[1].fingerprint
        assert alerts[0].evidence == [frozen.evidence]
        assert alerts[0].summary == frozen.reason
        settings = one.settings
    found = verification(settings)
    assert found.report.ok, found.report


@pytest.mark.serial
@pytest.mark.timeout(300)
def test_an_arm_without_labels_is_no_outage(kafka: LocalKafka, tmp_path: Path) -> None:
    with shop(kafka, tmp_path) as one:
        one.go(26, "v1", "v2")
        one.go(12, "v1", "v2", silent=("v1",))
        assert not any(one.control().values())
        said = one.said("feedback", Feedback)
        assert any(one.label_kind == "timeout" and one.version == "v1" for one in said)


def revision(feedback: Feedback) -> int:
    return feedback.revision


def metrics(one: Shop) -> list[dict[str, Any]]:
    found = (json.loads(message.value() or b"") for message in read_to_end(one.settings, "metrics"))
    return [{"closed": metric.get("closed", False) and not metric.get("correction", False)} for metric in found]
