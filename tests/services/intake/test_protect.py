"""Protection, beside its naive twin: what a rule covers is gone, and what none covers is as it was."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from schemas.mapping import Protect
from services.intake.protect import Protection, pseudonym
from tests.services.intake.naive_protect import leaves, secret_leaves

NAMES = ["a", "b", "c", "0"]
names = st.sampled_from(NAMES)
paths = st.lists(st.sampled_from(["a", "b", "c", "0", "1", "*"]), min_size=1, max_size=3).map(".".join)


def _documents(leaf: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    inner = st.recursive(
        leaf, lambda one: st.one_of(st.dictionaries(names, one, max_size=3), st.lists(one, max_size=3)), max_leaves=12
    )
    return st.dictionaries(names, inner, max_size=4)


def numbered(document: Any, numbers: Any) -> Any:
    """Give each scalar a value of its own, so that it is known again."""
    if isinstance(document, dict):
        return {name: numbered(one, numbers) for name, one in document.items()}
    if isinstance(document, list):
        return [numbered(one, numbers) for one in document]
    return f"s{next(numbers):04d}"


documents = _documents(st.just("")).map(lambda document: numbered(document, count()))


@given(documents, st.lists(paths, max_size=4, unique=True))
def test_what_is_dropped_is_gone_and_nothing_that_no_rule_can_mean(document: Any, drop: list[str]) -> None:
    before = json.dumps(document)
    left = {value for _, value in leaves(Protection(Protect(drop=drop), b"").apply(document)) if isinstance(value, str)}
    rules = [tuple(path.split(".")) for path in drop]
    secret = set(secret_leaves(document, rules))
    assert not left & secret
    # a text where a rule expected an object goes as well; nothing else may
    for place, value in leaves(document):
        if value not in left and value not in secret:
            steps = [str(one) for one in place]
            assert any(_leads_past(steps, place, rule) for rule in rules), (place, value)
    assert json.dumps(document) == before, "the document itself is not changed"


def _leads_past(steps: list[str], place: tuple[str | int, ...], rule: tuple[str, ...]) -> bool:
    """Say whether a rule wanted to go on where this scalar lies."""
    from tests.services.intake.naive_protect import covered

    return any(covered(place, rule[:length]) for length in range(1, len(rule))) or any(
        covered(place[:-skipped], rule[:length])
        for skipped in range(1, len(place))
        if all(isinstance(one, int) for one in place[-skipped:])
        for length in range(1, len(rule))
    )


@given(documents, st.lists(paths, min_size=1, max_size=3, unique=True), st.sampled_from(["hmac", "bucket", "prefix"]))
def test_what_is_treated_never_stays_as_it_was(document: Any, covering: list[str], how: str) -> None:
    rules: dict[str, Any] = {"hmac": covering, "key": "env:K"}
    if how != "hmac":
        rules = {how: dict.fromkeys(covering, 2)}
    treated = json.dumps(Protection(Protect(**rules), b"k" * 32).apply(document))
    for value in secret_leaves(document, [tuple(path.split(".")) for path in covering]):
        assert value not in treated


def test_pseudonyms_are_the_same_for_the_same_and_differ_by_key() -> None:
    assert pseudonym(b"a" * 32, "u-1") == pseudonym(b"a" * 32, "u-1") != pseudonym(b"b" * 32, "u-1")
    assert pseudonym(b"a" * 32, None) is None
    assert len(str(pseudonym(b"a" * 32, {"id": 1}))) == 32


def test_an_address_that_is_sometimes_a_line_of_text_does_not_get_through() -> None:
    protection = Protection(Protect(drop=["address.street"]), b"")
    assert protection.apply({"address": {"street": "x", "city": "y"}}) == {"address": {"city": "y"}}
    assert protection.apply({"address": "x, y"}) == {}
    assert protection.apply({"address": [{"street": "x"}, "x, y", None]}) == {"address": [{}, None]}
    assert protection.met == {"address.street": 2}


def test_buckets_and_prefixes() -> None:
    protection = Protection(Protect(bucket={"age": 10, "x": 0.5}, prefix={"zip": 2}), b"")
    assert protection.apply({"age": 37, "x": 1.7, "zip": "10115"}) == {"age": 30, "x": 1.5, "zip": "10"}
    assert protection.apply({"age": "37", "x": True, "zip": 10115}) == {"age": None, "x": None, "zip": None}
    assert protection.apply({"age": -1, "x": float("nan")}) == {"age": -10, "x": None}
