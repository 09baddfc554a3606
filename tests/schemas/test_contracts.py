"""The written contracts equal the classes, and both decoders accept and refuse the same things."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from schemas import edge, generate
from schemas.event import decode, encode
from schemas.inputs import Label, Prediction, Signal
from schemas.policy import JoinPolicy
from schemas.settings import Settings, origins


@pytest.mark.parametrize("name", generate.EVENTS | generate.FILES)
def test_golden_schema_equals_the_class(name: str) -> None:
    golden = (generate.FOLDER / f"{name}.schema.json").read_text(encoding="utf-8")
    fresh = generate.render((generate.EVENTS | generate.FILES)[name])
    problems = generate.breaking(json.loads(golden), json.loads(fresh))
    assert not problems, f"not additive; a breaking change is a new type and a new topic: {problems}"
    assert golden == fresh, "additive change: run `make schemas` and commit the result"
    Draft202012Validator.check_schema(json.loads(golden))


def test_breaking_names_each_kind_of_change() -> None:
    old = generate.schema(Label)
    changes: list[tuple[Callable[[Any], object], str]] = [
        (lambda s: s["$defs"]["Label"]["properties"].pop("source"), "removed"),
        (lambda s: s["$defs"]["Label"]["required"].append("source"), "became required"),
        (lambda s: s["$defs"]["Label"]["properties"]["source"].update(type="integer"), "changed its type"),
        (lambda s: s["$defs"]["Label"]["properties"]["op"].update(enum=["assert"]), "lost the value"),
        (lambda s: s["$defs"]["Label"]["properties"]["request_id"].update(maxLength=64), "narrowed"),
    ]
    for mutate, expected in changes:
        new = json.loads(json.dumps(old))
        mutate(new)
        assert any(expected in problem for problem in generate.breaking(old, new)), expected
    grown = json.loads(json.dumps(old))
    grown["$defs"]["Label"]["properties"]["extra"] = {"type": "string"}
    assert generate.breaking(old, grown) == []


VECTORS: list[tuple[type[msgspec.Struct], dict[str, object], bool]] = [
    (Prediction, {"request_id": "r", "at_ms": 1, "model": "m", "score": 0.5, "features": {"a": 1, "b": "x"}}, True),
    (Prediction, {"request_id": "r", "at_ms": 1, "model": "m", "unknown": 1}, True),
    (Prediction, {"request_id": "", "at_ms": 1, "model": "m"}, False),
    (Prediction, {"request_id": "r" * 129, "at_ms": 1, "model": "m"}, False),
    (Prediction, {"at_ms": 1, "model": "m"}, False),
    (Prediction, {"request_id": "r", "at_ms": -1, "model": "m"}, False),
    (Prediction, {"request_id": "r", "at_ms": 1, "model": "m", "propensity": 1.5}, False),
    (Label, {"request_id": "r", "at_ms": 1, "label": [1, "a"], "name": "x"}, True),
    (Label, {"request_id": "r", "at_ms": 1, "label": 1, "op": "delete"}, False),
    (Signal, {"request_id": "r", "at_ms": 1, "signal": "click"}, True),
    (Signal, {"request_id": "r", "at_ms": 1}, False),
    (JoinPolicy, {"model": "m", "horizon_ms": 5}, True),
    (JoinPolicy, {"model": "m", "horizen_ms": 5}, False),
]


@pytest.mark.parametrize(("kind", "body", "valid"), VECTORS)
def test_both_decoders_agree(kind: type[msgspec.Struct], body: dict[str, object], valid: bool) -> None:
    text = json.dumps(body)
    twin = edge.model(kind)
    if valid:
        event = decode(text, kind)
        assert decode(encode(event), kind) == event
        dumped = twin.model_validate_json(text).model_dump(mode="json", exclude_none=True)
        assert msgspec.convert({k: v for k, v in dumped.items() if v != {}}, kind, strict=False) == event
    else:
        with pytest.raises(msgspec.DecodeError):
            decode(text, kind)
        with pytest.raises(ValidationError):
            twin.model_validate_json(text)


def test_an_asserted_label_needs_a_value_and_a_retraction_does_not() -> None:
    with pytest.raises(msgspec.ValidationError, match="asserted label needs"):
        decode(b'{"request_id": "r", "at_ms": 1}', Label)
    assert decode(b'{"request_id": "r", "at_ms": 1, "op": "retract"}', Label).op == "retract"


def test_equal_events_have_equal_bytes() -> None:
    left = decode(b'{"at_ms": 1, "request_id": "r", "model": "m", "features": {"b": 1, "a": 2}}', Prediction)
    right = decode(b'{"request_id":"r","model":"m","features":{"a":2,"b":1},"at_ms":1,"role":"primary"}', Prediction)
    assert encode(left) == encode(right)
    plain = decode(b'{"request_id": "r", "at_ms": 1, "label": 1}', Label)
    spelt = decode(
        b'{"request_id": "r", "at_ms": 1, "label": 1, "name": "label", "source": "", "confidence": 1.0}',
        Label,
    )
    assert encode(plain) == encode(spelt)


def test_settings_say_where_each_value_came_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "weir.toml"
    path.write_text('namespace = "team"\n[kafka]\nbootstrap = "a:1"\n')
    monkeypatch.setenv("WEIR_CONFIG", str(path))
    monkeypatch.setenv("WEIR_KAFKA__BOOTSTRAP", "b:2")
    settings = Settings(partitions=8)
    found = origins(settings, {"partitions": 8})
    assert settings.kafka.bootstrap == "b:2"
    assert found["kafka.bootstrap"] == ("b:2", "environment WEIR_KAFKA__BOOTSTRAP")
    assert found["namespace"] == ("team", f"file {path}")
    assert found["partitions"] == ("8", "flag")
    assert found["clickhouse.port"] == ("8123", "default")
    assert "secret" not in found["clickhouse.password"][0]


def test_secrets_among_kafkas_properties_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIR_KAFKA__PROPERTIES", '{"sasl.password": "hunter2", "security.protocol": "SASL_SSL"}')
    found = origins(Settings())
    origin = "environment WEIR_KAFKA__PROPERTIES"
    assert found["kafka.properties.sasl.password"] == ("**********", origin)
    assert found["kafka.properties.security.protocol"] == ("SASL_SSL", origin)
