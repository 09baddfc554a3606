"""Columns of an event: derived from its class, so that a field added there is a column here.

| field | column |
|---|---|
| string, integer, number, boolean, literal | the same name; nullable where the field is |
| `LabelValue` (`label`, `prediction`) | `label` Nullable(Float64): a number, or 1 and 0 for true and false; `label_json`: its JSON text, empty when null |
| number or list of numbers (`score`) | `score` Nullable(Float64) and `scores` Array(Float64) |
| {name: scalar} (`features`) | `features` Map(name, Float64): the numbers; `features_text` Map(name, String): strings and booleans; null in neither |
| `slices` | Map(name, String), the text as `streams.measure` reads it |
| {name: number or string}, list of either | Map, Array |
| one nested event (`was`, `evidence`) | its columns, prefixed: `was_label` |
| list of nested events | none: `body` has them, and JSON functions read them |
"""  # noqa: E501 (a table)

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import msgspec
import pyarrow as pa
from msgspec import UNSET, inspect

from streams.measure.reading import text

Getter = Callable[[Any], Any]

# Few values, often repeated or asked for: kept as dictionaries.
REPEATED = frozenset(
    {
        "model",
        "version",
        "deployment",
        "role",
        "app_version",
        "name",
        "source",
        "signal",
        "op",
        "status",
        "label_kind",
        "policy",
        "stage",
        "reason",
        "source_topic",
        "metric",
        "estimator",
        "detector",
        "stream",
        "layer",
        "arm",
        "slice",
        "processor",
        "endpoint",
        "server",
        "rule",
        "severity",
        "framework",
        "decision",
        "base_version",
        "kind",
        "gate",
        "reference",
    }
)

_NUMBERS, _WORDS = (float, int), (str, bool)


@dataclass(frozen=True, slots=True)
class Column:
    """A column: ClickHouse's type, Arrow's, how an event gives its value, and the value where there is no event."""

    name: str
    type: str
    arrow: pa.DataType
    get: Getter
    empty: Any = None


def columns_of(
    struct: type[msgspec.Struct], *, omit: Iterable[str] = (), rename: Mapping[str, str] | None = None
) -> list[Column]:
    """Derive the columns of an event's class. `omit` and `rename` name its fields."""
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    left_out, renamed = {"v", *omit}, rename or {}
    found: list[Column] = []
    for field in info.fields:
        if field.name not in left_out:
            found += _of_field(renamed.get(field.name, field.name), field.type, attrgetter(field.name))
    return found


def _of_field(name: str, hint: inspect.Type, get: Getter) -> list[Column]:
    hint = _bare(hint)
    kinds = [_bare(kind) for kind in hint.types] if isinstance(hint, inspect.UnionType) else [hint]
    optional = any(isinstance(kind, inspect.NoneType) for kind in kinds)
    kinds = [kind for kind in kinds if not isinstance(kind, inspect.NoneType)]
    kinds = [kind for kind in kinds if getattr(kind, "cls", None) is not msgspec.UnsetType]
    if len(kinds) > 1:
        return _of_union(name, kinds, get)
    kind = kinds[0]
    if isinstance(kind, inspect.StructType):
        return _of_nested(name, kind, get)
    if isinstance(kind, inspect.DictType):
        return _of_map(name, kind, get)
    if isinstance(kind, inspect.ListType):
        return _of_list(name, kind, get)
    plain = _plain(name, kind)
    if plain is None:
        return []
    written, arrow, empty = plain
    if optional:
        kept = written.removeprefix("LowCardinality(").removesuffix(")") if "Low" in written else written
        written = f"LowCardinality(Nullable({kept}))" if "Low" in plain[0] else f"Nullable({kept})"
        return [Column(name, written, arrow, get, None)]
    return [Column(name, written, arrow, get, empty)]


def _bare(kind: inspect.Type) -> inspect.Type:
    """Take a type out of its description."""
    return _bare(kind.type) if isinstance(kind, inspect.Metadata) else kind


