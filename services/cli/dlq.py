"""`weir dlq ls|show|retry`: what could not be used, why, and sending it once more.

A dead letter's id is the position of its record, `TOPIC/PARTITION/OFFSET` (logical topic). A retry sends key, value and
the sender's own headers as they came, with the header `weir-retry` naming the letter, to the partition where the
request belongs. It changes nothing by itself: repair the cause first (a policy, a setting, the clock). What cannot be
used again becomes a new dead letter under its new position. Events with an `event_id`, or equal in all fields, count
once however often they are retried. A letter of intake is `intake.MAPPING/PARTITION/OFFSET`; its document goes to the
mapping once more as it was kept, and what is refused again keeps its id.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from base64 import b64decode
from collections import Counter
from dataclasses import dataclass
from typing import Any

import msgspec

from schemas.envelope import place_name
from schemas.errors import USAGE, WeirError
from schemas.event import decode
from schemas.records import DeadLetter
from schemas.settings import Settings
from schemas.topics import TOPICS, topic_name, width

RETRY_HEADER = "weir-retry"
OURS = (RETRY_HEADER, "weir-append-ms", "weir-hop")
"""What we added on the way. A retry is a new record: it goes where it belongs and takes the time it comes at."""
_INTAKE, _RETRIES = "intake.", "intake-retries"
"""How the place of a letter of intake begins, and where such a letter goes: never to the team's own topic."""
_ID = re.compile(r"([a-z-]+|intake\.[a-z0-9-]+)/\d+/\d+(/\d+)?\Z")


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter by id. `letter` is None when the record in `dead-letters` itself cannot be read."""

    id: str
    letter: DeadLetter | None
    problem: str = ""

    @property
    def reason(self) -> str:
        """The short code."""
        return self.letter.reason if self.letter else "broken_letter"


class _Requested(msgspec.Struct):
    request_id: str


def ls(settings: Settings, *, reason: str | None = None, limit: int = 50, as_json: bool = False) -> None:
    """List the newest, oldest of them first. The count by reason goes to standard error."""
    found = [one for one in read_letters(settings) if reason in (None, one.reason)]
    shown = found[-limit:] if limit > 0 else []
    if as_json:
        print(json.dumps([_as_row(one) for one in shown]))
        return
    wide = max((len(one.id) for one in shown), default=2)
    for one in shown:
        letter = one.letter
        about = f"{_time(letter.at_ms)}  {letter.request_id or '-'}  {letter.detail}" if letter else one.problem
        print(f"{one.id:<{wide}}  {one.reason:<18}  {_cut(about, 160)}")
    counts = ", ".join(f"{count} {name}" for name, count in Counter(one.reason for one in found).most_common())
    print(f"{len(found)} dead letters{': ' + counts if counts else ''}", file=sys.stderr)


def show(settings: Settings, id: str, *, as_json: bool = False) -> None:
    """Print one whole. Raises `WeirError` when there is none of this id."""
    (one,) = _find(settings, [id])
    row = _as_row(one)
    if one.letter is not None:
        row["key"], row["value"] = _readable(one.letter.key), _readable(one.letter.value)
        row["headers"] = {name: _readable(value) for name, value in one.letter.headers}
    if as_json:
        print(json.dumps(row))
        return
    for name, value in row.items():
        print(f"{name:<11} {json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value}")


def retry(settings: Settings, ids: list[str], *, reason: str | None = None, as_json: bool = False) -> None:
    """Send letters to the topic they came from once more: those named, or all with this reason.

    Raises `WeirError`, with nothing sent, when one of them is unknown or has no value to send.
    """
    from services.kafka import Sender

    if bool(ids) == bool(reason):
        raise WeirError("name the letters, or a reason", fix="weir dlq ls; weir dlq retry ID | --reason R", code=USAGE)
    chosen = _find(settings, ids) if ids else [one for one in read_letters(settings) if one.reason == reason]
    if not chosen:
        raise WeirError(f"no dead letter has the reason {reason!r}", fix="weir dlq ls shows the reasons there are")
    ready = [(one, _record(settings, one)) for one in {one.id: one for one in chosen}.values()]
    with Sender(settings, "dlq-retry") as sender:
        for _, record in ready:
            sender.send(**record)
    if as_json:
        sent = [{"id": one.id, "topic": record["topic"], "partition": record["partition"]} for one, record in ready]
        print(json.dumps(sent))
        return
    for one, record in ready:
        print(f"{one.id} sent to {record['topic']} partition {record['partition']}")
    print(f"{len(ready)} sent once more; what fails again is a new dead letter", file=sys.stderr)


def read_letters(settings: Settings) -> list[Letter]:
    """Give every dead letter, oldest first; of two with one id and stage the later stands."""
    from services.kafka import read_to_end

    found: dict[tuple[str, str], Letter] = {}
    for message in read_to_end(settings, "dead-letters", client="dlq"):
        try:
            letter = decode(message.value() or b"", DeadLetter)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            id = f"dead-letters/{message.partition()}/{message.offset()}"
            one = Letter(id, None, f"this record of dead-letters is no DeadLetter: {error}")
        else:
            one = Letter(place_name(letter.topic, letter.partition, letter.offset, letter.index), letter)
        place = one.id, one.letter.stage if one.letter else ""
        found.pop(place, None)
        found[place] = one
    return list(found.values())


def _find(settings: Settings, ids: list[str]) -> list[Letter]:
    for id in ids:
        if not _ID.match(id) or not (id.startswith(_INTAKE) or id.split("/")[0] in TOPICS):
            raise WeirError(
                f"{id!r} is no id of a dead letter; expected TOPIC/PARTITION/OFFSET[/INDEX], such as labels/3/1041",
                fix="copy it from `weir dlq ls`",
                code=USAGE,
            )
    known = {one.id: one for one in read_letters(settings)}
    missing = [id for id in ids if id not in known]
    if missing:
        raise WeirError(
            f"no dead letter {', '.join(missing)} in namespace {settings.namespace!r} ({len(known)} are there)",
            fix="see `weir dlq ls --limit 1000`; letters older than the topic's retention are gone",
        )
    return [known[id] for id in dict.fromkeys(ids)]


def _record(settings: Settings, one: Letter) -> dict[str, Any]:
    """Give what `Sender.send` takes. Raises `WeirError` for a letter that cannot be sent again."""
    letter = one.letter
    foreign = letter is not None and letter.topic.startswith(_INTAKE)
    if letter is None or not (foreign or letter.topic in TOPICS):
        raise WeirError(f"{one.id} cannot be retried: {one.problem or f'no topic {letter and letter.topic!r}'}")
    value = _bytes(letter.value)
    if value is None:
        raise WeirError(
            f"{one.id} ({letter.reason}) carries no value to send again",
            fix="it says where the record lies; correct it there, or start the mapping anew under another name"
            if foreign
            else f"the record itself lies in {topic_name(settings.namespace, letter.topic)}, partition "
            f"{letter.partition}, offset {letter.offset}; a smaller one has to come from its producer",
        )
    key = letter.topic.encode() if foreign else _bytes(letter.key)
    headers = [(name, _bytes(held)) for name, held in letter.headers if name not in OURS]
    return {
        "topic": _RETRIES if foreign else letter.topic,
        "value": value,
        "key": key,
        "partition": 0 if foreign else _partition(settings, letter, key, value),
        "headers": [*headers, (RETRY_HEADER, one.id.encode())],
        "append_ms": letter.at_ms,  # a virtual clock has reached this; elsewhere the broker stamps
    }


def _partition(settings: Settings, letter: DeadLetter, key: bytes | None, value: bytes) -> int:
    """Give where the record belongs: by the body's request id, else by its key, else where it was."""
    from streams.join.partition import partition_of

    count = width(letter.topic, partitions=settings.partitions, measures_partitions=settings.measures_partitions)
    keyed = TOPICS[letter.topic].keyed
    if keyed == "request":
        with contextlib.suppress(ValueError, RecursionError):
            key = msgspec.json.decode(value, type=_Requested).request_id.encode()
    if keyed == "partition" or key is None:
        return letter.partition if letter.partition < count else 0
    return partition_of(key, count)


def _as_row(one: Letter) -> dict[str, Any]:
    letter = one.letter
    if letter is None:
        return {"id": one.id, "reason": one.reason, "detail": one.problem}
    return {
        "id": one.id,
        "reason": letter.reason,
        "detail": letter.detail,
        "stage": letter.stage,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "index": letter.index,
        "request_id": letter.request_id,
        "model": letter.model,
        "append_ms": letter.append_ms,
        "at_ms": letter.at_ms,
    }


def _bytes(held: str | None) -> bytes | None:
    return None if held is None else b64decode(held)


def _readable(held: str | None) -> str | None:
    """Give text where it is text, else `base64:…`."""
    body = _bytes(held)
    if body is None:
        return None
    try:
        return body.decode()
    except UnicodeDecodeError:
        return f"base64:{held}"


def _cut(text: str, length: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def _time(at_ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_ms / 1000))
