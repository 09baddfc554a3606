"""How the deliveries of alerts went: the store of `weir alert`, where it lies in this process's data directory."""

from __future__ import annotations

from typing import Any

from schemas.settings import Settings


def deliveries(settings: Settings) -> list[dict[str, Any]] | None:
    """Give the newest deliveries; None where the store is not on this machine."""
    return None
