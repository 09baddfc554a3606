"""The peers. Each module or package here that defines `PEER` is one; `benchmarks.join.peer` says what it has to do."""

from __future__ import annotations

import importlib
import pkgutil

from benchmarks.join.peer import Peer


def find() -> dict[str, Peer]:
    """Give every peer by name, in the order of their modules' names."""
    found: dict[str, Peer] = {}
    for module in pkgutil.iter_modules(__path__):
        peer = getattr(importlib.import_module(f"{__name__}.{module.name}"), "PEER", None)
        if isinstance(peer, Peer):
            found[peer.name] = peer
    return found
