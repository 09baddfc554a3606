"""A schema registry that speaks Confluent's HTTP API: schemas by their number, asked once and kept for ever.

The wire format puts a zero byte and the schema's number, four bytes big-endian, before the record. A schema never
changes under its number, so what was found is never asked for again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from services.intake.avro import BadAvro, compile_schema

MAGIC, FRAME = 0, 5
TIMEOUT_S = 10.0
AGAIN_S = 60.0
"""After so long a schema that was unknown is asked for again: registries that copy one another lag."""
NO_SUCH = (400, 404, 410, 422)
"""Answers about the number itself: bytes that only look framed must not hold up all that comes after them."""
DEPTH = 20
"""How far schemas may refer to others."""


class Unanswered(Exception):
    """The registry does not answer now: wait, and ask again."""


class UnknownSchema(Exception):
    """The registry has no such schema, or none that can be read."""


class Registry:
    """Readers of Avro schemas by their number. `auth` is `USER:PASSWORD`, or empty."""

    def __init__(self, url: str, auth: str = "") -> None:
        self._url = url.rstrip("/")
        user, _, password = auth.partition(":")
        self._auth = (user, password) if auth else None
        self._readers: dict[int, Callable[[bytes], Any]] = {}
        self._unknown: dict[int, tuple[str, float]] = {}

    def knows(self, number: int) -> bool:
        """Say whether `reader` answers without asking."""
        return number in self._readers or self._refused(number) != ""

    def reader(self, number: int) -> Callable[[bytes], Any]:
        """Give the reader of a schema. Raises `Unanswered`, `UnknownSchema`."""
        if number in self._readers:
            return self._readers[number]
        if not (why := self._refused(number)):
            found = self._ask(number)
            if not isinstance(found, UnknownSchema):
                self._readers[number] = found
                return found
            why = str(found)
            self._unknown[number] = why, time.monotonic()
        raise UnknownSchema(why)

    def _refused(self, number: int) -> str:
        why, at = self._unknown.get(number, ("", 0.0))
        return why if time.monotonic() - at < AGAIN_S else ""

    def _ask(self, number: int) -> Callable[[bytes], Any] | UnknownSchema:
        try:
            told = self._get(f"/schemas/ids/{number}")
            if told.get("schemaType", "AVRO") != "AVRO":
                return UnknownSchema(f"schema {number} is {told.get('schemaType')}, and no Avro")
            known: dict[str, Any] = {}
            self._resolve(told, known, DEPTH)
            return compile_schema(json.loads(told["schema"]), known)
        except UnknownSchema as error:
            return error
        except (BadAvro, KeyError, TypeError, ValueError, RecursionError) as error:
            return UnknownSchema(f"schema {number} cannot be used: {error}")

    def _resolve(self, told: dict[str, Any], known: dict[str, Any], depth: int) -> None:
        """Collect the schemas that one refers to, those that they refer to first."""
        if depth == 0:
            raise UnknownSchema("schemas refer to one another without end")
        for one in told.get("references") or []:
            if one["name"] not in known:
                referred = self._get(f"/subjects/{one['subject']}/versions/{one['version']}")
                self._resolve(referred, known, depth - 1)
                known[one["name"]] = json.loads(referred["schema"])

    def _get(self, path: str) -> dict[str, Any]:
        import httpx2

        try:
            answer = httpx2.get(f"{self._url}{path}", auth=self._auth, timeout=TIMEOUT_S)
        except httpx2.HTTPError as error:
            raise Unanswered(f"the schema registry {self._url} does not answer: {error}") from None
        if answer.status_code in NO_SUCH:
            raise UnknownSchema(f"the schema registry {self._url} has no {path}")
        if answer.status_code != 200:
            raise Unanswered(f"the schema registry {self._url} answers {answer.status_code} to {path}")
        found = answer.json()
        if not isinstance(found, dict):
            raise UnknownSchema(f"the schema registry {self._url} gives no object for {path}")
        return found


def framed(value: bytes) -> tuple[int, bytes] | None:
    r"""Take a record apart: the schema's number and the body; None when it is not framed.

    >>> framed(b"\x00\x00\x00\x00\x07body"), framed(b"{}")
    ((7, b'body'), None)
    """
    if len(value) < FRAME or value[0] != MAGIC:
        return None
    return int.from_bytes(value[1:FRAME], "big"), value[FRAME:]
