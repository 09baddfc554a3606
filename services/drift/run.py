"""`weir drift REF CUR`: compare the columns that both tables have, some at a time; say what became of the others."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from threadpoolctl import threadpool_limits

from schemas.errors import USAGE, WeirError
from services.drift.classifier import tell_apart
from services.drift.column import counts, is_serial, kind_of, numbers, together, vectors
from services.drift.peers import Peer, Wanted, beside
from services.drift.table import Say, Table, open_table
from streams.judge.compare import ALPHA, LEAST, Compared, compare_categories, compare_numbers, judge_all
from streams.judge.embeddings import Vectors, compare_embeddings
from streams.judge.separation import Separated

Tell = Callable[[int, int], None]
"""Gets how many columns are done, and how many there are."""

DISTINCT_SHARE, DISTINCT_LEAST = 0.5, 1_000
"""A column of texts of which more than this share differ, and so many, names rows: its values are new every time."""
CLASSIFIER = "classifier"
LIST_ROWS = 8_192
BATCH_NUMBERS = 1 << 21
"""So many numbers of embeddings are held at once."""


@dataclass(slots=True)
class Drift:
    """What was found. `columns` has the worst first; `left_out`: (name, why); `changed`: (name, its types)."""

    reference: str
    current: str
    rows: tuple[int, int]
    alpha: float
    least: float
    columns: list[Compared] = field(default_factory=list)
    changed: list[tuple[str, str]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    peers: list[Peer] = field(default_factory=list)
    classifier: Separated | None = None
    seconds: float = 0.0

    @property
    def drifted(self) -> list[str]:
        """Names of the columns that drift, are gone, or have another type."""
        return [
            *(one.name for one in self.columns if one.verdict == "drift"),
            *(name for name, _ in self.changed),
            *self.gone,
        ]


def compare_files(
    reference: Path,
    current: Path,
    *,
    only: Collection[str] = (),
    without: Collection[str] = (),
    embeddings: Sequence[str] = (),
    classify: bool = False,
    alpha: float = ALPHA,
    least: float = LEAST,
    peers: Wanted | None = None,
    say: Say = lambda _: None,
    tell: Tell = lambda _done, _all: None,
    threads: int | None = None,
) -> Drift:
    """Compare two files, and ask peers about the worst columns. Numbers whose names begin with one of `embeddings` and
    end in an integer are one vector. Raises `WeirError` for what cannot be read, and for names that neither has.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="weir-drift-") as scratch:
        before, after = (open_table(path, Path(scratch), say) for path in (reference, current))
        found = Drift(str(reference), str(current), (before.rows, after.rows), alpha, least)
        parts = {prefix: _parts(before, after, prefix) for prefix in embeddings}
        names = _chosen(before, after, only, without, parts, found)
        columns: list[Compared] = []
        # Columns are compared beside each other: BLAS threads on top would wait for each other, spinning.
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads or os.cpu_count() or 1, "drift") as pool:
            running = {pool.submit(_compare, before, after, name, parts.get(name)): name for name in names}
            try:
                for done, future in enumerate(as_completed(running), start=1):
                    got = future.result()
                    if isinstance(got, Compared):
                        columns.append(got)
                    else:
                        found.left_out.append((running[future], got))
                    tell(done, len(names))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        columns.sort(key=lambda one: one.name)
        found.columns = judge_all(columns, alpha=alpha, least=least)
        found.left_out.sort()
        if classify:
            say("telling rows apart")
            found.classifier = tell_apart(before, after, columns, parts, alpha=alpha, least=least)
        if peers is not None:
            scalars = [one for one in found.columns if one.kind != "embedding"]  # peers measure these
            found.peers = beside(before, after, scalars[: peers.top], peers, Path(scratch), say)
    found.seconds = time.monotonic() - began
    return found


def _parts(before: Table, after: Table, prefix: str) -> list[str]:
    """Give the columns that are coordinates of one vector, in the order of the integers at their ends."""
    found: list[dict[int, str]] = []
    for table in (before, after):
        ends = ((re.fullmatch(re.escape(prefix) + r"(\d+)", name), name) for name in table.schema.names)
        found.append({int(end[1]): name for end, name in ends if end})
        odd = [name for name in found[-1].values() if kind_of(table.schema.field(name).type) not in ("number", "null")]
        if not found[-1] or odd:
            what = f"{odd[0]!r} holds no numbers" if odd else f"no column is named {prefix}0, {prefix}1, …"
            raise WeirError(f"--embedding {prefix}: {what} in {table.path}", fix="name another prefix", code=USAGE)
    if found[0] != found[1]:
        apart = sorted({*found[0].values()} ^ {*found[1].values()})
        raise WeirError(
            f"--embedding {prefix}: {len(found[0])} and {len(found[1])} coordinates; only one table has {apart[0]!r}",
            fix="compare vectors of one model",
            code=USAGE,
        )
    return [name for _, name in sorted(found[0].items())]


