"""How good a model is on rows it was not fitted on, in the words and with the code of the live metrics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from schemas.measures import Metric
from services.train.model import BadFeatures, Model
from services.train.rows import Floats, Rows
from streams.measure.ledger import Ledger
from streams.measure.metrics import metrics as every_metric
from streams.measure.tally import ledger_of

ESTIMATOR = "holdout"
_BRIEF = ("accuracy", "log_loss")


def scores_of(model: Model, rows: Rows) -> list[float | None]:
    """Score rows, None where the model cannot."""
    vectors, where = [], []
    for i in range(len(rows)):
        try:
            vectors.append(model.vector(rows.features(i)))
            where.append(i)
        except BadFeatures:
            continue
    found: list[float | None] = [None] * len(rows)
    for i, score in zip(where, model.scores(vectors), strict=True):
        found[i] = score
    return found


def ledger(rows: Rows, scores: Sequence[float | None], threshold: float = 0.5) -> Ledger:
    """Count a hold-out, subjects and weights included."""
    return ledger_of(scores, rows.y, rows.subjects, rows.weight, threshold=threshold)


def measure(
    counted: Ledger, rows: Rows, *, model: str, version: str, run: str, maturity: float, at_ms: int
) -> list[Metric]:
    """Read every metric of a hold-out that has outcomes, each with its interval. The window is that of the rows."""
    found = []
    for kind in every_metric():
        measured = kind.measured(counted)
        if measured.n <= 0:
            continue
        found.append(
            Metric(
                id=f"{run}/{version}/{kind.kind}",
                model=model,
                version=version,
                deployment="",
                metric=kind.kind,
                estimator=ESTIMATOR,
                from_ms=int(rows.at_ms[0]),
                to_ms=int(rows.at_ms[-1]) + 1,
                value=measured.value,
                low=measured.low,
                high=measured.high,
                n=measured.n,
                subjects=measured.subjects,
                maturity=maturity,
                closed=True,
                at_ms=at_ms,
            )
        )
    return found


def logged_scores(rows: Rows, version: str) -> list[float | None] | None:
    """Give what a version answered live; None unless it answered every one of these rows."""
    if any(version != answered for answered in rows.versions) or not np.isfinite(rows.logged).all():
        return None
    return list(rows.logged.tolist())


def baselines(before: Rows, rows: Rows) -> dict[str, float]:
    """Give what a model has to beat on these rows, by name and metric.

    `majority` answers the base rate of the rows before; `no_change` the label of the latest row whose label was known
    when the prediction was made, and `previous_label` the label of the row just before, known or not: where it is hard
    to beat, labels follow each other and accuracy flatters.
    """
    rate = float((before.y * before.weight).sum() / before.weight.sum())
    last = known_labels(before, rows)
    previous = np.concatenate([before.y[-1:], rows.y[:-1]])
    guesses: dict[str, Floats] = {
        "majority": np.full(len(rows), rate),
        "no_change": np.where(np.isnan(last), rate, last),
        "previous_label": previous.astype(np.float64),
    }
    found: dict[str, float] = {}
    for name, guess in guesses.items():
        told = brief(ledger(rows, guess.tolist()))
        found |= {f"{name}.{kind}": value for kind, value in told.items() if kind == "accuracy" or name == "majority"}
    return found


def brief(counted: Ledger) -> dict[str, float]:
    """Give accuracy and log loss alone."""
    values = {kind.kind: kind.value(counted) for kind in every_metric() if kind.kind in _BRIEF}
    return {kind: value for kind, value in values.items() if value is not None}


def known_labels(before: Rows, rows: Rows) -> Floats:
    """Give for each row the label of the latest row whose label was known by then; NaN before there is one."""
    at_ms = np.concatenate([before.at_ms, rows.at_ms])
    told_ms = np.maximum(np.concatenate([before.labelled_at_ms, rows.labelled_at_ms]), at_ms + 1)
    y = np.concatenate([before.y, rows.y]).astype(np.float64)
    arrival = np.argsort(told_ms, kind="stable")
    newest = np.maximum.accumulate(arrival)  # rows are in the order of time: the greatest index is the latest row
    heard = np.searchsorted(told_ms[arrival], rows.at_ms, side="right")
    return np.where(heard > 0, y[newest[np.maximum(heard, 1) - 1]], np.nan)
