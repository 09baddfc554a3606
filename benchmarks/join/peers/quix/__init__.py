"""Quix Streams: an interval join with state in RocksDB. The library has no timers, so silence gives no row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.join.peer import Peer
from benchmarks.join.peers.wheels import environment

PINS = ("quixstreams==3.28.1",)


def _prepare(cache: Path) -> Sequence[str]:
    return [str(environment(cache, PINS)), str(Path(__file__).with_name("program.py"))]


PEER = Peer(
    name="quix",
    title="Quix Streams",
    version="3.28.1",
    guarantee="exactly once",
    prepare=_prepare,
    timers="none",
    position="group",
)
