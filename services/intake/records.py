"""Foreign records on their way: read by the format, mapped, and made outputs, a dead letter included.

What a run, `weir intake try` and any later reader of files share. Pure but for the counts it keeps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from services.intake.formats import Format, Unreadable
from services.intake.letters import Place, Retry, letter
from services.intake.load import Loaded
from services.intake.mapper import Mapped, Refusal
from services.intake.paths import segments
from streams.runtime.processor import Output


class Conversion:
    """One mapping at work. `counts` says what became of documents (read, skipped, refused) and how many events came."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.counts: Counter[str] = Counter()
        self._mapper, self._format, self._stage = loaded.mapper, loaded.format, loaded.stage
        self._protects = bool(loaded.mapping.protect.paths)
        paths = _used(loaded)
        self.uses_key = any(path[0] == "key" for path in paths)
        self.headers = frozenset(path[1] for path in paths if path[0] == "headers" and len(path) > 1)

    def record(self, value: bytes | None, place: Place, about: dict[str, Any], now_ms: int) -> list[Output]:
        """Take one record of a topic."""
        mapped = self.read(value, about)
        if isinstance(mapped, Mapped):
            return self.outputs(mapped, place, now_ms)
        self.counts["read"] += 1
        self.counts["refused"] += 1
        reason, detail, raw = mapped.reason, mapped.detail, value
        if self._protects:
            reason = "unreadable"  # of its own, so that a retry by reason does not meet letters that have no value
            detail += (
                f"; it is not kept, because what cannot be read cannot be protected: it lies in {about.get('topic')}, "
                f"partition {place.partition}, offset {place.offset}"
            )
            raw, about = None, {"time": about.get("time", 0)}
        return [letter(self._stage, place, about, [Refusal(reason, detail)], now_ms, raw=raw)]

    def read(self, value: bytes | None, about: dict[str, Any], form: Format | None = None) -> Mapped | Refusal:
        """Read (in the mapping's format, or in `form`) and map one record; a refusal is of one that cannot be read."""
        form = form or self._format
        assert form is not None, "rows of a database are read by the database"
        try:
            row = form.read(value)
        except Unreadable as error:
            return Refusal(error.reason, str(error))
        if row.skip:
            return Mapped(None, {}, skipped=[row.skip])
        return self._mapper.map(row.document, {**about, **row.about} if row.about else about)

    def row(self, document: Any, place: Place, about: dict[str, Any], now_ms: int) -> list[Output]:
        """Take one row of a database, protected."""
        return self.outputs(self._mapper.map_protected(document, about), place, now_ms)

    def retry(self, retry: Retry, now_ms: int) -> list[Output]:
        """Take a dead letter once more."""
        self.counts["retried"] += 1
        if retry.raw is not None and self._format is not None:
            return self.record(retry.raw, retry.place, retry.about, now_ms)
        return self.row(retry.document, retry.place, retry.about, now_ms)

    def outputs(self, mapped: Mapped, place: Place, now_ms: int) -> list[Output]:
        """Give what is to be sent, and count it."""
        counts = self.counts
        counts["read"] += 1
        outputs = [
            Output(one.topic, one.key, one.value, append_ms=getattr(one.event, "at_ms", now_ms))
            for one in mapped.events
        ]
        for one in mapped.events:
            counts[one.topic] += 1
        if mapped.refusals:
            counts["refused"] += 1
            document = None if mapped.refusals[0].reason == "too_large" else mapped.document
            outputs.append(letter(self._stage, place, mapped.about, mapped.refusals, now_ms, document=document))
        elif not mapped.events:
            counts["skipped"] += 1
        return outputs

    def unmet(self) -> list[str]:
        """Give the protected paths that met nothing in any document so far."""
        return [path for path, count in self._mapper.protection.met.items() if not count]


def about_record(
    conversion: Conversion,
    topic: str,
    place: Place,
    time_ms: int,
    key: bytes | None,
    headers: Sequence[tuple[str, bytes | None]] | None,
) -> dict[str, Any]:
    """Give what is known of a Kafka record; key and headers only where the mapping names them."""
    about: dict[str, Any] = {"time": time_ms, "topic": topic, "partition": place.partition, "offset": place.offset}
    if conversion.uses_key:
        about["key"] = _readable(key)
    if conversion.headers:
        about["headers"] = {name: _readable(value) for name, value in headers or () if name in conversion.headers}
    return about


def _readable(held: bytes | None) -> Any:
    """Give JSON objects as such (Debezium's keys), text as text, other bytes in hex."""
    if held is None:
        return None
    if held[:1] == b"{":
        try:
            return msgspec.json.decode(held)
        except (ValueError, RecursionError):
            pass
    try:
        return held.decode()
    except UnicodeDecodeError:
        return held.hex()


def _used(loaded: Loaded) -> set[tuple[str, ...]]:
    """Give what follows `@` in any path of the mapping."""
    found: set[tuple[str, ...]] = set()

    def look(value: Any) -> None:
        if isinstance(value, str) and value.startswith("@"):
            found.add(segments(value[1:]))
        elif isinstance(value, Mapping):
            for one in value.values():
                look(one)
        elif isinstance(value, list):
            for one in value:
                look(one)

    look(loaded.mapping.model_dump(exclude={"protect", "source"}))
    return found
