"""What every format of foreign records keeps to, whatever bytes come."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.intake.formats import Format, Row, Unreadable
from tests.services.intake.registry_server import frame, registry, write

KINDS = sorted(Format.members)
MARK = "5ecret"
ROW: dict[str, Any] = {"id": 1, "at": 2.5, "text": "ü", "list": [1, None], "object": {"a": True}}
WRITTEN: dict[str, bytes] = {
    "json": json.dumps(ROW).encode(),
    "debezium": json.dumps({"before": None, "after": ROW, "op": "c", "ts_ms": 5, "source": {"ts_ms": 4}}).encode(),
}
"""The same row in every format."""
SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Row",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "at", "type": "double"},
        {"name": "text", "type": "string"},
        {"name": "list", "type": {"type": "array", "items": ["null", "long"]}},
        {"name": "object", "type": {"type": "map", "values": "boolean"}},
    ],
}
WRITTEN["avro"] = frame(1, write(SCHEMA, ROW))


@pytest.fixture(scope="module", autouse=True)
def schemas() -> Iterator[None]:
    """Serve the schema for formats that ask a registry."""
    with registry() as server:
        server.schemas[1] = {"schema": json.dumps(SCHEMA)}
        MORE["avro"] = {"registry": server.url}
        yield


MORE: dict[str, dict[str, Any]] = {}


def of(kind: str) -> Format:
    return Format.parse({"kind": kind, **MORE.get(kind, {})})


def is_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(name) is str and is_json(one) for name, one in value.items())
    return (
        all(map(is_json, value)) if isinstance(value, list) else isinstance(value, (str, bool, int, float, type(None)))
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_read_as_it_was_written(kind: str) -> None:
    row = of(kind).read(WRITTEN[kind])
    assert (row.document, row.skip) == (ROW, "")
    assert is_json(row.about)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tombstone_is_a_deletion_or_nothing(kind: str) -> None:
    row = of(kind).read(None)
    assert row.skip or row.about["op"] == "d"


@pytest.mark.parametrize("kind", KINDS)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.recursive(
            st.one_of(st.none(), st.integers(), st.text(max_size=4), st.just(MARK)),
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.dictionaries(
                    st.sampled_from(["op", "before", "after", "payload", "schema", "source", "ts_ms", "a"]), inner
                ),
            ),
            max_leaves=12,
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_any_bytes_give_a_row_or_a_reason_that_quotes_nothing(kind: str, value: bytes) -> None:
    try:
        row = of(kind).read(value)
    except Unreadable as error:
        row, said, reason = Row(None, {}), str(error), error.reason
    else:
        said, reason = row.skip, "read"
    assert is_json(row.document)
    assert MARK not in said
    assert reason.isidentifier()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [b"", b"\xff", b"[" * 100_000, b"9" * 10_000, b"{" + MARK.encode(), b'{"a": NaN}'])
def test_hostile_bytes_are_refused(kind: str, value: bytes) -> None:
    with pytest.raises(Unreadable) as caught:
        of(kind).read(value)
    assert MARK not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_record_that_is_cut_off_is_refused(kind: str, cut: int) -> None:
    with pytest.raises(Unreadable):
        of(kind).read(WRITTEN[kind][:-cut])


def test_json_behind_a_schemas_number() -> None:
    framed = Format.parse({"kind": "json", "framed": True})
    assert framed.read(frame(5, WRITTEN["json"])).document == ROW
    with pytest.raises(Unreadable, match="first byte"):
        framed.read(WRITTEN["json"])


def test_debezium() -> None:
    read = of("debezium").read
    deleted = {"before": {"id": 1}, "after": None, "op": "d", "ts_ms": 6, "source": {"ts_ms": 5, "db": "s", "x": MARK}}
    row = read(json.dumps({"schema": {}, "payload": deleted}).encode())
    assert row == Row({"id": 1}, {"op": "d", "ts_ms": 6, "source": {"ts_ms": 5, "db": "s"}})
    assert read(b'{"op": "t", "before": null, "after": null}').skip
    with pytest.raises(Unreadable, match="plain rows"):
        read(b'{"id": 1}')
    with pytest.raises(Unreadable, match="without `after`"):
        read(b'{"op": "u", "before": {"id": 1}}')


def test_an_unknown_format_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"known kinds: .*json"):
        Format.parse({"kind": "xml"})
