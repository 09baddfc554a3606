"""Dead letters by hand: listed, shown, sent once more to where they belong, with the join that buried them."""

import json
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import USAGE, WeirError
from schemas.event import encode
from schemas.records import DeadLetter
from schemas.settings import Settings
from services.cli import dlq
from services.kafka import Sender, read_to_end
from streams.join.admission import JoinBounds
from streams.join.partition import partition_of
from streams.join.processor import JoinProcessor
from streams.runtime.worker import Worker
from tests.services.record.harness import label, prediction, send, until
from tests.services.threads import in_thread

pytestmark = pytest.mark.kafka


def letter(offset: int, reason: str = "bad_event", **more: Any) -> bytes:
    given: dict[str, Any] = {
        "reason": reason,
        "detail": "because\nof this",
        "stage": "join",
        "topic": "labels",
        "partition": 1,
        "offset": offset,
        "append_ms": 5,
        "at_ms": 1_700_000_000_000,
        "value": b64encode(b"{}").decode(),
    }
    return encode(DeadLetter(**{**given, **more}))


def bury(settings: Settings, *letters: bytes) -> None:
    with Sender(settings) as sender:
        for one in letters:
            sender.send("dead-letters", one, key=b"k")


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out.splitlines()[-1])  # logs of threads come first


def test_ls_filters_and_limits(on_kafka: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    dlq.ls(on_kafka, as_json=True)
    assert printed(capsys) == []
    bury(on_kafka, *(letter(n, "orphan" if n % 2 else "not_json", request_id=f"r{n}") for n in range(10)), b"junk")
    dlq.ls(on_kafka, as_json=True, limit=3)
    assert [row["id"] for row in printed(capsys)] == ["labels/1/8", "labels/1/9", "dead-letters/0/10"]
    dlq.ls(on_kafka, reason="orphan", as_json=True)
    assert [row["request_id"] for row in printed(capsys)] == ["r1", "r3", "r5", "r7", "r9"]
    dlq.ls(on_kafka)
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 11, "a line each, whatever the detail holds"
    assert "11 dead letters: 5 not_json, 5 orphan, 1 broken_letter" in told.err


def test_show(on_kafka: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    headers = [("a", b64encode(b"text").decode()), ("b", None)]
    bury(on_kafka, letter(4, key=b64encode(b"\xff").decode(), headers=headers))
    dlq.show(on_kafka, "labels/1/4", as_json=True)
    row = printed(capsys)
    assert (row["key"], row["value"], row["headers"]) == ("base64:/w==", "{}", {"a": "text", "b": None})
    dlq.show(on_kafka, "labels/1/4")
    assert "reason" in capsys.readouterr().out


@pytest.mark.parametrize("id", ["", "labels", "labels/1", "labels/1/x", "nope/1/2", "labels/1/2/3/4", "labels/-1/2"])
def test_ids_that_are_none(on_kafka: Settings, id: str) -> None:
    with pytest.raises(WeirError, match="TOPIC/PARTITION/OFFSET") as refused:
        dlq.show(on_kafka, id)
    assert refused.value.code == USAGE
    with pytest.raises(WeirError, match="TOPIC/PARTITION/OFFSET"):
        dlq.retry(on_kafka, [id])


def test_retry_refuses_before_it_sends(on_kafka: Settings) -> None:
    bury(on_kafka, letter(1), letter(2, "too_large", value=None))
    for ids, reason, says in (
        ([], None, "name the letters, or a reason"),
        (["labels/1/1"], "orphan", "name the letters, or a reason"),
        (["labels/1/1", "labels/1/77"], None, "no dead letter labels/1/77"),
        (["labels/1/1", "labels/1/2"], None, "carries no value"),
    ):
        with pytest.raises(WeirError, match=says):
            dlq.retry(on_kafka, ids, reason=reason)
    assert list(read_to_end(on_kafka, "labels")) == []


def test_retry_sends_what_came_to_where_it_belongs(on_kafka: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    body = b'{"request_id": "r7", "unknown": [1]}'
    old = [("h", b64encode(b"\xff").decode()), ("none", None), ("weir-retry", b64encode(b"older").decode())]
    bury(
        on_kafka,
        letter(1, value=b64encode(body).decode(), key=b64encode(b"another").decode(), headers=old),
        letter(2, value=b64encode(b"{").decode(), key=b64encode(b"r8").decode()),
        letter(3, value=b64encode(b"{").decode()),
        letter(4, topic="control", partition=2),
        letter(4, topic="metrics", key=b64encode(b"model").decode()),
    )
    dlq.retry(on_kafka, [], reason="bad_event", as_json=True)
    assert len(printed(capsys)) == 5
    sent: dict[Any, Any] = {dict(m.headers() or ())["weir-retry"]: m for m in read_to_end(on_kafka, "labels")}
    one = sent[b"labels/1/1"]
    assert (one.key(), one.value(), one.partition()) == (b"another", body, partition_of(b"r7", 4))
    assert one.headers() == [("h", b"\xff"), ("none", None), ("weir-retry", b"labels/1/1")]
    assert sent[b"labels/1/2"].partition() == partition_of(b"r8", 4)
    assert (sent[b"labels/1/3"].partition(), sent[b"labels/1/3"].key()) == (1, None)
    assert [m.partition() for m in read_to_end(on_kafka, "control")] == [2]
    assert [m.key() for m in read_to_end(on_kafka, "metrics")] == [b"model"]


def test_a_letter_that_came_twice_is_one(on_kafka: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    bury(on_kafka, letter(1), letter(1, detail="again"))
    dlq.ls(on_kafka, as_json=True)
    assert [row["detail"] for row in printed(capsys)] == ["again"]
    bury(on_kafka, letter(1, stage="judge"))
    dlq.ls(on_kafka, as_json=True)
    assert [row["stage"] for row in printed(capsys)] == ["join", "judge"]
    dlq.retry(on_kafka, [], reason="bad_event")
    assert len(list(read_to_end(on_kafka, "labels"))) == 1, "one record, however many stages could not use it"


@contextmanager
def joining(settings: Settings) -> Iterator[Worker[Any]]:
    stop = threading.Event()
    worker: Worker[Any] = Worker(JoinProcessor[Any](JoinBounds.of(settings)), settings, stop=stop)
    with in_thread(worker.run, stop):
        yield worker


def test_there_and_back(on_kafka: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A prediction with a clock a year ahead dies; the bound is widened; the retry is joined with its label."""
    narrow = on_kafka.model_copy(update={"data_dir": tmp_path / "a"})
    wide = narrow.model_copy(update={"join": narrow.join.model_copy(update={"skew_ms": 400 * 86_400_000})})
    ahead = prediction(1)
    ahead["at_ms"] += 365 * 86_400_000
    with joining(narrow):
        send(narrow, "predictions", [ahead])
        until(lambda: dlq.read_letters(narrow), "the dead letter")
    dlq.ls(narrow, as_json=True)
    (row,) = printed(capsys)
    assert (row["reason"], row["request_id"], row["topic"]) == ("clock_skew", "r000001", "predictions")
    dlq.retry(narrow, [row["id"]])
    send(narrow, "labels", [label(1, at_ms=ahead["at_ms"] + 5)])
    with joining(wide):
        until(lambda: list(read_to_end(wide, "feedback")), "feedback")
    assert len(dlq.read_letters(wide)) == 1
