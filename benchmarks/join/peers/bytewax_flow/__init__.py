"""Bytewax: a keyed stateful operator with a notification for the timeout; recovery on, as its documentation advises."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.join.peer import Peer
from benchmarks.join.peers.wheels import environment

PINS = ("bytewax==0.21.1", "confluent-kafka==2.16.0", "orjson==3.13.0")


def _prepare(cache: Path) -> Sequence[str]:
    return [str(environment(cache, PINS)), str(Path(__file__).with_name("program.py"))]


PEER = Peer(
    name="bytewax",
    title="Bytewax",
    version="0.21.1",
    guarantee="at least once",
    prepare=_prepare,
    timers="wall",
)
