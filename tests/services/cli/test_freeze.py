"""Freezing and thawing by hand: every partition hears who did it, to which source, and why."""

import msgspec
import pytest

from schemas.control import Control, Frozen, Thawed
from schemas.settings import Settings
from services.cli.freeze import freeze
from services.kafka import read_to_end

pytestmark = pytest.mark.kafka


def said_by(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def said(settings: Settings) -> dict[int, list[Frozen | Thawed]]:
    """Partition → what `control` says of freezes."""
    found: dict[int, list[Frozen | Thawed]] = {number: [] for number in range(settings.partitions)}
    for message in read_to_end(settings, "control"):
        event = msgspec.json.decode(message.value() or b"", type=Control)
        assert isinstance(event, Frozen | Thawed)
        found[message.partition() or 0].append(event)
    return found


def test_every_partition_hears_who_froze_what_and_why(on_kafka: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    freeze(on_kafka, "market", "the feed is down", thaw=False)
    assert (
        "labels of market: no negatives, retrainings or promotions until `weir thaw market`" in capsys.readouterr().out
    )
    freeze(on_kafka, "market", "", thaw=True)
    assert "labels of market: negatives, retrainings and promotions go on" in said_by(capsys)
    heard = said(on_kafka)
    assert len(heard) == on_kafka.partitions
    for frozen, thawed in heard.values():
        assert isinstance(frozen, Frozen)
        assert (frozen.source, frozen.by != "", frozen.by != "guard") == ("market", True, True)
        assert frozen.reason.endswith("the feed is down")
        assert isinstance(thawed, Thawed)
        assert (thawed.source, thawed.by) == ("market", frozen.by)
        assert thawed.at_ms >= frozen.at_ms > 0


def test_labels_without_a_source_are_named_by_an_empty_one(
    on_kafka: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    freeze(on_kafka, "", "", thaw=False)
    assert (
        "labels without a source: no negatives, retrainings or promotions until `weir thaw ''`"
        in capsys.readouterr().out
    )
    assert all([one.source for one in events] == [""] for events in said(on_kafka).values())
