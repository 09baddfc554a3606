"""The guard passes on what it is asked, and outlives nobody."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from services.local import guard

STUBBORN = (
    "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
)
PYTHON = [sys.executable, "-I", "-S", "-c"]


def guarded(*command: str, log: Path) -> tuple[subprocess.Popen[bytes], psutil.Process]:
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            bufsize=0,
        )
    assert process.stdout is not None
    with process.stdout as reported:
        return process, psutil.Process(int(reported.readline()))


def say(process: subprocess.Popen[bytes], byte: bytes) -> None:
    assert process.stdin is not None
    if byte:
        process.stdin.write(byte)
    else:
        process.stdin.close()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.mark.parametrize(("byte", "status"), [(b"T", 128 + 15), (b"K", 128 + 9), (b"", 128 + 15)])
def test_ends_the_child_as_asked(log: Path, byte: bytes, status: int) -> None:
    process, child = guarded("/bin/sleep", "60", log=log)
    say(process, byte)
    assert process.wait(10) == status
    assert not child.is_running()
    say(process, b"")


def test_kills_a_deaf_child_when_the_parent_is_gone(log: Path) -> None:
    process, child = guarded(*PYTHON, STUBBORN, log=log)
    while not log.read_text():  # until it ignores the signal; pytest's own time-out bounds this
        assert process.poll() is None
    say(process, b"")
    assert process.wait(guard.GRACE_S + 10) == 128 + 9
    assert not child.is_running()


def test_the_child_dies_with_a_killed_guard(log: Path) -> None:
    process, child = guarded("/bin/sleep", "60", log=log)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    say(process, b"")


def test_passes_on_output_and_exit_status(log: Path) -> None:
    process, _ = guarded(*PYTHON, "import sys; print('out'); sys.exit(7)", log=log)
    assert process.wait(10) == 7
    assert log.read_text() == "out\n"
    say(process, b"")


def test_a_command_that_does_not_exist_is_named(log: Path) -> None:
    process, _ = guarded("/no/such/program", log=log)
    assert process.wait(10) == 127
    assert "cannot start /no/such/program" in log.read_text()
    say(process, b"")
