"""What the figures of a window will be once its labels are there: told when its traffic has closed, scored later. Pure.

Two estimators answer for each window of closed traffic panes: `projected` from the labels that have come
(`development`) and `estimated` from the scores alone (`cbpe`). When the window's last pane closes for labels its
realised figures score both, and `conformal` makes the intervals of the next ones from that. There is one forecast a
pane and figure; where labels are waited for longer than `OUTSTANDING` panes, only every other, third … one is scored,
and where longer than `NOTED` panes, the law is learnt from every other, third … one.

A new arm borrows the law of its model until `OWN` panes of its own have closed. What comes after a pane has closed for
labels changes neither law nor scores.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import inf, sqrt
from typing import Any, Final, Literal, NamedTuple

from streams.judge.cbpe import Floats, expected
from streams.judge.conformal import Adaptive, Tally, Told
from streams.judge.development import Development, ages_between, counted
from streams.measure.ledger import COUNT, LABELLED, Ledger, N
from streams.measure.metrics import Auc, Confused, Metric, metrics

Estimator = Literal["projected", "estimated"]
OWN: Final = 30
OUTSTANDING: Final = 512
NOTED: Final = 2_000
MILLI: Final = 1_000


class Forecast(NamedTuple):
    """One figure told ahead. `n` labelled outcomes or, for `estimated`, predictions are behind it."""

    estimator: Estimator
    metric: str
    told: Told
    tally: Tally
    n: int
    maturity: float


class Part(NamedTuple):
    """A pane of a window: its start and its counts."""

    start: int
    ledger: Ledger


@dataclass(slots=True)
class Outlook:
    """The forecasts of one arm.

    `looks` holds, for each pane whose labels are waited for, what it had counted at which age; `told` the forecasts
    for the window that ends with a pane; `series` the intervals by estimator and metric.
    """

    law: Development = field(default_factory=Development)
    looks: dict[int, list[tuple[int, list[int]]]] = field(default_factory=dict)
    told: dict[int, dict[str, Told]] = field(default_factory=dict)
    series: dict[str, Adaptive] = field(default_factory=dict)

    def look(self, start: int, size_ms: int, ledger_of: Callable[[int], Ledger | None]) -> None:
        """Note what the waiting panes have counted, now that the traffic of the pane at `start` has closed."""
        for waiting, noted in self.looks.items():
            age = (start - waiting) // size_ms
            for now in ages_between(noted[-1][0] if noted else None, age):
                ledger = ledger_of(waiting)
                if ledger is not None:
                    noted.append((now, list(counted(ledger))))

    def tell(
        self,
        window: Sequence[Part],
        size_ms: int,
        pooled: Development,
        traffic: Ledger,
        chances: Floats | None,
        waiting: Container[int],
    ) -> Iterator[Forecast]:
        """Tell the figures of a window whose last pane's traffic has closed.

        `chances` calibrate scores (`cbpe`); `waiting` holds the panes whose labels are waited for.
        """
        last = window[-1].start
        law = self.law if self.law.closed >= OWN else pooled
        rows = [part.ledger.get(N) for part in window]
        ages = [(last - part.start) // size_ms if part.start in waiting else -1 for part in window]
        cells = [counted(part.ledger) for part in window]
        labelled = sum(part.ledger.get(LABELLED, COUNT) for part in window)
        stride = 1 + len(self.looks) // OUTSTANDING
        kept: dict[str, Told] = {}
        projected = law.project(rows, ages, cells)
        estimated = None if chances is None else expected(chances, traffic)
        found: tuple[tuple[Estimator, Ledger | None], ...] = (("projected", projected), ("estimated", estimated))
        for estimator, ledger in found:
            if ledger is None:
                continue
            due = sum(ledger.total(name) for name in ("confusion", "agreement"))
            so_far = sum(sum(one) for one in cells)
            maturity = min(max(so_far / due, 0.0), 1.0) if due > 0 else 0.0
            n = labelled if estimator == "projected" else ledger.get(N)
            for metric in told_ahead(estimator):
                value = metric.value(ledger)
                if value is None:
                    continue
                series = self.series.setdefault(f"{estimator} {metric.kind}", Adaptive())
                scale = sqrt(max(value * (1.0 - value), 0.01) / max(n, 1))
                told = series.tell(value, scale, 0.0, inf if metric.most is None else metric.most)
                kept[f"{estimator} {metric.kind}"] = told
                yield Forecast(estimator, metric.kind, told, series.tally(), n, maturity)
        if ages[-1] >= 0 and kept and last // size_ms % stride == 0:
            self.told[last] = kept

    def close(self, start: int, rows: int, final: Ledger, window: Ledger) -> None:
        """Learn from a pane that has closed for labels, and score what was told of the window that ends with it."""
        self.law.learn(rows, self.looks.pop(start, []), counted(final))
        told = self.told.pop(start, {})
        realised = {metric.kind: metric.value(window) for metric in told_ahead("estimated")} if told else {}
        for name, one in sorted(told.items()):
            value = realised[name.partition(" ")[2]]
            if value is not None:
                self.series[name].score(one, value, len(self.told))

    def dump(self) -> dict[str, Any]:
        """Give it as plain data."""
        return {
            "law": self.law.dump(),
            "looks": [[start, noted] for start, noted in sorted(self.looks.items())],
            "told": [
                [start, [[name, one.value, one.scale, one.low, one.high] for name, one in sorted(told.items())]]
                for start, told in sorted(self.told.items())
            ],
            "series": {name: series.dump() for name, series in sorted(self.series.items())},
        }

    @classmethod
    def load(cls, plain: Mapping[str, Any]) -> Outlook:
        """Take up what `dump` gave."""
        return cls(
            Development.load(plain["law"]),
            {start: [(age, cells) for age, cells in noted] for start, noted in plain["looks"]},
            {start: {name: Told(*one) for name, *one in told} for start, told in plain["told"]},
            {name: Adaptive.load(series) for name, series in plain["series"].items()},
        )


@cache
def told_ahead(estimator: Estimator) -> tuple[Metric, ...]:
    """Give the metrics that an estimator can tell: those of the confusion cells; from scores the AUC too."""
    kinds = (Confused,) if estimator == "projected" else (Confused, Auc)
    return tuple(one for one in metrics() if isinstance(one, kinds))
