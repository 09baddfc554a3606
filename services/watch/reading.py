"""How the tables are read, and reading them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import USAGE, WeirError
from services.drift.column import is_serial
from services.intake.load import load
from services.intake.mapper import Mapper
from services.watch import columns
from services.watch.rows import Advance, Events, first_values, known_at_once, last_row_stands, take
from services.watch.tables import Source

MAX_EVENT_BYTES: Final = 900_000


@dataclass(frozen=True)
class Options:
    """What may be said; what is not said is guessed and told. `given` is the column by role (`columns.NAMES`)."""

    given: Mapping[str, str] = field(default_factory=dict)
    without: Sequence[str] = ()
    map: Path | None = None
    model: str = "model"
    slice: str | None = None
    reference_share: float = 0.3
    horizon_ms: int | None = None
    negative: bool = False
    pane_ms: int | None = None
    budget: float | None = None


@dataclass
class Plan:
    """How the tables are read: a mapper and the columns that it needs, of each."""

    predictions: Mapper
    labels: Mapper | None
    columns: list[str]
    label_columns: list[str]
    roles: list[str]
    left_out: list[tuple[str, str]]


def plan(predictions: Source, labels: Source | None, options: Options, notes: list[str]) -> Plan:
    """Say how tables are read: by a mapping file, or by the names of their columns. Adds to `notes` what to know.

    Raises `WeirError` (usage) for tables that cannot be understood.
    """
    names = list(predictions.schema.names)
    label_names = [] if labels is None else list(labels.schema.names)
    if options.map is not None:
        mapper = load(options.map, max_event_bytes=MAX_EVENT_BYTES).mapper
        return Plan(mapper, mapper if labels is not None else None, names, label_names, [f"by {options.map}"], [])
    known = {*columns.NAMES, "label_id"}
    if odd := sorted({*options.given} - known):
        raise WeirError(f"there is no role {odd[0]!r}", fix=f"one of {', '.join(sorted(known))}", code=USAGE)
    if unknown := [name for name in options.without if name not in names]:
        raise WeirError(f"there is no column {unknown[0]!r} to leave out", fix="name one as it stands", code=USAGE)
    inside = {role: column for role, column in options.given.items() if labels is None or role not in _OF_LABELS}
    found = columns.roles(predictions.schema, inside, options.without)
    if labels is None and "request_id" not in options.given and not _is_unique(predictions, found.of("request_id")):
        found = columns.without_request_id(found)
    found = columns.without_serials(found, [name for name in found.features if _is_serial(predictions, name)])
    found = columns.with_units(found, _firsts(predictions, found, ("at", "label_at")))
    if labels is None and found.of("label") is None:
        notes.append("there are no labels: drift of features and score is judged, quality is not")
    if found.of("request_id") is None and labels is not None:
        raise WeirError(
            "the table of predictions has no column that is its request_id by name, so labels cannot be joined",
            fix="say which: --id COLUMN",
            code=USAGE,
        )
    if options.slice is not None and options.slice not in names:
        raise WeirError(f"there is no column {options.slice!r} to slice by", fix="name one", code=USAGE)
    mapping = columns.prediction_mapping(found, options.model, labels_inside=labels is None, slice_column=options.slice)
    used = [*found.said.values(), *found.features, *([options.slice] if options.slice else [])]
    said = [f"predictions: {found.sentence}; {len(found.features)} features"]
    if labels is None:
        return Plan(Mapper(mapping), None, list(dict.fromkeys(used)), [], said, list(found.left_out))
    beside = {role: column for role, column in options.given.items() if role in ("label", "label_at")}
    theirs_by_name = {columns.normal(name): name for name in reversed(label_names)}
    same = theirs_by_name.get(columns.normal(found.said["request_id"]))
    if same is not None:
        beside["request_id"] = same
    if "label_id" in options.given:
        beside["request_id"] = options.given["label_id"]
    theirs = columns.roles(labels.schema, beside, (), labels=True)
    theirs = columns.with_units(theirs, _firsts(labels, theirs, ("label_at",)))
    if theirs.of("label_at") is None:
        notes.append("labels have no time of their own: each counts as known when its prediction was made")
    said.append(f"labels: {theirs.sentence}")
    label_mapper = Mapper(columns.label_mapping(theirs))
    used = list(dict.fromkeys(used))
    return Plan(Mapper(mapping), label_mapper, used, list(theirs.said.values()), said, list(found.left_out))


_OF_LABELS: Final = ("label", "label_at", "label_id")


def _is_unique(table: Source, name: str | None) -> bool:
    if name is None:
        return True
    column = _column(table, name)
    return bool(pc.count_distinct(column).as_py() == len(column) - column.null_count)


def _is_serial(table: Source, name: str) -> bool:
    return bool(pa.types.is_integer(table.schema.field(name).type)) and is_serial(_column(table, name))


def _column(table: Source, name: str) -> pa.ChunkedArray:
    batches = table.batches([name], 1 << 16)
    return pa.chunked_array([batch.column(0) for batch in batches], table.schema.field(name).type)


def _firsts(table: Source, found: columns.Roles, roles: Sequence[str]) -> dict[str, Any]:
    wanted = {role: column for role in roles if (column := found.of(role))}
    return first_values(table.batches(list(dict.fromkeys(wanted.values())), 1_024), wanted) if wanted else {}


def read(how: Plan, predictions: Source, labels: Source | None, now_ms: int, advance: Advance) -> Events:
    """Give the events of the tables, in order. `advance` is told of rows."""
    events = Events()
    take(events, "predictions", predictions.batches(how.columns, 8_192), how.predictions, now_ms, advance)
    if labels is not None and how.labels is not None:
        take(events, "labels", labels.batches(how.label_columns, 8_192), how.labels, now_ms, advance)
    known_at_once(events)
    events.sort()
    last_row_stands(events)
    return events
