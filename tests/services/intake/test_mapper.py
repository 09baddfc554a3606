"""The mapping: what comes out, what is refused and how that is said; and that it never raises and never leaks."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.inputs import Label, Prediction, Signal
from schemas.mapping import Mapping
from schemas.records import DeadLetter
from services.intake.letters import Place, letter, read_retry
from services.intake.mapper import Mapper
from tests.services.intake.harness import KEY, ORDERS, SECRET, mapper

NOW_MS = 1_767_225_600_000
ABOUT: dict[str, Any] = {"time": NOW_MS, "topic": "orders", "partition": 0, "offset": 7}
ORDER: dict[str, Any] = {
    "order_id": "o-1",
    "created_us": NOW_MS * 1000 + 123,
    "email": SECRET,
    "user_id": 99,
    "amount": 12.5,
    "ship": {"country": "DE"},
    "model": {"version": "v3", "score": 0.25},
}


def one(rule: dict[str, Any], **more: Any) -> Mapper:
    tables = {"name": "x", "source": {"kind": "kafka", "topic": "t"}, "events": [rule], **more}
    return mapper(tables)


def bodies(mapped: Any) -> list[dict[str, Any]]:
    assert not mapped.refusals, mapped.refusals
    return [msgspec.json.decode(found.value) for found in mapped.events]


def refused(mapped: Any) -> tuple[str, str]:
    assert not mapped.events
    (refusal,) = mapped.refusals
    return refusal.reason, refusal.detail


def label(**more: Any) -> dict[str, Any]:
    return {"kind": "label", "request_id": "id", "at_ms": "@time", "label": "y", **more}


def test_the_worked_example() -> None:
    mapped = mapper(ORDERS).map(ORDER, ABOUT)
    (body,) = bodies(mapped)
    assert body == {
        "request_id": "o-1",
        "at_ms": NOW_MS,
        "model": "fraud",
        "version": "v3",
        "score": 0.25,
        "features": {"amount": 12.5, "country": "DE"},
        "subject": body["subject"],
    }
    assert mapped.events[0].key == b"o-1"
    assert "email" not in mapped.document
    assert ORDER["email"] == SECRET, "the document is not changed"


def test_a_missing_path_is_named_with_what_there_is() -> None:
    reason, detail = refused(one(label(request_id="order.id")).map({"order_id": 1, "y": 1}, ABOUT))
    assert reason == "missing_field"
    assert "`order.id`" in detail
    assert "it has: order_id, y" in detail
    reason, detail = refused(one(label()).map({"id": 1}, ABOUT))
    assert (reason, "`label` needs `y`" in detail) == ("missing_field", True)


def test_a_null_label_is_skipped_retracted_or_refused_as_the_mapping_says() -> None:
    document = {"id": "r", "y": None}
    mapped = label(label={"path": "y", "map": {"yes": 1, "no": 0}})
    for rule in (label(), mapped):
        assert one(rule).map(document, ABOUT).skipped == ["rule 0: its label is null"]
    said = label(label={"path": "y", "map": {"yes": 1, "null": 0}})
    assert bodies(one(said).map(document, ABOUT))[0]["label"] == 0
    assert bodies(one(label(without_label="retract")).map(document, ABOUT))[0]["op"] == "retract"
    assert refused(one(label(without_label="refuse")).map(document, ABOUT))[0] == "missing_field"


def test_a_deletion_becomes_a_retraction_of_labels_alone() -> None:
    rules = [label(), {"kind": "signal", "request_id": "id", "at_ms": "@time", "signal": {"value": "click"}}]
    both = mapper({"name": "x", "source": {"kind": "kafka", "topic": "t"}, "events": rules})
    deleted = {**ABOUT, "op": "d", "source": {"ts_ms": NOW_MS - 5}}
    (body,) = bodies(both.map({"id": "r", "y": 1}, deleted))
    assert body == {"request_id": "r", "at_ms": NOW_MS - 5, "op": "retract"}
    assert both.map(None, deleted).skipped == [
        "rule 0: a deletion that does not say of what",
        "rule 1: a signal cannot be taken back",
    ]
    keyed = one(label(request_id="@key"))
    assert bodies(keyed.map(None, {**ABOUT, "op": "d", "key": "r"}))[0]["op"] == "retract"


def test_one_document_may_be_many_events() -> None:
    lines = one(
        {
            "kind": "prediction",
            "each": "lines",
            "request_id": {"join": ["$.order", "no"], "by": "/"},
            "at_ms": {"path": "$.at", "unit": "s"},
            "model": {"value": "m"},
            "score": "s",
        }
    )
    document = {"order": 5, "at": NOW_MS // 1000, "lines": [{"no": 1, "s": 0.5}, {"no": 2}, {"s": 1}, 7]}
    mapped = lines.map(document, ABOUT)
    assert [msgspec.json.decode(found.value)["request_id"] for found in mapped.events] == ["5/1", "5/2"]
    assert [(one.reason, one.element) for one in mapped.refusals] == [("missing_field", 2), ("missing_field", 3)]
    assert refused(lines.map({"order": 5}, ABOUT))[0] == "missing_field"
    assert lines.map({"order": 5, "lines": None}, ABOUT).events == []


def test_values_are_translated_and_have_defaults() -> None:
    translated = one(
        label(label={"path": "y", "map": {"paid": 0, "charged back": 1, "7": 7, "true": 1}, "default": -1})
    )
    for theirs, ours in (("paid", 0), ("charged back", 1), (7, 7), (True, 1), ("else", -1)):
        assert bodies(translated.map({"id": "r", "y": theirs}, ABOUT))[0]["label"] == ours
    reason, detail = refused(one(label(label={"path": "y", "map": {"a": 1}})).map({"id": "r", "y": "b"}, ABOUT))
    assert (reason, '"b"' in detail) == ("unmapped_value", True)
    ids = one(label()).map({"id": 7.0, "y": 1}, ABOUT)  # as pandas writes whole numbers beside missing ones
    assert bodies(ids)[0]["request_id"] == "7"
    numbers = one(label(label={"path": "y", "number": True}))
    assert bodies(numbers.map({"id": "r", "y": " 1.5 "}, ABOUT))[0]["label"] == 1.5
    assert refused(numbers.map({"id": "r", "y": "x"}, ABOUT))[0] == "wrong_type"


def test_conditions() -> None:
    conditional = one(label(when=[{"path": "state", "one_of": ["a", 1]}, {"path": "gone", "present": False}]))
    assert len(conditional.map({"id": "r", "y": 1, "state": 1.0}, ABOUT).events) == 1
    assert conditional.map({"id": "r", "y": 1, "state": True}, ABOUT).skipped
    assert conditional.map({"id": "r", "y": 1, "state": "a", "gone": 0}, ABOUT).skipped


def test_a_whole_object_may_be_the_features_and_a_list_the_items() -> None:
    ranking = one(
        {
            "kind": "prediction",
            "request_id": "id",
            "at_ms": "@time",
            "model": {"value": "m"},
            "features": "f",
            "latency_ms": {"path": "seconds", "unit": "s"},
            "items": {"each": "shown", "item": "sku", "score": "s"},
        }
    )
    document = {"id": 1, "f": {"a": 1, "b": None}, "seconds": 0.25, "shown": [{"sku": 3, "s": 0.5}, {"sku": "x"}]}
    (body,) = bodies(ranking.map(document, ABOUT))
    assert (body["features"], body["latency_ms"]) == ({"a": 1, "b": None}, 250.0)
    assert body["items"] == [{"item": "3", "score": 0.5}, {"item": "x"}]
    reason, detail = refused(ranking.map({**document, "f": {"a": [1]}}, ABOUT))
    assert (reason, "`a`" in detail) == ("wrong_type", True)


def test_an_event_id_tells_rows_apart_and_a_second_reading_does_not() -> None:
    tables = {"name": "x", "source": {"kind": "kafka", "topic": "t"}, "events": [label()]}
    identified = mapper(tables, identify=True)
    first, second = (bodies(identified.map({"id": "r", "y": 1, "n": n}, ABOUT))[0] for n in (1, 2))
    again = bodies(identified.map({"n": 1, "y": 1, "id": "r"}, {**ABOUT, "time": NOW_MS + 9}))[0]
    assert first["event_id"] == again["event_id"] != second["event_id"]


@pytest.mark.parametrize("document", [None, 5, "text", [1], True])
def test_what_is_no_object_is_refused(document: Any) -> None:
    assert refused(one(label()).map(document, ABOUT))[0] == "not_object"


def test_an_event_that_the_join_would_not_take_is_refused() -> None:
    assert refused(one(label()).map({"id": "r", "y": 2**64}, ABOUT))[0] == "wrong_type"
    assert refused(one(label()).map({"id": "x" * 129, "y": 1}, ABOUT))[0] == "bad_event"
    assert refused(one(label()).map({"id": "r", "y": float("inf")}, ABOUT))[0] == "wrong_type"
    assert refused(one(label()).map({"id": "\ud800", "y": 1}, ABOUT))[0] == "bad_event"
    small = mapper({"name": "x", "source": {"kind": "kafka", "topic": "t"}, "events": [label()]}, max_event_bytes=50)
    assert refused(small.map({"id": "r", "y": "x" * 50}, ABOUT))[0] == "too_large"


# --- whatever comes

NAMES = ["a", "b", "c"]
PATHS = ["a", "b", "c", "a.b", "b.0", "c.a", "$.a", "@time", "@key", "@op", ".", "$"]
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(NOW_MS), st.floats(), st.text(max_size=5), st.just("r-1")
)
documents = st.recursive(
    scalars,
    lambda inner: st.one_of(st.dictionaries(st.sampled_from(NAMES), inner, max_size=3), st.lists(inner, max_size=3)),
    max_leaves=10,
)
constants = st.one_of(st.booleans(), st.integers(-5, 5), st.text(max_size=3))
paths = st.sampled_from(PATHS)
taken = st.one_of(
    paths,
    st.builds(lambda value: {"value": value}, constants),
    st.builds(
        lambda path, default, number: {"path": path, "default": default, "number": number},
        paths,
        constants,
        st.booleans(),
    ),
    st.builds(lambda both: {"join": both}, st.lists(paths, min_size=1, max_size=3)),
    st.builds(lambda path, found: {"path": path, "map": found}, paths, st.dictionaries(st.text(max_size=2), constants)),
)
times = st.one_of(
    st.just("@time"),
    st.builds(
        lambda path, unit, zone: {"path": path, "unit": unit, "zone": zone},
        paths,
        st.sampled_from(["s", "ms", "us", "ns", "iso"]),
        st.sampled_from(["", "UTC", "Europe/Berlin"]),
    ),
)
members = st.one_of(paths, st.dictionaries(st.sampled_from(["f", "g"]), taken, max_size=2))


def _rules() -> st.SearchStrategy[dict[str, Any]]:
    common: dict[str, Any] = {"request_id": taken, "at_ms": times}
    maybe: dict[str, Any] = {"each": st.sampled_from(["a", "b", "c.a"]), "event_id": taken, "item": taken}
    conditions = {"when": st.builds(lambda path: {"path": path, "present": True}, paths)}
    predicted = dict.fromkeys(("score", "prediction", "role", "embedding", "propensity", "latency_ms"), taken)
    predicted |= {"features": members, "outputs": members, "experiments": members}
    predicted["items"] = st.builds(lambda each, item: {"each": each, "item": item}, paths, taken)
    return st.one_of(
        st.fixed_dictionaries(
            {"kind": st.just("prediction"), **common, "model": taken},
            optional={"each": maybe["each"], "event_id": taken, **conditions, **predicted},
        ),
        st.fixed_dictionaries(
            {"kind": st.just("label"), **common, "label": taken},
            optional={**maybe, **conditions, "op": taken, "confidence": taken, "name": taken},
        ),
        st.fixed_dictionaries(
            {"kind": st.just("signal"), **common, "signal": taken}, optional={**maybe, "value": taken}
        ),
    )


MARK = "5ecret"
"""In every value that is protected, and in no other."""
protected = st.recursive(
    st.integers(0, 99).map(lambda number: f"{MARK}{number}"),
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from([*NAMES, MARK]), inner, max_size=2), st.lists(inner, max_size=2)
    ),
    max_leaves=4,
)


@given(
    document=st.one_of(documents, st.dictionaries(st.sampled_from(NAMES), documents, max_size=3)),
    hidden=st.dictionaries(st.sampled_from(["p", "q"]), protected, max_size=2),
    rules=st.lists(_rules(), min_size=1, max_size=3),
    key=protected,
    op=st.sampled_from(["c", "d"]),
)
def test_it_never_raises_never_leaks_and_gives_what_the_join_takes(
    document: Any, hidden: dict[str, Any], rules: list[dict[str, Any]], key: Any, op: str
) -> None:
    from streams.join.admission import DECODERS, _read

    if isinstance(document, dict):
        document = {**document, **hidden, "nested": {"p": hidden.get("p"), "b": [hidden, {"q": 1}]}}
    rules = [*rules, label(request_id="p", label="q"), label(request_id="@key", label="nested.b")]
    for rule in rules[:1]:
        rule.setdefault("event_id", "p")
    protect = {"drop": ["p", "nested.*.p", "nested.p"], "hmac": ["q", "*.b.q", "@key"], "key": "env:K"}
    mapping = Mapping.model_validate(
        {"name": "x", "source": {"kind": "kafka", "topic": "t"}, "protect": protect, "events": rules}
    )
    about = {**ABOUT, "key": key, "op": op}
    mapped = Mapper(mapping, KEY.encode(), identify=True).map(document, about)
    said = b"".join(found.key + found.value for found in mapped.events)
    for found in mapped.events:
        event = _read(DECODERS[found.topic].decode, found.key, found.value, 0, 900_000)
        assert isinstance(event, (Prediction, Label, Signal))
        assert event.request_id.encode() == found.key
    if mapped.refusals:
        output = letter("intake.x", Place(0, 7), mapped.about, mapped.refusals, NOW_MS, document=mapped.document)
        kept = msgspec.json.decode(output.value, type=DeadLetter)
        headers = [(name, b64decode(value or "")) for name, value in kept.headers]
        said += output.value + b64decode(kept.value or "") + b"".join(value for _, value in headers)
        said += repr((mapped.skipped, mapped.document, mapped.about)).encode()
        assert MARK.encode() not in said
        if kept.value is not None:
            again = read_retry("x", headers, b64decode(kept.value))
            assert again is not None
            if again.document != mapped.document:  # NaN is kept as null
                return
            repeated = Mapper(mapping, KEY.encode(), identify=True).map_protected(again.document, again.about)
            assert [one.detail for one in repeated.refusals] == [one.detail for one in mapped.refusals]
    said += repr((mapped.skipped, mapped.document, mapped.about)).encode()
    assert MARK.encode() not in said


def test_a_document_that_is_nested_too_deeply_to_be_protected_is_refused_and_not_kept() -> None:
    deep = msgspec.json.decode(
        b'{"id": "r", "y": 1, "a": ' + b"[" * 600 + b'"' + SECRET.encode() + b'"' + b"]" * 600 + b"}"
    )
    about = {**ABOUT, "key": SECRET}
    mapped = one(label(), protect={"drop": ["a.b"]}).map(deep, about)
    assert refused(mapped)[0] == "unreadable"
    assert (mapped.document, mapped.about) == (None, {"time": NOW_MS})
    assert len(one(label()).map(deep, about).events) == 1
