"""`weir judge replay`: judge what has landed again, under another budget, and say which past alarms would remain.

The deltas of `measures` and what `control` said go through the judge's own code in the order in which it read them: a
control record comes before the deltas that were appended after it. The present settings are replayed beside the tried
ones: where they do not give the alarms that were raised (settings were changed meanwhile, deltas are missing), the
answer says so, because then the tried ones may not either.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from schemas.errors import OK, USAGE, WeirError
from schemas.event import decode
from schemas.measures import Drift
from schemas.settings import Settings
from services.clickhouse import reading
from streams.judge.bounds import JudgeBounds
from streams.judge.processor import Judge
from streams.judge.state import JudgeState
from streams.runtime.processor import Batch
from streams.runtime.records import Records

if TYPE_CHECKING:
    from clickhouse_connect.driver.httpclient import HttpClient

AT_ONCE = 2_000
LIVE_MS = 600_000
VERSION = 1
Stream = tuple[str, str, str, str, str, str]
"""(model, version, deployment, slice, stream, detector)."""
Row = tuple[int, bytes]
"""(append time, body)."""


@dataclass(frozen=True, slots=True)
class Past:
    """An alarm that was raised, and the replay's alarm that stands for it; None where there would be none."""

    alarm: Drift
    again: Drift | None


def judge_replay(
    settings: Settings,
    *,
    budget: float | None,
    epsilon_error: float | None = None,
    epsilon_share: float | None = None,
    model: str | None = None,
    as_json: bool = False,
) -> int:
    """Print which alarms would remain under other bounds; give the exit code.

    Raises `WeirError` for bounds that cannot be, when nothing has landed, or when ClickHouse is away.
    """
    present = bounds_of(settings, {})
    changes = {"budget": budget, "epsilon_error": epsilon_error, "epsilon_share": epsilon_share}
    tried = bounds_of(settings, {name: value for name, value in changes.items() if value is not None})
    if tried == present:
        raise WeirError(
            "these are the bounds in force: there is nothing to compare",
            fix="give another --budget, --epsilon-error or --epsilon-share",
            code=USAGE,
        )
    with reading(settings) as client:
        past = alarms_of(client, model)
        found = judged(client, settings, (present, tried), model)
    told = as_object(settings, tried, past, *found)
    print(json.dumps(told) if as_json else as_text(told))
    return OK


def bounds_of(settings: Settings, changes: Mapping[str, float]) -> JudgeBounds:
    """Give the judge's bounds, changed. Raises `WeirError` (usage) that names the wrong one."""
    try:
        return JudgeBounds.model_validate({**settings.judge, **changes})
    except ValueError as error:
        raise WeirError(f"not valid: {error}", fix="see streams/judge/bounds.py", code=USAGE) from None


def alarms_of(client: HttpClient, model: str | None) -> list[Drift]:
    """Give the alarms that were raised, in order of the panes' ends."""
    where = "alarmed AND unreadable = ''" + (" AND model = {m:String}" if model else "")
    sql = f"SELECT body FROM drift WHERE {where} ORDER BY to_ms, offset LIMIT 1 BY id"
    return [decode(body, Drift) for (body,) in client.query(sql, parameters={"m": model or ""}).result_rows]


def judged(
    client: HttpClient, settings: Settings, bounds: Sequence[JudgeBounds], model: str | None
) -> list[list[Drift]]:
    """Judge all that has landed once for each of `bounds`, and give the alarms of each."""
    judges = [
        Judge(
            one.model_copy(update={"distances": False, "live_ms": LIVE_MS}),
            virtual=settings.clock == "virtual",
            measures_partitions=settings.measures_partitions,
            figures=False,
        )
        for one in bounds
    ]
    found: list[list[Drift]] = [[] for _ in bounds]
    total = int(client.query("SELECT count() FROM landed_measures").result_rows[0][0])
    if not total:
        raise WeirError(
            f"no deltas of `measure` have landed in namespace {settings.namespace!r}: there is nothing to replay",
            fix="start `weir join` and `weir record`, and wait a minute",
        )
    from services.replay.run import progress

    with progress(total) as advance:
        for partition in range(settings.measures_partitions):
            states = [judge.empty(partition) for judge in judges]
            for step, (topic, rows) in enumerate(_in_order(client, partition)):
                for judge, state, alarms in zip(judges, states, found, strict=True):
                    alarms += step_of(judge, state, step, topic, rows, model)
                advance(len(rows) if topic == "measures" else 0)
    return found


def step_of(
    judge: Judge, state: JudgeState, step: int, topic: str, rows: Sequence[Row], model: str | None
) -> list[Drift]:
    """Let a judge read records of one topic; give its alarms."""
    records = Records()
    for append_ms, body in rows:
        records.append(len(records), append_ms, None, body)
    outputs = judge.step(state, Batch(state.partition, step, {topic: records}), 0).outputs
    drifts = (decode(output.value, Drift) for output in outputs if output.topic == "drift")
    return [one for one in drifts if one.alarmed and model in (None, one.model)]


