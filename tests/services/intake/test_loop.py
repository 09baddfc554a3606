"""The worked example of docs/intake.md, whole: orders in Kafka, labels in SQLite, outcomes out of the join."""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from schemas.settings import Settings
from services.intake.load import load
from streams.join.admission import JoinBounds
from streams.join.processor import JoinProcessor
from streams.runtime.worker import Worker
from tests.services.intake.harness import SECRET, database, events, letters, make_topic, order, produce, taking
from tests.services.record.harness import until
from tests.services.threads import in_thread

pytestmark = pytest.mark.kafka

GUIDE = Path(__file__).parents[3] / "docs" / "intake.md"
COUNT = 60


def examples(text: str) -> dict[str, str]:
    """Give the mapping files that the guide shows, by name."""
    blocks = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    named = [(re.search(r'^name = "(.*)"', block, re.MULTILINE), block) for block in blocks]
    return {found.group(1): block for found, block in named if found}


def test_orders_and_chargebacks_become_outcomes(
    on_kafka: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_PSEUDONYM_KEY", "0123456789abcdef0123456789abcdef")
    shown = examples(GUIDE.read_text(encoding="utf-8"))
    topic = make_topic(on_kafka, f"{on_kafka.namespace}-orders")
    files = {}
    for name, block in shown.items():
        files[name] = tmp_path / f"{name}.toml"
        here = block.replace('"shop.orders"', f'"{topic}"').replace(
            "sqlite:///shop.db", f"sqlite:///{tmp_path}/shop.db"
        )
        files[name].write_text(here.replace("every_s = 10", "every_s = 0.2"), encoding="utf-8")
    orders, chargebacks = (load(files[name], max_event_bytes=900_000) for name in ("orders", "chargebacks"))
    table = database(tmp_path / "shop.db")
    stop = threading.Event()
    settings = on_kafka.model_copy(update={"data_dir": tmp_path / "data"})
    join: Worker[Any] = Worker(JoinProcessor[Any](JoinBounds.of(settings)), settings, stop=stop)
    with in_thread(join.run, stop), taking(settings, orders), taking(settings, chargebacks):
        produce(settings, topic, [order(number) for number in range(COUNT)])
        for number in range(COUNT):
            decided = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
            verdict = number % 2 if number % 3 else None
            table.execute("INSERT INTO chargebacks VALUES (?, ?, ?, ?)", (number, f"o-{number:06d}", verdict, decided))
        table.commit()
        known = COUNT - (COUNT + 2) // 3
        until(lambda: len(events(settings, "feedback")) >= known, "outcomes")
        later = (datetime.now(UTC) + timedelta(seconds=1)).strftime("%Y-%m-%d %H:%M:%S")
        table.execute("UPDATE chargebacks SET fraud = 1 - fraud, id = 1000, decided_at = ? WHERE id = 1", (later,))
        table.commit()
        until(lambda: len(events(settings, "feedback")) == known + 1, "the correction")
    table.close()
    found = {}
    for one in events(settings, "feedback"):
        found[one["request_id"]] = one
    assert len(found) == known
    for request, one in found.items():
        number = int(request.removeprefix("o-"))
        assert one["label"] == (0 if number == 1 else number % 2)
        assert one["score"] == 0.25
    assert found["o-000001"]["revision"] == 2
    assert letters(settings) == []
    for name in ("predictions", "labels", "feedback"):
        assert SECRET not in str(events(settings, name))
