"""A virtual environment for one peer: pinned wheels, apart from our own environment, kept in the cache."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.join.peer import Unavailable

INSTALL_S = 600


def environment(cache: Path, pins: Sequence[str], *, python: str = "") -> Path:
    """Give the Python of an environment in `cache` that has exactly these pins; make it when it is not there.

    Raises `Unavailable` with the installer's last words.
    """
    stamp = hashlib.sha256("\n".join((python, *pins)).encode()).hexdigest()[:12]
    home = cache / f"venv-{stamp}"
    program, done = home / "bin" / "python", home / ".done"
    if done.exists() and program.exists():
        return program
    uv = Path(sys.executable).with_name("uv")
    words = str(uv) if uv.exists() else shutil.which("uv")
    if words is None:
        raise Unavailable("uv is missing: install the extra `dev`")
    shutil.rmtree(home, ignore_errors=True)
    _do([words, "venv", "--quiet", "--python", python or sys.executable, str(home)])
    _do([words, "pip", "install", "--quiet", "--python", str(program), *pins])
    done.touch()
    return program


def _do(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{' '.join(command[:3])} took longer than {INSTALL_S} s") from None
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise Unavailable(f"{Path(command[0]).name} {command[1]}: {said[-1] if said else 'failed'}")
