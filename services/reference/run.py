"""`weir reference learn` and `weir reference ls`.

**When traffic may be a reference.** What a model does in its first hours is not what it does in a week: a reference
that does not span a season (`SEASON_DAYS`) would alarm at every weekend. Until then the answer is "learning, N of M
days", and only a person who says `--confirm` may have it earlier. The first reference of a version stands for ever, so
a second one is refused.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from schemas.control import Control, EmbeddingReference, PolicySet, Reference, ReferenceSet
from schemas.errors import OK, USAGE, WeirError
from schemas.event import decode
from schemas.policy import MINUTE_MS
from schemas.settings import Settings
from services.cli.policy import send_control
from services.clickhouse import reading
from services.record.recount import parities_of, references_of
from services.reference.rows import Rows, Span, filed, landed, versions
from streams.join.policies import PolicyBook
from streams.judge.bounds import DAY_MS
from streams.measure.embedding import MOST_DIMENSION
from streams.measure.ledger import EMBEDDING, FEATURE, SCORE
from streams.measure.reference import learn

if TYPE_CHECKING:
    from clickhouse_connect.driver.httpclient import HttpClient

SEASON_DAYS = 7.0
LEAST_ROWS = 1_000
NOTICE_MS = MINUTE_MS
"""A reference counts from this much after it was sent: by then every partition has heard it."""
VERSION = 1


@dataclass(frozen=True)
class File:
    """A table to learn from, and what its columns are."""

    path: Path
    score: str | None = None
    label: str | None = None
    prediction: str | None = None
    without: tuple[str, ...] = ()
    threshold: float = 0.5
    embedding: str | None = None


def reference_learn(
    settings: Settings,
    model: str,
    *,
    version: str | None = None,
    file: File | None = None,
    days: float | None = None,
    most: int = 200_000,
    confirm: bool = False,
    dry_run: bool = False,
    as_json: bool = False,
) -> int:
    """Learn a version's reference and put it into `control`; give the exit code.

    Raises `WeirError` for a version that has one, too little or too short traffic without `confirm`, a file that cannot
    be used, or when ClickHouse or Kafka is away.
    """
    now_ms = int(time.time() * 1000)
    if file is None:
        version, rows = _from_traffic(settings, model, version, days, most, confirm=confirm)
        learnt_from, threshold = "traffic", 0.5
    elif version is None:
        raise WeirError("a file does not say its version", fix="give --version", code=USAGE)
    else:
        rows = filed(
            file.path,
            score=file.score,
            label=file.label,
            prediction=file.prediction,
            without=file.without,
            embedding=file.embedding,
        )
        learnt_from, threshold = "training", file.threshold
    if len(rows) < LEAST_ROWS and not confirm:
        raise WeirError(
            f"{model} {version}: learning, {len(rows):,} of {LEAST_ROWS:,} rows",
            fix="wait for more, or take it as it is with --confirm",
        )
    reference = learnt(rows, model, version, learnt_from, threshold)
    if not dry_run:
        _refuse_second(settings, model, version)
        send_control(settings, [ReferenceSet(reference=reference, at_ms=now_ms + NOTICE_MS)])
    told = as_object(reference, from_ms=now_ms + NOTICE_MS, sent=not dry_run)
    if _some(rows) and reference.embedding is None:
        told["left_out"] = f"its vectors hold more than {MOST_DIMENSION:,} numbers, or none that is finite"
    print(json.dumps(told) if as_json else as_text(told))
    return OK


def learnt(rows: Rows, model: str, version: str, learnt_from: str, threshold: float) -> Reference:
    """Freeze rows. Raises `WeirError` (usage) for labels or scores that no reference can be made of."""
    try:
        return learn(
            model,
            version,
            rows.features,
            rows.scores,
            rows.labels,
            at_ms=0,
            learnt_from=learnt_from,
            predictions=rows.predictions,
            threshold=threshold,
            embeddings=rows.embeddings if _some(rows) else None,
        )
    except (ValueError, TypeError) as error:
        raise WeirError(f"no reference can be made of these rows: {error}", code=USAGE) from None


def _some(rows: Rows) -> bool:
    return any(vector is not None and len(vector) for vector in rows.embeddings or ())


def _from_traffic(
    settings: Settings, model: str, version: str | None, days: float | None, most: int, *, confirm: bool
) -> tuple[str, Rows]:
    with reading(settings) as client:
        seen = versions(client, model)
        version = _version(model, version, seen)
        span = _recent(seen[version], days)
        _refuse_short(model, version, span, confirm=confirm)
        return version, landed(client, model, version, label_name(client, model, span.to_ms), span, most)


def label_name(client: HttpClient, model: str, at_ms: int) -> str:
    """Give the name of the labels that the model's metrics are about."""
    book = PolicyBook()
    sql = "SELECT body FROM control WHERE kind = 'policy_set' AND unreadable = '' ORDER BY partition, offset"
    for (body,) in client.query(sql).result_rows:
        book.add(decode(body, PolicySet).policy)
    return book.in_force(model, at_ms).label_name


def _version(model: str, version: str | None, seen: dict[str, Span]) -> str:
    if not seen:
        raise WeirError(
            f"no prediction of model {model!r} has landed", fix="start `weir record`, or learn from a file: --file"
        )
    if version is None:
        version = list(seen)[-1]
    if version not in seen:
        raise WeirError(
            f"version {version!r} of {model!r} has not predicted; versions that have: {', '.join(seen)}", code=USAGE
        )
    return version