def _in_order(client: HttpClient, partition: int) -> Iterator[tuple[str, list[Row]]]:
    """Give control records and deltas of a partition as they were appended, many at once."""
    where = f"partition = {partition} AND unreadable = ''"
    control = [
        (int(at), _bytes(body))
        for at, body in client.query(
            f"SELECT append_ms, body FROM control WHERE {where} ORDER BY offset LIMIT 1 BY offset"
        ).result_rows
    ]
    sql = f"SELECT append_ms, body FROM measures WHERE {where} ORDER BY offset LIMIT 1 BY offset"
    waiting: list[Row] = []
    with client.query_rows_stream(sql) as stream:
        for at, body in stream:
            if control and control[0][0] <= at:
                if waiting:
                    yield "measures", waiting
                    waiting = []
                said = [row for row in control if row[0] <= at]
                control = control[len(said) :]
                yield "control", said
            waiting.append((int(at), _bytes(body)))
            if len(waiting) >= AT_ONCE:
                yield "measures", waiting
                waiting = []
    if waiting:
        yield "measures", waiting


def _bytes(body: Any) -> bytes:
    return body if isinstance(body, bytes) else str(body).encode()


def pair(past: Sequence[Drift], again: Sequence[Drift]) -> tuple[list[Past], list[Drift]]:
    """Find, for each past alarm, the first of the replay on its stream after the past one before and before the next.

    Gives besides what would be new: alarms of the replay that stand for none.
    """
    after: dict[Stream, list[Drift]] = {}
    for one in sorted(again, key=lambda one: one.to_ms):
        after.setdefault(_stream(one), []).append(one)
    before: dict[Stream, list[Drift]] = {}
    for one in sorted(past, key=lambda one: one.to_ms):
        before.setdefault(_stream(one), []).append(one)
    found: list[Past] = []
    taken: set[int] = set()
    for stream, alarms in before.items():
        last_ms = -1
        for number, alarm in enumerate(alarms):
            next_ms = alarms[number + 1].to_ms if number + 1 < len(alarms) else None
            match = next(
                (
                    one
                    for one in after.get(stream, [])
                    if one.to_ms > last_ms and (next_ms is None or one.to_ms < next_ms) and id(one) not in taken
                ),
                None,
            )
            if match is not None:
                taken.add(id(match))
                last_ms = match.to_ms
            found.append(Past(alarm, match))
    new = [one for alarms in after.values() for one in alarms if id(one) not in taken]
    return sorted(found, key=lambda one: one.alarm.to_ms), sorted(new, key=lambda one: one.to_ms)


def _stream(one: Drift) -> Stream:
    return one.model, one.version, one.deployment, one.slice, one.stream, one.detector


def as_object(
    settings: Settings, tried: JudgeBounds, past: Sequence[Drift], present: Sequence[Drift], again: Sequence[Drift]
) -> dict[str, Any]:
    """Give everything as plain data; `v` is its version. Times are the ends of panes."""
    pairs, new = pair(past, again)
    changed = {
        name: [getattr(bounds_of(settings, {}), name), getattr(tried, name)]
        for name in ("budget", "epsilon_error", "epsilon_share")
    }
    same = {(_stream(one), one.to_ms) for one in past} == {(_stream(one), one.to_ms) for one in present}
    return {
        "v": VERSION,
        "bounds": {name: {"now": now, "tried": then} for name, (now, then) in changed.items()},
        "check": {"raised": len(past), "replayed": len(present), "equal": same},
        "remain": sum(one.again is not None for one in pairs),
        "alarms": [
            {
                **_told(one.alarm),
                "remains": one.again is not None,
                "again_ms": None if one.again is None else one.again.to_ms,
            }
            for one in pairs
        ],
        "new": [_told(one) for one in new],
    }


def _told(one: Drift) -> dict[str, Any]:
    return {
        "model": one.model,
        "version": one.version,
        "deployment": one.deployment,
        "slice": one.slice,
        "stream": one.stream,
        "detector": one.detector,
        "to_ms": one.to_ms,
        "sentence": one.evidence.sentence,
    }


def as_text(told: Mapping[str, Any]) -> str:
    """Say it to a person."""
    changed = [
        f"{name} {one['now']:g} → {one['tried']:g}"
        for name, one in told["bounds"].items()
        if one["now"] != one["tried"]
    ]
    lines = [f"Judged again with {', '.join(changed)}: {told['remain']} of {len(told['alarms'])} alarms would remain."]
    check = told["check"]
    if not check["equal"]:
        lines.append(
            f"Careful: with the bounds in force the replay raises {check['replayed']} alarms where {check['raised']} "
            "were raised, not all the same: settings or records have changed meanwhile."
        )
    for one in told["alarms"]:
        later = "" if one["again_ms"] in (None, one["to_ms"]) else f", at {_time(one['again_ms'])}"
        verdict = f"remains{later}" if one["remains"] else "gone"
        lines.append(f"  {_time(one['to_ms'])}  {_named(one)}: {verdict}")
    lines += [f"  {_time(one['to_ms'])}  {_named(one)}: new" for one in told["new"]]
    return "\n".join(lines)


def _named(one: Mapping[str, Any]) -> str:
    part = f" of {one['slice']}" if one["slice"] else ""
    return f"{one['model']} {one['version']}  {one['stream']}{part}"


def _time(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"
