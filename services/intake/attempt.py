"""`weir intake try`: what would come out, line by line, with nothing sent and nothing committed."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from schemas.errors import ENVIRONMENT, USAGE, WeirError
from schemas.mapping import KafkaSource, SqlSource, Taken
from schemas.settings import Settings
from services.intake.check import require_topic, unreachable
from services.intake.database import Away, connected
from services.intake.formats import Json
from services.intake.letters import Place
from services.intake.load import Loaded
from services.intake.mapper import Mapped, Refusal
from services.intake.paths import MISSING
from services.intake.records import Conversion, about_record
from services.intake.registry import Unanswered
from services.intake.values import origin
from streams.runtime import kafka

READ_S = 30.0
AHEAD_MS = 300_000
"""Events this much later than their records are worth a word: their time zone may be wrong."""


class Line(NamedTuple):
    """What came of one record."""

    id: str
    mapped: Mapped | Refusal
    time_ms: int


@dataclass(slots=True)
class Tally:
    """What came of all of them. `paths` counts, for each of our fields, the documents that have its path."""

    read: int = 0
    events: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    paths: dict[str, int] = field(default_factory=dict)
    behind_ms: list[int] = field(default_factory=list)
    unmet: list[str] = field(default_factory=list)


def attempt(
    settings: Settings, loaded: Loaded, *, topic: str | None, file: Path | None, last: int, as_json: bool
) -> int:
    """Try the last records of a topic, lines of a file, or rows of the query. Gives 0, or 1 when some are refused."""
    if topic is not None and file is not None:
        raise WeirError("--topic and --file exclude each other", fix="name one of them", code=USAGE)
    conversion, tally = Conversion(loaded), Tally()
    if file is not None:
        lines = _of_file(conversion, file, last)
    elif isinstance(source := loaded.live, SqlSource) and topic is None:
        lines = _of_query(conversion, source, last)
    else:
        named = topic or (source.topic if isinstance(source, KafkaSource) else "")
        lines = _of_topic(settings, conversion, named, last)
    rows = []
    for line in lines:
        _count(loaded, tally, line)
        if as_json:
            rows.append(_row(line))
        else:
            _show(line)
    tally.unmet = conversion.unmet() if tally.read else []
    if as_json:
        print(json.dumps({"rows": rows, "summary": _summary(tally)}))
    else:
        _sum_up(tally)
    return 1 if tally.refused else 0


# --- where documents come from


def _of_file(conversion: Conversion, file: Path, last: int) -> Iterator[Line]:
    try:
        held = file.read_bytes().splitlines()
    except OSError as error:
        raise WeirError(f"{file} cannot be read: {error.strerror}", fix="name a file that exists", code=USAGE) from None
    now_ms = int(time.time() * 1000)
    numbered = [(number, one) for number, one in enumerate(held, 1) if one.strip()]
    form = conversion.loaded.format.lines if conversion.loaded.format else Json()
    for number, one in numbered[-last:]:
        about = about_record(conversion, file.name, Place(0, number), now_ms, None, None)
        yield Line(f"{file.name}:{number}", conversion.read(one, about, form), now_ms)


def _of_query(conversion: Conversion, source: SqlSource, last: int) -> Iterator[Line]:
    now_ms, mapper = int(time.time() * 1000), conversion.loaded.mapper
    try:
        with connected(source) as connection:
            connection.columns()
            batches = connection.rows(None, latest=True)
            found = list(islice((row for batch in batches for row in batch), last))
    except Away as error:
        raise unreachable(error) from None
    for _, row in reversed(found):
        cursor = str(row[source.cursor])
        yield Line(f"{source.cursor}={cursor}", mapper.map(row, {"time": now_ms}), now_ms)


def _of_topic(settings: Settings, conversion: Conversion, topic: str, last: int) -> Iterator[Line]:
    kafka.wait_for_kafka(settings, timeout_s=5)
    require_topic(settings, topic)
    form = conversion.loaded.format or Json()
    messages = _latest(settings, topic, last)
    try:
        form.prepare([message.value() for message in messages])
    except Unanswered as error:
        fix = "start it, or correct `source.format`"
        raise WeirError(str(error), fix=fix, code=ENVIRONMENT) from None
    for message in messages:
        place = Place(message.partition() or 0, message.offset() or 0)
        time_ms = max(0, message.timestamp()[1])
        about = about_record(conversion, topic, place, time_ms, message.key(), message.headers())  # type: ignore[arg-type]
        line = conversion.read(message.value(), about, form)
        yield Line(f"{topic}/{place.partition}/{place.offset}", line, time_ms)


def _latest(settings: Settings, topic: str, last: int) -> list[Message]:
    """Give the last committed records of a topic, oldest first. Joins no group."""
    admin = kafka.make_admin(settings, "intake-try")
    count = kafka.partition_counts(admin, settings)[topic]
    places = [(topic, number) for number in range(count)]
    first, ends = kafka.earliest(admin, places), kafka.ends(admin, places)
    # markers of transactions fill offsets, too: a topic that is written in small ones gives fewer
    starts = {place: max(first[place], ends[place][0] - 2 * last) for place in places}
    waiting = {place for place in places if starts[place] < ends[place][0]}
    found: list[Message] = []
    reader = kafka.make_reader(settings, "intake-try")
    deadline = time.monotonic() + READ_S
    try:
        reader.assign([TopicPartition(*place, starts[place]) for place in waiting])
        while waiting and time.monotonic() < deadline:
            for message in reader.consume(10_000, 0.2):
                place, error = (str(message.topic()), message.partition() or 0), message.error()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    raise WeirError(f"reading {topic} failed: {error.str()}", code=ENVIRONMENT)
                position = (message.offset() or 0) + (0 if error is not None else 1)
                if error is None and position <= ends[place][0]:
                    found.append(message)
                if position >= ends[place][0]:
                    waiting.discard(place)
    except KafkaException as error:
        raise WeirError(f"reading {topic} failed: {kafka.reason(error)}", code=ENVIRONMENT) from None
    finally:
        reader.close()
    found.sort(key=lambda message: (message.timestamp()[1], message.partition() or 0, message.offset() or 0))
    return found[-last:]


# --- what is counted and shown


def _count(loaded: Loaded, tally: Tally, line: Line) -> None:
    tally.read += 1
    if isinstance(line.mapped, Refusal):
        tally.refused[line.mapped.reason] += 1
        return
    for one in line.mapped.events:
        tally.events[one.topic] += 1
        tally.behind_ms.append(line.time_ms - one.event.at_ms)
    for refusal in line.mapped.refusals:
        tally.refused[refusal.reason] += 1
    tally.skipped.update(line.mapped.skipped)
    document, about = line.mapped.document, line.mapped.about
    if not isinstance(document, dict):
        return
    for number, rule in enumerate(loaded.mapping.events):
        here: Any = document
        if rule.each is not None:
            found = origin(rule.each)[0](document, document, about)
            here = found[0] if isinstance(found, list) and found else None
        for name, path in _paths(rule.fields):
            key = f"events.{number}.{name} from {path}"
            value = origin(path)[0](here, document, about)
            tally.paths[key] = tally.paths.get(key, 0) + (value is not MISSING and value is not None)


def _paths(fields: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Give each of our fields with each path that it is taken from."""
    for name, source in fields.items():
        if isinstance(source, str):
            yield prefix + name, source
        elif isinstance(source, Taken):
            yield from ((prefix + name, path) for path in source.join or ([source.path] if source.path else []))
        elif isinstance(source, dict):
            yield from _paths(source, f"{name}.")


