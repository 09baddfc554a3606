"""Weir itself: JSON in, JSON out with the prediction's fields carried, exactly once, `measure` not chained."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.join.peer import Peer

_ROOT = Path(__file__).parents[3]


def _prepare(cache: Path) -> Sequence[str]:
    return [sys.executable, "-m", "benchmarks.join.weir"]


PEER = Peer(
    name="weir_json",
    title="Weir",
    version=version("weir"),
    guarantee="exactly once",
    prepare=_prepare,
    position="group",
    environment={"PYTHONPATH": str(_ROOT)},
)
