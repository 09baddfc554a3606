"""Metrics read from a ledger, each with its interval. A subclass of `Metric` with a `kind` is all that a new one needs.

Each file holds one family; `base` says what they share.
"""

from __future__ import annotations

import difflib

from schemas.errors import USAGE, WeirError
from streams.measure.metrics.auc import Auc, AveragePrecision
from streams.measure.metrics.base import LEVEL, Measured, Metric, Ratio, student, wilson
from streams.measure.metrics.calibration import (
    Ece,
    EceExcess,
    Reliability,
    Resolution,
    SpiegelhalterZ,
    Uncertainty,
)
from streams.measure.metrics.classes import BalancedAccuracy, Jaccard, MacroF1
from streams.measure.metrics.confusion import (
    F1,
    Accuracy,
    Confused,
    Lift,
    Mcc,
    PositiveRate,
    Precision,
    PredictedPositiveRate,
    Recall,
    Specificity,
)
from streams.measure.metrics.losses import Brier, LogLoss
from streams.measure.metrics.rankings import (
    HitAt1,
    HitAt5,
    HitAt10,
    Mrr,
    Ndcg,
    NdcgAt5,
    NdcgAt10,
    RelevantRate,
)
from streams.measure.metrics.regression import R2, Bias, Mae, MedianAbsoluteError, Rmse
from streams.measure.metrics.selection import SelectionExcess, SelectionGap
from streams.measure.metrics.traffic import (
    LatencyP50,
    LatencyP95,
    LatencyP99,
    MissingFeatures,
    MissingScore,
    MissingSubject,
)
from streams.measure.metrics.values import ValueMean, ValueSum

__all__ = [
    "F1",
    "LEVEL",
    "R2",
    "Accuracy",
    "Auc",
    "AveragePrecision",
    "BalancedAccuracy",
    "Bias",
    "Brier",
    "Confused",
    "Ece",
    "EceExcess",
    "HitAt1",
    "HitAt5",
    "HitAt10",
    "Jaccard",
    "LatencyP50",
    "LatencyP95",
    "LatencyP99",
    "Lift",
    "LogLoss",
    "MacroF1",
    "Mae",
    "Mcc",
    "Measured",
    "MedianAbsoluteError",
    "Metric",
    "MissingFeatures",
    "MissingScore",
    "MissingSubject",
    "Mrr",
    "Ndcg",
    "NdcgAt5",
    "NdcgAt10",
    "PositiveRate",
    "Precision",
    "PredictedPositiveRate",
    "Ratio",
    "Recall",
    "RelevantRate",
    "Reliability",
    "Resolution",
    "Rmse",
    "SelectionExcess",
    "SelectionGap",
    "Specificity",
    "SpiegelhalterZ",
    "Uncertainty",
    "ValueMean",
    "ValueSum",
    "known_metric",
    "metric_of",
    "metrics",
    "student",
    "wilson",
]


def metrics() -> list[Metric]:
    """Give every registered metric that needs no parameters, by kind."""
    found = [Metric.parse({"kind": kind}) for kind in sorted(Metric.members)]
    return found


def metric_of(figure: str) -> tuple[str, type[Metric] | None]:
    """Split a figure's name into its label name (empty: the model's first) and its metric; None where there is none.

    >>> metric_of("auc")[0], metric_of("refund:auc"), metric_of("refund:acu")
    ('', ('refund', <class 'streams.measure.metrics.auc.Auc'>), ('refund', None))
    """
    label, _, kind = figure.rpartition(":")
    found = Metric.members.get(kind)
    return label, found if found is None or issubclass(found, Metric) else None


def known_metric(figure: str) -> type[Metric]:
    """Give the metric of a figure's name. Raises `WeirError` (usage) that says what may have been meant."""
    label, found = metric_of(figure)
    if found is not None:
        return found
    close = difflib.get_close_matches(figure.rpartition(":")[2], Metric.members, 1)
    meant = f"{label}:{close[0]}" if close and label else "".join(close)
    fix = f"did you mean {meant!r}?" if close else "docs/metrics.md lists them"
    raise WeirError(f"there is no metric {figure!r}", fix=fix, code=USAGE)
