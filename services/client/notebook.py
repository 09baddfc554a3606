"""`watch` for data frames, and what a notebook shows of it."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from schemas.measures import Drift
from services.watch.columns import duration_ms
from services.watch.page import page
from services.watch.reading import Options
from services.watch.report import as_object, fails, summary
from services.watch.run import Watched
from services.watch.run import watch as watch_tables
from services.watch.tables import held


class Report:
    """What was found. In a notebook it shows itself; `found` has all of it."""

    def __init__(self, found: Watched) -> None:
        self.found = found

    @property
    def alarms(self) -> list[Drift]:
        """The alarms, in the order in which they were raised."""
        return self.found.alarms

    def fails(self, *conditions: str) -> list[str]:
        """Say which conditions hold: `alarm`, `refused`, a stream, `auc<0.7`. Raises `WeirError` for another one."""
        return fails(self.found, conditions)

    def to_dict(self) -> dict[str, Any]:
        """Give everything as plain data, as `weir watch --json` prints it."""
        return as_object(self.found, [])

    def to_html(self, path: str | Path | None = None) -> str:
        """Give the report as one HTML document; with a path write it there, and give the path."""
        text = page(self.found, [])
        if path is None:
            return text
        Path(path).write_text(text, encoding="utf-8")
        return str(path)

    def _repr_html_(self) -> str:
        # A frame of its own keeps the report's styles from the notebook's.
        return f'<iframe srcdoc="{escape(self.to_html())}" width="100%" height="640" style="border:0"></iframe>'

    def __repr__(self) -> str:
        return f"<Report {self.found.model}: {summary(self.found)}>"


def watch(
    predictions: Any,
    labels: Any = None,
    *,
    reference: Any = None,
    map: str | Path | None = None,
    without: list[str] | None = None,
    model: str = "model",
    slice: str | None = None,
    reference_share: float = 0.3,
    horizon: str | None = None,
    negative: bool = False,
    pane: str | None = None,
    budget: float | None = None,
    **given: str,
) -> Report:
    """Take data frames (pandas, polars, pyarrow) through the loop.

    What the columns are is read from their names; `given` says it otherwise: `id="order_id"`, `at="ts"`, `score=…`,
    `prediction=…`, `label=…`, `label_at=…`, `label_id=…`, `version=…`, `subject=…`, `latency=…`. `labels` may be a
    frame of its own, with a request id (a column, not the index). `horizon` and `pane` are durations: "7d".
    `reference` is a frame like `predictions` of what was usual; without it the first `reference_share` of the rows is.
    See `weir watch --help` for the rest. Raises `WeirError` (usage) for frames that cannot be understood.
    """
    if "id" in given:
        given["request_id"] = given.pop("id")
    options = Options(
        given=given,
        without=without or (),
        map=None if map is None else Path(map),
        model=model,
        slice=slice,
        reference_share=reference_share,
        horizon_ms=duration_ms(horizon, "horizon"),
        negative=negative,
        pane_ms=duration_ms(pane, "pane"),
        budget=budget,
    )
    found = watch_tables(
        held(predictions, "predictions"),
        None if labels is None else held(labels, "labels"),
        None if reference is None else held(reference, "reference"),
        options,
    )
    return Report(found)
