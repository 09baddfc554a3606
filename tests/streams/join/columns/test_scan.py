"""What `scan` and `take` accept, the decoders accept, with the same values; and what is ordinary, they do accept."""

from __future__ import annotations

import json
import os
from random import Random
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from streams.join.admission import DECODERS, Admitted, JoinBounds, admit
from streams.join.columns import layout as l
from streams.join.columns import scan as s
from streams.join.columns.lane import TOPICS, Columns
from streams.join.columns.memory import FIELDS
from streams.join.columns.scan import scan, utf8
from streams.join.policies import DEFAULT
from streams.runtime.native import address
from streams.runtime.records import Records

ROUNDS = int(os.environ.get("WEIR_SCAN_ROUNDS", "2500"))
BOUNDS = JoinBounds(
    skew_ms=1_000, early_label_ms=1_000, grace_ms=1_000, partitions=1, max_event_bytes=100_000, virtual=False
)
FIELDS_OF = {
    "predictions": FIELDS[l.FIELDS_PREDICTION],
    "labels": FIELDS[l.FIELDS_LABEL],
    "signals": FIELDS[l.FIELDS_SIGNAL],
}
AT_MS = 1_700_000_000_000

ORDINARY: dict[str, tuple[str, ...]] = {
    "predictions": (
        '{"request_id":"r","at_ms":1700000000000,"model":"m"}',
        ' { "model" : "m" , "at_ms" : 1700000000000 ,\r\n\t"request_id" : "r" } \n',
        '{"request_id":"ré😀","at_ms":1700000000000,"model":"größe","version":"","deployment":"c","role":"primary"}',
        '{"request_id":"r","at_ms":1700000000000,"model":"m","role":"shadow","app_version":"1","score":0.25,'
        '"prediction":"sp\\u0061m\\n","outputs":null,"items":null,"features":{"a":1,"b":null,"c":"x\\"y","d":true},'
        '"embedding":[0.5,-1,2e-3],"slices":{"country":"DE","new":false},"subject":"u\\u00e9","experiments":{"a":"b"},'
        '"action":"show","propensity":0.5,"threshold":-1.5E+3,"latency_ms":12.5,"event_id":"e1"}',
        '{"request_id":"r","at_ms":1700000000000,"model":"m","score":1,"prediction":null,"threshold":null,'
        '"latency_ms":null,"propensity":null,"action":null,"embedding":null,"features":{},"slices":{},"experiments":{}}',
        '{"request_id":"r","at_ms":1700000000000,"model":"m","unknown":{"a":[1,{"b":[[],{}]},"]}"],"c":{"d":null}},"x":[]}',
        '{"request_id":"r","at_ms":1700000000000,"model":"m","propensity":1,"prediction":-3}',
        '{"request_id":"r","at_ms":1700000000000,"model":"m","prediction":123456789012345678,"propensity":1.0}',
    ),
    "labels": (
        '{"request_id":"r","at_ms":1700000000000,"label":1}',
        '{"request_id":"r","at_ms":0,"label":"späm"}',
        '{"request_id":"r","at_ms":1700000000000,"label":true,"name":"clicked","model":null,"item":null,"source":"h",'
        '"confidence":0.75,"op":"assert","event_id":"e"}',
        '{"request_id":"r","at_ms":1700000000000,"op":"retract","model":"m"}',
        '{"request_id":"r","at_ms":1700000000000,"label":-0.5e-7,"confidence":1.0}',
        '{"request_id":"r","at_ms":1700000000000,"label":"a \\"b\\" \\\\ \\/ \\b\\f\\n\\r\\t \\u20AC","x":"\\u00ff"}',
    ),
    "signals": (
        '{"request_id":"r","at_ms":1700000000000,"signal":"click"}',
        '{"request_id":"r","at_ms":1700000000000,"signal":"dwell","value":-12.5,"model":"m","item":null,"event_id":"e"}',
        '{"request_id":"r","at_ms":1700000000000,"signal":"dwell","value":null,"model":null}',
        '{"request_id":"r","at_ms":1700000000000,"signal":"dwell","value":0}',
    ),
}


