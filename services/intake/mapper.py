"""The mapping itself: a decoded document and what is known of its record give events, or a reasoned refusal.

Pure: no Kafka, no database, no clock, and the document is not changed. It never raises for what a document holds.
Protection comes first, and only what it gives is looked at, so that nothing protected can reach an event, a refusal or
what is kept of the document for a dead letter.

>>> from schemas.mapping import Mapping
>>> mapper = Mapper(Mapping.model_validate({
...     "name": "orders", "source": {"kind": "kafka", "topic": "shop.orders"}, "protect": {"drop": ["email"]},
...     "events": [{"kind": "label", "request_id": "order", "at_ms": {"path": "at", "unit": "us"}, "label": "fraud"}],
... }))
>>> mapped = mapper.map({"order": 7, "at": 1767225600000000, "fraud": 1, "email": "a@b"}, {"time": 1767225600500})
>>> mapped.events[0].value, mapped.document
(b'{"request_id":"7","at_ms":1767225600000,"label":1}', {'order': 7, 'at': 1767225600000000, 'fraud': 1})
>>> mapper.map({"order": 7, "at": 1767225600, "fraud": 1}, {"time": 1767225600500}).refusals[0].reason
'wrong_unit'
"""

from __future__ import annotations

from collections.abc import Mapping as Table
from dataclasses import dataclass, field
from typing import Any

import msgspec
from xxhash import xxh3_128_hexdigest

from schemas.event import encode
from schemas.mapping import KINDS, TOPIC_OF, Condition, Mapping, Rule, Taken
from services.intake.paths import MISSING, Get, getter
from services.intake.protect import Protection
from services.intake.values import Unfit, named, shown, taker

MAX_EVENT_BYTES = 900_000
NAMES_SHOWN = 12

_canonical = msgspec.json.Encoder(order="deterministic").encode


