"""Avro's binary encoding, read with its writer's schema into JSON types (Apache Avro 1.12, "Binary Encoding").

A schema is compiled once into functions that call one another. What has no JSON type becomes one: bytes and fixed are
base64, decimals numbers, enums their symbols, a union's value stands without its branch. Times (timestamp-micros and
the like) stay the whole numbers that they are, for `unit` to name.
"""

from __future__ import annotations

import struct
from base64 import b64encode
from collections.abc import Callable
from typing import Any

Read = Callable[[bytes, int], tuple[Any, int]]
"""(bytes, where the value begins) → the value, and where the next one does. Raises `BadAvro`."""

MOST_ITEMS = 1_000_000
"""Of one block: items that take no bytes (null) could be any number."""
_FLOAT, _DOUBLE = struct.Struct("<f"), struct.Struct("<d")


class BadAvro(Exception):
    """Bytes that are not of the schema, or a schema that is none. Quotes nothing of the bytes."""


def compile_schema(schema: Any, known: dict[str, Any] | None = None) -> Callable[[bytes], Any]:
    """Compile a schema (as JSON tells it) into a reader of whole values. `known` are named types that it refers to.

    >>> read = compile_schema({"type": "record", "name": "r", "fields": [{"name": "a", "type": ["null", "long"]}]})
    >>> read(bytes([2, 84]))
    {'a': 42}
    >>> read(bytes([2]))
    Traceback (most recent call last):
    services.intake.avro.BadAvro: the record ends too soon
    """
    compiler = _Compiler()
    for one in (known or {}).values():
        compiler.compile(one, "")
    read = compiler.compile(schema, "")

    def whole(body: bytes) -> Any:
        try:
            value, at = read(body, 0)
        except (IndexError, struct.error):
            raise BadAvro("the record ends too soon") from None
        except UnicodeDecodeError:
            raise BadAvro("a text is not UTF-8") from None
        except RecursionError:
            raise BadAvro("the record is nested too deeply") from None
        if at != len(body):
            raise BadAvro(f"{len(body) - at} bytes are left after the record")
        return value

    return whole


def _long(body: bytes, at: int) -> tuple[int, int]:
    byte = body[at]
    at += 1
    if byte < 0x80:
        return (byte >> 1) ^ -(byte & 1), at
    number, shift = byte & 0x7F, 7
    while byte & 0x80:
        if shift > 63:
            raise BadAvro("a whole number of more than 64 bits")
        byte = body[at]
        at += 1
        number |= (byte & 0x7F) << shift
        shift += 7
    return (number >> 1) ^ -(number & 1), at


def _null(body: bytes, at: int) -> tuple[None, int]:
    return None, at


def _boolean(body: bytes, at: int) -> tuple[bool, int]:
    if body[at] > 1:
        raise BadAvro("a boolean that is neither 0 nor 1")
    return body[at] == 1, at + 1


def _float(body: bytes, at: int) -> tuple[float, int]:
    return _FLOAT.unpack_from(body, at)[0], at + 4


def _double(body: bytes, at: int) -> tuple[float, int]:
    return _DOUBLE.unpack_from(body, at)[0], at + 8


def _raw(body: bytes, at: int) -> tuple[bytes, int]:
    size, at = _long(body, at)
    if size < 0 or at + size > len(body):
        raise BadAvro("the record ends too soon")
    return body[at : at + size], at + size


def _bytes(body: bytes, at: int) -> tuple[str, int]:
    held, at = _raw(body, at)
    return b64encode(held).decode("ascii"), at


def _string(body: bytes, at: int) -> tuple[str, int]:
    size, start = _long(body, at)
    end = start + size
    if size < 0 or end > len(body):
        raise BadAvro("the record ends too soon")
    return body[start:end].decode(), end


_PRIMITIVES: dict[str, Read] = {
    "null": _null,
    "boolean": _boolean,
    "int": _long,
    "long": _long,
    "float": _float,
    "double": _double,
    "bytes": _bytes,
    "string": _string,
}


