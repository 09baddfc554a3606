"""Formats of foreign records: bytes become a document and what is known of it.

A member of the family is found by its `kind`; its own fields are what `format = { kind = …, … }` takes.
`tests/contracts/test_formats.py` holds every member to the contract: it raises `Unreadable` and nothing else, quotes
nothing of what it read, and gives JSON types.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal, NamedTuple

import msgspec

from schemas.mapping import KafkaSource
from schemas.spec import Spec


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


class Json(Format):
    """One JSON document a record. A record without value says that what its key names was deleted."""

    kind: Literal["json"] = "json"

    def read(self, value: bytes | None) -> Row:
        return Row(None, {"op": "d"}) if value is None else Row(_json(value), {})


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
        change = _json(value)
        if isinstance(change, dict) and "schema" in change and isinstance(change.get("payload"), dict):
            change = change["payload"]
        op = change.get("op") if isinstance(change, dict) else None
        if not isinstance(op, str):
            raise Unreadable("bad_envelope", 'no change event of Debezium: it has no `op`; for plain rows say "json"')
        if op not in self.OPS:
            return Row(None, {}, "a truncation or a message, which is no row")
        source = change.get("source")
        about: dict[str, Any] = {"op": op, "ts_ms": change.get("ts_ms")}
        if isinstance(source, dict):
            about["source"] = {name: source[name] for name in self.SOURCE if name in source}
        document = change.get("before" if op == "d" else "after")
        if document is None and op != "d":
            raise Unreadable("bad_envelope", "a change event of Debezium without `after`")
        return Row(document, about)


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
