"""Rows of docs/bad-input.md that a record can cause, sent to a join and a recorder that run, and looked up again."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

import services.cli.dlq as dlq
from schemas.control import PolicySet
from schemas.event import encode
from schemas.policy import JoinPolicy
from schemas.settings import Settings
from services.kafka import Sender, read_to_end
from streams.join.partition import partition_of
from streams.join.resolve import REASONS
from tests.services.cli.test_dlq import joining
from tests.services.record.harness import ask, label, landed, positions, prediction, recording, send, until

DOC = (Path(__file__).parents[2] / "docs" / "bad-input.md").read_text()
YEAR_MS = 365 * 86_400_000


def body(made: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({**made, **more}).encode()


BAD: dict[str, tuple[str, bytes | None, str]] = {
    "no value": ("predictions", None, "not_json"),
    "empty": ("predictions", b"", "not_json"),
    "not JSON": ("labels", b"{'a': 1}", "not_json"),
    "not UTF-8": ("labels", b'{"request_id": "\xff", "at_ms": 1, "label": 1}', "not_json"),
    "not UTF-8 in a field that we ignore": ("predictions", body(prediction(1))[:-1] + b', "x": "\xff"}', "not_json"),
    "NaN": ("predictions", body(prediction(1))[:-1] + b', "threshold": NaN}', "not_json"),
    "nested without end": ("predictions", body(prediction(1))[:-1] + b', "x": ' + b"[" * 5000 + b"]" * 5000 + b"}", ""),
    "no request id": ("signals", b'{"at_ms": 1, "signal": "click"}', "bad_event"),
    "empty request id": ("labels", body(label(1), request_id=""), "bad_event"),
    "over-long request id": ("labels", body(label(1), request_id="r" * 129), "bad_event"),
    "wrong type": ("predictions", body(prediction(1), score="high"), "bad_event"),
    "no label": ("labels", b'{"request_id": "r", "at_ms": 1}', "bad_event"),
    "large integer": ("predictions", body(prediction(1), prediction=2**70), "bad_event"),
    "too large": ("predictions", body(prediction(1), x="y" * 900_000), "too_large"),
    "a year ahead": ("predictions", body(prediction(1), at_ms=int(time.time() * 1000) + YEAR_MS), "clock_skew"),
    "a year ago": ("predictions", body(prediction(1), at_ms=int(time.time() * 1000) - YEAR_MS), "clock_skew"),
    "seconds": ("predictions", body(prediction(1), at_ms=int(time.time())), "clock_skew"),
}


def test_every_reason_is_documented() -> None:
    named = set(re.findall(r"`([a-z_]+)`", DOC))
    used = {reason for _, _, reason in BAD.values() if reason} | set(REASONS) | {"misrouted_twice", "policy_too_late"}
    assert used <= named, f"docs/bad-input.md says nothing of {used - named}"


@pytest.mark.kafka
@pytest.mark.clickhouse
@pytest.mark.timeout(180)
def test_each_gets_its_reason_and_holds_nothing_up(namespace: Settings, tmp_path: Path) -> None:
    quick = namespace.join.model_copy(update={"early_label_ms": 300, "grace_ms": 300})
    settings = namespace.model_copy(update={"data_dir": tmp_path, "join": quick})
    with Sender(settings) as sender:
        for name, (topic, value, _) in BAD.items():
            sender.send(
                topic, value, key=b"r000001", partition=partition_of(b"r000001", 4), headers=[("t", name.encode())]
            )
        hop = [("weir-append-ms", b"1"), ("weir-hop", b"labels/0/0"), ("t", b"misrouted_twice")]
        sender.send("labels", body(label(2)), partition=(partition_of(b"r000002", 4) + 1) % 4, headers=hop)
        late = PolicySet(policy=JoinPolicy(model="m", effective_from_ms=1))
        sender.send("control", encode(late), partition=0, headers=[("t", b"policy_too_late")])
        sender.send("labels", body(label(3)), key=b"r000003", headers=[("t", b"orphan")])
        for _ in range(1000):
            sender.send(
                "labels", body({"request_id": "r000005", "at_ms": 5, "label": 1, "event_id": "e"}), key=b"r000005"
            )
    send(settings, "predictions", [prediction(5, at_ms=int(time.time() * 1000), colour="red")])
    send(settings, "labels", [label(5)])
    expected = {name: reason or "not_json" for name, (_, _, reason) in BAD.items()}
    expected |= {name: name for name in ("misrouted_twice", "policy_too_late", "orphan")}
    with joining(settings), recording(settings):
        until(lambda: len(dlq.read_letters(settings)) >= len(expected), "dead letters")
        feedback = until(lambda: list(read_to_end(settings, "feedback")), "feedback of the good one")
        until(lambda: len(landed(settings, "dead_letters")) >= len(expected), "their rows")
        until(lambda: landed(settings, "labels") == positions(settings, "labels"), "every row")
    assert feedback[0].key() == b"r000005"
    found = {_header(one.letter): one.reason for one in dlq.read_letters(settings)}
    deep = found.pop("nested without end", "")  # read by the decoder up to a depth that is its own
    del expected["nested without end"]
    assert deep in ("", "not_json")
    assert found == expected
    for one in dlq.read_letters(settings):
        assert one.letter is not None
        assert (one.letter.value is None) == (one.reason == "too_large" or "no value" in one.letter.detail)
    assert ask(settings, "SELECT sum(unknown_fields) FROM predictions WHERE request_id = 'r000005'") == 1
    assert ask(settings, "SELECT uniqExact(reason) FROM dead_letters") == len(set(expected.values()))


def _header(letter: Any) -> str:
    (name,) = (value for header, value in letter.headers if header == "t")
    return str(dlq._readable(name))
