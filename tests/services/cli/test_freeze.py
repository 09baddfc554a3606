"""Freezing and thawing by hand: every partition hears who did it, to which source, and why."""

import json
import re
from pathlib import Path

import msgspec
import pytest

from schemas.control import Control, Frozen, Thawed
from schemas.errors import WeirError
from schemas.settings import Settings
from services.cli.freeze import freeze
from services.cli.policy import set_policy
from services.cli.standing import list_freezes
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


def test_what_is_frozen_is_listed_and_nothing_else_is_thawed(
    on_kafka: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    list_freezes(on_kafka, as_json=False)
    assert said_by(capsys) == "nothing is frozen\n"
    freeze(on_kafka, "market", "the feed is down", thaw=False, as_json=True)
    assert json.loads(said_by(capsys))["source"] == "market"
    list_freezes(on_kafka, as_json=False)
    assert re.match(r"labels of market: frozen since \d{4}-.* UTC by \w+: the feed is down$", said_by(capsys))
    with pytest.raises(WeirError, match="labels of crm are not frozen; frozen: 'market'"):
        freeze(on_kafka, "crm", "", thaw=True)
    list_freezes(on_kafka, as_json=True)
    (listed,) = json.loads(said_by(capsys))
    assert (listed["source"], listed["missing_in"]) == ("market", [])
    freeze(on_kafka, "market", "", thaw=True)
    said_by(capsys)
    list_freezes(on_kafka, as_json=True)
    assert json.loads(said_by(capsys)) == []


def test_a_source_that_is_nearly_one_of_a_policy_is_asked_about(
    on_kafka: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "m.toml"
    file.write_text('[join]\nmodel = "m"\nprecedence = ["market"]\n')
    set_policy(on_kafka, file)
    freeze(on_kafka, "market", "", thaw=False)
    assert "did you mean" not in said_by(capsys)
    freeze(on_kafka, "markets", "", thaw=False)
    assert "did you mean 'market'?" in said_by(capsys)


def test_labels_without_a_source_are_named_by_an_empty_one(
    on_kafka: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    freeze(on_kafka, "", "", thaw=False)
    assert (
        "labels without a source: no negatives, retrainings or promotions until `weir thaw ''`"
        in capsys.readouterr().out
    )
    assert all([one.source for one in events] == [""] for events in said(on_kafka).values())
