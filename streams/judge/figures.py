"""From ledgers to `Metric` events: every registered metric of `measure`, with interval, n and maturity."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from xxhash import xxh3_128_hexdigest

from schemas import measures
from streams.judge.panes import Key
from streams.measure import metrics
from streams.measure.ledger import Ledger


@lru_cache(maxsize=1)
def _metrics() -> tuple[metrics.Metric, ...]:
    return tuple(metrics.metrics())


def figures(
    model: str,
    key: Key,
    ledger: Ledger,
    from_ms: int,
    to_ms: int,
    at_ms: int,
    *,
    closed: bool,
    correction: bool = False,
) -> Iterator[measures.Metric]:
    """Give every metric of one window that has an outcome to speak of, kinds ascending.

    Those of another label name than the model's first are called `name:kind` and follow, names ascending. A figure that
    needs no label is mature from the beginning. Slices have those alone that are told of them. A correction that leaves
    no label at all takes every figure back, whatever the task was. Of a ledger that lacks deltas
    (`Ledger.possible`) there are none.
    """
    if not ledger.possible():
        return
    window = from_ms, to_ms, at_ms
    yield from _figures(model, key, "", ledger, window, closed=closed, correction=correction)
    for name, part in ledger.parts().items():
        yield from _figures(model, key, f"{name}:", part, window, closed=closed, correction=correction)


def _figures(
    model: str,
    key: Key,
    prefix: str,
    ledger: Ledger,
    window: tuple[int, int, int],
    *,
    closed: bool,
    correction: bool,
) -> Iterator[measures.Metric]:
    from_ms, to_ms, at_ms = window
    read = [(metric, metric.measured(ledger)) for metric in _metrics() if metric.sliced or not key.slice]
    empty = correction and not any(measured.n > 0 for metric, measured in read if metric.labelled)
    for metric, measured in read:
        if measured.n <= 0 and not (empty and metric.labelled):
            continue
        yield measures.Metric(
            id=event_id("metric", model, *key, prefix + metric.kind, from_ms, to_ms, closed, at_ms),
            model=model,
            version=key.version,
            deployment=key.deployment,
            role=key.role,
            slice=key.slice,
            metric=prefix + metric.kind,
            from_ms=from_ms,
            to_ms=to_ms,
            value=measured.value,
            low=measured.low,
            high=measured.high,
            n=measured.n,
            subjects=measured.subjects,
            maturity=metric.maturity(ledger) if metric.labelled else 1.0,
            closed=closed,
            correction=correction,
            at_ms=at_ms,
        )


def event_id(kind: str, *content: object) -> str:
    """Give an id made from what the event is about, so that an event sent twice is seen to be one."""
    return f"{kind}-{xxh3_128_hexdigest(repr(content).encode())}"
