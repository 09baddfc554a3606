"""Logs on a full disk."""

import errno
import sys

import pytest

from streams.runtime.stderr import LossyStderr


class Full:
    """A standard error whose disk is full."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_loses_lines_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = LossyStderr()
    with monkeypatch.context() as full:
        full.setattr(sys, "stderr", Full())
        print("lost", file=log, flush=True)
    print("kept", file=log, flush=True)
    assert capsys.readouterr().err == "kept\n"
