"""Which column is what, where nobody said: by its name. What is guessed is told, and becomes an ordinary mapping.

Columns that are nothing else are features, if they hold numbers, texts or booleans; others are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping as Table
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pyarrow as pa

from schemas.errors import USAGE, WeirError
from schemas.mapping import Mapping

NAMES: Final[dict[str, tuple[str, ...]]] = {
    "request_id": ("request_id", "prediction_id", "id", "uuid", "event_id", "row_id", "identifier"),
    "at": ("at_ms", "timestamp", "ts", "time", "at", "datetime", "event_time", "predicted_at", "created_at", "date"),
    "score": ("score", "y_score", "probability", "proba", "y_pred_proba", "predicted_probability", "p"),
    "prediction": ("prediction", "y_pred", "predicted", "predicted_label"),
    "label": ("label", "y_true", "target", "outcome", "actual", "ground_truth", "y"),
    "label_at": ("label_at", "labelled_at", "labeled_at", "label_time"),
    "version": ("version", "model_version"),
    "subject": ("subject", "user_id", "customer_id", "account_id"),
    "latency": ("latency_ms",),
}
"""By role: the names that mean it, the likeliest first, as `normal` gives them."""
_LABELS_AT: Final = (*NAMES["label_at"], *NAMES["at"])


@dataclass(frozen=True, slots=True)
class Roles:
    """By role: the column. `features` are the columns that are nothing else, `left_out` what no feature can be."""

    said: Table[str, str]
    features: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    units: Table[str, str] = field(default_factory=dict)

    def of(self, role: str) -> str | None:
        """Give the column of a role."""
        return self.said.get(role)

    @property
    def sentence(self) -> str:
        """Say what is read as what."""
        return ", ".join(f"{role} = {column}" for role, column in self.said.items())


def roles(schema: pa.Schema, given: Table[str, str], without: Sequence[str], *, labels: bool = False) -> Roles:
    """Give each column its role; `given` is what somebody said. In a table of `labels` `at` is the label's time.

    Raises `WeirError` (usage) for a column that is not there.
    """
    for role, column in given.items():
        if column not in schema.names:
            raise WeirError(
                f"there is no column {column!r} for {role}; there are {', '.join(schema.names[:30])}",
                fix="name a column as it stands in the table",
                code=USAGE,
            )
    plain = {normal(name): name for name in reversed(schema.names)}
    known = NAMES
    if labels:
        known = {"request_id": NAMES["request_id"], "label": NAMES["label"], "label_at": _LABELS_AT}
    said = {role: given[role] for role in known if role in given}
    for role, names in known.items():
        taken = {*said.values(), *without}
        found = next((plain[name] for name in names if name in plain and plain[name] not in taken), None)
        if role not in said and found is not None:
            said[role] = found
    said = {role: said[role] for role in known if role in said}
    features, left_out = [], []
    for name in () if labels else schema.names:
        if name in said.values():
            continue
        if name in without:
            left_out.append((name, "asked"))
        elif why := _unfit(schema.field(name).type):
            left_out.append((name, why))
        else:
            features.append(name)
    return Roles(said, tuple(features), tuple(left_out))


def normal(name: str) -> str:
    """Give a column's name as names are compared.

    >>> normal("Order.No"), normal("order-no")
    ('order_no', 'order_no')
    """
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _unfit(kind: pa.DataType) -> str:
    types = pa.types
    fit = (types.is_integer, types.is_floating, types.is_boolean, types.is_string, types.is_large_string)
    if any(one(kind) for one in (*fit, types.is_decimal, types.is_dictionary, types.is_null)):
        return ""
    return "a time" if types.is_temporal(kind) else f"neither numbers, texts nor booleans: {kind}"


def without_request_id(found: Roles) -> Roles:
    """Let a column go that was taken for request ids by its name, and repeats: rows are requests then."""
    column = found.said["request_id"]
    said = {role: name for role, name in found.said.items() if role != "request_id"}
    why = "it repeats, so it is no request id; if it names users say --subject"
    return replace(found, said=said, left_out=(*found.left_out, (column, why)))


def without_serials(found: Roles, serials: Sequence[str]) -> Roles:
    """Leave out columns that number the rows, such as the index that pandas writes."""
    features = tuple(name for name in found.features if name not in serials)
    left_out = (*found.left_out, *((name, "it numbers the rows") for name in serials))
    return replace(found, features=features, left_out=left_out)


def with_units(found: Roles, first: Table[str, Any]) -> Roles:
    """Add the units of times, from the first value of each time column that is not null."""
    return replace(found, units={role: unit_of(value) for role, value in first.items()})


def unit_of(value: Any) -> str:
    """Guess the unit of a time by its size: the years 1973 to 5138 are told apart.

    >>> [unit_of(one) for one in (1767225600, 1767225600000, 1767225600000000, 1.7e18, "2026-01-01")]
    ['s', 'ms', 'us', 'ns', 'iso']
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "iso"
    size = abs(value)
    return "s" if size < 1e11 else "ms" if size < 1e14 else "us" if size < 1e17 else "ns"


