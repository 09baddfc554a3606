"""Paths into documents, compiled once."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

MISSING: Final = object()
"""What a path gives where the document has nothing there; null is something."""

Get = Callable[[Any, Any, Any], Any]
"""(here, document, what is known of the record) → value. `here` is the document or an element of one of its lists."""

_DOT = re.compile(r"(?<!\\)\.")


def segments(path: str) -> tuple[str, ...]:
    r"""Split a path.

    >>> segments("user.id"), segments(r"a\.b.c")
    (('user', 'id'), ('a.b', 'c'))
    """
    return tuple(part.replace("\\.", ".") for part in _DOT.split(path))


def walk(value: Any, names: tuple[str, ...]) -> Any:
    """Follow names, and numbers into lists, from a value.

    >>> walk({"a": [{"b": 1}]}, ("a", "0", "b"))
    1
    >>> walk({"a": 1}, ("a", "b")) is MISSING
    True
    """
    for name in names:
        if isinstance(value, dict):
            value = value.get(name, MISSING)
        elif isinstance(value, list) and name.isascii() and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        else:
            return MISSING
    return value


def getter(path: str) -> Get:
    """Compile a path."""
    if path.startswith("@"):
        names = segments(path[1:])
        return lambda here, document, about: walk(about, names)
    if path == "$":
        return lambda here, document, about: document
    if path.startswith("$."):
        names = segments(path[2:])
        return lambda here, document, about: walk(document, names)
    if path == ".":
        return lambda here, document, about: here
    names = segments(path)
    if len(names) > 1:
        return lambda here, document, about: walk(here, names)
    name = names[0]

    def member(here: Any, document: Any, about: Any) -> Any:
        return here.get(name, MISSING) if type(here) is dict else walk(here, names)

    return member
