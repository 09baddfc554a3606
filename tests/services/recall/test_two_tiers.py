"""The whole second tier on real parts: what does not fit into memory lands, leaves, is asked for, and comes back."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from schemas.control import ClockAdvanced, PolicySet
from schemas.event import decode, encode
from schemas.feedback import Feedback
from schemas.inputs import Label, Prediction
from schemas.policy import JoinPolicy
from schemas.records import Step
from schemas.settings import Recall, Runtime, Settings
from services.cli.verify import verification
from services.kafka import Sender, read_to_end
from streams.join.admission import JoinBounds
from streams.join.processor import JoinProcessor
from streams.runtime.topics import ensure_topics
from tests.services.recall.harness import recalling
from tests.services.record.harness import recording, until
from tests.streams.runtime.harness import Running

pytestmark = [pytest.mark.kafka, pytest.mark.clickhouse]

T_MS = 1_700_000_000_000
COUNT = 400
HOUR_MS = 3_600_000


def send(settings: Settings, topic: str, events: list[Prediction] | list[Label]) -> None:
    with Sender(settings, "test") as sender:
        for event in events:
            sender.send(topic, encode(event), key=event.request_id.encode(), append_ms=event.at_ms)


def control(settings: Settings, event: PolicySet | ClockAdvanced) -> None:
    with Sender(settings, "test") as sender:
        for partition in range(settings.partitions):
            sender.send("control", encode(event), partition=partition, append_ms=T_MS)


def counters(settings: Settings) -> Counter[str]:
    """Sum the counters of the last step of each partition."""
    last: dict[int, Step] = {}
    for message in read_to_end(settings, "steps"):
        step = decode(message.value() or b"", Step)
        last[step.partition] = step
    total: Counter[str] = Counter()
    for step in last.values():
        total.update(step.counters)
    return total


def revisions(settings: Settings) -> Counter[str]:
    return Counter(str(decode(m.value() or b"", Feedback).label_kind) for m in read_to_end(settings, "feedback"))


def test_what_does_not_fit_leaves_and_comes_back(namespace: Settings, tmp_path: Path) -> None:
    settings = namespace.model_copy(
        update={
            "namespace": f"{namespace.namespace}-tiers",
            "clock": "virtual",
            "partitions": 2,
            "data_dir": tmp_path,
            "runtime": Runtime(commit_ms=20),
            "recall": Recall(enabled=True, hot_mb=0.01, ahead_ms=1_000),
        }
    )
    ensure_topics(settings)
    policy = JoinPolicy(model="m", horizon_ms=HOUR_MS, lateness_ms=0, on_timeout="negative")
    control(settings, PolicySet(policy=policy))
    control(settings, ClockAdvanced(now_ms=T_MS))
    with recording(settings), recalling(settings):
        running = Running(settings, JoinProcessor(JoinBounds.of(settings), None))  # type: ignore[arg-type]
        try:
            running.until(lambda: counters(settings)["control.applied"] == settings.partitions, "the policy")
            send(
                settings,
                "predictions",
                [Prediction(request_id=f"r{n}", at_ms=T_MS + n, model="m", score=0.5) for n in range(COUNT)],
            )
            control(settings, ClockAdvanced(now_ms=T_MS + 60_000))
            running.until(lambda: counters(settings)["recalls.away"] == COUNT, "everything to be put away")
            assert counters(settings)["predictions.open"] == COUNT

            send(
                settings,
                "labels",
                [Label(request_id=f"r{n}", at_ms=T_MS + 61_000, label=1) for n in range(0, COUNT, 4)],
            )
            send(settings, "predictions", [Prediction(request_id="r1", at_ms=T_MS + 1, model="m", score=0.5)])
            running.until(lambda: revisions(settings)["explicit"] == COUNT // 4, "labels of what was put away")
            running.until(lambda: counters(settings)["predictions.duplicate"] == 1, "the duplicate to be known")

            control(settings, ClockAdvanced(now_ms=T_MS + 2 * HOUR_MS))
            silent = COUNT - COUNT // 4
            running.until(lambda: revisions(settings)["timeout"] == silent, "deadlines of what was put away")
            running.until(lambda: counters(settings)["recalls.open"] == 0, "the last answer")
            found = until(lambda: (one := verification(settings)).residual == 0 and one, "everything to land")
            assert found.report.ok, found.report.summary
            assert found.report.beyond == 0
        finally:
            running.stop.set()
            assert running.ended() is None
    total = counters(settings)
    assert total["recalls.missing"] == total["recalls.dead"] == 0
    assert total["recalls.put_away"] >= COUNT
