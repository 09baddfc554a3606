"""How the deliveries of alerts went: the store of `weir alert`, where it lies in this process's data directory."""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec

from schemas.errors import WeirError
from schemas.settings import Settings
from services.alert.look import look
from services.alert.store import NAME


def deliveries(settings: Settings) -> dict[str, Any] | None:
    """Give the newest deliveries with their attempts, and the endpoints; None where there is no store here.

    Raises `WeirError` when the file is no store that we can read.
    """
    path = settings.data_dir / NAME
    if not path.exists():
        return None
    try:
        view = look(settings.data_dir)
    except sqlite3.Error as error:
        raise WeirError(f"the alert store {NAME} cannot be read: {error}", fix="see the log of `weir alert`") from None
    plain: dict[str, Any] = msgspec.to_builtins(view)
    return {"deliveries": plain["deliveries"], "endpoints": plain["endpoints"]}
