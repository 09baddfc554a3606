"""Bad input among good, through a real `weir join` and `weir record`: nothing else suffers, nothing is lost.

What each kind gives is held in `tests/services/test_bad_input.py`; here all kinds arrive together with large events and
good ones, and afterwards the twin agrees, every position is counted once, and the dead letters can be handled by hand.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from schemas.control import ClockAdvanced
from schemas.errors import WeirError
from schemas.event import decode, encode
from schemas.feedback import Feedback
from schemas.settings import Join, Kafka, Runtime, Settings
from schemas.topics import INPUTS, topic_name
from services.cli import dlq
from services.cli.configuration import write_running
from services.cli.verify import Verification, verification
from services.kafka import Sender, read_to_end
from services.local.kafka import LocalKafka
from services.record.residual import counted
from streams.join.partition import partition_of
from streams.runtime.backlog import lags
from streams.runtime.kafka import MESSAGE_BYTES, make_admin
from streams.runtime.topics import ensure_topics
from tests.processes import process, until
from tests.services.record.harness import positions
from tests.services.test_bad_input import BAD, body

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(180)]

GOOD = 60
BIG = 890_000
DAY_MS = 86_400_000
T = 1_700_000_000_000


def noise(seed: int, size: int) -> str:
    """Give text that no compression makes much smaller."""
    return random.Random(seed).randbytes(size // 2).hex()


def raise_limit(settings: Settings, topic: str, size: int) -> None:
    change = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    name = topic_name(settings.namespace, topic)
    resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[change])
    admin = make_admin(settings)
    for future in admin.incremental_alter_configs([resource]).values():
        future.result()


def drained(settings: Settings) -> bool:
    return not any(lags(settings, "join", ("control", *INPUTS)).values())


def weir(settings: Settings, *arguments: str) -> Any:
    """Run the command line and read its JSON."""
    environment = {**os.environ, "WEIR_CONFIG": str(write_running(settings))}
    command = [sys.executable, "-m", "services.cli", *arguments, "--json"]
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60).stdout)


def assert_conserved(settings: Settings, found: Verification) -> None:
    for topic in INPUTS:
        assert counted(topic, found.cut.counters) == len(positions(settings, topic)), topic


@pytest.mark.clickhouse
def test_everything_at_once(namespace: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = namespace.model_copy(update={"data_dir": tmp_path, "runtime": Runtime(commit_ms=50, snapshot_s=0.5)})
    raise_limit(settings, "predictions", 3_000_000)
    now_ms = int(time.time() * 1000)
    big = {"request_id": "big", "at_ms": now_ms, "model": "m", "score": 0.5}
    seeded = random.Random(3)
    with process("join", settings) as worker, process("record", settings) as recorder:
        with Sender(settings) as sender:

            def send(topic: str, value: bytes | None, key: str, partition: int | None = None) -> None:
                if partition is None:
                    partition = partition_of(key.encode(), settings.partitions)
                sender.send(topic, value, key=key.encode(), partition=partition)

            bad = [one for one in BAD.values() if one[2]]
            for number in range(GOOD):
                topic, value, _ = bad[number % len(bad)]
                send(topic, value, "good0")
                one = {"request_id": f"good{number}", "at_ms": now_ms, "model": "m"}
                astray = number % 3 == 0  # under another key, wherever that may lead
                key = f"other{number}" if astray else f"good{number}"
                elsewhere = seeded.randrange(settings.partitions) if astray else None
                send("predictions", body(one, score=0.25, colour="red"), key, elsewhere)
                send("labels", body(one, label=number % 2), key, elsewhere)
            for _ in range(1_000):
                send("signals", body({"request_id": "good1", "at_ms": now_ms, "signal": "click"}), "good1")
            send("predictions", body(big, x=noise(1, 2_000_000)), "big")
            send("predictions", body(big, at_ms=now_ms + 365 * DAY_MS, subject="", slices={"x": noise(2, BIG)}), "big")
            # The largest feedback that there can be: prediction, label, and both of the revision before.
            send("predictions", body(big, slices={"x": noise(3, BIG)}), "big")
            send("labels", body(big, label=noise(4, BIG), source="a"), "big")
        until(lambda: len(list(read_to_end(settings, "feedback"))) > GOOD, "the first revisions", of=worker)
        with Sender(settings) as sender:
            send("predictions", body(big, at_ms=now_ms - 1_000, slices={"x": noise(5, BIG)}), "big")
        until(lambda: drained(settings), "the join", of=worker)

        def said() -> dict[str, Feedback]:
            read = (decode(message.value() or b"", Feedback) for message in read_to_end(settings, "feedback"))
            return {one.request_id: one for one in read}

        until(lambda: len(said()) == GOOD + 1 and said()["big"].revision == 2, "all good ones", of=worker)
        assert max(len(message.value() or b"") for message in read_to_end(settings, "feedback")) > 4 * BIG, (
            "the largest feedback that there can be"
        )
        expected = Counter(bad[number % len(bad)][2] for number in range(GOOD))
        expected += Counter(too_large=1, clock_skew=1)
        assert _reasons(settings) == expected
        found = until(lambda: _verified(settings), "a run that equals its twin, with residual 0", of=recorder)
        assert_conserved(settings, found)
        assert found.cut.counters["predictions.forwarded"] > 0
        assert found.cut.counters["keys.differ"] > 0
        assert found.cut.counters["signals.duplicate"] == 999

        # By hand: listed, shown, and those sent once more that have something to send.
        rows = weir(settings, "dlq", "ls", "--reason", "clock_skew", "--limit", "1000")
        large = next(row for row in rows if row["request_id"] == "big")
        capsys.readouterr()
        dlq.show(settings, large["id"], as_json=True)
        assert len(json.loads(capsys.readouterr().out)["value"]) > BIG
        before = len(rows)
        dlq.retry(settings, [large["id"]])
        until(lambda: _reasons(settings)["clock_skew"] == before + 1, "a new letter: the clock is as it was", of=worker)
        with pytest.raises(WeirError, match="carries no value"):
            dlq.retry(settings, [], reason="too_large")
        assert until(lambda: _verified(settings), "the twin again", of=recorder)
        assert worker.alive
        assert recorder.alive
    assert "Traceback" not in worker.log() + recorder.log()


def _reasons(settings: Settings) -> Counter[str]:
    return Counter(one.reason for one in dlq.read_letters(settings))


def _verified(settings: Settings) -> Verification | None:
    found = verification(settings)
    assert found.report.ok, "\n".join(one.sentence[:500] for one in found.report.mismatches[:5])
    return found if found.ok and found.cut.exact else None


def test_two_megabytes_are_refused_where_they_are_produced(on_kafka: Settings) -> None:
    """By the client itself as it is by default, and by the broker when the client was told to try."""
    name = topic_name(on_kafka.namespace, "predictions")
    value = body({"request_id": "r", "at_ms": 1, "model": "m"}, x=noise(1, 2_000_000))
    producer = Producer({"bootstrap.servers": on_kafka.kafka.bootstrap})
    with pytest.raises(KafkaException) as refused:
        producer.produce(name, value)
    assert refused.value.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE
    told: list[KafkaError | None] = []
    eager = Producer({"bootstrap.servers": on_kafka.kafka.bootstrap, "message.max.bytes": 10 * MESSAGE_BYTES})
    for sent in (value, b"{}"):
        eager.produce(name, sent, partition=0, on_delivery=lambda error, _: told.append(error))
    eager.flush(20)
    codes = [None if error is None else error.code() for error in told]
    assert sorted(codes, key=str) == [KafkaError.MSG_SIZE_TOO_LARGE, None]


def test_a_label_for_nobody(kafka: LocalKafka, tmp_path: Path) -> None:
    """With the likely cause, once the clock has passed; and joined by a retry when its prediction comes after all."""
    settings = Settings(
        namespace="nobody",
        clock="virtual",
        partitions=2,
        data_dir=tmp_path,
        kafka=Kafka(bootstrap=kafka.bootstrap),
        join=Join(early_label_ms=3_600_000, grace_ms=60_000),
        runtime=Runtime(commit_ms=20),
    )
    ensure_topics(settings)

    def send(topic: str, at_ms: int, **event: Any) -> None:
        key = str(event["request_id"]).encode()
        with Sender(settings) as sender:
            sender.send(topic, json.dumps({"at_ms": at_ms, **event}).encode(), key=key, append_ms=at_ms)

    def advance(now_ms: int) -> None:
        with Sender(settings) as sender:
            for partition in range(settings.partitions):
                value = encode(ClockAdvanced(now_ms=now_ms))
                sender.send("control", value, partition=partition, append_ms=now_ms)
        until(lambda: drained(settings), "the clock", of=worker)

    with process("join", settings) as worker:
        send("predictions", T, request_id="seen", model="m", score=0.5)
        send("labels", T + 10, request_id="seen", label=1)
        send("labels", T + 10, request_id="seen", label=1, name="churn")
        send("labels", T + 10, request_id="seen", label=1, model="other")
        send("labels", T + 10, request_id="nobody", label=1)
        send("predictions", T, request_id="ahead", model="m", score=0.5)
        with Sender(settings) as sender:
            ahead = json.dumps({"request_id": "ahead", "at_ms": T + 365 * DAY_MS, "label": 1}).encode()
            sender.send("labels", ahead, key=b"ahead", append_ms=T)
        advance(T + 3_600_000)
        assert _reasons(settings) == Counter(clock_skew=1), "not yet"
        advance(T + 3_700_000)
        assert _reasons(settings) == Counter(clock_skew=1, orphan=1), "what concerns a known request waits with it"
        (orphan,) = (one for one in dlq.read_letters(settings) if one.reason == "orphan")
        assert orphan.letter is not None
        assert orphan.letter.request_id == "nobody"
        assert "never came, came too late" in orphan.letter.detail
        send("predictions", T + 3_700_000, request_id="nobody", model="m", score=0.5)
        dlq.retry(settings, [orphan.id])
        until(lambda: drained(settings), "the retry", of=worker)
        joined = {decode(m.value() or b"", Feedback).request_id for m in read_to_end(settings, "feedback")}
        assert joined == {"seen", "nobody"}
        advance(T + 30 * DAY_MS)
        assert _reasons(settings) == Counter(clock_skew=1, orphan=2, unknown_name=1), "the label of another model"
    found = verification(settings)
    assert found.report.ok, found.report.mismatches[:5]
    assert_conserved(settings, found)
