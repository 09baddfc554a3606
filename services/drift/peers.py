"""Peers beside us: hand columns over to an environment that has them, and put their answers beside our values.

Evidently wants another pandas than this environment has, and NannyML statsmodels, so they run by a Python of their own,
a process for each peer, on files that hold the columns as we have read them. The process is ended when it takes longer
than `SECONDS` and the grace; whatever goes wrong with a peer is told in its place, and changes nothing else.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa

from schemas.errors import USAGE, WeirError
from services.drift import peers_script
from services.drift.column import counts, numbers
from services.drift.reasons import ks_p, near, steps
from services.drift.table import Say, Table
from services.drift.theirs import Categories, Numbers, Pair
from streams.judge.compare import Compared

PEERS = tuple(peers_script.METHODS)
SECONDS, GRACE = 300.0, 60.0
"""How long a peer is asked for values, and how long the process may take beyond that."""
INSTALL = "python -m venv peers && peers/bin/pip install evidently==0.7.23 'pandas<3' nannyml==0.13.1 statsmodels"
EXACT_INTEGERS = 2.0**53


class Value(msgspec.Struct):
    """What the script says of a column, by its number, and a measure."""

    column: int
    measure: str
    value: float | None
    error: str


class Answer(msgspec.Struct, kw_only=True):
    """What the script prints. `error`: why there are no values at all."""

    peer: str
    error: str = ""
    version: str = ""
    python: str = ""
    pandas: str = ""
    values: list[Value] = []


@dataclass(frozen=True)
class Beside:
    """A peer's value beside ours. `reasons`: (label, sentence, where it leads), in the order that leads from ours on.

    `explained`: the last of them leads to the peer's value, but for rounding.
    """

    column: str
    measure: str
    theirs: float | None
    ours: float | None
    reasons: list[tuple[str, str, float]]
    equal: bool
    explained: bool
    error: str = ""

    @property
    def rest(self) -> float | None:
        """What the reasons leave of the difference; None where there is nothing to compare."""
        at = self.reasons[-1][2] if self.reasons else self.ours
        return None if self.theirs is None or at is None else self.theirs - at


@dataclass
class Peer:
    """A peer's answer. `error`: why there is none, and what to do."""

    name: str
    version: str = ""
    surroundings: str = ""
    error: str = ""
    values: list[Beside] = field(default_factory=list)


Led = dict[tuple[str, str], tuple[float | None, list[tuple[str, str, float]]]]
"""Of a column, by peer and measure: our value and the reasons."""


@dataclass(frozen=True)
class Wanted:
    """Which peers, by which Python, for how many columns, the worst first."""

    names: tuple[str, ...]
    python: str
    top: int


def wanted(names: str, python: str | None, top: int) -> Wanted:
    """Read `--compare` and `--peer-python`. Raises `WeirError` for a peer that is not known."""
    chosen = tuple(dict.fromkeys(name.strip().lower() for name in names.split(",") if name.strip()))
    if not chosen or not set(chosen) <= {*PEERS}:
        raise WeirError(
            f"--compare {names}: expected some of {', '.join(PEERS)}", fix="--compare evidently", code=USAGE
        )
    # As a path, since the script runs elsewhere, but a link stays one: it is an environment's Python.
    found = os.path.abspath(python) if python and os.sep in python else python
    return Wanted(chosen, found or sys.executable, top)


def beside(
    before: Table, after: Table, columns: Sequence[Compared], asked: Wanted, scratch: Path, say: Say
) -> list[Peer]:
    """Ask each peer about columns of two tables. `scratch` is a folder for what is handed over."""
    place = scratch / "peers"
    try:
        led = _prepare(before, after, columns, asked, place, say)
    except OSError as error:
        told = f"columns cannot be handed over: {error.strerror}; fix: let TMPDIR be a folder with room"
        return [Peer(name, error=told) for name in asked.names]
    peers = []
    for name in asked.names:
        say(f"asking {name}")
        answer = ask(name, asked.python, place)
        peer = Peer(answer.peer, answer.version, error=_what_to_do(answer, asked.python))
        peer.surroundings = f"Python {answer.python}, pandas {answer.pandas}" if answer.version else ""
        for value in answer.values:
            ours, found = led[value.column][name, value.measure]
            peer.values.append(_beside(columns[value.column].name, value, ours, found))
        peers.append(peer)
    return peers