@dataclass(frozen=True, slots=True)
class Produced:
    """An event, ready to send: the logical topic, the key, the bytes. `rule` counts from 0 in the file."""

    topic: str
    key: bytes
    value: bytes
    event: Any
    rule: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why no event came of a rule: a short `reason` (docs/bad-input.md) and a sentence. `element` is that of `each`."""

    reason: str
    detail: str
    rule: int = 0
    element: int = 0
    request_id: str = ""
    model: str = ""


@dataclass(slots=True)
class Mapped:
    """What came of one document. `document` and `about` are what may be stored of it: they are protected."""

    document: Any
    about: dict[str, Any]
    events: list[Produced] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Compiled:
    rule: Rule
    kind: str
    each: Get | None
    conditions: list[tuple[Condition, Get]]
    fields: list[tuple[str, Any, bool]]
    sources: Table[str, Any]


class Mapper:
    """One mapping, compiled. `key` is the secret of `protect.hmac`; `identify` gives events an `event_id` of their row.

    `protection.met` and `found` count documents in which a path meant something, to find typing errors with.
    """

    def __init__(
        self, mapping: Mapping, key: bytes = b"", *, identify: bool = False, max_event_bytes: int = MAX_EVENT_BYTES
    ) -> None:
        self.mapping, self._identify, self._max_event_bytes = mapping, identify, max_event_bytes
        self.protection = Protection(mapping.protect, key)
        self._rules = [_compile(rule) for rule in mapping.events]

    def map(self, document: Any, about: Table[str, Any]) -> Mapped:
        """Protect and map. `about` has at least `time`, the record's own (ms); `op` `d` means that it was deleted."""
        try:
            seen, known = self.protection.apply(document), self.protection.apply_about(dict(about))
        except RecursionError:  # JSON may be nested deeper than rules can follow; nothing unprotected may be kept of it
            refusal = Refusal("unreadable", "the document is nested too deeply to be protected, and is not kept")
            return Mapped(None, {"time": about.get("time", 0)}, refusals=[refusal])
        return self.map_protected(seen, known)

    def map_protected(self, document: Any, about: dict[str, Any]) -> Mapped:
        """Map what has been protected before: a dead letter that is tried again."""
        mapped = Mapped(document, about)
        gone = about.get("op") == "d"
        if not isinstance(document, dict) and not (gone and document is None):
            detail = f"expected an object with fields, found {_kind(document)}"
            mapped.refusals.append(Refusal("not_object", detail))
            return mapped
        body = {} if document is None else document
        for number, rule in enumerate(self._rules):
            if gone and rule.kind != "label":
                mapped.skipped.append(f"rule {number}: a {rule.kind} cannot be taken back")
                continue
            for element, here in enumerate(self._places(rule, number, body, about, mapped)):
                self._one(rule, number, element, here, body, about, mapped)
        return mapped

    def _places(self, rule: _Compiled, number: int, body: Any, about: Any, mapped: Mapped) -> list[Any]:
        if rule.each is None:
            return [body]
        found = rule.each(body, body, about)
        if isinstance(found, list):
            return found
        if found is not None:
            where = "is not there" if found is MISSING else "is no list"
            detail = f"`each` needs the list `{rule.rule.each}`, which {where}{_names(body)}"
            mapped.refusals.append(Refusal("missing_field", detail, number))
        return []

    def _one(
        self, rule: _Compiled, number: int, element: int, here: Any, body: Any, about: dict[str, Any], mapped: Mapped
    ) -> None:
        for condition, get in rule.conditions:
            if not _holds(condition, get(here, body, about)):
                mapped.skipped.append(f"rule {number}: `when` does not hold for `{condition.path}`")
                return
        values: dict[str, Any] = {}
        try:
            if not self._fill(rule, values, here, body, about):
                mapped.skipped.append(f"rule {number}: {self._why_not(about, body)}")
                return
            mapped.events.append(self._event(rule, number, element, values, body))
        except Unfit as error:
            seen = {name: str(values.get(name, ""))[:128] for name in ("request_id", "model")}
            mapped.refusals.append(Refusal(error.reason, str(error), number, element, **seen))

    def _why_not(self, about: dict[str, Any], body: Any) -> str:
        if about.get("op") == "d" and not body:
            return "a deletion that does not say of what"
        return "its label is null"

    def _fill(self, rule: _Compiled, values: dict[str, Any], here: Any, body: Any, about: dict[str, Any]) -> bool:
        """Take every field. False: no event is to be made of this."""
        gone = about.get("op") == "d"
        for name, take, required in rule.fields:
            if gone and name in ("label", "at_ms", "op", "confidence"):
                continue
            try:
                value = take(here, body, about)
            except Unfit as error:
                raise Unfit(error.reason, f"`{name}` from {named(rule.sources[name])}: {error}") from None
            if value is not MISSING and value is not None:
                values[name] = value
            elif name == "label" and value is None and rule.rule.without_label != "refuse":
                if rule.rule.without_label == "skip":
                    return False
                values["op"] = "retract"
            elif required:
                if gone and not body:
                    return False
                raise self._missing(name, rule, value, here, gone)
        if gone:
            source = about.get("source")
            changed_ms = source.get("ts_ms") if isinstance(source, dict) else None
            values["op"], values["at_ms"] = "retract", changed_ms if type(changed_ms) is int else about.get("time", 0)
        return True

    @staticmethod
    def _missing(name: str, rule: _Compiled, value: Any, here: Any, gone: bool) -> Unfit:
        where = named(rule.sources[name])
        if value is None:
            hint = "; of a deleted row Debezium has only the key, unless REPLICA IDENTITY is FULL" if gone else ""
            return Unfit("missing_field", f"`{name}` needs {where}, which is null{hint}")
        return Unfit("missing_field", f"`{name}` needs {where}, which the document does not have{_names(here)}")

    def _event(self, rule: _Compiled, number: int, element: int, values: dict[str, Any], body: Any) -> Produced:
        if values.get("op") == "retract":
            values.pop("label", None)
        try:
            if self._identify and "event_id" not in values:
                place = "" if number == element == 0 else f".{number}.{element}"
                values["event_id"] = f"{self.mapping.name}:{xxh3_128_hexdigest(_canonical(body))}{place}"
            event = msgspec.convert(values, KINDS[rule.kind])
            value, key = encode(event), values["request_id"].encode()
        except msgspec.ValidationError as error:
            raise Unfit("bad_event", f"what comes out is no {rule.kind}: {error}") from None
        except UnicodeEncodeError:
            raise Unfit("bad_event", "a text holds half of a surrogate pair, which no UTF-8 can say") from None
        size = len(value) + len(key)
        if size > self._max_event_bytes:
            raise Unfit("too_large", f"the event has {size} bytes; at most {self._max_event_bytes} are accepted")
        return Produced(TOPIC_OF[rule.kind], key, value, event, number)


def _compile(rule: Rule) -> _Compiled:
    sources = rule.fields
    needed = {one.name for one in msgspec.structs.fields(KINDS[rule.kind]) if one.required}
    if rule.kind == "label" and "op" not in sources:
        needed.add("label")
    fields = []
    # ids first: what is refused later can be named by them
    for name in sorted(sources, key=lambda name: name not in ("request_id", "model")):
        said = sources[name]
        required = name in needed or (isinstance(said, Taken) and said.required)
        fields.append((name, taker(name, said), required))
    conditions = [(condition, getter(condition.path)) for condition in rule.when]
    each = None if rule.each is None else getter(rule.each)
    return _Compiled(rule, rule.kind, each, conditions, fields, sources)


def _holds(condition: Condition, value: Any) -> bool:
    if condition.present is not None:
        return (value is not MISSING and value is not None) == condition.present
    wanted = condition.one_of if condition.one_of is not None else [condition.equals]
    return any(type(value) is type(one) and value == one for one in wanted) or (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and any(isinstance(one, (int, float)) and not isinstance(one, bool) and one == value for one in wanted)
    )


def _names(here: Any) -> str:
    """Say what there is instead, by name, for whoever mistyped."""
    if not isinstance(here, dict):
        return f": {_kind(here)} has no fields"
    names = sorted(str(name)[:40] for name in here)
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return f"; it has: {', '.join(names[:NAMES_SHOWN]) or 'nothing'}{more}"


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, list) else shown(value)
