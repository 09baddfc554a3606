"""Every process of the loop by name, and how it is run. Heavy imports happen only in the process that needs them.

A process is a function `run(settings, stop)` that returns when `stop` is set (cleanly, after finishing what it holds)
and raises `WeirError` with what to do when it cannot go on. `decide` alone is a Faust app of its own, because nothing
in `services` may import Faust, not even indirectly: it takes this process over as `python -m streams.decide`.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from schemas.settings import Settings

Run = Callable[["Settings", threading.Event], None]

PROCESSES: dict[str, tuple[str, str]] = {
    "record": ("services.record.run", "every event into ClickHouse, each position once"),
    "recall": ("services.recall.run", "what the join has put away, from ClickHouse"),
    "intake": ("services.intake.run", "a team's own topics and tables become predictions, labels, signals"),
    "join": ("services.cli.stages:join", "predictions meet labels and signals; deltas of what is measured"),
    "judge": ("services.cli.stages:judge", "panes, metrics, drift, gates, reviews"),
    "decide": ("", "retrain, promote, alert (Faust)"),
    "train": ("services.train.run", "retrain events become candidates (torch)"),
    "serve": ("services.serve.run", "POST /v1/predict; follows promote (torch)"),
    "alert": ("services.alert.run", "signed webhooks, retried"),
    "api": ("services.api.run", "the page, JSON and SSE"),
}
"""Name → where its `run` is (module or module:function; empty: `python -m streams.NAME`) and what it does."""

SLOTTED = ("join", "judge")
"""The processes that work in a slot (`runtime.worker`), which a standby can follow."""

OBSERVING = ("record", "join", "judge", "decide", "alert", "api")
"""The processes that need neither our server nor our trainer."""


def load(name: str) -> Run:
    """Import the `run` of a process. Raises `WeirError` naming the extra to install when a library is missing."""
    from schemas.errors import ENVIRONMENT, WeirError

    module, _, function = PROCESSES[name][0].partition(":")
    try:
        run: Run = getattr(importlib.import_module(module), function or "run")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in ("services", "streams", "schemas"):
            raise
        extra = {"train": "train", "serve": "serve"}.get(name, "embedded")
        raise WeirError(
            f"`weir {name}` needs the library {error.name!r}, which is not installed",
            fix=f'install the extra: pip install -e ".[{extra}]"',
            code=ENVIRONMENT,
        ) from error
    return run


def run_here(name: str, settings: Settings, flags: Mapping[str, Any]) -> None:
    """Run one process in this one until SIGINT or SIGTERM; a second signal ends it at once."""
    from services import logs

    if not PROCESSES[name][0]:
        os.environ.update(as_environment(flags))
        os.execv(sys.executable, [sys.executable, "-m", f"streams.{name}"])
    logs.configure(name, settings.log_level)
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    signal.signal(signal.SIGINT, ask)
    signal.signal(signal.SIGTERM, ask)
    load(name)(settings, stop)


def as_environment(flags: Mapping[str, Any], prefix: str = "WEIR_") -> dict[str, str]:
    """Write flags as the environment variables that mean the same.

    >>> as_environment({"namespace": "a", "kafka": {"bootstrap": "b:1"}})
    {'WEIR_NAMESPACE': 'a', 'WEIR_KAFKA__BOOTSTRAP': 'b:1'}
    """
    variables: dict[str, str] = {}
    for key, value in flags.items():
        if isinstance(value, Mapping):
            variables |= as_environment(value, f"{prefix}{key.upper()}__")
        else:
            variables[prefix + key.upper()] = str(value)
    return variables
