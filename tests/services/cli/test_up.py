"""Which processes `weir up` starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.errors import WeirError
from schemas.settings import Intake, Recall, Settings
from services.cli.processes import PROCESSES
from services.cli.up import chosen

ENABLED = Settings(recall=Recall(enabled=True), intake=Intake(mappings=[Path("orders.toml")]))


def test_recall_and_intake_start_where_settings_ask_or_where_they_are_named() -> None:
    assert chosen(Settings(), [], []) == [name for name in PROCESSES if name not in ("recall", "intake")]
    assert chosen(ENABLED, [], []) == list(PROCESSES)
    assert chosen(ENABLED, [], ["recall", "api"]) == [name for name in PROCESSES if name not in ("recall", "api")]
    assert chosen(Settings(), ["recall", "record"], []) == ["record", "recall"]
    assert chosen(Settings(), ["intake"], []) == ["intake"]


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(WeirError, match="no process recal"):
        chosen(Settings(), ["recal"], [])
