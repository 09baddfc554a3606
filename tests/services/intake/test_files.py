"""Mapping files as people write them: what is wrong is named; `try` and `check` say what would come of them."""

from __future__ import annotations

import json
import re
import sqlite3
import tomllib
import uuid
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import USAGE, WeirError
from schemas.mapping import Mapping, SqlSource
from schemas.settings import Settings
from services.intake.attempt import attempt
from services.intake.check import check, check_all
from services.intake.load import load, load_all, read
from tests.services.intake.harness import (
    KEY_VARIABLE,
    LABELS,
    ORDERS,
    SECRET,
    database,
    loaded,
    make_topic,
    order,
    process,
    produce,
    written,
)

GUIDE = Path(__file__).parents[3] / "docs" / "intake.md"


def rule(**more: Any) -> dict[str, Any]:
    return {**ORDERS["events"][0], **more}


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("typing error", {**ORDERS, "protekt": {}}, r"protekt: no such key \(did you mean `protect`\?\)"),
    ("field", {**ORDERS, "events": [rule(scores="x")]}, r"events.0.scores: no such key \(did you mean `score`\?\)"),
    (
        "no id",
        {**ORDERS, "events": [{"kind": "label", "at_ms": "@time", "label": "y"}]},
        "events.0.request_id: Field req",
    ),
    ("kind", {**ORDERS, "events": [{"kind": "order"}]}, "'prediction', 'label', 'signal'"),
    ("no events", {**ORDERS, "events": []}, "events: .*at least 1"),
    ("unit", {**ORDERS, "events": [rule(at_ms={"path": "a", "unit": "sec"})]}, "'s', 'ms', 'us', 'ns' or 'iso'"),
    ("zone", {**ORDERS, "events": [rule(at_ms={"path": "a", "zone": "Berlin"})]}, "no time zone 'Berlin'"),
    ("two origins", {**ORDERS, "events": [rule(model={"path": "a", "value": 1})]}, "exactly one of `path`"),
    (
        "no label",
        {**ORDERS, "events": [{"kind": "label", "request_id": "a", "at_ms": "@time"}]},
        "a label needs `label`",
    ),
    ("key", {**ORDERS, "protect": {"hmac": ["a"]}}, "`hmac` needs `key`"),
    ("key itself", {**ORDERS, "protect": {"hmac": ["a"], "key": "sesame"}}, "protect.key: .*pattern"),
    ("twice", {**ORDERS, "protect": {"drop": ["a"], "bucket": {"a": 5}}}, "a: protected in two ways"),
    ("two spellings", {**ORDERS, "protect": {"drop": ["a"], "prefix": {"$.a": 5}}}, "a: protected in two ways"),
    ("cursor spelt out", {**LABELS, "protect": {"drop": ["$.id"]}}, "the cursor 'id' is protected"),
    ("every column", {**LABELS, "protect": {"drop": ["*"]}}, "the cursor 'id' is protected"),
    ("name", {**ORDERS, "name": "Orders!"}, "name: .*pattern"),
    ("cursor", {**LABELS, "protect": {"drop": ["id"]}}, "the cursor 'id' is protected"),
    ("url", {**LABELS, "source": {**LABELS["source"], "url": "postgres://x"}}, "say `driver`"),
    (
        "password",
        {**LABELS, "source": {"kind": "sql", "driver": "x", "connect": {"password": "p"}, "query": "q", "cursor": "c"}},
        "say env:NAME or file:PATH",
    ),
]


