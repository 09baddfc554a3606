"""Protection of documents: dropping, pseudonyms, buckets and prefixes, before anything else sees or stores them.

It fails closed. A path that meets a list means each of its elements. One that meets a text or a number where it
expected an object takes that out whole: an address that is sometimes an object and sometimes one line of text is not
let through because nobody thought of the line. A value of a type that a rule cannot treat is replaced by null.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import msgspec

from schemas.mapping import Protect
from services.intake.paths import segments

_GONE: Final = object()
_canonical = msgspec.json.Encoder(order="deterministic").encode

Treatment = Callable[[Any], Any]


@dataclass(slots=True)
class Node:
    """What is done below one name. `path` is the rule's, for counting which rules meet something."""

    treat: Treatment | None = None
    path: str = ""
    below: dict[str, Node] = field(default_factory=dict)


class Protection:
    """The rules of one mapping, compiled. Documents are not changed: what is treated is copied on the way there.

    `met` counts for each path the documents in which it met something; 0 after many is a typing error.

    >>> from schemas.mapping import Protect
    >>> Protection(Protect(drop=["user.email"], bucket={"age": 10}), b"").apply(
    ...     {"user": {"email": "a@b", "id": 1}, "age": 37}
    ... )
    {'user': {'id': 1}, 'age': 30}
    """

    def __init__(self, rules: Protect, key: bytes) -> None:
        self.met: dict[str, int] = dict.fromkeys(rules.paths, 0)
        self._document, self._about = Node(), Node()
        for path in rules.drop:
            self._add(path, lambda value: _GONE)
        for path in rules.hmac:
            self._add(path, partial(pseudonym, key))
        for path, width in rules.bucket.items():
            self._add(path, partial(_bucket, width))
        for path, length in rules.prefix.items():
            self._add(path, partial(_prefix, length))

    def _add(self, path: str, treat: Treatment) -> None:
        root = self._about if path.startswith("@") else self._document
        bare = path[1:] if path.startswith("@") else path.removeprefix("$.")
        node = root
        for name in segments(bare):
            node = node.below.setdefault(name, Node())
        node.treat, node.path = treat, path

    def apply(self, document: Any) -> Any:
        """Give a document as it may be seen."""
        treated = self._into(self._document, document) if self._document.below else document
        return None if treated is _GONE else treated

    def apply_about(self, about: dict[str, Any]) -> dict[str, Any]:
        """Give what is known of its record, as it may be seen."""
        treated = self._into(self._about, about) if self._about.below else about
        return treated if isinstance(treated, dict) else {}

    def _into(self, node: Node, value: Any) -> Any:
        if node.treat is not None:
            self.met[node.path] += 1
            return node.treat(value)
        if type(value) is dict:
            return self._into_object(node, value)
        if type(value) is list:
            treated = [self._into_element(node, str(index), one) for index, one in enumerate(value)]
            return [one for one in treated if one is not _GONE]
        return value if value is None else _GONE

    def _into_object(self, node: Node, value: dict[str, Any]) -> dict[str, Any]:
        out = dict(value)
        every = node.below.get("*")
        for name, child in node.below.items():
            if child is not every and name in out:
                _put(out, name, self._into(child, out[name]))
        if every is not None:
            for name in list(out):
                _put(out, name, self._into(every, out[name]))
        return out

    def _into_element(self, node: Node, index: str, value: Any) -> Any:
        """Treat an element by the rules for its place, for every place, and for what a path means that meets a list."""
        rest: dict[str, Node] = {}
        for name, child in node.below.items():
            if name in (index, "*"):
                value = self._into(child, value)
                if value is _GONE:
                    return _GONE
            elif not name.isdigit():
                rest[name] = child
        return self._into(Node(below=rest), value) if rest else value


def _put(out: dict[str, Any], name: str, value: Any) -> None:
    if value is _GONE:
        del out[name]
    else:
        out[name] = value


def pseudonym(key: bytes, value: Any) -> str | None:
    """Give HMAC-SHA256 of a value's text, 128 bits in hex; null stays null. `5` and `"5"` have the same.

    >>> pseudonym(b"k" * 32, 5) == pseudonym(b"k" * 32, "5")
    True
    """
    if value is None:
        return None
    text = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else _canonical(value)
    return hmac.digest(key, text, hashlib.sha256)[:16].hex()


def _bucket(width: float, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        floor = math.floor(value / width) * width
    except (OverflowError, ValueError):  # beyond a double, or none
        return None
    return int(floor) if float(floor).is_integer() else floor


def _prefix(length: int, value: Any) -> Any:
    return value[:length] if isinstance(value, str) else None
