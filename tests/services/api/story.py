"""A few hours in the life of one model, as events: enough for every panel of the page to have something true to show.

Version 1 serves, drifts in the last third, is retrained; version 2 is in canary and waits for a person.
"""

from __future__ import annotations

import random
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

from schemas.control import DecidePolicySet, PolicySet, Reference, ReferenceSet
from schemas.event import encode
from schemas.feedback import Feedback
from schemas.inputs import Label, Prediction
from schemas.lifecycle import Alert, Candidate, DecidePolicy, Deployment, Promote, Retrain, RolloutStatus
from schemas.measures import ArmForecast, Drift, Forecast, Gate, Measures, Metric, PaneDelta, Review
from schemas.policy import JoinPolicy
from schemas.records import DeadLetter, Step
from schemas.settings import Settings
from schemas.verdict import Verdict
from services.kafka import Sender
from streams.decide.turn import fingerprint, hashed
from streams.measure.tally import ledger_of

MODEL, MINUTE_MS = "ctr", 60_000
PANES, WINDOW = 180, 20
REQUESTS = 900
ROLLOUT = hashed("rollout", MODEL, "v2", "retrain-1")
STREAMS = ("quality:error", "score", "feature:age", "feature:country", "feature:hour")


def truth(pane: int, version: str) -> float:
    """Give the accuracy that a version really has in a pane."""
    return 0.91 if version == "v2" or pane < 120 else 0.91 - 0.0035 * (pane - 120)


def metric(version: str, start: int, end: int, value: float, n: int, at_ms: int, **more: Any) -> Metric:
    """Give one figure."""
    name = more.pop("metric", "accuracy")
    half = 1.96 * (value * (1 - value) / max(n, 1)) ** 0.5
    about = (name, version, start, end, at_ms)
    return Metric(
        id=hashed("metric", *about),
        model=MODEL,
        version=version,
        deployment=version,
        metric=name,
        from_ms=start,
        to_ms=end,
        value=round(value, 4),
        low=round(value - half, 4),
        high=round(min(1.0, value + half), 4),
        n=n,
        at_ms=at_ms,
        **{"maturity": 0.97, "closed": True, "subjects": 64, **more},
    )


def figures(origin_ms: int, rng: random.Random) -> Iterator[Metric]:
    """Give panes, rolling windows and the open window of both versions."""
    for version, first in (("v1", 0), ("v2", 150)):
        values: list[float] = []
        for pane in range(first, PANES - 3):
            start = origin_ms + pane * MINUTE_MS
            end, at_ms = start + MINUTE_MS, start + 4 * MINUTE_MS
            values.append(truth(pane, version) + rng.gauss(0, 0.02))
            yield metric(version, start, end, values[-1], 200, at_ms)
            recent = values[-WINDOW:]
            mean = sum(recent) / len(recent)
            yield metric(version, end - WINDOW * MINUTE_MS, end, mean, 200 * len(recent), at_ms)
            yield metric(
                version, end - WINDOW * MINUTE_MS, end, 1.3 - mean, 200 * len(recent), at_ms, metric="log_loss"
            )
        for ahead in range(3):
            end = origin_ms + (PANES - 2 + ahead) * MINUTE_MS
            yield metric(
                version,
                end - WINDOW * MINUTE_MS,
                end,
                values[-1] + 0.01 * ahead,
                3_000 - 900 * ahead,
                end,
                maturity=0.8 - 0.25 * ahead,
                closed=False,
            )
            for estimator, value in (("projected", values[-1] - 0.004), ("estimated", values[-1] + 0.02)):
                yield metric(
                    version,
                    end - WINDOW * MINUTE_MS,
                    end,
                    value,
                    3_000 - 900 * ahead,
                    end,
                    estimator=estimator,
                    maturity=0.8 - 0.25 * ahead,
                    closed=False,
                    level=0.9,
                    coverage=0.91,
                    scored=412,
                    windows=27.5,
                    slack=0.03,
                )


def slices(origin_ms: int) -> Iterator[Metric]:
    """Give the last closed window of v2 by country: one is much worse, one is tiny."""
    end = origin_ms + (PANES - 3) * MINUTE_MS
    for country, value, n, subjects in (("DE", 0.78, 2_100, 64), ("FR", 0.6, 1_500, 64), ("LU", 0.4, 5, 4)):
        yield metric(
            "v2", end - WINDOW * MINUTE_MS, end, value, n, end, slice=f"country={country}", subjects=subjects
        )  # fmt: skip


