"""Which processes `weir up` starts."""

from __future__ import annotations

import pytest

from schemas.errors import WeirError
from schemas.settings import Recall, Settings
from services.cli.processes import PROCESSES
from services.cli.up import chosen

ENABLED = Settings(recall=Recall(enabled=True))


def test_recall_starts_where_it_is_enabled_or_named() -> None:
    assert chosen(Settings(), [], []) == [name for name in PROCESSES if name != "recall"]
    assert chosen(ENABLED, [], []) == list(PROCESSES)
    assert chosen(ENABLED, [], ["recall", "api"]) == [name for name in PROCESSES if name not in ("recall", "api")]
    assert chosen(Settings(), ["recall", "record"], []) == ["record", "recall"]


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(WeirError, match="no process recal"):
        chosen(Settings(), ["recal"], [])