def _plain(name: str, kind: inspect.Type) -> tuple[str, pa.DataType, Any] | None:
    kind = _bare(kind)
    if isinstance(kind, inspect.LiteralType):
        return "LowCardinality(String)", pa.string(), ""
    if isinstance(kind, inspect.StrType):
        last = name.removeprefix("was_").removeprefix("evidence_")
        return ("LowCardinality(String)" if last in REPEATED else "String"), pa.string(), ""
    if isinstance(kind, inspect.BoolType):
        return "Bool", pa.bool_(), False
    if isinstance(kind, inspect.IntType):
        return "Int64", pa.int64(), 0
    if isinstance(kind, inspect.FloatType):
        return "Float64", pa.float64(), 0.0
    return None


def _of_union(name: str, kinds: list[inspect.Type], get: Getter) -> list[Column]:
    if any(isinstance(kind, inspect.StrType) for kind in kinds):  # LabelValue
        return [
            Column(name, "Nullable(Float64)", pa.float64(), lambda event: number(get(event))),
            Column(f"{name}_json", "String", pa.string(), lambda event: as_json(get(event)), ""),
        ]
    return [  # a number, or one per class
        Column(name, "Nullable(Float64)", pa.float64(), lambda event: number(get(event))),
        Column(f"{name}s", "Array(Float64)", pa.list_(pa.float64()), lambda event: _listed(get(event)), []),
    ]


def _of_nested(name: str, kind: inspect.StructType, get: Getter) -> list[Column]:
    """Give the columns of a nested event. Without one they hold what they hold in an unreadable row."""
    found = []
    for inner in columns_of(kind.cls):

        def reach(event: Any, inner: Column = inner) -> Any:
            nested = get(event)
            return inner.empty if nested is None or nested is UNSET else inner.get(nested)

        found.append(Column(f"{name}_{inner.name}", inner.type, inner.arrow, reach, inner.empty))
    return found


def _of_map(name: str, kind: inspect.DictType, get: Getter) -> list[Column]:
    if isinstance(_bare(kind.value_type), inspect.UnionType):
        if name.endswith("slices"):
            return [_map(name, "String", pa.string(), lambda event: _texts(get(event)))]
        return [
            _map(name, "Float64", pa.float64(), lambda event: _numbers(get(event))),
            _map(f"{name}_text", "String", pa.string(), lambda event: _words(get(event))),
        ]
    plain = _plain("", kind.value_type)
    return [_map(name, plain[0], plain[1], lambda event: get(event) or {})] if plain else []


def _map(name: str, written: str, arrow: pa.DataType, get: Getter) -> Column:
    return Column(name, f"Map(LowCardinality(String), {written})", pa.map_(pa.string(), arrow), get, {})


def _of_list(name: str, kind: inspect.ListType, get: Getter) -> list[Column]:
    plain = _plain("", kind.item_type)
    if plain is None:
        return []
    written, arrow = ("Float32", pa.float32()) if name == "embedding" else plain[:2]
    return [Column(name, f"Array({written})", pa.list_(arrow), lambda event: get(event) or [], [])]


def number(value: Any) -> float | None:
    """Read a label's value as a number; None for a string, a list, nothing, or an integer that no double comes near.

    >>> [number(value) for value in (3, 0.5, True, "1", [1.0], None, 10**400)]
    [3.0, 0.5, 1.0, None, None, None, None]
    """
    try:
        return float(value) if isinstance(value, int | float) else None
    except OverflowError:
        return None


def as_json(value: Any) -> str:
    """Give a label's value as JSON text; empty when there is none.

    >>> [as_json(value) for value in (1, True, "1", None)]
    ['1', 'true', '"1"', '']
    """
    return "" if value is None or value is UNSET else msgspec.json.encode(value).decode()


def _listed(value: Any) -> list[float]:
    return value if isinstance(value, list) else []


def _texts(values: Mapping[str, Any] | None) -> dict[str, str]:
    return {name: text(value) for name, value in values.items()} if values else {}


def _numbers(values: Mapping[str, Any] | None) -> dict[str, float]:
    found = ((k, number(v)) for k, v in values.items() if type(v) in _NUMBERS) if values else ()
    return {k: v for k, v in found if v is not None}


def _words(values: Mapping[str, Any] | None) -> dict[str, str]:
    return {k: v if type(v) is str else text(v) for k, v in values.items() if type(v) in _WORDS} if values else {}
