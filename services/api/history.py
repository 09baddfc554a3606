"""What happened, from ClickHouse: figures, drift, delays, rollouts, alerts. Shapes for the page and for anyone else.

Tables may hold a position twice after a crash; every query here takes the newest row of each figure or event, which
is the same whether it stands once or twice. Times are the events' own, and `now_ms` is the join's clock: in a namespace
with a virtual clock the page shows that time, not this machine's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any, Literal

from schemas.settings import Settings
from services.api.arrival import arrival_curve, bin_sql, quantile
from services.api.slices import LEVEL, MOST, worst_first
from services.api.store import Row, Store
from streams.judge.bounds import JudgeBounds
from streams.measure.metrics import metric_of

DAY_MS = 86_400_000
FIGURES, PANES, EVENTS, ALERTS, COHORTS = 2_000, 60, 50, 200, 12
CONTROLS = ("placebo", "injected")
"""What stands for a detector in the events of the controls of the alarms."""

Window = Literal["rolling", "pane"]


class History:
    """Questions to the namespace's database. Raises what `Store.rows` raises."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings, self._store = settings, store

    def now_ms(self) -> int:
        """Give the namespace's time: the join's clock where it is virtual, else this machine's."""
        if self._settings.clock == "broker":
            return int(time.time() * 1000)
        rows = self._store.rows("SELECT max(clock_ms) AS at FROM landed_steps WHERE stage = 'join'")
        return int(rows[0]["at"])

    def models(self) -> list[Row]:
        """Give each model with its versions (the newest first), metrics, slices, references and policies.

        `predictions` counts the requests of the last day that has any.
        """
        seen = self._store.rows(
            "SELECT model, version, deployment, role, min(from_ms) AS first_ms, max(to_ms) AS last_ms, "
            "arraySort(groupUniqArray(metric)) AS metrics, arraySort(groupUniqArray(slice)) AS slices "
            "FROM landed_metrics WHERE unreadable = '' GROUP BY model, version, deployment, role ORDER BY last_ms DESC"
        )
        predicted = self._store.rows(
            "SELECT model, version, deployment, role, min(at_ms) AS first_ms, max(at_ms) AS last_ms, "
            "uniqExact(request_id) AS rows "
            "FROM landed_predictions WHERE unreadable = '' "
            f"AND append_ms > (SELECT max(append_ms) FROM landed_predictions) - {DAY_MS} "
            "GROUP BY model, version, deployment, role ORDER BY last_ms DESC"
        )
        references = self._bodies("control", "kind = 'reference_set'", "at_ms DESC", 1_000)
        policies = self._bodies(
            "control", "kind IN ('policy_set', 'decide_policy_set')", "at_ms DESC, offset DESC", 1_000
        )
        rolled = self._store.rows("SELECT DISTINCT model FROM landed_promote WHERE unreadable = ''")
        names = sorted(
            {row["model"] for row in (*seen, *predicted, *rolled)} | {one["policy"]["model"] for one in policies}
        )
        return [
            {
                "model": name,
                "versions": _merged(name, seen, predicted),
                "metrics": sorted({metric for row in seen if row["model"] == name for metric in row["metrics"]}),
                "slices": sorted({part for row in seen if row["model"] == name for part in row["slices"] if part}),
                "references": _references(name, references),
                "join_policy": _policy(name, policies, "policy_set"),
                "decide_policy": _policy(name, policies, "decide_policy_set"),
            }
            for name in names
        ]

    def quality(
        self, model: str, metric: str, *, slice_: str = "", window: Window = "rolling", from_ms: int = 0
    ) -> dict[str, Any]:
        """Give the series of a metric: closed windows in order of time, and the newest open one of each deployment.

        `rolling` are windows of many panes (less noise), `pane` single panes. An open window is still maturing:
        `ahead` says for those what their figures will be, by estimator, with how such intervals fared so far.
        """
        shape = "=" if window == "pane" else "!="
        rows = self._store.rows(
            "SELECT version, deployment, role, from_ms, to_ms, value, low, high, n, subjects, maturity, closed, "
            "correction, estimator, at_ms FROM (SELECT * FROM landed_metrics WHERE unreadable = '' "
            "AND model = {model:String} AND metric = {metric:String} AND slice = {slice:String} "
            "AND to_ms > {from_ms:Int64} AND estimator = 'realised' "
            f"AND (closed = 0 OR to_ms - from_ms {shape} {{pane_ms:Int64}}) "
            "ORDER BY at_ms DESC, offset DESC LIMIT 1 BY version, deployment, role, to_ms, closed) "
            "ORDER BY to_ms DESC LIMIT {most:UInt32} BY version, deployment, role, closed",
            model=model,
            metric=metric,
            slice=slice_,
            from_ms=from_ms,
            pane_ms=self._settings.join.pane_ms,
            most=FIGURES,
        )
        rows.reverse()
        settled: dict[tuple[str, str, str], int] = {}
        for row in rows:
            if row["closed"]:
                settled[_key(row)] = max(settled.get(_key(row), 0), row["to_ms"])
        points = [row for row in rows if row["closed"] or row["to_ms"] > settled.get(_key(row), 0)]
        return {
            "model": model,
            "metric": metric,
            **_known(metric),
            "slice": slice_,
            "window": window,
            "pane_ms": self._settings.join.pane_ms,
            "points": points,
            "ahead": [
                row for row in self._ahead(model, metric, slice_, from_ms) if row["to_ms"] > settled.get(_key(row), 0)
            ],
        }

    def _ahead(self, model: str, metric: str, slice_: str, from_ms: int) -> list[Row]:
        """Give what was told of windows before their labels came, in order of time."""
        rows = self._store.rows(
            "SELECT version, deployment, role, estimator, from_ms, to_ms, value, low, high, n, maturity, level, "
            "coverage, scored, windows, slack, at_ms FROM landed_metrics WHERE unreadable = '' "
            "AND model = {model:String} AND metric = {metric:String} AND slice = {slice:String} "
            "AND to_ms > {from_ms:Int64} AND estimator != 'realised' "
            "ORDER BY to_ms DESC, at_ms DESC, offset DESC LIMIT 1 BY version, deployment, role, estimator, to_ms "
            "LIMIT {most:UInt32}",
            model=model,
            metric=metric,
            slice=slice_,
            from_ms=from_ms,
            most=FIGURES,
        )
        rows.reverse()
        return rows

    def drift(self, model: str) -> dict[str, Any]:
        """Give what detectors say of each stream: the newest, the last alarm, and the last panes for a heat strip.

        `controls` is what the placebo and the injected changes say last (`streams.judge.controls`).
        """
        rows = self._store.rows(
            "SELECT body, version, deployment, slice, stream, detector, to_ms, alarmed, distances, "
            "evidence_statistic AS statistic, evidence_threshold AS threshold FROM (SELECT * FROM landed_drift "
            "WHERE unreadable = '' AND model = {model:String} ORDER BY offset DESC LIMIT 1 BY id) "
            "ORDER BY to_ms DESC LIMIT {most:UInt32} BY version, deployment, slice, stream, detector",
            model=model,
            most=PANES,
        )
        alarms = self._bodies(
            "drift", "alarmed AND model = {model:String}", "at_ms DESC, offset DESC", EVENTS, model=model
        )
        streams: dict[tuple[str, ...], dict[str, Any]] = {}
        for row in rows:
            at = tuple(row[name] for name in ("version", "deployment", "slice", "stream", "detector"))
            if at not in streams:
                streams[at] = {"latest": json.loads(row["body"]), "last_alarm": None, "panes": []}
            far = row["distances"]
            streams[at]["panes"].append(
                {
                    "to_ms": row["to_ms"],
                    "statistic": row["statistic"],
                    "threshold": row["threshold"],
                    "alarmed": row["alarmed"],
                    **{name: far.get(name) for name in ("psi", "psi_q95", "ks", "ks_q95")},
                }
            )
        # A stream that alarms often must not hide when the others began.
        first = self._store.rows(
            "SELECT body FROM (SELECT * FROM landed_drift WHERE unreadable = '' AND alarmed AND model = {model:String} "
            "ORDER BY at_ms, offset LIMIT 1 BY version, deployment, slice, stream, detector) "
            "ORDER BY at_ms DESC LIMIT {most:UInt32}",
            model=model,
            most=EVENTS,
        )
        newest = {alarm["id"] for alarm in alarms}
        alarms += [alarm for alarm in (json.loads(row["body"]) for row in first) if alarm["id"] not in newest]
        for alarm in reversed(alarms):
            at = tuple(alarm.get(name, "") for name in ("version", "deployment", "slice", "stream", "detector"))
            if at in streams:
                streams[at]["last_alarm"] = alarm
        for stream in streams.values():
            stream["panes"].reverse()
        found = list(streams.values())
        return {
            "model": model,
            "budget": self._budget(),
            "streams": [one for one in found if one["latest"]["detector"] not in CONTROLS],
            "controls": [one["latest"] for one in found if one["latest"]["detector"] in CONTROLS],
            "alarms": alarms,
        }

    def _budget(self) -> dict[str, Any]:
        bounds = JudgeBounds.model_validate(self._settings.judge)
        return {"false_alarms": bounds.budget, "period_ms": bounds.period_ms}

    def delay(self, model: str, *, from_ms: int = 0, name: str = "") -> dict[str, Any]:
        """Give how long labels take: the curve by age, its quantiles, cohorts, and what became of predictions."""
        now_ms = self.now_ms()
        about: dict[str, Any] = {"model": model, "from_ms": from_ms, "now_ms": now_ms, "name": name}
        outcomes = (
            "SELECT request_id, deployment, name, item, any(predicted_at_ms) AS predicted, "
            "minOrNullIf(joined_at_ms, label_kind = 'explicit') AS came, max(revision) AS revisions, "
            "argMax(status, revision) AS status, argMax(label_kind, revision) AS kind FROM landed_feedback "
            "WHERE unreadable = '' AND model = {model:String} AND predicted_at_ms >= {from_ms:Int64} "
            "AND ({name:String} = '' OR name = {name:String}) GROUP BY request_id, deployment, name, item"
        )
        if self._settings.clock == "virtual":
            # There the join's clock stands still between two ticks; the label's own time of sending does not.
            outcomes = (
                "SELECT one.predicted AS predicted, one.revisions AS revisions, one.status AS status, "
                "one.kind AS kind, if(isNull(one.came), NULL, greatest(assumeNotNull(one.came), labels.sent)) AS came "
                f"FROM ({outcomes}) AS one LEFT JOIN (SELECT request_id, min(append_ms) AS sent FROM landed_labels "
                "WHERE unreadable = '' GROUP BY request_id) AS labels ON labels.request_id = one.request_id"
            )
        age = "greatest({now_ms:Int64} - %s, 0)"
        labelled = self._store.rows(
            f"SELECT {bin_sql('came - predicted')} AS delay, {bin_sql(age % 'predicted')} AS age, count() AS n "
            f"FROM ({outcomes}) WHERE came IS NOT NULL GROUP BY delay, age",
            **about,
        )
        predicted = self._store.rows(
            f"SELECT {bin_sql(age % 'at_ms')} AS age, uniqExact(request_id, deployment) AS n, "
            "min(at_ms) AS first_ms, max(at_ms) AS last_ms FROM landed_predictions WHERE unreadable = '' "
            "AND model = {model:String} AND at_ms >= {from_ms:Int64} GROUP BY age",
            **about,
        )
        kinds = self._store.rows(
            "SELECT status, ifNull(kind, '') AS kind, count() AS n, countIf(revisions > 1) AS revised "
            f"FROM ({outcomes}) GROUP BY status, kind ORDER BY n DESC",
            **about,
        )
        arrived, waiting = _counted(labelled, "delay"), _counted(predicted, "age")
        for row in labelled:
            waiting[row["age"]] = max(0, waiting.get(row["age"], 0) - row["n"])
        curve = arrival_curve(arrived, waiting)
        first_ms = min((row["first_ms"] for row in predicted), default=None)
        last_ms = max((row["last_ms"] for row in predicted), default=None)
        return {
            "model": model,
            "predicted": sum(row["n"] for row in predicted),
            "labelled": sum(row["n"] for row in labelled),
            "first_ms": first_ms,
            "last_ms": last_ms,
            "curve": [{"age_ms": at, "share": share} for at, share in curve],
            "quantiles": {f"p{share:.0%}"[:-1]: quantile(curve, share) for share in (0.5, 0.9, 0.95)},
            "outcomes": kinds,
            "cohorts": self._cohorts(outcomes, first_ms, last_ms, about),
        }

    def _cohorts(self, outcomes: str, first_ms: int | None, last_ms: int | None, about: dict[str, Any]) -> list[Row]:
        if first_ms is None or last_ms is None:
            return []
        width_ms = max(1, -(-(last_ms + 1 - first_ms) // COHORTS))
        more = {**about, "first_ms": first_ms, "width_ms": width_ms}
        number = "intDiv(%s - {first_ms:Int64}, {width_ms:Int64})"
        predicted = self._store.rows(
            f"SELECT {number % 'at_ms'} AS cohort, uniqExact(request_id, deployment) AS n FROM landed_predictions "
            "WHERE unreadable = '' AND model = {model:String} AND at_ms >= {from_ms:Int64} GROUP BY cohort "
            "ORDER BY cohort",
            **more,
        )
        came = self._store.rows(
            f"SELECT {number % 'predicted'} AS cohort, count() AS n FROM ({outcomes}) WHERE came IS NOT NULL "
            "AND predicted >= {first_ms:Int64} GROUP BY cohort",
            **more,
        )
        labelled = {row["cohort"]: row["n"] for row in came}
        return [
            {
                "from_ms": first_ms + row["cohort"] * width_ms,
                "to_ms": first_ms + (row["cohort"] + 1) * width_ms,
                "predicted": row["n"],
                "labelled": labelled.get(row["cohort"], 0),
            }
            for row in predicted
        ]

    def rollout(self, model: str) -> dict[str, Any]:
        """Give the desired state of each endpoint of a model, and what led to it, the newest first."""
        about = "model = {model:String}"
        newest = "at_ms DESC, offset DESC"
        gates = self._store.rows(
            "SELECT body FROM (SELECT * FROM landed_gates WHERE unreadable = '' AND model = {model:String} "
            "ORDER BY offset DESC LIMIT 1 BY layer) ORDER BY at_ms DESC LIMIT {most:UInt32}",
            model=model,
            most=EVENTS,
        )
        promotions = self._bodies("promote", about, "revision DESC, offset DESC", EVENTS, model=model)
        return {
            "model": model,
            "promotions": promotions,
            "gates": [json.loads(row["body"]) for row in gates],
            "candidates": self._bodies("candidates", about, newest, EVENTS, model=model),
            "retrains": self._bodies("retrain", about, newest, EVENTS, model=model),
            "approvals": self._bodies("approvals", about, newest, EVENTS, model=model),
            "reviews": self.reviews(model),
            "servers": _newest(
                self._bodies("rollout-status", about, newest, ALERTS, model=model), ("endpoint", "server")
            ),
        }

    def slices(self, model: str, metric: str) -> dict[str, Any]:
        """Give the slices of the version that was measured last, the worst first (`services.api.slices`).

        Each figure is that of the slice's newest closed rolling window; one that had ended when the whole's began is
        left out.
        """
        rows = self._store.rows(
            "SELECT version, deployment, slice, from_ms, to_ms, value, low, high, n, subjects, maturity "
            "FROM landed_metrics WHERE unreadable = '' AND model = {model:String} AND metric = {metric:String} "
            "AND estimator = 'realised' AND role = 'primary' AND closed AND to_ms - from_ms != {pane_ms:Int64} "
            "ORDER BY to_ms DESC, at_ms DESC, offset DESC LIMIT 1 BY version, deployment, slice",
            model=model,
            metric=metric,
            pane_ms=self._settings.join.pane_ms,
        )
        known = _known(metric)
        whole = next((row for row in rows if not row["slice"]), None)
        parts: list[Row] = []
        if whole is not None:
            own = (whole["version"], whole["deployment"])
            parts = [
                row
                for row in rows
                if row["slice"] and (row["version"], row["deployment"]) == own and row["to_ms"] > whole["from_ms"]
            ]
        found = [] if whole is None else worst_first(whole, parts, known["better"])
        return {
            "model": model,
            "metric": metric,
            **known,
            "level": LEVEL,
            "dimension": self._settings.join.slice_dimension,
            "whole": whole,
            "slices": found[:MOST],
        }

    def reviews(self, model: str) -> list[Row]:
        """Give the newest review of each decision whose ground was corrected, the newest first."""
        rows = self._store.rows(
            "SELECT body FROM (SELECT * FROM landed_reviews WHERE unreadable = '' AND model = {model:String} "
            "ORDER BY offset DESC LIMIT 1 BY decision_id) ORDER BY at_ms DESC, offset DESC LIMIT {most:UInt32}",
            model=model,
            most=EVENTS,
        )
        return [json.loads(row["body"]) for row in rows]

    def alerts(self, model: str = "") -> list[dict[str, Any]]:
        """Give the newest alerts, the newest first."""
        return self._bodies(
            "alerts",
            "({model:String} = '' OR model IN ('', {model:String}))",
            "at_ms DESC, offset DESC",
            ALERTS,
            model=model,
        )

    def totals(self) -> dict[str, int]:
        """Give what the join has counted, by class, over all partitions."""
        rows = self._store.rows(
            "SELECT sumMap(counters) AS counters FROM (SELECT counters FROM landed_steps WHERE stage = 'join' "
            "AND unreadable = '' ORDER BY number DESC LIMIT 1 BY partition)"
        )
        return {str(name): int(count) for name, count in rows[0]["counters"].items()} if rows else {}

    def dead_letters(self) -> dict[str, Any]:
        """Give the count by reason and source, and the newest ones (without their bodies)."""
        once = "(SELECT * FROM landed_dead_letters WHERE unreadable = '' LIMIT 1 BY partition, offset, idx)"
        return {
            "reasons": self._store.rows(
                "SELECT reason, source_topic AS topic, stage, count() AS n, max(at_ms) AS last_ms, "
                f"argMax(detail, at_ms) AS detail FROM {once} GROUP BY reason, topic, stage ORDER BY n DESC"
            ),
            "newest": self._store.rows(
                "SELECT reason, detail, stage, concat(source_topic, '/', toString(source_partition), '/', "
                "toString(source_offset)) AS id, request_id, model, at_ms "
                f"FROM {once} ORDER BY at_ms DESC, offset DESC LIMIT 20"
            ),
        }

    def sources(self) -> list[dict[str, Any]]:
        """Give the outage guard's latest forecast of each label source that it has spoken of in its last hour."""
        latest = "at_ms > (SELECT max(at_ms) FROM landed_forecasts) - 3600000"
        rows = self._store.rows(
            "SELECT argMax(body, (at_ms, offset)) AS body FROM landed_forecasts "
            f"WHERE unreadable = '' AND {latest} GROUP BY source ORDER BY source"
        )
        return [json.loads(row["body"]) for row in rows]

    def _bodies(self, topic: str, where: str, order: str, most: int, **parameters: Any) -> list[dict[str, Any]]:
        """Give events as they came, each position once."""
        rows = self._store.rows(
            f"SELECT body FROM (SELECT * FROM landed_{topic.replace('-', '_')} WHERE unreadable = '' AND {where} "
            f"LIMIT 1 BY partition, offset, idx) ORDER BY {order} LIMIT {{most:UInt32}}",
            most=most,
            **parameters,
        )
        return [json.loads(row["body"]) for row in rows]


def _key(row: Row) -> tuple[str, str, str]:
    return row["version"], row["deployment"], row["role"]


def _counted(rows: Iterable[Row], name: str) -> dict[int, int]:
    counts: dict[int, int] = {}
    for row in rows:
        counts[row[name]] = counts.get(row[name], 0) + row["n"]
    return counts


def _merged(model: str, seen: list[Row], predicted: list[Row]) -> list[Row]:
    """Give versions that predicted or were measured, the newest first."""
    found: dict[tuple[str, str, str], Row] = {}
    for row in (*predicted, *seen):
        if row["model"] == model:
            kept = found.setdefault(_key(row), {name: row[name] for name in ("version", "deployment", "role")})
            kept["first_ms"] = min(kept.get("first_ms", row["first_ms"]), row["first_ms"])
            kept["last_ms"] = max(kept.get("last_ms", row["last_ms"]), row["last_ms"])
            kept["predictions"] = kept.get("predictions", 0) + row.get("rows", 0)
    return sorted(found.values(), key=lambda row: -row["last_ms"])


def _references(model: str, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for event in events:
        one = event["reference"]
        if one["model"] == model:
            found[one["version"]] = {
                "id": one["id"],
                "version": one["version"],
                "n": one["n"],
                "learnt_from": one.get("learnt_from", "training"),
                "features": sorted({*one.get("edges", {}), *one.get("categories", {})}),
            }
    return list(found.values())


def _policy(model: str, events: list[dict[str, Any]], kind: str) -> dict[str, Any] | None:
    return next((one["policy"] for one in events if one["kind"] == kind and one["policy"]["model"] == model), None)


def _newest(events: list[dict[str, Any]], by: tuple[str, ...]) -> list[dict[str, Any]]:
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for event in events:
        found.setdefault(tuple(event.get(name) for name in by), event)
    return list(found.values())


def _known(metric: str) -> dict[str, Any]:
    """Say which direction is better, and the least and greatest possible value (None: unbounded)."""
    _, one = metric_of(metric)
    if one is None:
        return {"better": "higher", "least": None, "most": None}
    return {"better": one.better, "least": one.least, "most": one.most}
