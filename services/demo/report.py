"""The end of the story: one table for people, one JSON object for machines."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from schemas.errors import WeirError
from schemas.lifecycle import Alert, Candidate, Promote, Retrain, RolloutStatus
from schemas.measures import Drift
from schemas.settings import Settings
from services.demo.figures import Judged, Span, shown, spans
from services.demo.receiver import Receiver
from services.demo.replay import Replay
from services.demo.story import Story, row_of
from services.demo.stream import DAY_ROWS, ROW_MS, TRAINED, Stream
from streams.runtime.backlog import lags

QUALITY = "quality"
PERMUTATIONS = 200


@dataclass(frozen=True, slots=True)
class Result:
    """Everything that the table and the JSON object say. Times are virtual milliseconds, `seconds` wall."""

    predictions: int
    failed: int
    labels: int
    joined: int
    unlabelled: int
    residual: int
    mismatches: int
    planted_at_ms: int | None
    alarms: list[Drift]
    retrains: list[Retrain]
    promotions: list[Promote]
    promoted_version: str | None
    spans: Mapping[str, Span]
    hops: Mapping[str, float]
    webhooks_verified: int
    webhooks_refused: int
    seconds: float

    @property
    def quality_alarms(self) -> list[Drift]:
        """The alarms on quality, in order."""
        return [alarm for alarm in self.alarms if alarm.stream.startswith(QUALITY)]

    @property
    def detected_at_ms(self) -> int | None:
        """When the first quality alarm after planting was raised."""
        planted = self.planted_at_ms
        return next((a.at_ms for a in self.quality_alarms if planted is not None and a.at_ms >= planted), None)

    @property
    def alarms_before_planting(self) -> int:
        """Quality alarms before the planted drift (all of them when none was planted)."""
        planted = self.planted_at_ms
        return sum(planted is None or alarm.at_ms < planted for alarm in self.quality_alarms)

    def as_json(self) -> dict[str, Any]:
        """Give the object of `--json`."""

        def value(name: str) -> float | None:
            return self.spans[name].model.value if name in self.spans else None

        everything = self.spans["all"]
        return {
            "predictions": self.predictions,
            "labels": self.labels,
            "joined": self.joined,
            "residual": self.residual,
            "mismatches": self.mismatches,
            "drift_planted_at_ms": self.planted_at_ms,
            "drift_detected_at_ms": self.detected_at_ms,
            "alarms_before_planting": self.alarms_before_planting,
            "retrains": len(self.retrains),
            "promoted_version": self.promoted_version,
            "quality_before": value("before"),
            "quality_drifted": value("drifted"),
            "quality_recovered": value("recovered"),
            "baseline_lagged": everything.lagged.value,
            "baseline_yesterday": everything.yesterday.value,
            "webhooks_verified": self.webhooks_verified,
            "seconds": round(self.seconds, 1),
        }

    def table(self) -> str:
        """Give the table that ends the demo."""
        lines = [
            "",
            f"  predictions {self.predictions:,} ({self.failed} failed)   labels sent {self.labels:,}   "
            f"joined {self.joined:,}   unlabelled {self.unlabelled:,}",
            f"  residual {self.residual}   differences from the naive twin {self.mismatches}   "
            f"webhooks verified {self.webhooks_verified} (refused {self.webhooks_refused})",
            "",
            _row("accuracy", "rows", "Weir served", "no-change, true lag", "yesterday's label"),
        ]
        lines += [
            _row(_TITLES[s.name], f"{s.start}-{s.end}", shown(s.model), shown(s.lagged), shown(s.yesterday))
            for s in self.spans.values()
        ]
        lines += ["", *self._story_lines(), ""]
        return "\n".join(lines)

    def _story_lines(self) -> list[str]:
        by_stream = Counter(alarm.stream for alarm in self.alarms)
        told = ", ".join(f"{stream} {count}" for stream, count in sorted(by_stream.items())) or "none"
        lines = [f"  alarms   {told}"]
        lines += [
            f"           {alarm.stream} of {alarm.version} at row {row_of(alarm.at_ms)}"
            for alarm in self.quality_alarms
        ]
        lines.append(f"  retrains {len(self.retrains)}, promotions to full traffic:")
        lines += [f"           {_full(p)} at row {row_of(p.at_ms)}" for p in self.promotions] or ["           none"]
        planted, detected = self.planted_at_ms, self.detected_at_ms
        if planted is not None and detected is not None:
            lines.append(f"  detected {(detected - planted) // ROW_MS:,} rows after the drift was planted")
            recovered = next((p for p in self.promotions if p.at_ms > detected), None)
            if recovered is not None:
                lines.append(f"  replaced {(recovered.at_ms - planted) // ROW_MS:,} rows after it was planted")
        elif planted is not None:
            lines.append("  the planted drift was not detected")
        if self.hops:
            hops = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.hops.items())
            lines.append(f"  wall     {hops}; everything {self.seconds:.0f} s")
        return lines


def _row(title: str, rows: str, *figures: str) -> str:
    return f"  {title:<26}{rows:>13}  " + "  ".join(f"{figure:<20}" for figure in figures)


_TITLES = {
    "all": "the whole replay",
    "before": "before the drift",
    "drifted": "drifted, until promotion",
    "recovered": "after promotion",
}


def result_of(
    settings: Settings, stream: Stream, story: Story, replay: Replay, receiver: Receiver, seconds: float
) -> Result:
    """Gather everything once all has landed. Raises `WeirError` when the recorder does not catch up."""
    from services.cli.verify import verification

    _await_landed(settings)
    checked = verification(settings)
    judged = read_judged(settings)
    promotions = [p for p in story.of(Promote) if _full(p) is not None and p.revision > 1 and _changes(p, story)]
    planted = None if stream.drift_at is None else Stream.at(stream.drift_at)
    after = [p for p in promotions if planted is None or p.at_ms >= planted]
    promoted_row = row_of(after[0].at_ms) if after else None
    return Result(
        predictions=replay.served.predictions,
        failed=len(replay.served.failed),
        labels=replay.served.labels,
        joined=sum(one.label is not None for one in judged),
        unlabelled=sum(one.label is None for one in judged),
        residual=checked.residual,
        mismatches=checked.mismatches,
        planted_at_ms=planted,
        alarms=[drift for drift in story.of(Drift) if drift.alarmed],
        retrains=story.of(Retrain),
        promotions=promotions,
        promoted_version=_full(promotions[-1]) if promotions else None,
        spans=spans(stream, judged, promoted_row),
        hops=_hops(story),
        webhooks_verified=_await_webhooks(story, receiver),
        webhooks_refused=receiver.refused,
        seconds=seconds,
    )


def read_judged(settings: Settings) -> list[Judged]:
    """Read every primary prediction with its last label from ClickHouse."""
    from services.clickhouse import connect

    client = connect(settings)
    try:
        rows = client.query(
            """
            SELECT p.request_id, p.version, p.prediction, o.label
            FROM predictions AS p
            LEFT JOIN outcomes AS o
              ON o.request_id = p.request_id AND o.model = p.model AND o.deployment = p.deployment
            WHERE p.role = 'primary'
            """
        ).result_rows
    finally:
        client.close()
    return [
        Judged(int(request.removeprefix("elec-")), version, int(prediction), None if label is None else int(label))
        for request, version, prediction, label in rows
    ]


def _full(promote: Promote) -> str | None:
    """Give the version that takes all primary traffic, if one does and nothing shadows it."""
    if len(promote.deployments) != 1 or promote.deployments[0].weight < 1:
        return None
    return promote.deployments[0].version


def _changes(promote: Promote, story: Story) -> bool:
    """Whether this promotion brought another version than the last full one before it (a rejected shadow does not)."""
    earlier = [p for p in story.of(Promote) if p.revision < promote.revision and _full(p) is not None]
    return not earlier or _full(max(earlier, key=lambda p: p.revision)) != _full(promote)


def _hops(story: Story) -> dict[str, float]:
    """Time the first closed loop in wall seconds, from the moments at which its events could be read."""
    hops: dict[str, float] = {}
    retrain = next(iter(story.of(Retrain)), None)
    if retrain is None:
        return hops
    candidate = next((c for c in story.of(Candidate) if c.retrain_id == retrain.retrain_id), None)
    if candidate is None:
        return hops
    hops["retrain → candidate"] = story.read_at(candidate) - story.read_at(retrain)
    promotes = [p for p in story.of(Promote) if any(d.version == candidate.version for d in p.deployments)]
    if promotes:
        hops["candidate → shadow"] = story.read_at(promotes[0]) - story.read_at(candidate)
    full = next((p for p in promotes if _full(p) == candidate.version), None)
    if full is not None:
        served = next((s for s in story.of(RolloutStatus) if s.revision >= full.revision and s.converged), None)
        if served is not None:
            hops["promote → served"] = story.read_at(served) - story.read_at(full)
    return hops


def _await_landed(settings: Settings, patience_s: float = 60.0) -> None:
    deadline = time.monotonic() + patience_s
    topics = ("predictions", "labels", "feedback", "steps")
    while any(lags(settings, "record", topics).values()):
        if time.monotonic() > deadline:
            raise WeirError("the recorder did not catch up", fix=f"read {settings.data_dir / 'logs' / 'record.log'}")
        time.sleep(0.1)


def _await_webhooks(story: Story, receiver: Receiver, patience_s: float = 10.0) -> int:
    """Wait until each alert has been delivered or patience is over; grouping may deliver fewer."""
    deadline = time.monotonic() + patience_s
    while len(receiver.verified) < len({a.fingerprint for a in story.of(Alert)}) and time.monotonic() < deadline:
        time.sleep(0.05)
    return len(receiver.verified)


def false_alarms(stream: Stream, settings: Settings, bounds: Mapping[str, Any], result: Result) -> str:
    """Try the budget on shuffled rows: version 1's scores, permuted `PERMUTATIONS` times, through the judge alone."""
    from services.train.artifact import load, registry_of
    from services.train.model import Model
    from streams.judge.bounds import JudgeBounds
    from streams.judge.replay import replay
    from streams.measure.reading import bucket

    judge = JudgeBounds.model_validate(bounds)
    model = Model(load(registry_of(settings) / "elec2" / "v1"))
    scores = np.array(model.predict([stream.row_features(row) for row in range(TRAINED, len(stream))]))
    reference = model.card.reference
    labels = stream.labels[TRAINED:]
    rows = np.arange(TRAINED, len(stream))
    at_ms = np.array([Stream.at(int(row)) for row in rows])
    buckets = np.array([bucket(Stream.subject(int(row)), "") for row in rows])
    random = np.random.default_rng(0)
    expected, count = 0.0, 0
    for _ in range(PERMUTATIONS):
        order = random.permutation(len(labels))
        done = replay(
            reference,
            judge,
            at_ms=at_ms,
            scores=scores[order],
            labels=labels[order],
            buckets=buckets,
            pane_ms=DAY_ROWS * ROW_MS,
        )
        expected += done.expected
        count += len(done.alarms)
    return (
        f"  shuffled rows: {len(result.alarms)} alarms in the replay; {PERMUTATIONS} permutations through the judge "
        f"alone: {count} alarms on quality and score, at most {expected:.2f} expected by the budget"
    )
