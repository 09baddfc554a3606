"""Children are watched: what ends is said and started again, and said to run again once it does."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from services.local.supervisor import Child, Supervisor

PATIENCE_S = 30.0


def test_a_child_that_ends_is_started_again_and_said_to_run_again(tmp_path: Path) -> None:
    """It ends at its first start and stays at its second."""
    once = tmp_path / "once"
    code = f"""
import pathlib, time
once = pathlib.Path({str(once)!r})
if not once.exists():
    once.touch()
    raise SystemExit(3)
time.sleep({2 * PATIENCE_S})
"""
    said: list[tuple[str, str]] = []
    again = threading.Event()

    def say(name: str, text: str) -> None:
        said.append((name, text))
        if text == "runs again":
            again.set()

    supervisor = Supervisor([Child("worker", [sys.executable, "-c", code], {})], logs=tmp_path, say=say, again_s=0.2)
    supervisor.start()
    try:
        assert again.wait(PATIENCE_S), f"nothing but {said}"
        assert supervisor.restarts == {"worker": 1}
        assert [name for name, _ in said] == ["worker", "worker"]
        assert said[0][1].startswith("ended (exit 3); restarting in 0.5 s")
    finally:
        supervisor.stop()
    assert supervisor.pid("worker") is None
    assert len(said) == 2, "a child that is stopped is not said to run"
