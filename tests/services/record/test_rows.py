"""Records to Arrow rows: what is readable gets its columns, what is not keeps its place and its bytes."""

import json
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from schemas.topics import TOPICS
from services.record.columns import Column
from services.record.rows import to_arrow
from services.record.tables import EVENTS, POSITION, table_of
from streams.runtime.records import Records


def records(*bodies: bytes | None) -> Records:
    made = Records()
    for offset, body in enumerate(bodies):
        made.append(offset, 1000 + offset, b"k", body)
    return made


def rows(topic: str, *bodies: bytes | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = to_arrow(table_of(topic), {0: records(*bodies)}, 5).to_pylist()
    return found


def body(**fields: Any) -> bytes:
    return json.dumps({"request_id": "r", "at_ms": 7, "model": "m", **fields}).encode()


def test_every_topic_has_a_table_and_no_column_twice() -> None:
    assert set(EVENTS) == set(TOPICS)
    for topic in TOPICS:
        table = table_of(topic)
        names = [*POSITION, *(column.name for column in table.columns)]
        assert len(names) == len(set(names)), topic
        empty = to_arrow(table, {0: records(None, b"{")}, 5)
        assert set(empty.column_names) == set(table.written()), topic


def test_features_are_split_by_what_they_are() -> None:
    values = {"a": 1, "b": 0.5, "c": "x", "d": True, "e": None, "no double": 10**400}
    (row,) = rows("predictions", body(features=values, slices={"s": 3.0}))
    assert dict(row["features"]) == {"a": 1.0, "b": 0.5}
    assert dict(row["features_text"]) == {"c": "x", "d": "true"}
    assert dict(row["slices"]) == {"s": "3"}


@pytest.mark.parametrize(
    ("value", "number", "text"),
    [
        (1, 1.0, "1"),
        (0.5, 0.5, "0.5"),
        (True, 1.0, "true"),
        ("1", None, '"1"'),
        ([1, "a"], None, None),
        (None, None, ""),
        (10**400, None, str(10**400)),
    ],
)
def test_labels_are_numbers_and_json(value: Any, number: float | None, text: str | None) -> None:
    (row,) = rows("predictions", body(prediction=value))
    assert row["prediction"] == number
    if text is not None:
        assert row["prediction_json"] == text


def test_score_by_class() -> None:
    one, many = rows("predictions", body(score=0.5), body(score=[0.25, 0.75]))
    assert (one["score"], one["scores"], many["score"], many["scores"]) == (0.5, [], None, [0.25, 0.75])


def test_unknown_fields_are_counted_and_kept() -> None:
    (row,) = rows("predictions", body(colour="red", size=3))
    assert row["unknown_fields"] == 2
    assert b"colour" in row["body"]
    assert row["unreadable"] == ""


def test_a_retraction_has_no_label() -> None:
    (row,) = rows("labels", json.dumps({"request_id": "r", "at_ms": 7, "op": "retract"}).encode())
    assert (row["op"], row["label"], row["label_json"]) == ("retract", None, "")


def test_feedback_carries_what_it_was() -> None:
    said = {"revision": 2, "status": "final", "policy": "p@1", "predicted_at_ms": 1, "joined_at_ms": 2, "label": 1}
    first, second = rows("feedback", body(**said), body(**said, was={"status": "provisional", "label": 0}))
    first.pop("at_ms", None)
    assert "at_ms" in first["unreadable"], "an unknown field of ours is refused"
    del said["label"]
    good = {"request_id": "r", "model": "m", **said}
    plain, again = rows(
        "feedback",
        json.dumps(good).encode(),
        json.dumps({**good, "was": {"status": "provisional", "label": 0}}).encode(),
    )
    assert (plain["was_status"], plain["was_label"]) == ("", None)
    assert (again["was_status"], again["was_label"], again["was_label_json"]) == ("provisional", 0.0, "0")
    assert second["unreadable"]


@pytest.mark.parametrize(
    "bad",
    [None, b"", b"{", b"\xff", b"NaN", b"[]", b'{"request_id": ""}', b"[" * 5000, b'{"a": ' + b"9" * 5000 + b"}"],
)
def test_what_cannot_be_read_lands_raw_beside_what_can(bad: bytes | None) -> None:
    good, raw, again = rows("predictions", body(), bad, body())
    assert (good["request_id"], again["request_id"]) == ("r", "r")
    assert raw["unreadable"]
    assert (raw["offset"], raw["body"], raw["request_id"]) == (1, bad, "")


def test_what_fits_no_column_lands_raw() -> None:
    narrow = Column("narrow", "Int8", pa.int8(), lambda event: 1_000 if event.score in (0.3, 0.7) else 1, 0)
    table = replace(table_of("predictions"), columns=(*table_of("predictions").columns, narrow))
    bodies = [body(score=n / 10) for n in range(10)]
    found = to_arrow(table, {0: records(*bodies)}, 5).to_pylist()
    assert [row["unreadable"] != "" for row in found] == [n in (3, 7) for n in range(10)]
    assert [row["score"] for row in found if not row["unreadable"]] == [0.0, 0.1, 0.2, 0.4, 0.5, 0.6, 0.8, 0.9]


def test_partitions_keys_and_headers() -> None:
    first, second = records(body()), Records()
    second.append(4, 9, None, body(), [("a", b"\xff"), ("b", None)])
    table: pa.Table = to_arrow(table_of("predictions"), {1: second, 0: first}, 5)
    one, other = table.to_pylist()
    assert (one["partition"], one["key"], one["headers"]) == (0, b"k", [])
    assert (other["partition"], other["offset"], other["key"], other["append_ms"]) == (1, 4, None, 9)
    assert other["headers"] == [{"name": "a", "value": b"\xff"}, {"name": "b", "value": None}]
