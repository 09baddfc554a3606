"""Which panes count a request, what they say, and what alarmed on them."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

from schemas.inputs import Prediction
from schemas.measures import Drift, Metric
from services.trace.landed import Reader
from services.trace.shape import Alarm, Answer, Figure, Pane
from streams.measure.cells import slice_text
from streams.measure.ledger import COUNT, LABELLED, OTHER, Ledger, N
from streams.measure.metrics import metrics


def measured(reader: Reader, answer: Answer, prediction: Prediction) -> None:
    """Add the panes of one answer, their figures, and the alarms of the windows that hold them."""
    join = reader.settings.join
    start = prediction.at_ms // join.pane_ms * join.pane_ms
    end = start + join.pane_ms
    parts = ["", slice_text(join.slice_dimension, prediction)] if join.slice_dimension else [""]
    wanted = [part for place, part in enumerate(parts) if place == 0 or part]
    early_ms, late_ms = start - join.skew_ms, max(end, answer.reach_ms) + join.skew_ms + join.grace_ms
    ledgers = _ledgers(reader, answer, start, early_ms, late_ms)
    closed = reader.metrics(answer.model, answer.version, answer.deployment, start, end)
    for part in wanted:
        if part and part not in ledgers and f"{join.slice_dimension}={OTHER}" in ledgers:
            part = f"{join.slice_dimension}={OTHER}"
        ledger = ledgers.get(part, Ledger())
        mine = [one for one in closed if (one.role, one.slice) == (answer.role, part)]
        answer.panes.append(
            Pane(
                model=answer.model,
                version=answer.version,
                deployment=answer.deployment,
                role=answer.role,
                slice=part,
                from_ms=start,
                to_ms=end,
                predictions=ledger.get(N),
                labelled=ledger.get(LABELLED, COUNT),
                figures=figures(ledger),
                judged=judged(mine, end),
                windows=len({(one.from_ms, one.to_ms) for one in mine}),
            )
        )
    if answer.role == "primary":
        _alarms(reader, answer, prediction.request_id, start, end)


def _ledgers(reader: Reader, answer: Answer, start: int, from_ms: int, to_ms: int) -> dict[str, Ledger]:
    """Sum the deltas of one pane, by slice."""
    found: dict[str, Ledger] = {}
    whose = answer.model, answer.version, answer.deployment, answer.role, start
    for record in reader.measures(answer.model, start, from_ms, to_ms):
        for pane in record.panes:
            if (pane.model, pane.version, pane.deployment, pane.role, pane.pane_ms) == whose:
                found.setdefault(pane.slice, Ledger()).add_flat(pane.cells)
    return found


def figures(ledger: Ledger) -> list[Figure]:
    """Read every metric that can be told from a ledger; those are left out that only explain another one."""
    found = []
    for name, part in {"": ledger, **ledger.parts()}.items():
        for metric in metrics():
            if metric.kind in _aside():
                continue
            read = metric.measured(part)
            if read.value is not None:
                kind = f"{name}:{metric.kind}" if name else metric.kind
                found.append(Figure(metric=kind, value=read.value, low=read.low, high=read.high, n=read.n))
    return found


def judged(closed: list[Metric], end: int) -> list[Figure]:
    """Choose among the closed windows that hold a pane the one that ends with it, or the first after it."""
    if not closed:
        return []
    window = min({(one.to_ms, -one.from_ms) for one in closed if one.to_ms >= end})
    return [
        Figure(
            metric=one.metric,
            value=one.value,
            low=one.low,
            high=one.high,
            n=one.n,
            estimator=one.estimator,
            from_ms=one.from_ms,
            to_ms=one.to_ms,
        )
        for one in sorted(closed, key=lambda one: (one.metric, one.estimator))
        if (one.to_ms, -one.from_ms) == window and one.metric.rpartition(":")[2] not in _aside()
    ]


@lru_cache(maxsize=1)
def _aside() -> frozenset[str]:
    return frozenset(metric.kind for metric in metrics() if not metric.sliced)


def _alarms(reader: Reader, answer: Answer, request_id: str, start: int, end: int) -> None:
    looked = reader.drift(answer.model, answer.version, answer.deployment, start, end)
    answer.detectors = dict(sorted(Counter(one.stream for one in looked).items()))
    rung = [one for one in looked if one.alarmed]
    answer.alarms = [Alarm(kind="drift", id=one.id, at_ms=one.at_ms, says=drift_text(one)) for one in rung]
    for alert in reader.alerts(answer.model, sorted({one.at_ms for one in rung})):
        says = f"{alert.status} {alert.severity}: {alert.summary}"
        answer.alarms.append(Alarm(kind="alert", id=alert.id, at_ms=alert.at_ms, says=says))
    layers = sorted({one.layer for one in reader.trials(request_id) if one.model == answer.model})
    reviews = reader.reviews(answer.model, answer.version, answer.deployment, start, end)
    for review in sorted([*reviews, *reader.layers(answer.model, layers)], key=lambda one: (one.at_ms, one.id)):
        says = f"decided on {review.name}, corrected since: {review.sentence}"
        answer.alarms.append(Alarm(kind="review", id=review.decision_id, at_ms=review.at_ms, says=says))


def drift_text(one: Drift) -> str:
    """Say an alarm in one line."""
    return f"{one.stream} by {one.detector}: {one.evidence.sentence}"
