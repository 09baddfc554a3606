"""`weir drift --parity KEY REF CUR`: the same rows by two paths, matched by key, feature by feature.

Held at once: the keys of both tables, where each one's row is, and a column of each.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.errors import USAGE, WeirError
from services.drift.column import kind_of, numbers, vectors
from services.drift.table import Say, Table, open_table
from streams.judge.parity import ABSOLUTE, RELATIVE, Parity, numbers_differ, worst_first

Places = NDArray[np.int64]

BLOCK = 16_384
EXAMPLES = 3


@dataclass(slots=True)
class Matched:
    """What was found. `columns` has the worst first; keys are those of rows, a null in one is `unkeyed`.

    `repeated`: keys that a table has more than once; which rows belong together is unknown, so they are left out.
    """

    reference: str
    current: str
    keys: list[str]
    rows: tuple[int, int]
    matched: int = 0
    only_reference: int = 0
    only_current: int = 0
    repeated: int = 0
    unkeyed: int = 0
    examples: dict[str, list[str]] = field(default_factory=dict)
    columns: list[Parity] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0


def match_files(
    reference: Path,
    current: Path,
    keys: Sequence[str],
    *,
    only: Collection[str] = (),
    without: Collection[str] = (),
    relative: float = RELATIVE,
    absolute: float = ABSOLUTE,
    say: Say = lambda _: None,
) -> Matched:
    """Match rows by key and compare each feature. Raises `WeirError` for what cannot be read, unknown names, keys of
    other types, and tables without a key in common.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="weir-drift-") as scratch:
        before, after = (open_table(path, Path(scratch), say) for path in (reference, current))
        found = Matched(str(reference), str(current), list(keys), (before.rows, after.rows))
        _refuse_unknown(before, after, keys, {*only, *without})
        say("matching keys")
        rows = _match(before, after, keys, found)
        names = before.schema.names
        wanted = [name for name in names if name not in {*keys, *without} and (not only or name in only)]
        for name in wanted:
            if name not in after.schema.names:
                found.gone.append(name)
                continue
            say(f"comparing {name}")
            one = _compare(before, after, name, rows, keys, relative, absolute)
            if isinstance(one, Parity):
                found.columns.append(one)
            else:
                found.left_out.append((name, one))
        hidden = {*names, *without}
        found.new = [name for name in after.schema.names if name not in hidden and not only]
        found.columns = worst_first(found.columns)
    found.seconds = time.monotonic() - began
    return found


def _refuse_unknown(before: Table, after: Table, keys: Sequence[str], named: Collection[str]) -> None:
    for table in (before, after):
        if lacking := [key for key in keys if key not in table.schema.names]:
            raise WeirError(f"--parity {lacking[0]}: {table.path} has no such column", fix="name the key", code=USAGE)
    if unknown := sorted({*named} - {*before.schema.names, *after.schema.names}):
        raise WeirError(f"neither table has a column {unknown[0]!r}", fix="compare their headers", code=USAGE)


def _match(before: Table, after: Table, keys: Sequence[str], found: Matched) -> tuple[Places, Places]:
    """Give the places of rows that have one key, once on each side, in the reference's order."""
    n = before.rows
    codes = np.zeros(n + after.rows, np.int64)
    missing = np.zeros(len(codes), np.bool_)
    for key in keys:
        of_key, absent = _together(key, before.column(key), after.column(key))
        missing |= absent
        _, codes = np.unique(codes * (int(of_key.max(initial=0)) + 1) + of_key, return_inverse=True)
    size = int(codes.max(initial=0)) + 1
    counts = [np.bincount(side[~gone], minlength=size) for side, gone in _sides(codes, missing, n)]
    found.unkeyed = int(missing.sum())
    found.repeated = int(((counts[0] > 1) | (counts[1] > 1)).sum())
    alone = counts[0] > 0, counts[1] > 0
    found.only_reference, found.only_current = int((alone[0] & ~alone[1]).sum()), int((alone[1] & ~alone[0]).sum())
    once = (counts[0] == 1) & (counts[1] == 1)
    found.matched = int(once.sum())
    at = []
    for start, (side, gone) in zip((0, n), _sides(codes, missing, n), strict=True):
        where = np.full(size, -1, np.int64)
        where[side[~gone]] = np.flatnonzero(~gone)
        at.append(where)
        other = alone[1] if start == 0 else alone[0]
        lone = np.sort(where[(where >= 0) & ~other])[:EXAMPLES]
        found.examples["current" if start else "reference"] = _keys_at(after if start else before, keys, lone)
    if not found.matched:
        raise WeirError(
            f"no key of {', '.join(keys)} is in both tables once ({found.repeated:,} are repeated)",
            fix="name columns that identify a row in both",
            code=USAGE,
        )
    order = np.argsort(at[0][once], kind="stable")
    return at[0][once][order], at[1][once][order]


