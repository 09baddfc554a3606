"""What is compiled once can be waited for, and given up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

GIVEN_UP = """
import threading
import psutil
from streams.join.columns.warm import warm_until

stop = threading.Event()
threading.Timer(0.5, stop.set).start()
print(warm_until(stop), psutil.Process().children())
"""


def test_compiling_ends_when_it_is_asked_to(tmp_path: Path) -> None:
    """A worker that is stopped in its first seconds leaves at once, and nothing that compiles on is left behind."""
    done = subprocess.run(
        [sys.executable, "-c", GIVEN_UP],
        env={**os.environ, "WEIR_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    assert done.stdout.splitlines()[-1] == "False []"
    assert not list(tmp_path.rglob("ready"))
