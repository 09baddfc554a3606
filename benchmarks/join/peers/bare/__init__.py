"""What one writes without a library: a confluent-kafka loop over batches, a dict, orjson, transactions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.join.peer import Peer
from benchmarks.join.peers.wheels import environment

PINS = ("confluent-kafka==2.16.0", "orjson==3.13.0")


def _prepare(cache: Path) -> Sequence[str]:
    return [str(environment(cache, PINS)), str(Path(__file__).with_name("program.py"))]


PEER = Peer(
    name="bare",
    title="bare loop, dict",
    version="confluent-kafka 2.16.0, orjson 3.13.0",
    guarantee="rows exactly once, state in memory only",
    prepare=_prepare,
    position="group",
)