def prediction_mapping(found: Roles, model: str, *, labels_inside: bool, slice_column: str | None) -> Mapping:
    """Give the mapping of a table of predictions, which may hold the labels, too.

    Raises `WeirError` (usage) when a column is missing that has to be.
    """
    at = _time(found, "at", "predictions", "--at")
    request_id = _path(found.said["request_id"]) if found.of("request_id") else "@offset"
    rule: dict[str, Any] = {
        "kind": "prediction",
        "request_id": request_id,
        "at_ms": at,
        "model": {"value": model},
        "features": {name: _path(name) for name in found.features},
    }
    ours = {"version": "version", "subject": "subject", "score": "score", "prediction": "prediction"}
    ours["latency"] = "latency_ms"
    rule |= {name: _path(column) for role, name in ours.items() if (column := found.of(role))}
    if slice_column is not None:
        rule["slices"] = {slice_column: _path(slice_column)}
    rules = [rule]
    if labels_inside and found.of("label"):
        label_at = _time(found, "label_at", "labels", "--label-at") if found.of("label_at") else at
        label = {"kind": "label", "request_id": request_id, "at_ms": label_at, "label": _path(found.said["label"])}
        rules.append(label)
    return _mapping("predictions", rules)


def label_mapping(found: Roles) -> Mapping:
    """Give the mapping of a table of labels. Without a time of its own a label counts as known at once.

    Raises `WeirError` (usage) when a column is missing that has to be.
    """
    for role, option in (("request_id", "--label-id"), ("label", "--label")):
        if not found.of(role):
            raise WeirError(
                f"the table of labels has no column that is its {role} by name",
                fix=f"say which: {option} COLUMN",
                code=USAGE,
            )
    at = _time(found, "label_at", "labels", "--label-at") if found.of("label_at") else {"value": 0}
    rule = {"kind": "label", "request_id": _path(found.said["request_id"]), "at_ms": at}
    return _mapping("labels", [rule | {"label": _path(found.said["label"])}])


def _mapping(name: str, rules: Sequence[Table[str, Any]]) -> Mapping:
    return Mapping.model_validate({"name": name, "source": {"kind": "file"}, "events": list(rules)})


def _time(found: Roles, role: str, table: str, option: str) -> dict[str, Any]:
    column = found.of(role)
    if column is None:
        raise WeirError(
            f"the table of {table} has no column that is a time by name: without times there is no drift; it has "
            f"{', '.join(found.features[:20]) or 'none'}",
            fix=f"say which: {option} COLUMN",
            code=USAGE,
        )
    unit = found.units.get(role, "iso")
    return {"path": _path(column), "unit": unit} | ({"zone": "UTC"} if unit == "iso" else {})


def _path(column: str) -> str:
    r"""Give the path of a column of this very name.

    >>> _path("age"), _path("user.age"), _path("@time")
    ('age', 'user\\.age', '$.@time')
    """
    escaped = column.replace(".", "\\.")
    return f"$.{escaped}" if escaped.startswith(("@", "$")) else escaped


_UNITS_MS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def duration_ms(text: str | None, option: str) -> int | None:
    """Read a duration. Raises `WeirError` (usage).

    >>> duration_ms("90m", "--horizon"), duration_ms("7d", "--horizon"), duration_ms(None, "--pane")
    (5400000, 604800000, None)
    """
    if text is None:
        return None
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS_MS or not number.isascii() or not number.isdigit() or int(number) == 0:
        raise WeirError(f"{option} {text}: expected a duration such as 90s, 15m, 6h or 7d", fix="give one", code=USAGE)
    return int(number) * _UNITS_MS[unit]
