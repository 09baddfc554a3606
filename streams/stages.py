"""The stages that a `streams.runtime` worker runs, built from settings: what the command line starts.

`join` has `measure` chained behind it, in the same step and transaction. Each function runs until `stop` is set.
`history` has the records that Kafka no longer has, should a restore need them.
"""

from __future__ import annotations

import threading

from schemas.errors import USAGE, WeirError
from schemas.settings import Settings
from streams.join.admission import JoinBounds
from streams.join.columns.warm import warm_until
from streams.join.processor import JoinProcessor
from streams.judge.bounds import JudgeBounds
from streams.judge.processor import Judge
from streams.measure.measure import Measure, MeasureState
from streams.runtime.history import History
from streams.runtime.worker import run


def join_processor(settings: Settings) -> JoinProcessor[MeasureState]:
    """Build the join with what measures its outcomes."""
    measure = Measure(
        partitions=settings.partitions,
        measures_partitions=settings.measures_partitions,
        pane_ms=settings.join.pane_ms,
        slice_dimension=settings.join.slice_dimension,
    )
    return JoinProcessor(JoinBounds.of(settings), measure)


def judge_processor(settings: Settings) -> Judge:
    """Build the judge. Raises `WeirError` (usage) that names the wrong bound."""
    try:
        bounds = JudgeBounds.model_validate(settings.judge)
    except ValueError as error:
        raise WeirError(f"[judge] is not valid: {error}", fix="see streams/judge/bounds.py", code=USAGE) from None
    virtual = settings.clock == "virtual"
    return Judge(
        bounds,
        virtual=virtual,
        guard=settings.guard,
        partitions=settings.partitions,
        measures_partitions=settings.measures_partitions,
    )


def join(settings: Settings, stop: threading.Event, history: History | None = None) -> None:
    """Run the join and measure; first compile them where that has not been done."""
    if not warm_until(stop):
        return
    run(join_processor(settings), settings, stop, history)


def judge(settings: Settings, stop: threading.Event, history: History | None = None) -> None:
    """Run the judge."""
    run(judge_processor(settings), settings, stop, history)
