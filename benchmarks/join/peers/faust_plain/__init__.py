"""Faust as it comes: two agents over a table with a changelog, timeouts by event time while a partition moves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.join.peer import Peer
from benchmarks.join.peers.wheels import environment

PINS = ("faust-streaming==0.15.3", "aiokafka==0.14.0", "mode-streaming==0.7.0", "setuptools==80.9.0")


def _prepare(cache: Path) -> Sequence[str]:
    return [str(environment(cache, PINS)), str(Path(__file__).with_name("program.py"))]


PEER = Peer(
    name="faust",
    title="Faust",
    version="0.15.3, aiokafka 0.14.0",
    guarantee="at least once",
    prepare=_prepare,
    grace_s=20.0,  # its commits overlap under load: rows tell more than the group's offsets
)