def _prepare(
    before: Table, after: Table, columns: Sequence[Compared], asked: Wanted, place: Path, say: Say
) -> list[Led]:
    """Write what the script reads, a column at a time, and take the steps to each peer's definition."""
    place.mkdir()
    led: list[Led] = []
    described = []
    for number, one in enumerate(columns):
        say(f"handing over {one.name}")
        pair = _pair(before, after, one)
        described.append(_hand_over(pair, place, number))
        led.append({})
        for name in asked.names:
            for measure in peers_script.METHODS[name][pair.kind]:
                ours = _ours(one, pair, measure)
                found = [(step.label, step.why, value) for step, value in steps(name, measure, pair, ours)]
                led[-1][name, measure] = ours, found
    (place / "columns.json").write_text(json.dumps(described), encoding="utf-8")
    return led


def ask(name: str, python: str, place: Path) -> Answer:
    """Run the script on a folder of columns; what goes wrong is the answer's error."""
    if not shutil.which(python):
        return Answer(peer=name, error=f"there is no Python {python}")
    command = [python, peers_script.__file__, name, str(place), str(SECONDS)]
    environment = {**os.environ, "NML_DISABLE_USAGE_LOGGING": "1", "DO_NOT_TRACK": "1"}
    try:
        ended = subprocess.run(
            command, cwd=place, env=environment, capture_output=True, stdin=subprocess.DEVNULL,
            timeout=SECONDS + GRACE, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Answer(peer=name, error=f"no answer within {SECONDS + GRACE:g} s")
    except OSError as error:
        return Answer(peer=name, error=f"{python} cannot be run: {error.strerror}")
    try:
        return msgspec.json.decode(ended.stdout, type=Answer)
    except msgspec.DecodeError:
        said = ended.stderr.decode(errors="replace").strip().splitlines()
        return Answer(peer=name, error=f"it ended with status {ended.returncode}: {said[-1] if said else 'no message'}")


def _what_to_do(answer: Answer, python: str) -> str:
    if not answer.error:
        return ""
    return f"{answer.peer} by {python}: {answer.error}; fix: {INSTALL}, then --peer-python peers/bin/python"


def _pair(before: Table, after: Table, one: Compared) -> Pair:
    a, c = (table.column(one.name) for table in (before, after))
    if one.kind == "categorical":
        return Categories(counts(a), counts(c))
    sides = numbers(a), numbers(c)
    whole = all(pa.types.is_integer(column.type) and not column.null_count for column in (a, c))
    exact = all(len(side) and np.abs(side).max() < EXACT_INTEGERS for side in sides)
    return Numbers(*sides, whole=whole and exact)


def _hand_over(pair: Pair, place: Path, number: int) -> dict[str, object]:
    """Write one column for the script; give what `columns.json` says of it."""
    if isinstance(pair, Categories):
        return {"kind": pair.kind, "reference": list(pair.reference.items()), "current": list(pair.current.items())}
    for side, values in (("reference", pair.reference), ("current", pair.current)):
        np.save(place / f"{number}.{side}.npy", values.astype(np.int64) if pair.whole else values)
    return {"kind": pair.kind}


def _ours(one: Compared, pair: Pair, measure: str) -> float | None:
    if measure == "ks_p":
        value: float | None = ks_p(pair.there) if isinstance(pair, Numbers) else None
    else:
        value = getattr(one, "p" if measure == "chi2_p" else measure)
    return None if value is None or not math.isfinite(value) else value


def _beside(name: str, value: Value, ours: float | None, found: list[tuple[str, str, float]]) -> Beside:
    theirs = value.value
    if theirs is None:
        told = value.error.replace("'x'", repr(name)).replace("column x:", f"column {name}:")  # the name handed over
        return Beside(name, value.measure, None, ours, [], equal=False, explained=False, error=told)
    if ours is not None and near(theirs, ours, value.measure):
        return Beside(name, value.measure, theirs, ours, [], equal=True, explained=False)
    explained = bool(found) and near(theirs, found[-1][2], value.measure)
    return Beside(name, value.measure, theirs, ours, found, equal=False, explained=explained)
