"""What in the tables makes a report say less, or another thing, than it seems to. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from services.watch.rows import made_at
from services.watch.run import Watched
from streams.measure.ledger import MEASURED, REGRESSED, SCORED, UNMEASURABLE

FAR = 3.0
"""Rows that stretch the tables' time to so many times what 98 % of them need are worth a word."""
HOUR_MS = 3_600_000
QUALITY = "quality:error"


def doubts(found: Watched) -> list[str]:
    """Give them as sentences, those about lost rows first."""
    return [*_repeated(found), *_labels(found), *_times(found), *_tasks(found)]


def _repeated(found: Watched) -> Iterator[str]:
    counters = found.replayed.counters
    repeated = counters.get("predictions.conflict", 0) + counters.get("predictions.duplicate", 0)
    if repeated:
        yield (
            f"{repeated:,} predictions have the request id of another one and were left out: the first of each counts; "
            "if the column names users, say --subject for it and another --id"
        )
    dead = counters.get("predictions.dead", 0)
    if dead:
        yield f"{dead:,} predictions were refused by the join: see refused"


def _labels(found: Watched) -> Iterator[str]:
    events, horizon_ms = found.events, found.policy.horizon_ms
    made = made_at(events)
    if events.contradicted:
        yield f"{events.contradicted:,} labels differ from a later row of the same request and time: it counts"
    waits = np.array([label.at_ms - made[label.request_id] for label in events.labels if label.request_id in made])
    count: Counter[str] = Counter()
    count["unknown"] = len(events.labels) - len(waits)
    count["early"], count["late"] = int((waits < 0).sum()), int((waits > horizon_ms).sum())
    if count["unknown"]:
        yield f"{count['unknown']:,} labels are of requests that no prediction here has"
    if count["early"]:
        yield f"{count['early']:,} labels are dated before their prediction: check units and time zones"
    if count["late"]:
        hours = f"{horizon_ms / HOUR_MS:.3g} hours"
        yield f"{count['late']:,} labels came later than the horizon, {hours}: they do not count"
    usual = float(np.quantile(waits, 0.99)) if len(waits) else 0.0
    if horizon_ms > HOUR_MS and 0 < 2 * usual < horizon_ms and not count["late"]:
        yield (
            f"quality is judged {horizon_ms / HOUR_MS:.3g} hours after a prediction, as the slowest label took; "
            f"99 % took {usual / HOUR_MS:.3g} or less: a shorter --horizon tells sooner"
        )


def _times(found: Watched) -> Iterator[str]:
    at = np.array([one.at_ms for one in found.events.made], dtype=np.float64)
    low, high = np.quantile(at, [0.01, 0.99])
    if at.max() - at.min() > FAR * max(high - low, 1.0):
        yield "a few predictions lie far from the time of all others, and stretch panes and reference: check them"


def _tasks(found: Watched) -> Iterator[str]:
    total: Counter[int] = Counter()
    for (_, part, _), ledger in found.replayed.ledgers.items():
        if not part:
            total.update({place: max(count, 0) for place, count in ledger.cells.get(MEASURED, {}).items()})
    if total[UNMEASURABLE]:
        yield (
            f"{total[UNMEASURABLE]:,} labels cannot be held against their prediction: expected 0 or 1 (or true, false) "
            "beside a score, a class beside a class, or a number beside a number"
        )
    if total[SCORED] and total[REGRESSED]:
        yield (
            f"{total[SCORED]:,} rows are chances of a class, {total[REGRESSED]:,} are numbers: is the score in percent?"
        )
    judged = {one.stream for one in found.last.values()}
    if found.references and sum(total.values()) and QUALITY not in judged:
        yield "quality raises no alarm here (of numbers, there is none yet): set a limit, such as --fail-on 'mae>10'"
