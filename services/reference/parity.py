"""`weir reference parity`: freeze rows as they were at training, for live predictions to be compared with."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from schemas.control import Control, ParityRow, ParitySet, ReferenceSet
from schemas.errors import OK, USAGE, WeirError
from schemas.event import Scalar, encode
from schemas.settings import Settings
from services.cli.policy import send_control
from services.reference.rows import columns
from services.reference.run import NOTICE_MS
from streams.judge.bounds import DAY_MS
from streams.measure.parity import MOST_ROWS, parity_fault, streams_of
from streams.measure.reading import text

ROWS = 200
VERSION = 1


@dataclass(frozen=True)
class Frozen:
    """What to freeze of a table: which columns are the key and the score, which others are left out, how many rows."""

    path: Path
    key: tuple[str, ...]
    score: str | None = None
    without: tuple[str, ...] = ()
    rows: int = ROWS
    relative: float = 1e-6
    absolute: float = 0.0
    limit: float = 0.001
    days: float | None = None


def reference_parity(
    settings: Settings, model: str, version: str, given: Frozen, *, dry_run: bool = False, as_json: bool = False
) -> int:
    """Freeze rows of a file and put them into `control`; give the exit code.

    Raises `WeirError` for a version that has such rows, or no reference (nothing would alarm), a file or bounds that
    cannot be used, or when Kafka is away.
    """
    from_ms = int(time.time() * 1000) + NOTICE_MS
    frozen, left_out = freeze(model, version, given, from_ms)
    if not dry_run:
        _refuse(settings, model, version)
        send_control(settings, [frozen])
    told = {
        "v": VERSION,
        "id": frozen.id,
        "model": model,
        "version": version,
        "key": frozen.key,
        "rows": len(frozen.rows),
        "left_out": left_out,
        "compared": streams_of(frozen),
        "limit": frozen.limit,
        "from_ms": frozen.at_ms,
        "until_ms": frozen.until_ms or None,
        "sent": not dry_run,
    }
    print(json.dumps(told) if as_json else as_text(told))
    return OK


def freeze(model: str, version: str, given: Frozen, from_ms: int) -> tuple[ParitySet, dict[str, int]]:
    """Give the rows of a file, spread evenly over it, and how many were left out for their key.

    Raises `WeirError` (usage) for a file, a key or bounds that cannot be used.
    """
    if not 1 <= given.rows <= MOST_ROWS or not 0 <= given.limit <= 1:
        raise WeirError(f"expected 1 to {MOST_ROWS:,} --rows, and a --limit from 0 to 1", code=USAGE)
    if given.days is not None and not 0 < given.days < math.inf:
        raise WeirError("--days: expected a number above 0", code=USAGE)
    named = [*given.key, *([] if given.score is None else [given.score])]
    table, names = columns(given.path, named, given.without)
    keys = [tuple(_text(value) for value in row) for row in zip(*(table[name] for name in given.key), strict=True)]
    count: dict[tuple[str | None, ...], int] = {}
    for key in keys:
        count[key] = count.get(key, 0) + 1
    usable = [at for at, key in enumerate(keys) if None not in key and count[key] == 1]
    left_out = {
        "without_key": sum(None in key for key in keys),
        "repeated": sum(None not in key and count[key] > 1 for key in keys),
    }
    if not usable:
        raise WeirError(
            f"no row of {given.path} has a key ({', '.join(given.key)}) of its own",
            fix="name columns that together tell rows apart: --key user --key day",
            code=USAGE,
        )
    chosen = [usable[i * len(usable) // min(given.rows, len(usable))] for i in range(min(given.rows, len(usable)))]
    scores = None if given.score is None else table[given.score]
    rows = [
        ParityRow(
            key=[one for one in keys[at] if one is not None],
            features={name: _value(table[name][at]) for name in names},
            score=None if scores is None else _score(scores[at]),
        )
        for at in chosen
    ]
    until_ms = 0 if given.days is None else from_ms + int(given.days * DAY_MS)
    made = ParitySet(
        id="unnamed",
        model=model,
        version=version,
        key=list(given.key),
        rows=rows,
        relative=given.relative,
        absolute=given.absolute,
        limit=given.limit,
        until_ms=until_ms,
        at_ms=from_ms,
    )
    fault = parity_fault(made)
    if fault:
        raise WeirError(fault, fix="take fewer rows (--rows) or features (--without)", code=USAGE)
    content = replace(made, at_ms=0, until_ms=0)
    return replace(made, id="par-" + hashlib.sha256(encode(content)).hexdigest()[:20]), left_out


def _text(value: Scalar) -> str | None:
    return None if value is None or value != value else text(value)


def _value(value: Scalar) -> Scalar:
    """Give a value as an event carries it: what is no JSON number is missing."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _score(value: Any) -> float | None:
    if value is None or isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _refuse(settings: Settings, model: str, version: str) -> None:
    from services.kafka import read_to_end

    known = False
    for message in read_to_end(settings, "control"):
        with contextlib.suppress(msgspec.DecodeError):
            one: Any = msgspec.json.decode(message.value() or b"", type=Control)
            if isinstance(one, ReferenceSet):
                known = known or (one.reference.model, one.reference.version) == (model, version)
            if isinstance(one, ParitySet) and (one.model, one.version) == (model, version):
                raise WeirError(
                    f"{model} {version} has parity rows already ({one.id}), and the first ones stand: "
                    "what was compared with them can only be taken back with them",
                    fix="give the model another version",
                    code=USAGE,
                )
    if not known:
        raise WeirError(
            f"{model} {version} has no reference, so nothing would alarm",
            fix=f"first: weir reference learn {model} --version {version}",
            code=USAGE,
        )


def as_text(told: dict[str, Any]) -> str:
    """Say it to a person."""
    features = len([name for name in told["compared"] if name.startswith("parity:feature:")])
    score = " and the score" if "parity:score" in told["compared"] else ""
    compared = f"{features:,} feature{'s' * (features != 1)}{score}"
    lines = [
        f"{told['model']} {told['version']}: {told['id']}, {told['rows']:,} rows by {', '.join(told['key'])}; "
        f"{compared} are compared, at most {told['limit']:g} of the rows may differ"
    ]
    for name, what in (("without_key", "without a key"), ("repeated", "whose key is not theirs alone")):
        if told["left_out"][name]:
            lines.append(f"left out: {told['left_out'][name]:,} rows {what}")
    lines.append("sent; compared from a minute from now on" if told["sent"] else "not sent (--dry-run)")
    return "\n".join(lines)
