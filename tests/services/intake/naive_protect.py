"""Protection once more, the plain way: every place of a document is asked whether some rule covers it.

It shares no code with the fast path. A place is the row of names that leads to it; places in lists are numbers.
"""

from __future__ import annotations

from typing import Any

Place = tuple[str | int, ...]


def covered(place: Place, rule: tuple[str, ...]) -> bool:
    """Say whether a rule's path leads to this place: a name may skip over places in lists, `*` is any one."""
    if not rule:
        return not place
    if not place:
        return False
    first, rest = place[0], place[1:]
    if isinstance(first, int):
        taken = rule[0] in ("*", str(first)) and covered(rest, rule[1:])
        return taken or (not rule[0].isdigit() and rule[0] != "*" and covered(rest, rule))
    return rule[0] in ("*", first) and covered(rest, rule[1:])


def leaves(value: Any, place: Place = ()) -> list[tuple[Place, Any]]:
    """Give every scalar with its place."""
    if isinstance(value, dict):
        return [leaf for name, one in value.items() for leaf in leaves(one, (*place, name))]
    if isinstance(value, list):
        return [leaf for index, one in enumerate(value) for leaf in leaves(one, (*place, index))]
    return [(place, value)]


def secret_leaves(document: Any, rules: list[tuple[str, ...]]) -> list[Any]:
    """Give the scalars that lie at, or below, a place that a rule covers."""
    found = []
    for place, value in leaves(document):
        above = [place[:length] for length in range(1, len(place) + 1)]
        if any(covered(one, rule) for one in above for rule in rules):
            found.append(value)
    return found
