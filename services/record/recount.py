"""The ledgers counted again, by SQL over the raw predictions and the last revisions of feedback.

`measure` adds and takes away as things happen; here everything is counted once, from what has landed, by another engine
and other code. Both give integers, so they are compared cell by cell, exactly. Which prediction stands is found in the
raw rows (`standing`); its outcome is what the last record about it in `feedback` says. Embeddings and the
comparison with frozen rows alone are counted by `measure`'s own code, from the raw rows.

**Limits**, beside those of `standing`: slice values and classes behind `~other` were chosen in the order they came, so
those of such a model are compared as a sum. Other label names of a model that has as many as are counted are not
compared. A feature's integer beyond 2⁵³ is compared with the edges as a double.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from schemas.control import ParitySet, ReferenceSet
from schemas.event import decode
from schemas.inputs import Prediction
from schemas.measures import Measures
from schemas.settings import Settings
from services.record.counting import bodies_sql, features_sql, outcomes_sql, traffic_sql
from services.record.pieces import by_name
from services.record.rankings import rankings_sql
from services.record.standing import Cuts, any_of, rows, standing_sql
from streams.measure.embedding import EmbeddingCut
from streams.measure.ledger import CLASS, LABEL, OTHER, Ledger, apart
from streams.measure.measure import MOST_NAMES
from streams.measure.parity import ParityCut, parity_fault
from streams.measure.reference import fault

if TYPE_CHECKING:
    from clickhouse_connect.driver.httpclient import HttpClient

Key = tuple[str, str, str, str, str, int]
"""(model, version, deployment, role, slice, pane_ms)."""
Ledgers = dict[Key, Ledger]
AT_ONCE = 256
"""So many embeddings of a pane are held at once."""


@dataclass(slots=True)
class Compared:
    """How many ledgers are equal, and a sentence about each that is not."""

    equal: int = 0
    differing: list[str] = field(default_factory=list)


def recount(
    client: HttpClient, settings: Settings, references: Iterable[ReferenceSet], cuts: Cuts | None = None
) -> Ledgers:
    """Count every pane from the raw rows: all that has landed, or what the steps in `cuts` had read and said.

    `references` come in the order in which the join heard them (`references_of`); the first of a version counts.
    """
    standing = standing_sql(client, settings, cuts)
    found: Ledgers = {}
    named = by_name(standing)
    for sql in (
        traffic_sql(named, settings),
        outcomes_sql(named, settings, cuts),
        rankings_sql(named, settings, cuts),
    ):
        _take(client, sql, found)
    first: dict[tuple[str, str], ReferenceSet] = {}
    for one in references:
        first.setdefault((one.reference.model, one.reference.version), one)
    for one in first.values():
        if {*one.reference.edges, *one.reference.categories}:
            _take(client, features_sql(standing, settings, one), found)
        if one.reference.embedding is not None:
            _embedded(client, standing, settings, one, EmbeddingCut.of(one.reference.embedding), found)
    for parity in parities_of(client):
        _compared(client, standing, settings, ParityCut(parity), found)
    return found


def _embedded(
    client: HttpClient, standing: str, settings: Settings, given: ReferenceSet, cut: EmbeddingCut, found: Ledgers
) -> None:
    """Count the embeddings of one version, some hundred at a time.

    Features of vectors are no arithmetic for SQL, which rounds sums in an order of its own: they are reckoned by the
    code that defines them (`streams.measure.embedding`), from the raw rows.
    """
    one, held = given.reference, dict[Key, list[Sequence[float] | None]]()
    for key, prediction in _bodies(client, standing, settings, one.model, one.version, given.at_ms):
        waiting = held.setdefault(key, [])
        waiting.append(prediction.embedding)
        if len(waiting) >= AT_ONCE:
            found.setdefault(key, Ledger()).add(cut.count(waiting))
            waiting.clear()
    for key, waiting in held.items():
        found.setdefault(key, Ledger()).add(cut.count(waiting))


def _compared(client: HttpClient, standing: str, settings: Settings, cut: ParityCut, found: Ledgers) -> None:
    """Compare the predictions of one version with its frozen rows, by the code that defines it, from the raw rows."""
    one = cut.given
    for key, prediction in _bodies(client, standing, settings, one.model, one.version, one.at_ms):
        for name, index in cut.cells(prediction):
            found.setdefault(key, Ledger()).add_pairs(name, [(index, 1)])


def _bodies(
    client: HttpClient, standing: str, settings: Settings, model: str, version: str, at_ms: int
) -> Iterator[tuple[Key, Prediction]]:
    sql = bodies_sql(standing, settings, model, version, at_ms)
    for of, deployment, role, pane_ms, body in rows(client, sql):
        yield (model, str(of), str(deployment), str(role), "", int(pane_ms)), decode(body, Prediction)


def parities_of(client: HttpClient) -> list[ParitySet]:
    """Give the frozen rows of each version that have landed: its first without a fault."""
    sql = "SELECT body FROM control WHERE kind = 'parity_set' AND unreadable = '' ORDER BY partition, offset"
    first: dict[tuple[str, str], ParitySet] = {}
    for (body,) in rows(client, sql):
        one = decode(body, ParitySet)
        if not parity_fault(one):
            first.setdefault((one.model, one.version), one)
    return list(first.values())


def measured(client: HttpClient, cuts: Cuts | None = None) -> Ledgers:
    """Sum the deltas that `measure` emitted, by pane."""
    found: Ledgers = {}
    where = "unreadable = ''"
    if cuts is not None:
        where += f" AND ({any_of(f'(source = {number} AND step <= {step.number})' for number, step in cuts.items())})"
    for (body,) in rows(client, f"SELECT body FROM measures WHERE {where}"):
        for pane in decode(body, Measures).panes:
            key = (pane.model, pane.version, pane.deployment, pane.role, pane.slice, pane.pane_ms)
            found.setdefault(key, Ledger()).add_flat(pane.cells)
    return {key: ledger for key, ledger in found.items() if ledger}


def references_of(client: HttpClient) -> list[ReferenceSet]:
    """Give the references that have landed, in the order in which one partition heard them, without the faulty."""
    sql = "SELECT body FROM control WHERE kind = 'reference_set' AND unreadable = '' ORDER BY partition, offset"
    heard = (decode(body, ReferenceSet) for (body,) in rows(client, sql))
    return [one for one in heard if not fault(one.reference)]


def compare(ours: Ledgers, theirs: Ledgers) -> Compared:
    """Compare what was measured with what was counted again.

    >>> one, two = Ledger({"n": {0: 2}}), Ledger({"n": {0: 3}})
    >>> key = ("m", "1", "", "primary", "", 0)
    >>> compare({key: one}, {key: two}).differing
    ["model 'm' version '1' deployment '' primary pane 0: n[0] measured 2, counted 3 (1 cells differ)"]
    """
    folded = {key[0] for key in ours if key[4].endswith(f"={OTHER}")}
    left, right = _folded(ours, folded), _folded(theirs, folded)
    crowded = {key[0] for key, ledger in ours.items() if any(apart(name)[1] == CLASS + OTHER for name in ledger)}
    left, right = _crowded(left, crowded), _crowded(right, crowded)
    names: dict[str, set[str]] = {}
    for key, ledger in ours.items():
        names.setdefault(key[0], set()).update(apart(name)[0] for name in ledger if name.startswith(LABEL))
    many = {model for model, known in names.items() if len(known) >= MOST_NAMES}
    left, right = _nameless(left, many), _nameless(right, many)
    found = Compared()
    for key in sorted({*left, *right}):
        gap = left.get(key, Ledger()) - right.get(key, Ledger())
        if not gap:
            found.equal += 1
            continue
        name = min(gap)
        index = min(gap.cells[name])
        a, b = (side[key].get(name, index) if key in side else 0 for side in (left, right))
        model, version, deployment, role, part, pane_ms = key
        where = f"model {model!r} version {version!r} deployment {deployment!r} {role} {part and part + ' '}"
        cells = sum(len(vector) for vector in gap.cells.values())
        found.differing.append(
            f"{where}pane {pane_ms}: {name}[{index}] measured {a}, counted {b} ({cells} cells differ)"
        )
    return found


def _folded(ledgers: Ledgers, models: set[str]) -> Ledgers:
    """Sum the slices of models that have more of them than are kept apart."""
    if not models:
        return ledgers
    found: Ledgers = {}
    for (model, version, deployment, role, part, pane_ms), ledger in ledgers.items():
        part = f"{part.partition('=')[0]}=*" if part and model in models else part
        found.setdefault((model, version, deployment, role, part, pane_ms), Ledger()).add(ledger.cells)
    return found


def _crowded(ledgers: Ledgers, models: set[str]) -> Ledgers:
    """Sum the classes of models that have more of them than are kept apart."""
    found: Ledgers = {}
    for key, ledger in ledgers.items():
        if key[0] not in models:
            found[key] = ledger
            continue
        mine = found[key] = Ledger()
        for name, vector in ledger.cells.items():
            own = apart(name)[1]
            into = f"{name.removesuffix(own)}{CLASS}*" if own.startswith(CLASS) else name
            mine.add_pairs(into, vector.items())
    return found


def _nameless(ledgers: Ledgers, models: set[str]) -> Ledgers:
    """Leave out the other label names of some models."""
    return {
        key: Ledger({name: vector for name, vector in ledger.cells.items() if not name.startswith(LABEL)})
        if key[0] in models
        else ledger
        for key, ledger in ledgers.items()
    }


def _take(client: HttpClient, sql: str, found: Ledgers) -> None:
    for model, version, deployment, role, part, pane_ms, vector, index, total in rows(client, sql):
        key = (str(model), str(version), str(deployment), str(role), str(part), int(pane_ms))
        found.setdefault(key, Ledger()).add_pairs(vector, [(int(index), int(total))])
