"""Formats of foreign records: bytes become a document and what is known of it.

A member of the family is found by its `kind`; its own fields are what `format = { kind = …, … }` takes.
`tests/contracts/test_formats.py` holds every member to the contract: it raises `Unreadable` and nothing else, quotes
nothing of what it read, and gives JSON types.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, Literal, NamedTuple

import msgspec
from pydantic import Field, PrivateAttr

from schemas.mapping import KafkaSource, Secret
from schemas.spec import Spec
from services.intake.avro import BadAvro
from services.intake.registry import Registry, UnknownSchema, framed


class Row(NamedTuple):
    """A document; what the format knows of it (`op` is `d` when it was deleted); and why it is none of ours, if so."""

    document: Any
    about: dict[str, Any]
    skip: str = ""


class Unreadable(Exception):
    """Bytes that are not what the format says: a short `reason`, and a sentence that quotes nothing of them."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Format(Spec):
    """How the records of a topic are written."""

    kind: str

    @abstractmethod
    def read(self, value: bytes | None) -> Row:
        """Read one record's value; None is a tombstone. Raises `Unreadable`."""

    def prepare(self, values: Iterable[bytes | None]) -> None:
        """Ask for what reading these needs. Raises `Unanswered` when that is away; then `read` may not be called."""

    @property
    def lines(self) -> Format:
        """How the same documents are written in a file of JSON, one a line."""
        return Json()


class Json(Format):
    """One JSON document a record. A record without value says that what its key names was deleted.

    `framed`: a schema's number stands before it, as Confluent's JSON serializer writes it; the schema is not asked for.
    """

    kind: Literal["json"] = "json"
    framed: bool = False

    def read(self, value: bytes | None) -> Row:
        if value is None:
            return Row(None, {"op": "d"})
        return Row(_json(_unframed(value)[1] if self.framed else value), {})


class Debezium(Format):
    """Debezium's change events in JSON, with or without their schema: the row after a change, or before a deletion.

    `@op` is `d` for a deletion, which becomes a retraction; `@ts_ms` and `@source.ts_ms` are when. The tombstone that
    follows a deletion says nothing more; truncations and messages are left out.
    """

    kind: Literal["debezium"] = "debezium"

    OPS: ClassVar[frozenset[str]] = frozenset("curd")
    SOURCE: ClassVar[tuple[str, ...]] = ("ts_ms", "db", "schema", "table")

    def read(self, value: bytes | None) -> Row:
        if value is None:
            return Row(None, {}, "the tombstone of a deletion")
        return self.unwrap(_json(value))

    @property
    def lines(self) -> Format:
        return self

    @classmethod
    def unwrap(cls, change: Any) -> Row:
        """Take the row out of a change event. Raises `Unreadable`."""
        if isinstance(change, dict) and "schema" in change and isinstance(change.get("payload"), dict):
            change = change["payload"]
        op = change.get("op") if isinstance(change, dict) else None
        if not isinstance(op, str):
            raise Unreadable("bad_envelope", 'no change event of Debezium: it has no `op`; for plain rows say "json"')
        if op not in cls.OPS:
            return Row(None, {}, "a truncation or a message, which is no row")
        source = change.get("source")
        about: dict[str, Any] = {"op": op, "ts_ms": change.get("ts_ms")}
        if isinstance(source, dict):
            about["source"] = {name: source[name] for name in cls.SOURCE if name in source}
        document = change.get("before" if op == "d" else "after")
        if document is None and op != "d":
            raise Unreadable("bad_envelope", "a change event of Debezium without `after`")
        return Row(document, about)


class Avro(Format):
    """Avro behind a schema's number, as Confluent's serializers write it; schemas come from `registry`.

    `auth` holds `USER:PASSWORD`. `debezium`: the records are Debezium's change events. A record without value says that
    what its key names was deleted.
    """

    kind: Literal["avro"] = "avro"
    registry: str = Field(pattern=r"^https?://")
    auth: Secret | None = None
    debezium: bool = False
    _registry: Registry | None = PrivateAttr(default=None)

    def read(self, value: bytes | None) -> Row:
        if value is None:
            return Row(None, {}, "the tombstone of a deletion") if self.debezium else Row(None, {"op": "d"})
        number, body = _unframed(value)
        try:
            document = self._schemas().reader(number)(body)
        except UnknownSchema as error:
            raise Unreadable("unknown_schema", str(error)) from None
        except BadAvro as error:
            raise Unreadable("not_avro", f"the value is not what schema {number} says: {error}") from None
        return Debezium.unwrap(document) if self.debezium else Row(document, {})

    def prepare(self, values: Iterable[bytes | None]) -> None:
        schemas = self._schemas()
        for number in {found[0] for value in values if value is not None and (found := framed(value))}:
            if not schemas.knows(number):
                try:
                    schemas.reader(number)
                except UnknownSchema:
                    continue  # `read` says so of each record

    @property
    def lines(self) -> Format:
        return Debezium() if self.debezium else Json()

    def _schemas(self) -> Registry:
        if self._registry is None:
            from services.intake.load import secret

            auth = secret(self.auth, "format.auth") if self.auth else ""
            self._registry = Registry(self.registry, auth)
        return self._registry


def _unframed(value: bytes) -> tuple[int, bytes]:
    found = framed(value)
    if found is None:
        raise Unreadable("bad_envelope", "no schema's number stands before the value: its first byte is not 0")
    return found


def _json(value: bytes) -> Any:
    try:
        return msgspec.json.decode(value)
    except RecursionError:
        raise Unreadable("not_json", "the value is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise Unreadable("not_json", f"the value is not UTF-8: byte {error.start} is wrong") from None
    except msgspec.DecodeError as error:
        raise Unreadable("not_json", f"the value is not JSON: {error}") from None
    except ValueError:  # integers of thousands of digits
        raise Unreadable("not_json", "the value holds a number that cannot be read") from None


def format_of(source: KafkaSource) -> Format:
    """Give the format that a mapping names. Raises `ValueError` that lists the known kinds."""
    said = source.format
    return Format.parse({"kind": said} if isinstance(said, str) else said)