def _sides(codes: Places, missing: NDArray[np.bool_], n: int) -> list[tuple[Places, NDArray[np.bool_]]]:
    return [(codes[:n], missing[:n]), (codes[n:], missing[n:])]


def _together(key: str, a: pa.ChunkedArray, c: pa.ChunkedArray) -> tuple[Places, NDArray[np.bool_]]:
    """Give a code for each value of a key, the reference's first, and where there is none.

    Integers and other numbers are one kind; a number and its text are one key.
    """
    sides = [one.cast(one.type.value_type) if pa.types.is_dictionary(one.type) else one for one in (a, c)]
    try:
        if sides[0].type != sides[1].type:
            kind = _common(*(one.type for one in sides))
            if kind is None:
                what = f"{a.type} in one table, {c.type} in the other"
                raise WeirError(f"--parity {key}: {what}", fix="give both one type", code=USAGE)
            sides = [one.cast(kind) for one in sides]
        encoded = pa.chunked_array([chunk for one in sides for chunk in one.chunks], sides[0].type).dictionary_encode()
    except pa.ArrowException as error:
        raise WeirError(
            f"--parity {key}: values of type {a.type} cannot be keys: {str(error)[:200]}",
            fix="name columns of numbers or texts",
            code=USAGE,
        ) from None
    indices = [pc.fill_null(chunk.indices, -1).to_numpy(zero_copy_only=False) for chunk in encoded.chunks]
    codes = np.concatenate([np.zeros(0, np.int64), *(one.astype(np.int64) for one in indices)])
    return np.maximum(codes, 0), codes < 0


def _common(a: pa.DataType, c: pa.DataType) -> pa.DataType | None:
    kinds = {kind_of(a), kind_of(c)} - {"null"}
    if kinds <= {"number"}:
        return pa.int64() if pa.types.is_integer(a) and pa.types.is_integer(c) else pa.float64()
    return pa.string() if kinds <= {"number", "category"} else None


def _keys_at(table: Table, keys: Sequence[str], places: Places) -> list[str]:
    return [", ".join(str(table.column(key)[int(place)].as_py()) for key in keys) for place in places]


def _compare(
    before: Table,
    after: Table,
    name: str,
    rows: tuple[Places, Places],
    keys: Sequence[str],
    relative: float,
    absolute: float,
) -> Parity | str:
    """Compare a feature, or say why it is left out."""
    found = Parity(name=name)
    types = [table.schema.field(name).type for table in (before, after)]
    kinds = [kind_of(one) for one in types]
    if "" in kinds and types[0] != types[1] and not all(map(pa.types.is_temporal, types)):
        return f"values of types {types[0]} and {types[1]} are not compared"
    if "" in kinds and not all(map(pa.types.is_temporal, types)):
        return f"values of type {types[kinds.index('')]} are not compared"
    known = {kind for kind in kinds if kind != "null"}
    if len(known) > 1:
        found.rows = len(rows[0])
        found.changed = f"{types[0]} became {types[1]}"
        return found
    columns = [table.column(name) for table in (before, after)]
    key_columns: list[pa.ChunkedArray] = []

    def key_of(place: int) -> str:
        if not key_columns:
            key_columns.extend(before.column(key) for key in keys)
        return ", ".join(str(column[place].as_py()) for column in key_columns)

    exact = all(pa.types.is_integer(one) or pa.types.is_null(one) for one in types)
    for start in range(0, len(rows[0]), BLOCK):
        at = rows[0][start : start + BLOCK]
        taken = [column.take(pa.array(side[start : start + BLOCK])) for column, side in zip(columns, rows, strict=True)]
        try:
            _add(found, taken, known, exact, relative, absolute, at, key_of)
        except pa.ArrowException as error:
            return f"values of types {types[0]} and {types[1]} are not compared: {str(error)[:100]}"
    return found


