"""`weir join` and `weir judge` with what `weir record` keeps behind them, for a restore that needs more than Kafka has.

ClickHouse is asked only then, and need not be there before.
"""

from __future__ import annotations

import threading

from schemas.settings import Settings
from services.record.history import RecordedHistory
from streams import stages


def join(settings: Settings, stop: threading.Event) -> None:
    """Run the join and measure until `stop` is set."""
    stages.join(settings, stop, RecordedHistory(settings))


def judge(settings: Settings, stop: threading.Event) -> None:
    """Run the judge until `stop` is set."""
    stages.judge(settings, stop, RecordedHistory(settings))
