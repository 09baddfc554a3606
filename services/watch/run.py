"""`weir watch`: from tables to what was found. What the command, notebooks and CI share.

The first part of each version's traffic (or a table of its own) is its reference; what came after is judged against it.
Everything is held in memory: some 2 GB for a million rows with twenty columns.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from schemas.control import Reference, ReferenceSet
from schemas.errors import USAGE, WeirError
from schemas.event import decode
from schemas.inputs import Prediction
from schemas.measures import Drift, Metric
from schemas.policy import DAY_MS, HOUR_MS, MINUTE_MS, JoinPolicy
from schemas.settings import Settings
from services.drift.column import is_serial
from services.drift.table import open_table
from services.intake.load import load
from services.intake.mapper import Mapper
from services.reference.rows import Rows
from services.reference.run import learnt
from services.watch import columns
from services.watch.replay import Replayed, replay
from services.watch.rows import Events, Made, first_values, known_at_once, longest_wait_ms, outcomes, take
from streams.join.columns.warm import warm
from streams.judge.bounds import JudgeBounds
from streams.runtime.compiled import is_ready

PANES_MS: Final = (
    *(MINUTE_MS, 5 * MINUTE_MS, 15 * MINUTE_MS, HOUR_MS, 3 * HOUR_MS, 6 * HOUR_MS, 12 * HOUR_MS, DAY_MS, 7 * DAY_MS),
)
MOST_PANES: Final = 120
LEAST_ROWS: Final = 100
"""A pane is as short as it can be with at least this many rows on average, and at most `MOST_PANES` of them."""
LEAST_REFERENCE: Final = 200
HELD_PANES: Final = 4_000
WINDOW_PANES: Final = 20
MAX_EVENT_BYTES: Final = 900_000

Say = Callable[[str], None]
Advance = Callable[[int], None]


class Source(Protocol):
    """A table that can be read from its beginning, more than once."""

    @property
    def schema(self) -> pa.Schema:
        """Names and types."""
        ...

    def batches(self, names: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """Read columns some rows at a time, in order."""
        ...


class Held:
    """A table in memory: what pandas, polars and pyarrow give."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.rows = table.num_rows

    @property
    def schema(self) -> pa.Schema:
        """Names and types."""
        return self.table.schema

    def batches(self, names: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """See `Source`."""
        yield from self.table.select(list(names)).to_batches(max_chunksize=rows)


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
class Watched:
    """What was found. `cuts` is, by version, the time from which on it is judged against its `references`."""

    model: str
    rows: int
    events: Events
    roles: list[str]
    left_out: list[tuple[str, str]]
    policy: JoinPolicy
    pane_ms: int
    slice: str | None
    bounds: JudgeBounds
    references: dict[str, Reference]
    cuts: dict[str, int]
    replayed: Replayed
    notes: list[str]
    seconds: float = 0.0

    @property
    def alarms(self) -> list[Drift]:
        """The alarms, in the order in which they were raised."""
        return [one for one in self.replayed.drifts if one.alarmed]

    @property
    def last(self) -> dict[tuple[str, str, str], Drift]:
        """By version, slice and stream: what was said last."""
        return {(one.version, one.slice, one.stream): one for one in self.replayed.drifts}

    def series(self, version: str, metric: str) -> list[Metric]:
        """Give the realised figures of a version's panes, in order, each as it was corrected last."""
        found: dict[int, Metric] = {}
        for one in self.replayed.metrics:
            whole = one.version == version and one.metric == metric and not one.slice and one.role == "primary"
            if whole and one.to_ms - one.from_ms == self.pane_ms and one.estimator == "realised":
                found[one.from_ms] = one
        return [found[at] for at in sorted(found)]


def watch(
    predictions: Source,
    labels: Source | None,
    reference: Source | None,
    options: Options,
    *,
    say: Say = lambda text: None,
    advance: Advance = lambda rows: None,
) -> Watched:
    """Take tables through the loop. Raises `WeirError` (usage) for tables that cannot be understood.

    `say` is told what is being done, `advance` of rows and events taken.
    """
    started, now_ms = time.process_time(), int(time.time() * 1000)
    if not 0 < options.reference_share < 1:
        raise WeirError(
            f"a reference of {options.reference_share:g} of the rows: expected a share between 0 and 1",
            fix="give 0.3, say",
            code=USAGE,
        )
    notes: list[str] = []
    say("reading")
    plan = _plan(predictions, labels, options, notes)
    events = _read(plan, predictions, labels, now_ms, advance)
    made = events.made
    if not made:
        why = f": {events.refused.examples[0]}" if events.refused.examples else ""
        fix = "correct the mapping" if options.map is not None else "correct the column, or say how to read it: --map"
        raise WeirError(f"no prediction came of {events.rows:,} rows{why}", fix=fix, code=USAGE)
    model = _one_model(made)
    policy = _policy(model, events, options, notes)
    pane_ms = options.pane_ms or pane_for(made[0].at_ms, made[-1].at_ms, len(made))
    _refuse_too_many_panes(events, pane_ms)
    references, cuts = _references(events, reference, options, pane_ms, policy, now_ms, notes)
    bounds = _bounds(options, pane_ms)
    if not is_ready():
        say("compiling the join, once for this machine and version")
        warm()
    say("joining, measuring, judging")
    until_ms = events.arrived[-1].at_ms + pane_ms + bounds.grace_ms
    if not options.negative:
        # Silence says nothing, so that nothing is lost by waiting for all of it.
        until_ms += policy.wait_ms + policy.lateness_ms + 2 * pane_ms
    until_ms += bounds.live_ms  # by then every correction has been told
    settings = Settings.model_construct()
    replayed = replay(
        settings,
        events.arrived,
        policy,
        [ReferenceSet(reference=one, at_ms=cuts[version]) for version, one in references.items()],
        bounds,
        pane_ms=pane_ms,
        slice_dimension=options.slice or "",
        until_ms=until_ms,
        advance=advance,
    )
    return Watched(
        model, events.rows, events, plan.roles, plan.left_out, policy, pane_ms, options.slice, bounds, references, cuts,
        replayed, notes, time.process_time() - started,
    )  # fmt: skip


@dataclass
class _Plan:
    """How the tables are read: a mapper and the columns that it needs, of each."""

    predictions: Mapper
    labels: Mapper | None
    columns: list[str]
    label_columns: list[str]
    roles: list[str]
    left_out: list[tuple[str, str]]


def _plan(predictions: Source, labels: Source | None, options: Options, notes: list[str]) -> _Plan:
    names = list(predictions.schema.names)
    label_names = [] if labels is None else list(labels.schema.names)
    if options.map is not None:
        mapper = load(options.map, max_event_bytes=MAX_EVENT_BYTES).mapper
        return _Plan(mapper, mapper if labels is not None else None, names, label_names, [f"by {options.map}"], [])
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
        return _Plan(Mapper(mapping), None, list(dict.fromkeys(used)), [], said, list(found.left_out))
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
    return _Plan(Mapper(mapping), label_mapper, used, list(theirs.said.values()), said, list(found.left_out))


_OF_LABELS: Final = ("label", "label_at", "label_id")


def _is_unique(table: Source, name: str | None) -> bool:
    if name is None:
        return True
    column = pa.chunked_array(
        [batch.column(0) for batch in table.batches([name], 1 << 16)], table.schema.field(name).type
    )
    return bool(pc.count_distinct(column).as_py() == len(column) - column.null_count)


def _is_serial(table: Source, name: str) -> bool:
    kind = table.schema.field(name).type
    if not pa.types.is_integer(kind):
        return False
    return is_serial(pa.chunked_array([batch.column(0) for batch in table.batches([name], 1 << 16)], kind))


def _firsts(table: Source, found: columns.Roles, roles: Sequence[str]) -> dict[str, Any]:
    wanted = {role: column for role in roles if (column := found.of(role))}
    return first_values(table.batches(list(dict.fromkeys(wanted.values())), 1_024), wanted) if wanted else {}


def _read(plan: _Plan, predictions: Source, labels: Source | None, now_ms: int, advance: Advance) -> Events:
    events = Events()
    take(events, "predictions", predictions.batches(plan.columns, 8_192), plan.predictions, now_ms, advance)
    if labels is not None and plan.labels is not None:
        take(events, "labels", labels.batches(plan.label_columns, 8_192), plan.labels, now_ms, advance)
    known_at_once(events)
    events.sort()
    return events


def _one_model(made: Sequence[Made]) -> str:
    models = sorted({one.model for one in made})
    if len(models) > 1:
        raise WeirError(
            f"the table has predictions of several models: {', '.join(models[:10])}",
            fix="watch one at a time: `when` in the mapping keeps the others out",
            code=USAGE,
        )
    return models[0]


def _policy(model: str, events: Events, options: Options, notes: list[str]) -> JoinPolicy:
    horizon_ms = options.horizon_ms
    if horizon_ms is None:
        # As long as any label of these tables took: nothing of them is left out.
        horizon_ms = max(longest_wait_ms(events), MINUTE_MS)
        if options.negative:
            notes.append(f"no --horizon was given: the longest wait of these tables, {horizon_ms / HOUR_MS:.1f} hours")
    return JoinPolicy(
        model=model,
        horizon_ms=horizon_ms,
        lateness_ms=0,
        on_timeout="negative" if options.negative else "unlabelled",
        # Late labels are told as such, not as those of requests that have been forgotten.
        retain_ms=max(DAY_MS, events.arrived[-1].at_ms - events.arrived[0].at_ms),
    )


def _refuse_too_many_panes(events: Events, pane_ms: int) -> None:
    panes = (events.arrived[-1].at_ms - events.arrived[0].at_ms) // pane_ms + 1
    if panes > HELD_PANES:
        raise WeirError(
            f"the tables span {panes:,} panes of {pane_ms / 1000:g} s, and at most {HELD_PANES:,} are held",
            fix="make panes longer (--pane 1h), or leave out rows with a wrong time",
            code=USAGE,
        )


def pane_for(first_ms: int, last_ms: int, rows: int) -> int:
    """Give the length of panes.

    >>> pane_for(0, 30 * DAY_MS, 100_000) // HOUR_MS, pane_for(0, HOUR_MS, 1_000_000) // MINUTE_MS
    (6, 1)
    """
    span = max(last_ms - first_ms, 1)
    most = max(min(MOST_PANES, rows // LEAST_ROWS), 1)
    return next((size for size in PANES_MS if span / size <= most), PANES_MS[-1])


def _references(
    events: Events,
    table: Source | None,
    options: Options,
    pane_ms: int,
    policy: JoinPolicy,
    now_ms: int,
    notes: list[str],
) -> tuple[dict[str, Reference], dict[str, int]]:
    """Freeze each version's reference; give from when on each is judged (a multiple of the pane)."""
    by_version: dict[str, list[Made]] = {}
    for one in events.made:
        if one.role == "primary":
            by_version.setdefault(one.version, []).append(one)
    references: dict[str, Reference] = {}
    cuts: dict[str, int] = {}
    usual: list[Made] | None = None
    labels = _outcomes(events, policy)
    if table is not None:
        beside = {role: column for role, column in options.given.items() if column in table.schema.names}
        other = _read(_plan(table, None, replace(options, given=beside), []), table, None, now_ms, lambda rows: None)
        usual = other.made
        labels = _outcomes(other, policy)
        if not usual:
            raise WeirError("no prediction came of the reference's rows", fix="give a table like the other", code=USAGE)
    for version, made in by_version.items():
        named = f"version {version}" if version else "the reference"
        if usual is not None:
            chosen, cut_ms = usual, made[0].at_ms // pane_ms * pane_ms
        else:
            cut_ms = -(-made[int(len(made) * options.reference_share)].at_ms // pane_ms) * pane_ms
            chosen = [one for one in made if one.at_ms < cut_ms]
        if len(chosen) < LEAST_REFERENCE:
            notes.append(f"{named}: {len(chosen):,} rows are too few to compare with ({LEAST_REFERENCE}): not judged")
            continue
        rows = Rows()
        for one in chosen:
            rows.add(decode(one.value, Prediction), labels.get(one.request_id))
        references[version] = learnt(rows, policy.model, version, "training" if usual is not None else "traffic", 0.5)
        cuts[version] = cut_ms
        days = (chosen[-1].at_ms - chosen[0].at_ms) / DAY_MS
        if usual is None and days < 7:
            notes.append(f"{named} spans {days:.1f} days: what differs between days of the week may alarm")
        if usual is None and made[-1].at_ms < cut_ms:
            notes.append(f"{named}: nothing came after its reference")
    return references, cuts


def _outcomes(events: Events, policy: JoinPolicy) -> dict[str, Any]:
    """Give each request's outcome as the join will: by the last label in time, or by silence."""
    made = {one.request_id: one.at_ms for one in events.made}
    in_time = [
        label
        for label in events.labels
        if label.request_id in made and label.at_ms - made[label.request_id] <= policy.horizon_ms
    ]
    found = {request: label for (request, item), label in outcomes(in_time, policy.label_name).items() if item is None}
    if policy.on_timeout == "negative":
        found = dict.fromkeys(made, policy.negative_label) | found
    return found


def _bounds(options: Options, pane_ms: int) -> JudgeBounds:
    # Nobody looks at open panes, so their figures are made seldom; corrections leave with them.
    said: dict[str, Any] = {"window_panes": WINDOW_PANES, "reviews": 0, "live_ms": WINDOW_PANES * pane_ms}
    if options.budget is not None:
        if not 0 < options.budget < math.inf:
            raise WeirError(
                f"a budget of {options.budget:g} cannot be",
                fix="give the expected false alarms in 30 days, such as 0.05",
                code=USAGE,
            )
        said["budget"] = options.budget
    return JudgeBounds.model_validate(said)


class Tables:
    """Files, opened: a context that removes what a CSV became."""

    def __init__(self, say: Say) -> None:
        self._say, self._stack = say, ExitStack()
        self._scratch = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="weir-watch-")))

    def __enter__(self) -> Tables:
        return self

    def __exit__(self, *about: object) -> None:
        self._stack.close()

    def open(self, path: Path) -> Source:
        """Open a file. Raises `WeirError` (usage)."""
        return open_table(path, self._scratch, self._say)


def held(frame: Any, what: str) -> Held:
    """Give a data frame (pandas, polars, pyarrow: whatever speaks Arrow) as a table. Raises `WeirError` (usage)."""
    if isinstance(frame, pa.Table):
        return Held(frame)
    if type(frame).__module__.partition(".")[0] == "pandas":
        return Held(pa.Table.from_pandas(frame, preserve_index=False))
    if hasattr(frame, "__arrow_c_stream__"):
        return Held(pa.table(frame))
    if isinstance(frame, Mapping):
        return Held(pa.table(dict(frame)))
    raise WeirError(
        f"{what} is a {type(frame).__name__}, which is no table", fix="give a data frame or an Arrow table", code=USAGE
    )