def _row(line: Line) -> dict[str, Any]:
    if isinstance(line.mapped, Refusal):
        return {"id": line.id, "events": [], "skipped": [], "refusals": [_refusal(line.mapped)]}
    events = [{"topic": one.topic, **msgspec.json.decode(one.value)} for one in line.mapped.events]
    refusals = [_refusal(one) for one in line.mapped.refusals]
    return {"id": line.id, "events": events, "skipped": line.mapped.skipped, "refusals": refusals}


def _refusal(one: Refusal) -> dict[str, Any]:
    return {"reason": one.reason, "detail": one.detail, "rule": one.rule, "element": one.element}


def _show(line: Line) -> None:
    if isinstance(line.mapped, Refusal):
        print(f"{line.id}  REFUSED {line.mapped.reason}: {line.mapped.detail}")
        return
    for one in line.mapped.events:
        print(f"{line.id}  {one.topic}  {one.value.decode()}")
    for refusal in line.mapped.refusals:
        print(f"{line.id}  REFUSED {refusal.reason}: {refusal.detail}")
    if not line.mapped.events and not line.mapped.refusals:
        print(f"{line.id}  skipped: {'; '.join(line.mapped.skipped) or 'an empty list'}")


def _summary(tally: Tally) -> dict[str, Any]:
    behind = sorted(tally.behind_ms)
    return {
        "read": tally.read,
        "events": dict(tally.events),
        "skipped": dict(tally.skipped),
        "refused": dict(tally.refused),
        "never_found": [path for path, count in tally.paths.items() if not count],
        "paths": tally.paths,
        "protect_unmet": tally.unmet,
        "behind_ms": {"least": behind[0], "median": median(behind), "most": behind[-1]} if behind else None,
    }


def _sum_up(tally: Tally) -> None:
    def say(text: str) -> None:
        print(text, file=sys.stderr)

    came = ", ".join(f"{count} {topic}" for topic, count in tally.events.items()) or "no events"
    skipped, refused = sum(tally.skipped.values()), sum(tally.refused.values())
    say(f"{tally.read} read: {came}; {skipped} skipped, {refused} refused")
    for reason, count in tally.refused.most_common():
        say(f"  refused {count} times: {reason}")
    for path, found in tally.paths.items():
        if not found and tally.read:
            say(f"  never found: {path}; check the path")
    for path in tally.unmet:
        say(f"  protect: no document has {path}: a mistyped path protects nothing")
    if tally.behind_ms:
        least = min(tally.behind_ms)
        say(f"  events lie {least / 1000:.1f} s to {max(tally.behind_ms) / 1000:.1f} s before their records")
        if least < -AHEAD_MS:
            say("  some lie after their records: check `zone`, or the clocks")
