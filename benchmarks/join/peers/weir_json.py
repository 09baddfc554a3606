"""Weir itself: JSON in, JSON out with the prediction's fields carried, exactly once, `measure` not chained."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.join.peer import Peer, Unavailable

_ROOT = Path(__file__).parents[3]


def _prepare(cache: Path) -> Sequence[str]:
    """Let numba fill its cache: compiling is done once per installation, not once per start."""
    command = [sys.executable, "-m", "benchmarks.join.state", "--open", "10000", "--events", "20000"]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"the join does not run: {done.stderr.strip().splitlines()[-1]}")
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
