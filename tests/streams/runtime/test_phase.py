"""A worker tells its phase to who asked for it, and to nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.runtime import phase
from streams.runtime.phase import LOOP, WRITER, Phase, Told, Untold, told


def test_nobody_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(phase.VARIABLE, raising=False)
    silent = told()
    silent.enter(Phase.STEP)
    assert type(silent) is Untold
    assert silent.during(Phase.SNAPSHOT, divmod, 7, 2) == (3, 1)


def test_two_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "phase"
    monkeypatch.setenv(phase.VARIABLE, str(path))
    teller = told()
    assert isinstance(teller, Told)
    assert path.read_bytes() == bytes((Phase.START, Phase.NONE))
    teller.enter(Phase.COMMIT)
    seen = teller.during(Phase.SNAPSHOT, path.read_bytes)
    assert (seen[LOOP], seen[WRITER]) == (Phase.COMMIT, Phase.SNAPSHOT)
    assert path.read_bytes()[WRITER] == Phase.NONE


def test_a_writer_that_fails_is_idle_again(tmp_path: Path) -> None:
    teller = Told(tmp_path / "phase")

    def fail() -> None:
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        teller.during(Phase.SNAPSHOT, fail)
    assert (tmp_path / "phase").read_bytes()[WRITER] == Phase.NONE