@pytest.mark.parametrize(("tables", "said"), [pytest.param(*case[1:], id=case[0]) for case in WRONG])
def test_what_is_wrong_with_a_file_is_named(tables: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(WeirError, match=said) as caught:
        read(written(tmp_path, {"name": "x", **tables} if tables.get("name") != "Orders!" else {**tables}))
    assert caught.value.code == USAGE


def test_every_example_of_the_guide_is_valid() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 3
    for block in map(tomllib.loads, blocks):
        if "name" in block:
            Mapping.model_validate(block)
        else:
            SqlSource.model_validate(block["source"])


def test_files_that_are_none_and_secrets_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeirError, match="cannot be read"):
        read(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(WeirError, match="not TOML"):
        read(tmp_path / "bad.toml")
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    file = written(tmp_path, ORDERS)
    with pytest.raises(WeirError, match=f"{KEY_VARIABLE}, which is not set"):
        load(file, max_event_bytes=900_000)
    monkeypatch.setenv(KEY_VARIABLE, "short")
    with pytest.raises(WeirError, match="can be guessed"):
        load(file, max_event_bytes=900_000)
    monkeypatch.setenv(KEY_VARIABLE, "k" * 32)
    with pytest.raises(WeirError, match="share a group"):
        load_all([file, file], max_event_bytes=900_000)
    keyed = {**ORDERS, "protect": {"hmac": ["user_id"], "key": f"file:{tmp_path / 'key'}"}}
    with pytest.raises(WeirError, match="asks for the file"):
        load(written(tmp_path, keyed), max_event_bytes=900_000)
    (tmp_path / "key").write_text("k" * 32 + "\n")
    assert load(written(tmp_path, keyed), max_event_bytes=900_000).name == "orders"
    form = {**ORDERS, "source": {"kind": "kafka", "topic": "t", "format": "xml"}}
    with pytest.raises(WeirError, match="known kinds: avro, debezium, json"):
        load(written(tmp_path, form), max_event_bytes=900_000)


def test_try_shows_what_would_come_of_the_lines_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [order(1), {**order(2), "created_us": order(2)["created_us"] // 10**6}, {"amount": 3}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\nno json\n\n")
    mapping = loaded(tmp_path, {**ORDERS, "protect": {**ORDERS["protect"], "drop": ["email", "telephone"]}})
    given: dict[str, Any] = {"topic": None, "file": tmp_path / "rows.jsonl", "last": 100}
    assert attempt(Settings(), mapping, **given, as_json=False) == 1
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert lines[0].startswith('rows.jsonl:1  predictions  {"request_id":"o-000001"')
    assert "REFUSED wrong_unit" in lines[1]
    assert "REFUSED missing_field" in lines[2]
    assert "REFUSED not_json" in lines[3]
    assert SECRET not in told.out + told.err
    assert "protect: no document has telephone" in told.err
    assert attempt(Settings(), mapping, **given, as_json=True) == 1
    found = json.loads(capsys.readouterr().out)
    assert [len(row["events"]) for row in found["rows"]] == [1, 0, 0, 0]
    assert found["summary"]["refused"] == {"wrong_unit": 1, "missing_field": 1, "not_json": 1}
    assert found["summary"]["protect_unmet"] == ["telephone"]
    assert attempt(Settings(), mapping, **{**given, "last": 1}, as_json=True) == 1
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 1


def test_try_names_paths_that_are_never_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(order(1)))
    mapping = loaded(tmp_path, {**ORDERS, "events": [rule(latency_ms="latency", features={"country": "country"})]})
    assert attempt(Settings(), mapping, topic=None, file=tmp_path / "rows.jsonl", last=5, as_json=True) == 0
    found = json.loads(capsys.readouterr().out)["summary"]
    assert found["never_found"] == ["events.0.features.country from country", "events.0.latency_ms from latency"]


def test_try_and_check_of_a_query(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "labels.db"
    made = database(path)
    made.executemany(
        "INSERT INTO chargebacks VALUES (?, ?, 1, '2026-01-01 00:00:00')", [(n, f"o-{n}") for n in range(9)]
    )
    made.commit()
    made.close()
    tables = {**LABELS, "source": {**LABELS["source"], "url": f"sqlite:///{path}"}}
    given: dict[str, Any] = {"topic": None, "file": None, "last": 3, "as_json": True}
    assert attempt(Settings(), loaded(tmp_path, tables), **given) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["events"][0]["request_id"] for row in rows] == ["o-6", "o-7", "o-8"]
    missing = {**LABELS, "source": {**LABELS["source"], "url": f"sqlite:///{tmp_path / 'none.db'}"}}
    with pytest.raises(WeirError, match="cannot be asked: there is no file"):
        attempt(Settings(), loaded(tmp_path, missing), **given)
    check_all(Settings(), [written(tmp_path, tables)], offline=True, as_json=True)
    assert json.loads(capsys.readouterr().out)[0]["ok"]


@pytest.mark.kafka
def test_check_asks_kafka_and_the_database(on_kafka: Settings, tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    made: sqlite3.Connection = database(path)
    made.execute("INSERT INTO chargebacks VALUES (NULL, 'o-1', 1, '2026-01-01')")
    made.commit()
    made.close()
    source = {**LABELS["source"], "url": f"sqlite:///{path}"}
    events = [{**LABELS["events"][0], "label": "fraudulent", "at_ms": "@time"}]
    said = " ".join(check(on_kafka, loaded(tmp_path, {**LABELS, "source": source, "events": events}), offline=False))
    assert "1 rows have no id" in said
    assert "no column 'fraudulent'" in said
    assert "`@time` of a row is when it was read" in said
    with pytest.raises(WeirError, match="no topic"):
        check(on_kafka, loaded(tmp_path, ORDERS), offline=False)
    topic = make_topic(on_kafka, f"shop-{uuid.uuid4().hex[:8]}")
    tables = {**ORDERS, "source": {"kind": "kafka", "topic": topic}}
    assert check(on_kafka, loaded(tmp_path, tables), offline=False) == []


@pytest.mark.kafka
def test_try_reads_the_last_records_of_a_topic(
    on_kafka: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    topic = make_topic(on_kafka, f"shop-{uuid.uuid4().hex[:8]}")
    produce(on_kafka, topic, [order(number) for number in range(40)])
    assert attempt(on_kafka, loaded(tmp_path, ORDERS), topic=topic, file=None, last=10, as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["rows"]) == 10
    assert found["summary"]["behind_ms"]["most"] < 60_000


@pytest.mark.kafka
def test_the_commands(on_kafka: Settings, tmp_path: Path) -> None:
    file = written(tmp_path, {**ORDERS, "source": {"kind": "kafka", "topic": "no-such-topic"}})
    (tmp_path / "rows.jsonl").write_text(json.dumps(order(1)))
    with process(on_kafka, "intake", "run", str(file)) as one:
        said = one.communicate(timeout=60)[1].decode()
        assert one.returncode == 3, said
        assert "there is no topic 'no-such-topic'" in said
    with process(on_kafka, "intake", "try", str(file), "--file", str(tmp_path / "rows.jsonl")) as one:
        assert one.wait(60) == 0
    with process(on_kafka, "intake", "check", "--offline", str(file)) as one:
        assert one.wait(60) == 0
    with process(on_kafka, "intake") as one:
        said = one.communicate(timeout=60)[1].decode()
        assert (one.returncode, "no mapping to run" in said) == (USAGE, True)