def scanned(topic: str, value: bytes) -> dict[str, tuple[int, bytes]] | None:
    """Give the type and the text of each field that is there; None when `scan` is in doubt."""
    fields = FIELDS_OF[topic]
    body = np.frombuffer(value + b'"}],:0' + bytes(10), dtype=np.uint8)  # what lies behind must not matter
    spans = np.zeros(32 * s.SPAN // 8, dtype=np.int64)
    start = address(body)
    if not scan(start, start + len(value), fields.address, len(fields.names), address(spans)):
        return None
    found = {}
    for index, name in enumerate(fields.names):
        begin, end, kind, _ = spans[index * 4 : index * 4 + 4].tolist()
        if kind != s.ABSENT:
            found[name] = kind, value[begin - start : end - start]
    return found


def kind_of(value: Any) -> set[int]:
    if value is None or isinstance(value, bool):
        return {s.NULL if value is None else s.TRUE if value else s.FALSE}
    if isinstance(value, str):
        return {s.STRING, s.ESCAPED}
    if isinstance(value, int | float):
        return {s.INTEGER, s.FLOAT}
    if isinstance(value, dict):
        if all(isinstance(one, str) for one in value.values()):
            return {s.STRINGS, s.SCALARS, s.OTHER}  # a name that is repeated may hide another type
        scalars = not any(isinstance(one, dict | list) for one in value.values())
        return {s.SCALARS, s.OTHER} if scalars else {s.OTHER}
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in value)
    return {s.NUMBERS} if numbers else {s.OTHER}


def assert_scanned(topic: str, value: bytes) -> bool:
    """Hold what `scan` found against the untyped decoder."""
    found = scanned(topic, value)
    if found is None:
        return False
    value.decode()
    tree = msgspec.json.decode(value)
    assert set(found) == set(tree) & set(FIELDS_OF[topic].names)
    for name, (kind, text) in found.items():
        assert kind in kind_of(tree[name]), (name, kind, tree[name])
        quoted = b'"' + text + b'"' if kind in (s.STRING, s.ESCAPED) else text
        assert msgspec.json.decode(quoted) == tree[name]
        assert (kind == s.STRING) <= (b"\\" not in text)
    return True


@pytest.fixture(scope="module", params=[False, True], ids=["alone", "chained"])
def columns(request: pytest.FixtureRequest) -> Columns:
    return Columns(0, BOUNDS, chained=request.param)


def assert_taken(columns: Columns, topic: str, value: bytes, key: bytes | None = b"r") -> bool:
    """Hold what `take` kept against admission: the same event, hashes and times. Leaves the columns empty."""
    append_ms = AT_MS + 500
    records = Records([7], [append_ms], [key], [value])
    columns.begin(0, 0)
    told, left = columns.take(topic, records)
    assert not told.blocks
    if left:
        assert left == [0]
        return False
    (record,) = admit(topic, 0, records, BOUNDS, lambda model, at_ms: DEFAULT, 0).records
    assert isinstance(record, Admitted), record
    event = record.event
    position = columns.find(event.request_id)
    assert position >= 0
    lifted = columns.lift(position)
    columns.forget(event.request_id)
    assert lifted.request_id == event.request_id
    if topic == "predictions":
        (case,) = lifted.request.cases
        held: Any = case.standing
        event = replace(event, event_id="", embedding=None)
        if not columns.chained:
            event = replace(event, features={}, latency_ms=None)
        assert case.identity == (event.model, event.deployment)
        assert repr(held.event) == repr(event), "types of numbers differ too"
    else:
        (held,) = (lifted.request.labels or lifted.request.signals or {}).values()
        assert held.event == event
        assert held.raw == (event.request_id.encode(), value, ())
        assert held.offset == 7
    assert (held.key, held.content, held.append_ms) == (record.key, record.content, record.append_ms)
    return True


@pytest.mark.parametrize("topic", TOPICS)
def test_ordinary_events_are_taken(columns: Columns, topic: str) -> None:
    for text in ORDINARY[topic]:
        value = text.encode()
        assert assert_scanned(topic, value), text
        key = json.loads(text)["request_id"].encode()
        kept = assert_taken(columns, topic, value, key)
        assert kept or (columns.chained and b'"embedding":[' in value), text


FRAGMENTS = (
    b"null", b"true", b"false", b"0", b"-0", b"1.0", b"01", b"1.", b".5", b"-", b"+1", b"1e5", b"1E+05", b"1e",
    b"1e999", b"NaN", b"Infinity", b"tru", b"nul", b"9" * 18, b"9" * 19, b"9" * 30, b"0." + b"1" * 41, b"[]", b"{}",
    b"[1,2]", b"[1,]", b"[,]", b'{"a":1,}', b'{"a"}', b'{"a":{"b":[]}}', b'{"a":"b","a":1}', b'""', b'"x"',
    b'"\\u0041"', b'"\\ud83d\\ude00"', b'"\\ud800"', b'"\\x"', b'"\\', b'"\x01"', b'"\x7f"', b'"\xc3\xa9"', b'"\xc3"',
    b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b'"', b"y" * 129, b'"', b'"', b"z" * 5, b'"', b"[" * 70 + b"]" * 70,
    b"//x\n1", b"\xef\xbb\xbf1", b"1700000000000", b"1700000001501", b"1.7e12", b'"retract"', b'"assert"',
    b'"shadow"', b'"primary"', b'"retracT"', b"0.5", b"1.00", b"1.5", b"-0.5", b'"1"', b"1e-5", b"[1]", b'["a"]',
    b"[null]", b" 1 ", b"\t\n1\r",
)  # fmt: skip


