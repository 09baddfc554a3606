"""Pathway: its Rust engine behind Python tables, at least once, nothing durable.

Its free edition promises at least once with persistence and nothing without. It runs without, which is its fastest; a
restart reads both topics again and writes every row again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.join.peer import Peer
from benchmarks.join.peers.wheels import environment

PINS = ("pathway==0.33.0",)


def _prepare(cache: Path) -> Sequence[str]:
    return [str(environment(cache, PINS)), str(Path(__file__).with_name("program.py"))]


PEER = Peer(
    name="pathway",
    title="Pathway",
    version="0.33.0",
    guarantee="at least once, nothing durable",
    prepare=_prepare,
    timers="event",
    position="output",
    environment={"PATHWAY_THREADS": "1"},
)
