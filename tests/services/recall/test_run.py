"""Recall on real parts: answers only what has landed, once per question and again after a kill, through absences."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from pydantic import SecretStr

from schemas.event import encode
from schemas.feedback import Feedback
from schemas.settings import ClickHouse, Settings
from services.kafka import Sender, read_to_end
from services.local.clickhouse import LocalClickHouse
from services.recall.run import REQUESTS, Recaller
from streams.runtime import member
from streams.runtime.backlog import lags
from tests.services.recall.harness import answers, ask_all, ends, messages, question, recalling
from tests.services.record.harness import label, prediction, recording, send, start, until

pytestmark = [pytest.mark.kafka, pytest.mark.clickhouse]

COUNT = 120


def request(number: int) -> str:
    return str(prediction(number)["request_id"])


def say(settings: Settings, number: int, revision: int, joined_at_ms: int) -> None:
    feedback = Feedback(
        request_id=request(number),
        model="m",
        revision=revision,
        status="final",
        policy="p@1",
        predicted_at_ms=1,
        joined_at_ms=joined_at_ms,
    )
    with Sender(settings, "test") as sender:
        sender.send("feedback", encode(feedback), key=request(number).encode())


def test_everything_below_the_question_and_nothing_before_it_has_landed(namespace: Settings) -> None:
    send(namespace, "predictions", [prediction(number) for number in range(COUNT)])
    send(namespace, "labels", [label(number) for number in range(0, COUNT, 2)])
    known = ends(namespace)
    say(namespace, 4, 1, 5)
    say(namespace, 4, 2, 7)
    send(namespace, "labels", [label(4, label=9)])  # beyond what the step had read
    asked = [question(namespace, request(number), known, step=number + 1) for number in range(COUNT)]
    asked.append(question(namespace, "never-predicted", known, step=500))
    ask_all(namespace, asked)
    ask_all(namespace, [question(namespace, request(4), known, step=900, clock_ms=6)])
    beyond = {place: offset + 1_000 for place, offset in known.items()}
    ask_all(namespace, [question(namespace, request(1), beyond)])
    with recalling(namespace) as recaller:
        until(lambda: recaller.answered.refused, "the question that no topic can answer")
        until(lambda: len(recaller._lines) == COUNT + 2, "the others")
        assert recaller.answered.questions == 0, "nothing has landed: record does not run"
        with recording(namespace):
            until(lambda: recaller.answered.questions == COUNT + 2, "answers")
        until(lambda: not any(lags(namespace, "recall", [REQUESTS]).values()), "no lag")
    found = {(one.request_id, one.step): one for one in answers(namespace)}
    assert len(found) == COUNT + 2
    for number in range(COUNT):
        one = found[request(number), number + 1]
        assert one.found
        expected = ["predictions", "labels"] if number % 2 == 0 else ["predictions"]
        assert [event.topic for event in one.events] == expected
        assert all(event.offset < known[event.topic, one.partition] for event in one.events)
    assert [feedback.revision for feedback in found[request(4), 5].feedback] == [2]
    assert [feedback.revision for feedback in found[request(4), 900].feedback] == [1]
    nobody = found["never-predicted", 500]
    assert (nobody.found, nobody.events) == (False, [])
    (letter,) = read_to_end(namespace, "dead-letters")
    assert b"beyond_end" in (letter.value() or b"")


def _answer_something(settings: Settings) -> None:
    with recalling(settings):
        until(lambda: messages(settings), "the first answers")


def test_a_kill_between_answer_and_commit_repeats_the_same_bytes(
    namespace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(namespace, "predictions", [prediction(number) for number in range(COUNT)])
    known = ends(namespace)
    ask_all(namespace, [question(namespace, request(number), known) for number in range(COUNT)])

    def killed(self: Recaller) -> None:
        if self.progress.outputs:
            raise KeyboardInterrupt("as if it ended after the answers and before the offsets")

    with recording(namespace):
        with monkeypatch.context() as patch:
            patch.setattr(Recaller, "_commit", killed)
            with pytest.raises(KeyboardInterrupt):
                _answer_something(namespace)
        before = len(messages(namespace))
        process = start(namespace, "-m", "services.cli", "recall")
        try:
            until(lambda: len(messages(namespace)) == before + COUNT, "all of them, again")
            until(lambda: not any(lags(namespace, "recall", [REQUESTS]).values()), "no lag")
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()
    by_key: dict[bytes | None, set[bytes | None]] = {}
    found = messages(namespace)
    for message in found:
        by_key.setdefault(message.key(), set()).add(message.value())
    assert len(by_key) == COUNT
    assert all(len(values) == 1 for values in by_key.values())


def test_without_clickhouse_it_waits(on_kafka: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member, "BACKOFF_S", (0.05, 0.2))
    server = LocalClickHouse(tmp_path, memory_bytes=1 << 30)
    with server:
        at = ClickHouse(host=server.host, port=server.port, user=server.user, password=SecretStr(server.password))
        settings = on_kafka.model_copy(update={"clickhouse": at})
        send(settings, "predictions", [prediction(1)])
        known = ends(settings)
        with recording(settings) as recorder, recalling(settings) as recaller:
            ask_all(settings, [question(settings, request(1), known)])
            until(lambda: recaller.answered.questions == 1, "the first answer")
            until(lambda: recorder.landed.flushes, "a flush")
            server.stop()
            ask_all(settings, [question(settings, request(1), known, step=2)])
            until(lambda: recaller.member.waits > 1, "waiting")
            assert not recaller.progress.ready
            server.start()
            until(lambda: recaller.answered.questions == 2, "the second answer")
            assert recaller.progress.ready
    assert [one.step for one in answers(settings)] == [1, 2]
