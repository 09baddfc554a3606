"""One incident per model, its parts ranked: what a person reads instead of fifty alerts about one change. Pure.

What fires about a model's data and quality (`drift:…`, `quality:…`) is one incident: model → group → part. The groups
stand in the order in which a change matters: quality (labels say that it harms), score, traffic, features, slices.
Parts are ranked by severity, then by group, then by how far the evidence is beyond what it takes, then by name. Nothing
is left out, and nothing is inferred: that parts belong to one model is no proof that they have one cause. Alerts about
the machinery (rollouts, training, outages) stay by themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

Alert = dict[str, Any]
GROUPS: Final = ("quality", "score", "traffic", "features", "slices")
SEVERITIES: Final = ("critical", "error", "warning", "info")
FAMILIES: Final = ("drift:", "quality:")


def group_of(rule: str, slice_: str = "") -> str:
    """Give the group of an alert of a model.

    >>> [group_of(rule) for rule in ("quality:auc", "drift:quality:error", "drift:score", "drift:feature:age")]
    ['quality', 'quality', 'score', 'features']
    >>> group_of("drift:traffic:requests"), group_of("drift:traffic:requests", "route=/pay")
    ('traffic', 'slices')
    """
    stream = rule.removeprefix("drift:")
    if slice_:
        return "slices"
    return next((group for group in GROUPS if stream.startswith(group.rstrip("s"))), "features")


def incidents(firing: Iterable[Alert]) -> list[dict[str, Any]]:
    """Give the incidents of alerts that fire (each fingerprint once), the gravest first.

    `severity` and `group` are the worst part's, `since_ms` is the first alert's time, `groups` counts the parts by
    group, and `summary` says the first part and how many more there are.
    """
    of_model: dict[str, list[Alert]] = {}
    for alert in firing:
        if alert.get("model") and alert["rule"].startswith(FAMILIES):
            of_model.setdefault(alert["model"], []).append(alert)
    found = [_incident(model, alerts) for model, alerts in of_model.items()]
    return sorted(found, key=lambda one: (SEVERITIES.index(one["severity"]), one["since_ms"], one["model"]))


def _incident(model: str, alerts: list[Alert]) -> dict[str, Any]:
    parts = sorted((_part(alert) for alert in alerts), key=_rank)
    count = Counter(part["group"] for part in parts)
    groups = {group: count[group] for group in GROUPS if count[group]}
    rest = Counter(part["group"] for part in parts[1:])
    more = ", ".join(f"{rest[group]} of {group}" for group in GROUPS if rest[group])
    return {
        "model": model,
        "severity": min((part["severity"] for part in parts), key=SEVERITIES.index),
        "group": parts[0]["group"],
        "since_ms": min(part["at_ms"] for part in parts),
        "groups": groups,
        "summary": parts[0]["summary"] + (f"; and {len(parts) - 1} more: {more}" if more else ""),
        "parts": parts,
    }


def _part(alert: Alert) -> dict[str, Any]:
    evidence = (alert.get("evidence") or [{}])[0]
    statistic, threshold = evidence.get("statistic"), evidence.get("threshold")
    beyond = statistic / threshold if statistic is not None and threshold else None
    return {
        "fingerprint": alert["fingerprint"],
        "rule": alert["rule"],
        "slice": alert.get("slice", ""),
        "group": group_of(alert["rule"], alert.get("slice", "")),
        "severity": alert.get("severity", "warning"),
        "beyond": beyond if alert["rule"].startswith("drift:") else None,
        "summary": alert["summary"],
        "at_ms": alert["at_ms"],
    }


def _rank(part: dict[str, Any]) -> tuple[int, int, float, str, str]:
    return (
        SEVERITIES.index(part["severity"]),
        GROUPS.index(part["group"]),
        -(part["beyond"] or 0.0),
        part["rule"],
        part["slice"],
    )
