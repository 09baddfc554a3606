"""A data directory has one owner, and a dead owner never blocks the next."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from services.local.owner import LOCK_NAME, DirectoryInUse, DirectoryOwner

HOLDER = """
import subprocess, sys
from services.local.owner import DirectoryOwner
owner = DirectoryOwner(sys.argv[1], purpose="holder")
if len(sys.argv) > 2:
    child = subprocess.Popen(["sleep", sys.argv[2]], pass_fds=[owner.fileno()], stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
else:
    print("held", flush=True)
sys.stdin.read()
"""


def hold(directory: Path, *more: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(directory), *more], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=10)


def test_creates_the_directory_and_writes_the_owner(tmp_path: Path) -> None:
    with DirectoryOwner(tmp_path / "a" / "b", purpose="x") as owner:
        assert owner.held
        assert str(os.getpid()) in (tmp_path / "a" / "b" / LOCK_NAME).read_text()
    assert not owner.held
    with pytest.raises(ValueError, match="already released"):
        owner.fileno()


def test_second_owner_in_the_same_process_is_refused(tmp_path: Path) -> None:
    with DirectoryOwner(tmp_path, purpose="x"), pytest.raises(DirectoryInUse):
        DirectoryOwner(tmp_path, purpose="y")
    DirectoryOwner(tmp_path, purpose="z").release()


def test_second_owner_is_refused_with_the_first_ones_pid(tmp_path: Path) -> None:
    process, said = hold(tmp_path)
    try:
        assert said == "held"
        with pytest.raises(DirectoryInUse, match=rf"embedded Kafka: .*{tmp_path}.* process {process.pid} ") as refused:
            DirectoryOwner(tmp_path, purpose="embedded Kafka")
        assert refused.value.pid == process.pid
    finally:
        end(process)


def test_killed_owner_leaves_the_directory_free(tmp_path: Path) -> None:
    process, _ = hold(tmp_path)
    end(process)
    DirectoryOwner(tmp_path, purpose="next", linger_s=0).release()


def test_directory_stays_taken_while_a_child_of_a_killed_owner_lives(tmp_path: Path) -> None:
    process, child = hold(tmp_path, "60")
    end(process)
    try:
        with pytest.raises(DirectoryInUse):
            DirectoryOwner(tmp_path, purpose="next", linger_s=0.1)
    finally:
        os.kill(int(child), signal.SIGKILL)
    DirectoryOwner(tmp_path, purpose="next").release()  # waits for the child's end


def test_a_child_that_ends_soon_is_waited_for(tmp_path: Path) -> None:
    process, _ = hold(tmp_path, "0.4")
    end(process)
    DirectoryOwner(tmp_path, purpose="next", linger_s=10).release()


def test_release_is_idempotent(tmp_path: Path) -> None:
    owner = DirectoryOwner(tmp_path, purpose="x")
    owner.release()
    owner.release()


def test_a_directory_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        DirectoryOwner(tmp_path / "file" / "sub", purpose="x")
