"""`compiled`: numba's `njit`, with what it made kept for the next process, and for no other version of the code.

numba keeps compiled code beside each source file and looks at that file alone, although a function's code contains that
of the functions which it calls in other files. So all of it is kept in one directory, named after the bytes of every
file that is compiled: `WEIR_CACHE_DIR` (or the user's cache) `/compiled/DIGEST`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba
import xxhash
from numba import njit, types

_HERE = Path(__file__).parent
_SOURCES = (_HERE / "native.py", _HERE / "librdkafka.py", *sorted((_HERE.parent / "join" / "columns").glob("*.py")))
_READY = "ready"

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def _directory() -> Path:
    digest = xxhash.xxh3_64(numba.__version__.encode())
    for source in _SOURCES:
        body = source.read_bytes()
        if b"@compiled" in body:
            digest.update(body)
    named = os.environ.get("WEIR_CACHE_DIR") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "weir"
    )
    for root in (Path(named), Path(tempfile.gettempdir()) / f"weir-{os.getuid()}"):
        directory = root / "compiled" / digest.hexdigest()
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(directory, os.W_OK):
            return directory
    return Path(tempfile.mkdtemp(prefix="weir-compiled-"))  # then every process compiles for itself


DIRECTORY = _directory()


def compiled(function: FunctionT) -> FunctionT:
    """Compile a function when it is first called. It does not hold Python's lock while it runs."""
    before = numba.config.CACHE_DIR  # type: ignore[attr-defined]
    numba.config.CACHE_DIR = str(DIRECTORY)  # type: ignore[attr-defined]
    try:
        made: Any = njit(cache=True, nogil=True)(function)
    finally:
        numba.config.CACHE_DIR = before  # type: ignore[attr-defined]
    template = made.get_call_template

    def get_call_template(args: Any, kws: Any) -> Any:
        return template(tuple(map(types.unliteral, args)), kws)

    # numba makes a function anew for each constant that it is called with, which took a third of the time.
    made.get_call_template = get_call_template
    return made  # type: ignore[no-any-return]


@cache
def is_ready() -> bool:
    """Whether everything has been compiled on this machine, by this process or another."""
    return (DIRECTORY / _READY).exists()


def note_ready() -> None:
    """Note that everything has been."""
    (DIRECTORY / _READY).touch()
