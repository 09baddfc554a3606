"""Avro behind a registry: bytes of another implementation, whatever else may come, and a registry that is away."""

from __future__ import annotations

import json
import socket
import uuid
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import WeirError
from schemas.settings import Settings
from services.intake.attempt import attempt
from services.intake.avro import BadAvro, compile_schema
from services.intake.formats import Avro, Unreadable
from services.intake.registry import Registry, Unanswered, UnknownSchema
from tests.services.intake.harness import ORDERS, events, letters, loaded, make_topic, order, taking
from tests.services.intake.registry_server import frame, registry, write
from tests.services.record.harness import until

GOLDEN: dict[str, Any] = {
    "type": "record",
    "name": "Order",
    "namespace": "shop",
    "fields": [
        {"name": "order_id", "type": "string"},
        {"name": "created_us", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "amount", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
        {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["NEW", "PAID"]}},
        {
            "name": "ship",
            "type": [
                "null",
                {
                    "type": "record",
                    "name": "Address",
                    "fields": [
                        {"name": "country", "type": "string"},
                        {"name": "next", "type": ["null", "Address"], "default": None},
                    ],
                },
            ],
        },
        {
            "name": "lines",
            "type": {
                "type": "array",
                "items": {
                    "type": "record",
                    "name": "Line",
                    "fields": [{"name": "sku", "type": "string"}, {"name": "n", "type": "int"}],
                },
            },
        },
        {"name": "tags", "type": {"type": "map", "values": ["null", "string", "double"]}},
        {"name": "mac", "type": {"type": "fixed", "name": "Mac", "size": 3}},
        {"name": "ok", "type": "boolean"},
        {"name": "f", "type": "float"},
        {"name": "again", "type": "shop.State"},
    ],
}
GOLDEN_BYTES = bytes.fromhex(  # written by fastavro 1.13.1
    "0e6f2dc3bcc3bc3994e087bc83dc820b0805db486c000204444502044652000404733098e585bf060473318ff7cdd7090008046b30020278046b"
    "31020278046b3204a263894c928cb3c1046b3304681a54ec1321a4410022fc7e000000844100"
)
GOLDEN_VALUE = {
    "order_id": "o-üü9",
    "created_us": 3102203803924490,
    "amount": 982570.04,
    "state": "NEW",
    "ship": {"country": "DE", "next": {"country": "FR", "next": None}},
    "lines": [{"sku": "s0", "n": 871414092}, {"sku": "s1", "n": -1299824072}],
    "tags": {"k0": "x", "k1": "x", "k2": -327979596.5366765, "k3": 168856054.16426396},
    "mac": b64encode(bytes.fromhex("22fc7e")).decode(),
    "ok": False,
    "f": 16.5,
    "again": "NEW",
}

ORDER_SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "order_id", "type": "string"},
        {"name": "created_us", "type": "long"},
        {"name": "email", "type": "string"},
        {"name": "user_id", "type": "long"},
        {"name": "amount", "type": "double"},
        {
            "name": "ship",
            "type": {"type": "record", "name": "Ship", "fields": [{"name": "country", "type": "string"}]},
        },
        {
            "name": "model",
            "type": {
                "type": "record",
                "name": "Model",
                "fields": [{"name": "version", "type": "string"}, {"name": "score", "type": "double"}],
            },
        },
    ],
}


def test_bytes_that_another_implementation_wrote() -> None:
    assert compile_schema(GOLDEN)(GOLDEN_BYTES) == GOLDEN_VALUE


@pytest.mark.parametrize("cut", range(1, len(GOLDEN_BYTES), 7))
def test_a_record_that_is_cut_off_or_too_long_is_refused(cut: int) -> None:
    read = compile_schema(GOLDEN)
    with pytest.raises(BadAvro):
        read(GOLDEN_BYTES[:-cut])
    with pytest.raises(BadAvro, match="left after"):
        read(GOLDEN_BYTES + b"\x00" * cut)


@given(st.binary(max_size=80))
def test_any_bytes_give_a_value_or_the_one_error(body: bytes) -> None:
    read, said = compile_schema(GOLDEN), ""
    try:
        read(body)
    except BadAvro as error:
        said = str(error)
    assert "\\x" not in said


shapes = st.recursive(
    st.sampled_from(["null", "boolean", "long", "double", "string"]),
    lambda inner: st.one_of(
        st.builds(lambda one: {"type": "array", "items": one}, inner),
        st.builds(lambda one: {"type": "map", "values": one}, inner),
        st.builds(
            lambda types: {
                "type": "record",
                "name": "r",
                "fields": [{"name": f"f{number}", "type": one} for number, one in enumerate(types)],
            },
            st.lists(inner, max_size=3),
        ),
        st.just(["null", "long", "string"]),
    ),
    max_leaves=6,
)


def values(schema: Any) -> st.SearchStrategy[Any]:
    """Generate values of a schema."""
    if isinstance(schema, list):
        return st.one_of(*map(values, schema))
    kind = schema["type"] if isinstance(schema, dict) else schema
    if kind == "record":
        return st.fixed_dictionaries({one["name"]: values(one["type"]) for one in schema["fields"]})
    if kind == "array":
        return st.lists(values(schema["items"]), max_size=4)
    if kind == "map":
        return st.dictionaries(st.text(max_size=3), values(schema["values"]), max_size=3)
    plain: dict[str, st.SearchStrategy[Any]] = {
        "null": st.none(),
        "boolean": st.booleans(),
        "long": st.integers(-(2**63), 2**63 - 1),
        "double": st.floats(allow_nan=False),
        "string": st.text(max_size=5),
    }
    return plain[kind]


@given(st.data())
def test_what_the_plain_writer_writes_is_read(data: st.DataObject) -> None:
    schema = data.draw(shapes)
    value = data.draw(values(schema))
    assert compile_schema(schema)(write(schema, value)) == value