def _chosen(
    before: Table,
    after: Table,
    only: Collection[str],
    without: Collection[str],
    parts: Mapping[str, Sequence[str]],
    found: Drift,
) -> list[str]:
    """Choose the columns to compare, and note the others in what is found."""
    ours, theirs = before.schema, after.schema
    if unknown := sorted({*only, *without} - {*ours.names, *theirs.names, *parts}):
        raise WeirError(
            f"neither table has a column {', '.join(map(repr, unknown))}",
            fix=f"the reference has {', '.join(ours.names[:20])}{' …' if len(ours.names) > 20 else ''}",
            code=USAGE,
        )
    names = [prefix for prefix in parts if prefix not in without and (not only or prefix in only)]
    within = {name for of_one in parts.values() for name in of_one}
    for name in ours.names:
        if name in within:
            continue
        if name in without or (only and name not in only):
            continue
        if name not in theirs.names:
            found.gone.append(name)
            continue
        one, other = kind_of(ours.field(name).type), kind_of(theirs.field(name).type)
        if "" in (one, other) and (one == other or "null" in (one, other)):
            kind = ours.field(name).type if not one else theirs.field(name).type
            found.left_out.append((name, f"values of type {kind} are not compared"))
        elif one != other and "null" not in (one, other):
            found.changed.append((name, f"{ours.field(name).type} became {theirs.field(name).type}"))
        else:
            names.append(name)
    found.new += [name for name in theirs.names if name not in ours.names and name not in without and not only]
    if not names and not found.changed and not found.gone:
        raise WeirError(
            "the tables have no column in common that can be compared", fix="compare their headers", code=USAGE
        )
    return names


def _compare(before: Table, after: Table, name: str, parts: Sequence[str] | None = None) -> Compared | str:
    """Compare one column, or several that are one vector, or say why it is left out."""
    if parts is not None:
        return _embeddings(before, after, name, parts)
    kinds = {kind_of(table.schema.field(name).type) for table in (before, after)}
    if "embedding" in kinds:
        return _embeddings(before, after, name, None)
    if "category" not in kinds:
        sides = before.column(name), after.column(name)
        if all(is_serial(side) for side in sides):
            return "integers that are all different and close together: they number the rows"
        return compare_numbers(name, *map(numbers, sides))
    reference = before.column(name)
    found = counts(reference)
    known = len(found) - (None in found)
    if known >= DISTINCT_LEAST and known > DISTINCT_SHARE * len(reference):
        return f"{known} different texts in {len(reference)} rows: it names rows"
    return compare_categories(name, found, counts(after.column(name)))


def _embeddings(before: Table, after: Table, name: str, parts: Sequence[str] | None) -> Compared:
    """Compare vectors: of a column of lists, or of columns that are their coordinates."""

    def read(table: Table) -> Iterator[Vectors]:
        if parts is not None:
            for batch in table.batches(parts, max(BATCH_NUMBERS // len(parts), 1)):
                yield together(batch.columns)
            return
        for batch in table.batches([name], LIST_ROWS):
            column = batch.column(0)
            rows = max(BATCH_NUMBERS // max(_longest(column), 1), 1)
            for start in range(0, len(column), rows):
                yield vectors(column.slice(start, rows))

    return compare_embeddings(name, before.rows, lambda: read(before), lambda: read(after))


def _longest(column: pa.Array) -> int:
    if pa.types.is_null(column.type):
        return 0
    return int(pc.max(pc.list_value_length(column)).as_py() or 0)


_SHARE = "for a fifth of the columns: --fail-on 0.2"


def fails(found: Drift, conditions: Sequence[str]) -> list[str]:
    """Say which conditions of `--fail-on` hold: `any`, a share of the columns (`0.2`), a column's name,
    or `classifier`, where one was asked.
    """
    held = []
    drifted = set(found.drifted)
    total = len(found.columns) + len(found.changed) + len(found.gone)
    names = {one.name for one in found.columns} | drifted
    for condition in conditions:
        if condition == "any":
            if drifted:
                held.append(f"{len(drifted)} of {total} columns drift")
        elif condition == CLASSIFIER and condition not in names and found.classifier is not None:
            if found.classifier.verdict == "drift":
                held.append(f"rows are told apart: {found.classifier.sentence}")
        elif why := dict(found.left_out).get(condition):
            raise WeirError(f"--fail-on {condition}: it is left out: {why}", fix="name another column", code=USAGE)
        elif condition in names:
            if condition in drifted:
                held.append(f"{condition} drifts")
        else:
            try:
                share = float(condition)
            except ValueError:
                raise WeirError(
                    f"--fail-on {condition}: neither `any`, nor a share such as 0.2, nor a column of these tables",
                    fix="ask for it with --classifier"
                    if condition == CLASSIFIER
                    else "name a column as it stands in the table",
                    code=USAGE,
                ) from None
            if not 0 < share <= 1:
                raise WeirError(f"--fail-on {condition}: expected a share in (0, 1]", fix=_SHARE, code=USAGE)
            if total and len(drifted) / total >= share and drifted:
                held.append(f"{len(drifted) / total:.0%} of the columns drift")
    return held