def _add(
    found: Parity,
    taken: Sequence[pa.ChunkedArray],
    known: set[str],
    exact: bool,
    relative: float,
    absolute: float,
    at: Places,
    key_of: Callable[[int], str],
) -> None:
    """Compare a block of rows."""

    def show(place: int) -> tuple[str, object, object]:
        return key_of(int(at[place])), taken[0][place].as_py(), taken[1][place].as_py()

    if known == {"embedding"}:
        off, there = _vectors_differ(taken, relative, absolute)
        found.add(off, there, None, show)
        return
    by = None
    if known <= {"number"}:
        a, c = (numbers(one) for one in taken)
        off, by = numbers_differ(a, c, 0.0 if exact else relative, 0.0 if exact else absolute)
        there = ~np.isnan(a), ~np.isnan(c)
        if exact:  # beyond 2^53 doubles are too coarse to tell integers apart
            off = _texts_differ(taken)
    else:
        off = _texts_differ(taken)
        valid = [one.is_valid().to_numpy() for one in taken]
        there = valid[0], valid[1]
    found.add(off, there, by, show)


def _texts_differ(taken: Sequence[pa.ChunkedArray]) -> NDArray[np.bool_]:
    a, c = (pa.nulls(len(one), pa.string()) if pa.types.is_null(one.type) else _text(one) for one in taken)
    same = pc.fill_null(pc.equal(a, c), False)
    return ~np.asarray(pc.or_(same, pc.and_(pc.is_null(a), pc.is_null(c))).to_numpy(), dtype=np.bool_)


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("us"))
    if pa.types.is_timestamp(column.type):  # a moment is one in any unit and zone
        column = column.cast(pa.timestamp("ns", "UTC" if column.type.tz else None))
    return column.cast(pa.string())


def _vectors_differ(
    taken: Sequence[pa.ChunkedArray], relative: float, absolute: float
) -> tuple[NDArray[np.bool_], tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    sides = [vectors(one.combine_chunks()) for one in taken]
    there = sides[0].lengths >= 0, sides[1].lengths >= 0
    off = there[0] != there[1]
    both = there[0] & there[1]
    off |= both & (sides[0].lengths != sides[1].lengths)
    for d in np.unique(sides[0].lengths[both & ~off]).tolist():
        if not d:
            continue
        rows = both & ~off & (sides[0].lengths == d)
        picked = [side.of(d)[rows[side.lengths == d]] for side in sides]
        off[np.flatnonzero(rows)] |= numbers_differ(picked[0], picked[1], relative, absolute)[0].any(axis=1)
    return off, there


def parity_fails(found: Matched, conditions: Sequence[str]) -> list[str]:
    """Say which conditions hold: `any` (a feature differs in a row), `keys` (a row on one side only), a share of the
    rows of a feature (`0.01`), or a feature's name.
    """
    held = []
    bad = {one.name: one for one in found.columns if one.share > 0}
    names = {one.name for one in found.columns} | {*found.gone} | {name for name, _ in found.left_out}
    for condition in conditions:
        if condition == "any":
            if bad or found.gone:
                held.append(f"{len(bad) + len(found.gone)} of {len(found.columns) + len(found.gone)} features differ")
        elif condition in names:
            if condition in bad or condition in found.gone:
                held.append(f"{condition} differs")
        elif condition == "keys":
            if found.only_reference or found.only_current:
                held.append(f"{found.only_reference:,} and {found.only_current:,} rows are in one table only")
        else:
            held += _shares(condition, bad, found.gone)
    return held


def _shares(condition: str, bad: dict[str, Parity], gone: Sequence[str]) -> list[str]:
    try:
        least = float(condition)
    except ValueError:
        raise WeirError(
            f"--fail-on {condition}: neither `any`, `keys`, a share of the rows such as 0.01, nor a feature",
            fix="name a feature as it stands in the table",
            code=USAGE,
        ) from None
    worst = [f"{one.name} in {one.share:.2%}" for one in worst_first(list(bad.values())) if one.share >= least]
    worst += [f"{name} is gone" for name in gone]
    return [f"rows differ: {', '.join(worst)}"] if worst else []