def counted(origin_ms: int, rng: random.Random) -> Iterator[Measures]:
    """Give the counts behind the thresholds of v1: scores that are the chances of their labels."""
    scores = [rng.random() for _ in range(2_000)]
    labels = [int(rng.random() < score) for score in scores]
    ledger = ledger_of(scores, labels, [f"u{number % 300}" for number in range(len(scores))])
    at_ms = origin_ms + (PANES - 30) * MINUTE_MS
    pane = PaneDelta(
        model=MODEL, version="v1", deployment="v1", pane_ms=at_ms, pane_size_ms=MINUTE_MS, cells=ledger.flat()
    )  # fmt: skip
    yield Measures(source=0, sources=1, step=1, clock_ms=at_ms + MINUTE_MS, panes=[pane])


def drifts(origin_ms: int, rng: random.Random) -> Iterator[Drift]:
    """Give what e-SR says of each stream, pane by pane, and what its controls say in the end."""
    for stream, sentence in (
        ("placebo:rows", "the machinery raised 2 alarms where nothing can have changed, in 3.1 days"),
        ("injected:quality:error", "of 4 changes that were put into a copy of the stream 4 were found"),
    ):
        yield Drift(
            id=hashed("drift", stream),
            model=MODEL,
            version="v1",
            deployment="v1",
            stream=stream,
            detector=stream.partition(":")[0],
            from_ms=origin_ms,
            to_ms=origin_ms + (PANES - 3) * MINUTE_MS,
            reference="reference-1",
            evidence=Verdict(outcome="pass", gate=stream, statistic=2.0, threshold=3.1, n=90, sentence=sentence),
            at_ms=origin_ms + (PANES - 3) * MINUTE_MS,
        )
    evidence = dict.fromkeys(STREAMS, 0.0)
    for pane in range(0, PANES - 3, 3):
        end = origin_ms + (pane + 1) * MINUTE_MS
        for stream in STREAMS:
            moved = pane > 120 and stream in ("quality:error", "feature:age")
            evidence[stream] = evidence[stream] * (1.5 if moved else 0.6) + rng.random()
            alarmed = evidence[stream] > 750
            if alarmed:
                evidence[stream] = 0.0
            psi = 0.02 + (0.25 * (pane - 120) / 60 if moved else 0.01 * rng.random())
            distances = {"psi": psi, "psi_q95": 0.031, "ks": psi / 2, "ks_q95": 0.024}
            yield Drift(
                id=hashed("drift", stream, pane),
                model=MODEL,
                version="v1",
                deployment="v1",
                stream=stream,
                detector="e_sr",
                from_ms=end - WINDOW * MINUTE_MS,
                to_ms=end,
                reference="reference-1",
                distances={} if stream.startswith("quality") else distances,
                history={"alarms": 2, "benign": 1, "harmful": 0, "unknown": 1} if stream == "feature:age" else {},
                evidence=Verdict(
                    outcome="fail" if alarmed else "pass",
                    gate=stream,
                    statistic=751.0 if alarmed else evidence[stream],
                    threshold=750.0,
                    n=4_000,
                    sentence=f"{stream}: evidence {evidence[stream]:.3g} of the 750 that it takes to alarm",
                ),
                alarmed=alarmed,
                at_ms=end + 2 * MINUTE_MS,
            )


