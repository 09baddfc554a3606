"""The process between us and a child that must never outlive us: it ends the child when its own standard input ends.

Run as a script, `python -I -S guard.py COMMAND [ARGUMENT…]`, by `services.local.kafka`, which holds the other end of
the standard input. It imports nothing of Weir, so it is up in milliseconds.

    standard input    a byte `T`: ask the child to end (SIGTERM); `K`: kill it. End of file, which is also what the
                      kernel makes of a parent that was killed: ask, and kill after `GRACE_S` seconds.
    standard output   the child's process id, one line.
    standard error    becomes the child's standard output and error.
    exit status       the child's; 128 + n when signal n ended it.

Why not PR_SET_PDEATHSIG alone? It fires when the *thread* that started the child ends, which in a program with worker
threads is not the end of the program, and only Linux has it. This process has one thread, so here it is safe, and
where it exists it covers the last case: this process itself being killed.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

GRACE_S = 3.0
_PR_SET_PDEATHSIG = 1


def _become(command: list[str], guard_pid: int) -> None:
    """In the forked child: die with the guard, then become the command. Never returns."""
    try:
        if sys.platform == "linux":
            import ctypes

            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != guard_pid:
                os._exit(1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.execv(command[0], command)
    except OSError as error:
        os.write(2, f"cannot start {command[0]}: {error}\n".encode())
    finally:
        os._exit(127)


def main(command: list[str]) -> int:
    """Start the command, report its process id, and wait for its end or the parent's."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    guard_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become(command, guard_pid)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGTERM))
    os.write(1, f"{pid}\n".encode())
    os.close(1)
    watched, kill_at = [0, woken], float("inf")
    while True:
        wait_s = None if kill_at == float("inf") else max(0.0, kill_at - time.monotonic())
        ready, _, _ = select.select(watched, [], [], wait_s)
        if woken in ready:
            os.read(woken, 4096)
        if 0 in ready:
            asked = os.read(0, 64)
            os.kill(pid, signal.SIGKILL if b"K" in asked else signal.SIGTERM)
            if not asked:
                watched, kill_at = [woken], time.monotonic() + GRACE_S
        if time.monotonic() >= kill_at:
            os.kill(pid, signal.SIGKILL)
            kill_at = float("inf")
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
