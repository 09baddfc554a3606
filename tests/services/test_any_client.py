"""Any Kafka client will do: `kcat`, whose default hash is not Java's, sends all three kinds and they are joined."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from schemas.control import PolicySet
from schemas.event import decode
from schemas.feedback import Feedback
from schemas.policy import Attribution, JoinPolicy
from schemas.settings import Kafka, Runtime, Settings
from schemas.topics import topic_name
from services.cli.policy import send_control
from services.cli.verify import verification
from services.kafka import read_to_end
from services.local.kafka import LocalKafka
from streams.runtime.topics import ensure_topics
from tests.processes import process, until

pytestmark = pytest.mark.kafka

REQUESTS = 40


def test_kcat_speaks_to_the_join(kafka: LocalKafka, kcat: str, tmp_path: Path) -> None:
    settings = Settings(
        namespace="kcat",
        partitions=4,
        data_dir=tmp_path,
        kafka=Kafka(bootstrap=kafka.bootstrap),
        runtime=Runtime(commit_ms=50),
    )
    ensure_topics(settings)
    now_ms = int(time.time() * 1000)
    click = Attribution(signal="click", label=1)
    policy = JoinPolicy(model="ctr", attribution=[click], effective_from_ms=now_ms + 120_000)
    send_control(settings, [PolicySet(policy=policy, at_ms=now_ms)])

    def send(topic: str, events: list[dict[str, object]]) -> None:
        lines = "".join(f"{event['request_id']}|{json.dumps(event)}\n" for event in events)
        command = [kcat, "-P", "-b", kafka.bootstrap, "-t", topic_name("kcat", topic), "-K", "|"]
        subprocess.run(command, input=lines.encode(), check=True, timeout=30)

    # In force only two minutes from now: the predictions say so, within the skew that a client's clock may have.
    at_ms = policy.effective_from_ms
    ids = [f"r{number}" for number in range(REQUESTS)]
    send("predictions", [{"request_id": one, "at_ms": at_ms, "model": "ctr", "score": 0.5} for one in ids])
    send("labels", [{"request_id": one, "at_ms": at_ms + 5, "label": 0} for one in ids[::2]])
    send("signals", [{"request_id": one, "at_ms": at_ms + 9, "signal": "click"} for one in ids[1::2]])

    def joined() -> dict[str, Feedback]:
        said = (decode(message.value() or b"", Feedback) for message in read_to_end(settings, "feedback"))
        return {one.request_id: one for one in said}

    with process("join", settings) as worker:
        until(lambda: len(joined()) == REQUESTS, "all requests to be joined", of=worker)
    said = joined()
    assert {(said[one].label, said[one].label_kind) for one in ids[::2]} == {(0, "explicit")}
    assert {(said[one].label, said[one].label_kind) for one in ids[1::2]} == {(1, "implicit")}
    found = verification(settings)
    assert found.report.ok, found.report.mismatches[:5]
    # Most of what librdkafka's own hash placed had to be forwarded; every event is counted where it happened.
    counters = found.cut.counters
    assert counters["predictions.forwarded"] > 0
    assert counters["labels.joined"] + counters["signals.joined"] == REQUESTS