def decisions(origin_ms: int) -> Iterator[tuple[str, bytes, Any]]:
    """Give policies, the retrain, the candidate, the promotions, the gate, the alerts."""

    def at(pane: int) -> int:
        return origin_ms + pane * MINUTE_MS

    for event in (
        PolicySet(policy=JoinPolicy(model=MODEL, name="clicks"), at_ms=at(0)),
        DecidePolicySet(policy=DecidePolicy(model=MODEL, automation="retrain", min_subjects=50), at_ms=at(0)),
        ReferenceSet(
            reference=Reference(id="reference-1", model=MODEL, version="v1", n=20_000, edges={"age": [30.0]}),
            at_ms=at(0),
        ),
    ):
        yield "control", b"", event
    champion = Deployment(deployment="v1", version="v1", weight=1.0)
    seen = Verdict(outcome="fail", gate="quality:error", sentence="errors rose from 9 % to 21 % of 4,000 outcomes")
    passed = Verdict(outcome="pass", gate="shadow", n=310, sentence="shadow: v2 is better by 0.08 [0.03, 0.14], n 310")
    yield (
        "promote",
        b"default",
        Promote(
            endpoint="default", model=MODEL, revision=1, deployments=[champion], reason="the first version", at_ms=at(0)
        ),
    )
    yield "retrain", MODEL.encode(), Retrain(
        retrain_id="retrain-1", model=MODEL, base_version="v1", reason=seen.sentence, evidence=[seen], from_ms=at(0),
        to_ms=at(142), at_ms=at(142),
    )  # fmt: skip
    yield "candidates", MODEL.encode(), Candidate(
        model=MODEL, version="v2", retrain_id="retrain-1", artifact="v2", sha256="0" * 64, rows=28_400,
        metrics=[metric("v2", at(100), at(142), 0.905, 8_000, at(144))],
        champion=[metric("v1", at(100), at(142), 0.84, 8_000, at(144))],
        baselines={"no change": 0.71}, at_ms=at(144),
    )  # fmt: skip
    for revision, stage, weight, pane in ((2, "shadow", 0.0, 145), (3, "canary", 0.5, 160)):
        challenger = Deployment(
            deployment="v2",
            version="v2",
            weight=weight,
            role="shadow" if stage == "shadow" else "primary",
            arm="challenger",
        )
        yield "promote", b"default", Promote(
            endpoint="default", model=MODEL, revision=revision, rollout_id=ROLLOUT, stage=stage,
            deployments=[Deployment(deployment="v1", version="v1", weight=1 - weight, arm="champion"), challenger],
            reason=f"v2 goes to {stage}: the evidence is for it", evidence=[] if stage == "shadow" else [passed],
            at_ms=at(pane),
        )  # fmt: skip
    yield (
        "rollout-status",
        b"default",
        RolloutStatus(endpoint="default", model=MODEL, revision=3, server="serve-0", converged=True, at_ms=at(160)),
    )
    yield "gates", MODEL.encode(), Gate(
        id="gate-1", model=MODEL, layer=f"canary:{ROLLOUT}", effect=0.07, low=0.01, high=0.13, alpha=0.05,
        alpha_rollback=0.025, bar=-0.02, e_above=23.0, e_below=0.4, n=420, champions=212, challengers=208,
        maturity=0.88,
        sentence="challenger minus champion 0.07, at least 0.01 with 95 %, over 420 subjects", at_ms=at(176),
    )  # fmt: skip
    then = Verdict(outcome="pass", gate=f"shadow:{ROLLOUT}", value=0.06, n=300, sentence="better than the champion")
    for revision, value, stands in ((1, 0.05, True), (2, 0.01, False)):
        now = Verdict(outcome="pass" if stands else "inconclusive", gate=then.gate, value=value, n=300)
        yield "reviews", MODEL.encode(), Review(
            id=f"review-{revision}", model=MODEL, layer=then.gate, topic="gates", decision_id="gate-0", name=then.gate,
            decided_ms=at(165), to_ms=at(165), then=then, now=now, stands=stands, revision=revision,
            overturned=0 if stands else 1, sentence=f"the effect was 0.06 and is {value}", at_ms=at(175 + revision),
        )  # fmt: skip
    for pane, rule, severity, summary, status in (
        (138, "drift:feature:age", "warning", "feature:age of v1 drifted: its share above 40 doubled", "firing"),
        (141, "drift:quality:error", "error", "quality:error of v1 drifted: errors rose from 9 % to 21 %", "firing"),
        (150, "training-failed", "error", "training gave no candidate", "firing"),
        (155, "training-failed", "error", "v2 was trained", "resolved"),
        (
            177,
            "approval-needed",
            "warning",
            f"v2 waits to go to full (its evidence is for it): approve {ROLLOUT}",
            "firing",
        ),
    ):
        yield "alerts", rule.encode(), Alert(
            id=f"alert-{pane}", fingerprint=fingerprint(rule, MODEL), rule=rule, model=MODEL, version="v1",
            status=status, severity=severity, summary=summary, at_ms=at(pane),  # type: ignore[arg-type]
            evidence=[passed] if rule.startswith("approval") else [],
        )  # fmt: skip
    for number, (reason, topic) in enumerate((("orphan", "labels"), ("orphan", "labels"), ("not_json", "predictions"))):
        yield "dead-letters", topic.encode(), DeadLetter(
            reason=reason, detail="no prediction came in time" if reason == "orphan" else "expected JSON, got `<html>`",
            stage="join", topic=topic, partition=0, offset=10_000 + number, append_ms=at(100 + number),
            value=b64encode(b"secret").decode(), request_id=f"lost-{number}", at_ms=at(100 + number),
        )  # fmt: skip