class _Compiler:
    """Named types are found by their full names; one that contains itself is looked up when it is read."""

    def __init__(self) -> None:
        self._named: dict[str, Read] = {}

    def compile(self, schema: Any, space: str) -> Read:
        if isinstance(schema, str):
            return self._reference(schema, space)
        if isinstance(schema, list):
            return self._union(schema, space)
        if not isinstance(schema, dict) or "type" not in schema:
            raise BadAvro("the schema is none of Avro's")
        kind = schema["type"]
        if kind in ("record", "error"):
            return self._record(schema, space)
        if kind == "enum":
            return self._enum(schema, space)
        if kind == "fixed":
            return self._fixed(schema, space)
        if kind == "array":
            return _array(self.compile(schema.get("items"), space))
        if kind == "map":
            return _map(self.compile(schema.get("values"), space))
        if kind == "bytes" and schema.get("logicalType") == "decimal":
            return _decimal(_raw, schema)
        return self.compile(kind, space)

    def _reference(self, name: str, space: str) -> Read:
        if name in _PRIMITIVES:
            return _PRIMITIVES[name]
        full = name if "." in name or not space else f"{space}.{name}"
        found = full if full in self._named else name
        if found not in self._named:
            raise BadAvro(f"the schema has no type {name!r}")
        named = self._named
        return lambda body, at: named[found](body, at)

    def _name(self, schema: dict[str, Any], space: str) -> tuple[str, str]:
        """Give the full name, and the namespace of what is within."""
        name = schema.get("name")
        if not isinstance(name, str):
            raise BadAvro("the schema has a named type without a name")
        if "." not in name:
            own = schema.get("namespace")
            inside = own if isinstance(own, str) else space
            return (f"{inside}.{name}" if inside else name), inside
        return name, name.rpartition(".")[0]

    def _record(self, schema: dict[str, Any], space: str) -> Read:
        full, inside = self._name(schema, space)

        def unfinished(body: bytes, at: int) -> tuple[Any, int]:
            raise BadAvro("the schema refers to itself before it is whole")

        self._named[full] = unfinished
        fields: list[tuple[str, Read]] = []
        for field in schema.get("fields") or []:
            if not isinstance(field, dict) or not isinstance(field.get("name"), str):
                raise BadAvro("the schema has a field without a name")
            fields.append((field["name"], self.compile(field.get("type"), inside)))

        def read(body: bytes, at: int) -> tuple[Any, int]:
            out: dict[str, Any] = {}
            for name, one in fields:
                out[name], at = one(body, at)
            return out, at

        self._named[full] = read
        return read

    def _enum(self, schema: dict[str, Any], space: str) -> Read:
        symbols = schema.get("symbols")
        if not isinstance(symbols, list) or not all(isinstance(one, str) for one in symbols):
            raise BadAvro("the schema has an enum without symbols")

        def read(body: bytes, at: int) -> tuple[Any, int]:
            index, at = _long(body, at)
            if not 0 <= index < len(symbols):
                raise BadAvro("an enum's number that has no symbol")
            return symbols[index], at

        self._named[self._name(schema, space)[0]] = read
        return read

    def _fixed(self, schema: dict[str, Any], space: str) -> Read:
        size = schema.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise BadAvro("the schema has a fixed without a size")

        def raw(body: bytes, at: int) -> tuple[bytes, int]:
            if at + size > len(body):
                raise BadAvro("the record ends too soon")
            return body[at : at + size], at + size

        def text(body: bytes, at: int) -> tuple[str, int]:
            held, at = raw(body, at)
            return b64encode(held).decode("ascii"), at

        read = _decimal(raw, schema) if schema.get("logicalType") == "decimal" else text
        self._named[self._name(schema, space)[0]] = read
        return read

    def _union(self, branches: list[Any], space: str) -> Read:
        reads = [self.compile(one, space) for one in branches]

        def read(body: bytes, at: int) -> tuple[Any, int]:
            index, at = _long(body, at)
            if not 0 <= index < len(reads):
                raise BadAvro("a union's branch that does not exist")
            return reads[index](body, at)

        return read


def _blocks(body: bytes, at: int, one: Callable[[int], int]) -> int:
    """Go through the blocks of an array or a map; `one` reads an item from a place and gives the next one."""
    total = 0
    while True:
        count, at = _long(body, at)
        if count == 0:
            return at
        if count < 0:  # followed by the block's size, which only who skips needs
            count, (_, at) = -count, _long(body, at)
        total += count
        if total > MOST_ITEMS:
            raise BadAvro(f"a list or a map of more than {MOST_ITEMS} items")
        for _ in range(count):
            at = one(at)


def _array(item: Read) -> Read:
    def read(body: bytes, at: int) -> tuple[Any, int]:
        out: list[Any] = []

        def one(place: int) -> int:
            value, place = item(body, place)
            out.append(value)
            return place

        return out, _blocks(body, at, one)

    return read


def _map(item: Read) -> Read:
    def read(body: bytes, at: int) -> tuple[Any, int]:
        out: dict[str, Any] = {}

        def one(place: int) -> int:
            name, place = _string(body, place)
            out[name], place = item(body, place)
            return place

        return out, _blocks(body, at, one)

    return read


def _decimal(raw: Callable[[bytes, int], tuple[bytes, int]], schema: dict[str, Any]) -> Read:
    scale = schema.get("scale", 0)
    if not isinstance(scale, int) or not 0 <= scale <= 300:
        raise BadAvro("the schema has a decimal whose scale cannot be")

    def read(body: bytes, at: int) -> tuple[Any, int]:
        held, at = raw(body, at)
        unscaled = int.from_bytes(held, "big", signed=True)
        try:
            number = unscaled / 10**scale
            return (number if scale else unscaled), at
        except OverflowError:
            raise BadAvro("a decimal beyond a double") from None

    return read
