"""Metrics read from a ledger, each with its interval. A subclass of `Metric` with a `kind` is all that a new one needs.

Each file holds one family; `base` says what they share.
"""

from __future__ import annotations

from streams.measure.metrics.auc import Auc
from streams.measure.metrics.base import LEVEL, Measured, Metric, Ratio, student, wilson
from streams.measure.metrics.calibration import (
    Ece,
    EceExcess,
    Reliability,
    Resolution,
    SpiegelhalterZ,
    Uncertainty,
)
from streams.measure.metrics.confusion import F1, Accuracy, Confused, Precision, Recall
from streams.measure.metrics.losses import Brier, LogLoss
from streams.measure.metrics.regression import R2, Bias, Mae, MedianAbsoluteError, Rmse

__all__ = [
    "F1",
    "LEVEL",
    "R2",
    "Accuracy",
    "Auc",
    "Bias",
    "Brier",
    "Confused",
    "Ece",
    "EceExcess",
    "LogLoss",
    "Mae",
    "Measured",
    "MedianAbsoluteError",
    "Metric",
    "Precision",
    "Ratio",
    "Recall",
    "Reliability",
    "Resolution",
    "Rmse",
    "SpiegelhalterZ",
    "Uncertainty",
    "metrics",
    "student",
    "wilson",
]


def metrics() -> list[Metric]:
    """Give every registered metric that needs no parameters, by kind."""
    found = [Metric.parse({"kind": kind}) for kind in sorted(Metric.members)]
    return found