def requests(settings: Settings, origin_ms: int, rng: random.Random) -> Iterator[tuple[str, int, bytes, Any]]:
    """Give predictions, their labels and what the join said, and the step that counted them."""
    partitions = settings.partitions
    labels = [0] * partitions
    for number in range(REQUESTS):
        partition = number % partitions
        request, at_ms = f"r{number:06d}", origin_ms + int(number / REQUESTS * PANES * MINUTE_MS)
        key = request.encode()
        yield (
            "predictions",
            partition,
            key,
            Prediction(request_id=request, at_ms=at_ms, model=MODEL, version="v1", deployment="v1", score=rng.random()),
        )
        delay_ms = int(rng.lognormvariate(12.0, 1.0))
        joined_ms = at_ms + delay_ms
        if rng.random() < 0.9 and joined_ms < origin_ms + PANES * MINUTE_MS:
            labels[partition] += 1
            yield "labels", partition, key, Label(request_id=request, at_ms=joined_ms, label=1)
            yield "feedback", partition, key, Feedback(
                request_id=request, model=MODEL, deployment="v1", revision=1, status="final", label=1,
                label_kind="explicit", policy="clicks@1", version="v1", predicted_at_ms=at_ms, labelled_at_ms=joined_ms,
                joined_at_ms=joined_ms,
            )  # fmt: skip
    for partition in range(partitions):
        predictions = len(range(partition, REQUESTS, partitions))
        counters = {
            "predictions.final": labels[partition],
            "predictions.open": predictions - labels[partition],
            "labels.joined": labels[partition],
        }
        yield "steps", partition, b"", Step(
            stage="join", partition=partition, number=1, clock_ms=origin_ms + PANES * MINUTE_MS, counters=counters,
            offsets={"predictions": predictions, "labels": labels[partition], "signals": 0}, processor="join-1",
            outputs=0, digest="",
        )  # fmt: skip


def forecasts(origin_ms: int) -> Iterator[Forecast]:
    """Give what the outage guard says: one source that flows, told twice, and one that is being learnt."""
    for pane in (PANES - 1, PANES):
        at_ms = origin_ms + pane * MINUTE_MS
        yield Forecast(
            id=f"forecast-desk-{pane}", source="desk", state="learning", learnt_ms=pane * MINUTE_MS,
            warm_up_ms=360 * MINUTE_MS, sentence=f"labels of desk: learning, {pane} of 360 panes of 1 min", at_ms=at_ms,
        )  # fmt: skip
        yield Forecast(
            id=f"forecast-market-{pane}", source="market", state="watched", learnt_ms=360 * MINUTE_MS,
            warm_up_ms=360 * MINUTE_MS, window_ms=MINUTE_MS, expected=30.52, bound=7, seen=pane, at_ms=at_ms,
            sentence="labels of market flow", arms=[ArmForecast(model=MODEL, version="v1", state="watched")],
        )  # fmt: skip


def tell(settings: Settings, origin_ms: int, seed: int = 0) -> None:
    """Send the whole story to Kafka."""
    rng = random.Random(seed)
    with Sender(settings, "story") as sender:
        for topic, partition, key, event in requests(settings, origin_ms, rng):
            sender.send(topic, encode(event), key=key, partition=partition)
        for topic, key, event in decisions(origin_ms):
            for copy in range(settings.partitions if topic == "control" else 1):
                sender.send(topic, encode(event), key=key, partition=copy)
        for figure in figures(origin_ms, rng):
            sender.send("metrics", encode(figure), key=MODEL.encode())
        for figure in slices(origin_ms):
            sender.send("metrics", encode(figure), key=MODEL.encode())
        for measures in counted(origin_ms, random.Random(seed)):
            sender.send("measures", encode(measures), key=b"0")
        for forecast in forecasts(origin_ms):
            sender.send("forecasts", encode(forecast), key=forecast.source.encode())
        for drift in drifts(origin_ms, rng):
            sender.send("drift", encode(drift), key=MODEL.encode())
