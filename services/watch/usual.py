"""What is usual: each version's reference, and from when on it is judged against it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from schemas.control import Reference
from schemas.errors import USAGE, WeirError
from schemas.event import decode
from schemas.inputs import Prediction
from schemas.policy import DAY_MS, JoinPolicy
from services.reference.rows import Rows
from services.reference.run import learnt
from services.watch.reading import Options, plan, read
from services.watch.rows import Events, Made, made_at, outcomes
from services.watch.tables import Source

LEAST_REFERENCE: Final = 200


def references_of(
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
        other = read(plan(table, None, replace(options, given=beside), []), table, None, now_ms, lambda rows: None)
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
    made = made_at(events)
    in_time = [
        label
        for label in events.labels
        if label.request_id in made and label.at_ms - made[label.request_id] <= policy.horizon_ms
    ]
    found = {request: label for (request, item), label in outcomes(in_time, policy.label_name).items() if item is None}
    if policy.on_timeout == "negative":
        found = dict.fromkeys(made, policy.negative_label) | found
    return found