def fuzzed(random: Random, topic: str) -> bytes:
    """Spoil an ordinary event: other values, repeated and unknown names, other bytes."""
    body = random.choice(ORDINARY[topic]).encode()
    for _ in range(random.choice((1, 1, 2, 3))):
        draw = random.random()
        place, end = sorted(random.randrange(len(body) + 1) for _ in range(2))
        if draw < 0.35:
            name = random.choice((*FIELDS_OF[topic].names, "unknown", "", "request\\u005fid", "mödel")).encode()
            pair = b'"' + name + b'":' + random.choice(FRAGMENTS)
            if random.random() < 0.5:
                body = body.rstrip()[:-1] + b"," + pair + b"}"
            else:
                body = b"{" + pair + b"," + body.lstrip()[1:]
        elif draw < 0.7:
            tree = _tree(body) or json.loads(ORDINARY[topic][0])
            name_ = random.choice([*tree, random.choice(FIELDS_OF[topic].names)])
            texts = {one: json.dumps(value).encode() for one, value in tree.items()} | {name_: random.choice(FRAGMENTS)}
            pairs = [json.dumps(one).encode() + b":" + text for one, text in texts.items()]
            body = b"{" + random.choice((b",", b", ", b" ,\n")).join(pairs) + b"}"
        elif draw < 0.85:
            odd = random.choice(b'\x00\t "\x7f,0:\\[]{}\x80\xc3\xff')
            body = body[:place] + bytes([odd]) + body[place + 1 :]
        else:
            body = random.choice((body[:place], body[:place] + body[end:], body[:end] + body[place:]))
    return body


def _tree(body: bytes) -> dict[str, Any]:
    try:
        tree = json.loads(body)
    except ValueError:
        return {}
    return tree if isinstance(tree, dict) else {}


@pytest.mark.parametrize("topic", TOPICS)
def test_spoilt_events_are_accepted_only_with_their_values(columns: Columns, topic: str) -> None:
    scans = kept = 0
    for seed in range(ROUNDS):
        random = Random(seed)
        value = fuzzed(random, topic)
        try:
            scans += assert_scanned(topic, value)
            kept += assert_taken(columns, topic, value, random.choice((b"r", b"r", None, b"s")))
        except Exception as error:
            error.add_note(f"seed {seed}: {value[:2_000]!r}")
            raise
    assert scans > ROUNDS // 5
    assert kept > ROUNDS // 50
    assert len(columns) == 0


trees = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)
names = st.sampled_from([*FIELDS_OF["predictions"].names, *FIELDS_OF["labels"].names, *FIELDS_OF["signals"].names])


@given(
    topic=st.sampled_from(TOPICS),
    fields=st.dictionaries(names | st.text(max_size=6), trees, max_size=5),
    ascii_only=st.booleans(),
    spaces=st.booleans(),
)
@example(topic="labels", fields={"label": float("nan")}, ascii_only=True, spaces=False)
def test_any_tree_is_read_as_it_is(topic: str, fields: dict[str, Any], ascii_only: bool, spaces: bool) -> None:
    value = json.dumps(
        json.loads(ORDINARY[topic][0]) | fields,
        ensure_ascii=ascii_only,
        separators=(" , ", " : ") if spaces else (",", ":"),
    )
    assert_scanned(topic, value.encode(errors="surrogatepass"))


def assert_utf8(body: bytes) -> None:
    kept = np.frombuffer(body + b"\x80" * 16, dtype=np.uint8)
    try:
        body.decode()
        wanted = True
    except UnicodeDecodeError:
        wanted = False
    assert utf8(address(kept), address(kept) + len(body)) is wanted, body


@given(st.binary(max_size=12), st.sampled_from([b"", b"\xc3\xa9", b"\xe2\x82\xac", b"\xf0\x9f\x98\x80", b"a" * 9]))
def test_utf8_is_pythons(body: bytes, before: bytes) -> None:
    assert_utf8(before + body)


def test_utf8_of_every_first_byte() -> None:
    for first in range(0x80, 0x100):
        for second in (0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0):
            for rest in (b"", b"\x80", b"\x80\x80", b"\xbf\xbf", b"\x7f\x80", b"\x80\xc0"):
                assert_utf8(bytes([first, second]) + rest)


def test_no_record_at_all() -> None:
    columns = Columns(0, BOUNDS, chained=False)
    columns.begin(0, 0)
    assert columns.take("labels", Records())[1] == []
    assert columns.take("labels", Records([1], [1], [b"r"], [None]))[1] == [0]
    assert columns.take("labels", Records([1], [1], [b"r"], [b""]))[1] == [0]
    assert DECODERS.keys() >= set(TOPICS)