def _recent(span: Span, days: float | None) -> Span:
    if days is None:
        return span
    if days <= 0:
        raise WeirError("--days: expected a number above 0", code=USAGE)
    return Span(max(span.from_ms, span.to_ms - int(days * DAY_MS)), span.to_ms, span.count)


def _refuse_second(settings: Settings, model: str, version: str) -> None:
    from services.kafka import read_to_end

    for message in read_to_end(settings, "control"):
        with contextlib.suppress(msgspec.DecodeError):
            one: Any = msgspec.json.decode(message.value() or b"", type=Control)
            if isinstance(one, ReferenceSet) and (one.reference.model, one.reference.version) == (model, version):
                raise WeirError(
                    f"{model} {version} has a reference already ({one.reference.id}), and the first one stands: "
                    "cells that were counted in its bins can only be taken back in them",
                    fix="give the model another version",
                    code=USAGE,
                )


def _refuse_short(model: str, version: str, span: Span, *, confirm: bool) -> None:
    days = (span.to_ms - span.from_ms) / DAY_MS
    if days < SEASON_DAYS and not confirm:
        raise WeirError(
            f"{model} {version}: learning, {days:.1f} of {SEASON_DAYS:g} days: what spans no whole week alarms at the "
            "first weekend",
            fix="wait, or take it as it is with --confirm",
        )


def as_object(reference: Reference, *, from_ms: int | None, sent: bool) -> dict[str, Any]:
    """Say what a reference holds, as plain data."""
    features = sorted({*reference.edges, *reference.categories})
    return {
        "v": VERSION,
        "id": reference.id,
        "model": reference.model,
        "version": reference.version,
        "learnt_from": reference.learnt_from,
        "rows": reference.n,
        "error_rate": reference.error_rate,
        "error_rows": reference.error_n,
        "base_rate": reference.base_rate,
        "watched": [
            *(["quality:error"] if reference.error_n else []),
            *([SCORE] if sum(reference.counts.get(SCORE, [])) else []),
            *(FEATURE + name for name in features if sum(reference.counts.get(FEATURE + name, []))),
            *([EMBEDDING] if reference.embedding else []),
        ],
        "embedding": None if reference.embedding is None else _embedding(reference.embedding),
        "from_ms": from_ms,
        "sent": sent,
    }


def _embedding(given: EmbeddingReference) -> dict[str, Any]:
    kinds = ("vectors", "missing", "other_length", "too_far")
    return {"dimension": given.dimension, "bandwidth": given.bandwidth, **dict(zip(kinds, given.rows, strict=True))}


def as_text(told: dict[str, Any]) -> str:
    """Say it to a person."""
    rate = "no labels, so no quality" if told["error_rate"] is None else f"error rate {told['error_rate']:.4g}"
    of = f" of {told['error_rows']:,} labelled rows" if told["error_rows"] else ""
    watched = ", ".join(told["watched"][:8]) + (f" and {len(told['watched']) - 8} more" if told["watched"][8:] else "")
    head = (
        f"{told['model']} {told['version']}: {told['id']}, {told['rows']:,} rows of {told['learnt_from']}, {rate}{of}\n"
        f"watched: {watched or 'nothing'}"
    )
    if told["embedding"]:
        held = told["embedding"]
        head += (
            f"\nembedding: {held['vectors']:,} vectors of {held['dimension']:,} numbers, {held['missing']:,} missing"
        )
        head += f", {held['other_length']:,} of another length" if held["other_length"] else ""
    if told.get("parity"):
        rows = told["parity"]
        head += f"\nparity: {rows['id']}, {rows['rows']:,} rows by {', '.join(rows['key'])}"
    if told.get("left_out"):
        head += f"\nembedding left out: {told['left_out']}"
    if told["from_ms"] is None:
        return head
    at = f"{datetime.fromtimestamp(told['from_ms'] / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return f"{head}\n" + (f"in force from {at} on" if told["sent"] else "not sent (--dry-run)")


def reference_ls(settings: Settings, *, as_json: bool = False) -> int:
    """List the references that are in force, and the versions that have none; give the exit code."""
    with reading(settings) as client:
        known = {(one.reference.model, one.reference.version): one for one in reversed(references_of(client))}
        frozen = {(one.model, one.version): one for one in parities_of(client)}
        models = [
            str(row[0])
            for row in client.query("SELECT DISTINCT model FROM landed_predictions ORDER BY model").result_rows
        ]
        seen = {(model, version): span for model in models for version, span in versions(client, model).items()}
    told = [as_object(one.reference, from_ms=one.at_ms, sent=True) for _, one in sorted(known.items())]
    for one in told:
        rows = frozen.get((one["model"], one["version"]))
        one["parity"] = None if rows is None else {"id": rows.id, "rows": len(rows.rows), "key": rows.key}
    learning = [
        {"model": model, "version": version, "days": (span.to_ms - span.from_ms) / DAY_MS, "predictions": span.count}
        for (model, version), span in sorted(seen.items())
        if (model, version) not in known
    ]
    if as_json:
        print(json.dumps({"v": VERSION, "references": told, "learning": learning}))
        return OK
    lines = [as_text({**one, "from_ms": None}) for one in told]
    lines += [
        f"{one['model']} {one['version']}: no reference; learning, {one['days']:.1f} of {SEASON_DAYS:g} days, "
        f"{one['predictions']:,} predictions"
        for one in learning
    ]
    print("\n".join(lines) or "no reference, and no prediction has landed")
    return OK
