"""Checks of this machine and of the settings, which ask nobody."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from schemas.errors import WeirError
from services.doctor.finding import Finding, House, State

LOW_BYTES, FULL_BYTES = 10 << 30, 1 << 30


def settings_are_valid(house: House) -> Iterator[Finding]:
    """Those that only the judge can read."""
    from streams.stages import judge_processor

    try:
        judge_processor(house.settings)
    except WeirError as error:
        yield Finding("settings", "fail", error.message, error.fix)
    else:
        at = house.settings
        yield Finding("settings", "ok", f"namespace {at.namespace}, Kafka {at.kafka.bootstrap}, clock {at.clock}")


def data_is_writable(house: House) -> Iterator[Finding]:
    """Snapshots, the outbox and embedded data need a disk with room."""
    place = house.settings.data_dir.absolute()
    there = next((one for one in (place, *place.parents) if one.exists()), Path("/"))
    if not os.access(there, os.W_OK | os.X_OK) or not there.is_dir():
        fix = "give its owner the rights, or set data_dir (WEIR_DATA_DIR)"
        yield Finding("data", "fail", f"{place} cannot be written", fix)
        return
    free = shutil.disk_usage(there).free
    says = f"{free / 2**30:.1f} GB free at {place}"
    fix = "make room: a full disk stops snapshots, and then a restart takes longer"
    state: State = "fail" if free < FULL_BYTES else "warn" if free < LOW_BYTES else "ok"
    yield Finding("data", state, says, fix if state != "ok" else "", "docs/restore.md" if state != "ok" else "")


def join_is_compiled(house: House) -> Iterator[Finding]:
    """The first join of a version compiles itself."""
    from streams.runtime.compiled import DIRECTORY, is_ready

    if is_ready():
        yield Finding("compiled", "ok", f"the join is compiled in {DIRECTORY}")
    else:
        says = "the join is not compiled for this version: its first start takes some twenty seconds of CPU more"
        yield Finding("compiled", "warn", says, "python -m streams.join.columns")


def edges_are_guarded(house: House) -> Iterator[Finding]:
    """What listens beyond this machine has no TLS of its own."""
    from services.api.auth import check_binding, is_loopback

    beyond = [
        (name, host)
        for name, host in (("api", house.settings.api.host), ("serve", house.settings.serve.host))
        if not is_loopback(host)
    ]
    for name, host in beyond:
        yield Finding(
            "edges", "warn", f"{name} listens on {host}, without TLS of its own",
            f"put a proxy with TLS before it, or set {name}.host to 127.0.0.1",
        )  # fmt: skip
    try:
        check_binding(house.settings)
    except WeirError as error:
        yield Finding("edges", "fail", error.message, error.fix)
    if not beyond:
        yield Finding("edges", "ok", "the API and serving listen on this machine alone")
