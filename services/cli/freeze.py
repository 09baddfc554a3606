"""Freezes and thaws by hand: a copy into every partition of `control`, as the outage guard does it."""

from __future__ import annotations

import getpass
import time

from schemas.control import Frozen, Thawed
from schemas.settings import Settings
from services.cli.policy import send_control


def freeze(settings: Settings, source: str, reason: str, *, thaw: bool) -> None:
    """Freeze or thaw a source of labels. Raises `WeirError` when Kafka refuses."""
    by = getpass.getuser()
    kind = Thawed if thaw else Frozen
    name = f"labels of {source}" if source else "labels without a source"
    told = f"{name} {'thawed' if thaw else 'frozen'} by {by}" + (f": {reason}" if reason else "")
    send_control(settings, [kind(source=source, reason=told, at_ms=int(time.time() * 1000), by=by)])
    if thaw:
        print(f"{name}: negatives, retrainings and promotions go on, unless another source is frozen")
    else:
        print(f"{name}: no negatives, retrainings or promotions until `weir thaw {source or chr(39) * 2}`")
