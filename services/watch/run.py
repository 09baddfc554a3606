"""`weir watch`: from tables to what was found. What the command, notebooks and CI share.

The first part of each version's traffic (or a table of its own) is its reference; what came after is judged against it.
Everything is held in memory: some 1.3 GB for 300,000 rows with twenty features.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from schemas.control import Reference, ReferenceSet
from schemas.errors import USAGE, WeirError
from schemas.measures import Drift, Metric
from schemas.policy import DAY_MS, HOUR_MS, MINUTE_MS, JoinPolicy
from schemas.settings import Settings
from services.watch.reading import Options, plan, read
from services.watch.replay import Replayed, replay
from services.watch.rows import Advance, Events, Made, Refused, longest_wait_ms
from services.watch.tables import Say, Source
from services.watch.usual import references_of
from streams.join.columns.warm import warm
from streams.judge.bounds import JudgeBounds
from streams.runtime.compiled import is_ready

PANES_MS: Final = (
    *(MINUTE_MS, 5 * MINUTE_MS, 15 * MINUTE_MS, HOUR_MS, 3 * HOUR_MS, 6 * HOUR_MS, 12 * HOUR_MS, DAY_MS, 7 * DAY_MS),
)
MOST_PANES: Final = 120
LEAST_ROWS: Final = 100
"""A pane is as short as it can be with at least this many rows on average, and at most `MOST_PANES` of them."""
HELD_PANES: Final = 4_000
WINDOW_PANES: Final = 20


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

    @property
    def refused(self) -> Refused:
        """Rows of which no event came, and events that the join could not use."""
        read, dead = self.events.refused, self.replayed.dead
        return Refused(read.counts + dead.counts, [*read.examples, *dead.examples])

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
    how = plan(predictions, labels, options, notes)
    events = read(how, predictions, labels, now_ms, advance)
    made = events.made
    if not made:
        why = f": {events.refused.examples[0]}" if events.refused.examples else ""
        fix = "correct the mapping" if options.map is not None else "correct the column, or say how to read it: --map"
        raise WeirError(f"no prediction came of {events.rows:,} rows{why}", fix=fix, code=USAGE)
    model = _one_model(made)
    policy = _policy(model, events, options, notes)
    pane_ms = options.pane_ms or pane_for(made[0].at_ms, made[-1].at_ms, len(made))
    _refuse_too_many_panes(events, pane_ms)
    references, cuts = references_of(events, reference, options, pane_ms, policy, now_ms, notes)
    bounds = _bounds(options, pane_ms)
    if not is_ready():
        say("compiling the join, once for this machine and version")
        warm()
    say("joining, measuring, judging")
    until_ms = events.arrived[-1].at_ms + pane_ms + bounds.grace_ms
    if not options.negative:
        # Silence says nothing, so that nothing is lost by waiting for all of it.
        until_ms += policy.wait_ms + 2 * pane_ms
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
        model, events.rows, events, how.roles, how.left_out, policy, pane_ms, options.slice, bounds, references, cuts,
        replayed, notes, time.process_time() - started,
    )  # fmt: skip


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