@pytest.mark.parametrize(
    "schema",
    [
        5,
        None,
        {},
        {"type": "record"},
        {"type": "enum", "name": "e"},
        {"type": "fixed", "name": "f"},
        "shop.Missing",
        {"type": "array"},
    ],
    ids=str,
)
def test_schemas_that_are_none(schema: Any) -> None:
    with pytest.raises(BadAvro):
        compile_schema(schema)


def test_a_decimal_of_thousands_of_digits_is_refused() -> None:
    decimal = compile_schema({"type": "bytes", "logicalType": "decimal", "precision": 9_999, "scale": 0})
    assert decimal(b"\x10\x7f" + b"\xff" * 7) == 2**63 - 1
    with pytest.raises(BadAvro, match="beyond a double"):
        decimal(b"\x88\x27" + b"\x7f" * 2_500)


def test_billions_of_nothing_take_no_memory() -> None:
    with pytest.raises(BadAvro, match="more than"):
        compile_schema({"type": "array", "items": "null"})(b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01")
    loop = {"type": "record", "name": "r", "fields": [{"name": "a", "type": "r"}]}
    with pytest.raises(BadAvro, match="nested too deeply"):
        compile_schema(loop)(b"")


def test_the_registry_is_asked_once_and_follows_references() -> None:
    address = {"type": "record", "name": "shop.Address", "fields": [{"name": "country", "type": "string"}]}
    outer = {"type": "record", "name": "shop.Order", "fields": [{"name": "ship", "type": "shop.Address"}]}
    reference = {"name": "shop.Address", "subject": "address", "version": 2}
    with registry(auth="user:pass:word") as server:
        server.schemas[7] = {"schema": json.dumps(outer), "references": [reference]}
        server.schemas[8] = {"schema": "syntax = proto3", "schemaType": "PROTOBUF"}
        server.schemas[9] = {"schema": "{"}
        server.subjects["address", 2] = {"schema": json.dumps(address), "id": 3}
        schemas = Registry(server.url, "user:pass:word")
        for _ in range(3):
            assert schemas.reader(7)(b"\x04DE") == {"ship": {"country": "DE"}}
        assert server.asked == ["/schemas/ids/7", "/subjects/address/versions/2"]
        for number, said in ((1, "has no"), (8, "PROTOBUF"), (9, "cannot be used")):
            with pytest.raises(UnknownSchema, match=said):
                schemas.reader(number)
        with pytest.raises(Unanswered, match="401"):
            Registry(server.url, "user:wrong").reader(7)
        for server.status in (400, 422):
            with pytest.raises(UnknownSchema, match="has no"):
                Registry(server.url, "user:pass:word").reader(2**32 - 1)
        server.status = 503
        with pytest.raises(Unanswered, match="503"):
            Registry(server.url, "user:pass:word").reader(7)
    with pytest.raises(Unanswered, match="does not answer"):
        Registry(server.url).reader(7)


def test_debezium_in_avro() -> None:
    change = {
        "type": "record",
        "name": "Envelope",
        "fields": [
            {
                "name": "before",
                "type": ["null", {"type": "record", "name": "V", "fields": [{"name": "id", "type": "long"}]}],
            },
            {"name": "after", "type": ["null", "V"]},
            {"name": "op", "type": "string"},
            {"name": "ts_ms", "type": ["null", "long"]},
        ],
    }
    with registry() as server:
        server.schemas[1] = {"schema": json.dumps(change)}
        form = Avro(registry=server.url, debezium=True)
        deleted = form.read(frame(1, b"\x02\x54" + b"\x00" + b"\x02d" + b"\x02\x0a"))
        assert (deleted.document, deleted.about["op"]) == ({"id": 42}, "d")
        with pytest.raises(Unreadable, match="first byte"):
            form.read(b'{"op": "c"}')


def avro_orders(topic: str, url: str) -> dict[str, Any]:
    return {
        **ORDERS,
        "source": {"kind": "kafka", "topic": topic, "start": "earliest", "format": {"kind": "avro", "registry": url}},
    }


@pytest.mark.kafka
def test_avro_orders_wait_for_their_registry_and_come_once(
    on_kafka: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    topic = make_topic(on_kafka, f"shop-{uuid.uuid4().hex[:8]}")
    producer = Producer({"bootstrap.servers": on_kafka.kafka.bootstrap})
    for number in range(50):
        producer.produce(topic, frame(7 if number else 6, write(ORDER_SCHEMA, order(number))), b"k%d" % number)
    assert producer.flush(30) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mapping = loaded(tmp_path, avro_orders(topic, f"http://127.0.0.1:{port}"))
    with pytest.raises(WeirError, match="does not answer"):
        attempt(on_kafka, mapping, topic=None, file=None, last=5, as_json=True)
    with taking(on_kafka, mapping) as intake:
        until(lambda: intake._positions and not intake.progress.ready, "waiting for the registry")
        assert events(on_kafka, "predictions") == []
        with registry(port) as server:
            server.schemas[7] = {"schema": json.dumps(ORDER_SCHEMA)}
            until(lambda: len(events(on_kafka, "predictions")) == 49, "the orders")
            until(lambda: letters(on_kafka), "the one whose schema nobody knows")
            assert intake.progress.ready
            capsys.readouterr()
            assert attempt(on_kafka, mapping, topic=None, file=None, last=200, as_json=True) == 1
    assert {one["request_id"] for one in events(on_kafka, "predictions")} == {f"o-{n:06d}" for n in range(1, 50)}
    (letter,) = letters(on_kafka)
    assert (letter.reason, letter.value) == ("unreadable", None)
    assert "/schemas/ids/6" in letter.detail
