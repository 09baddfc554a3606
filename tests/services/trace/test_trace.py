"""A seeded history, played through the real join, landed, and told again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import FAILURE, OK, WeirError
from schemas.event import decode, encode
from schemas.measures import Review, Trial
from schemas.records import Step
from schemas.settings import Settings
from schemas.topics import INPUTS
from schemas.verdict import Verdict
from services.local.clickhouse import LocalClickHouse
from services.record.land import Span, Store
from services.record.timers import Timers
from services.replay.compare import Comparison, Last, why_different
from services.replay.plan import during, moment, read, window_of
from services.replay.run import policy_replay
from services.trace.landed import Landed
from services.trace.run import story, trace
from services.trace.shape import Pane
from services.trace.story import tell
from streams.join.naive import Record, partition_of
from streams.runtime.records import Records
from tests.services.trace.landing import BOUNDS, HOUR, LATER, POLICY, T0_MS, land, played, settings_of, shop, steps_of

TRIED = """
[join]
model = "shop"
name = "bold"
horizon_ms = 600000
on_timeout = "negative"
exposure = "impression"
"""


def landed_of(driver: Any, request_id: str) -> Landed:
    """Give what a reader would find of a request."""
    home = partition_of(request_id, BOUNDS.partitions)
    wanted = request_id.encode()
    found = Landed(request_id, home)
    found.records = [(t, r) for t in INPUTS for r in driver.logs[t] if f'"{request_id}"'.encode() in (r.value or b"")]
    found.records.sort(key=lambda one: one[1].append_ms)
    found.feedback = [r for r in driver.outputs["feedback"] if r.key == wanted]
    found.control = [r for r in driver.logs["control"] if r.partition == home]
    steps = [one for one in steps_of(driver) if one.partition == home]
    found.timers = Timers(decode(steps[-1].value or b"", Step))
    return found


def test_every_record_has_a_fate_and_every_chain_holds() -> None:
    driver = played(shop(requests=120), until_ms=T0_MS + 3 * HOUR)
    fates: Counter[str] = Counter()
    for number in range(120):
        told = tell(landed_of(driver, f"r{number:04d}"), BOUNDS, "shop")
        assert told.known
        fates.update(one.fate for one in told.events)
        for answer in told.answers:
            assert answer.policy.label in ("clicks@1", "clicks@2")
            for outcome in answer.outcomes:
                assert not outcome.problems
                for revision in outcome.revisions:
                    assert revision.why
                    assert (
                        bool(revision.cause) == (revision.kind in ("explicit", "implicit")) or "retract" in revision.why
                    )
    assert {"standing", "joined", "duplicate", "conflict", "forwarded"} <= {*fates}


def test_a_lost_revision_is_named() -> None:
    driver = played(shop(requests=60), until_ms=T0_MS + 3 * HOUR)
    twice = Counter(one.key for one in driver.outputs["feedback"])
    request_id = next((key or b"").decode() for key, count in twice.items() if count == 2 and (key or b"")[:1] == b"r")
    landed = landed_of(driver, request_id)
    landed.feedback = landed.feedback[1:]
    told = tell(landed, BOUNDS, "shop")
    assert any(outcome.problems for answer in told.answers for outcome in answer.outcomes)


def test_what_is_pending_is_said() -> None:
    request_id = "r-late"
    body = json.dumps({"request_id": request_id, "model": "shop", "at_ms": T0_MS, "score": 0.5}).encode()
    home = partition_of(request_id, BOUNDS.partitions)
    landed = Landed(request_id, home, records=[("predictions", Record(home, 0, T0_MS, None, body))])
    [answer] = tell(landed, BOUNDS, "shop").answers
    assert [one.at_ms for one in answer.outcomes[0].pending] == [
        answer.deadline_ms - 300_000,
        answer.deadline_ms,
        answer.reach_ms,
    ]
    assert answer.policy.set_at == ""


def test_windows_and_policies_are_read(tmp_path: Path) -> None:
    assert window_of(None, "1", "2", 0).to_ms == 2
    assert moment("2026-01-01T00:00:00+01:00", "--from") == T0_MS - HOUR
    with pytest.raises(WeirError, match="no moment"):
        window_of(None, "yesterday", None, 5)
    with pytest.raises(WeirError, match="--days and --from"):
        window_of(3, "1", None, 5)
    file = tmp_path / "new.toml"
    file.write_text('[join]\nmodel = "shop"\nhorizn_ms = 5\n')
    with pytest.raises(WeirError, match="did you mean `horizon_ms`"):
        read(file, None, T0_MS)
    file.write_text('[decide]\nmodel = "shop"\n')
    with pytest.raises(WeirError, match=r"no table \[join\]"):
        read(file, None, T0_MS)
    window = window_of(None, str(T0_MS), str(T0_MS + 2 * HOUR), 0)
    assert [one.version for one in during([LATER, POLICY], "shop", window)] == [1, 2]


def test_a_difference_has_its_reason() -> None:
    last = Last(1, "explicit", 1.0, "final", "primary", 5, 9, "p@1", None, False)
    assert why_different(last, last._replace(status="provisional"), 99) == ""
    assert "last feedback" in why_different(last, None, 8)
    assert "under q@1" in why_different(last, last._replace(label=0, policy="q@1"), 99)
    assert "came back" in why_different(last, last._replace(label=0, restarted=True), 99)
    assert "window's edge" in why_different(last, last._replace(label=0, predicted_at_ms=4), 99)
    comparison = Comparison({"before": "label", "after": "label", "landed": "label"}, {})
    comparison.end(None, 0, 0)
    assert comparison.outcomes == 0


def reviewed(settings: Settings, pane: Pane) -> None:
    """Land reviews of decisions, twice each: two that the request was in, and two of another pane and layer."""
    pane_ms = pane.from_ms
    trial = Trial(
        request_id="r0003", model="shop", layer="canary:r", arm="champion", subject="s", at_ms=pane_ms, value=1.0,
        source=0, step=1,
    )  # fmt: skip
    verdict = Verdict(outcome="fail", value=0.5)
    reviews = [
        Review(
            id=f"{decision}-{revision}", model="shop", version=pane.version, deployment=pane.deployment,
            topic=topic, layer=layer,  # type: ignore[arg-type]
            decision_id=decision, name=layer or "accuracy", decided_ms=pane_ms, from_ms=pane_ms + shift, then=verdict,
            to_ms=pane_ms + shift + 10**7, now=verdict, stands=False, sentence=f"{revision} of {decision}",
            at_ms=pane_ms + revision, revision=revision,
        )
        for revision in (1, 2)
        for decision, topic, layer, shift in (
            ("metric-1", "metrics", "", 0),
            ("metric-2", "metrics", "", 10**8),
            ("gate-1", "gates", "canary:r", 0),
            ("gate-2", "gates", "canary:q", 0),
        )
    ]  # fmt: skip
    store = Store(settings)
    for topic, events in (("trials", [trial]), ("reviews", reviews)):
        records = Records()
        for number, one in enumerate(events):
            records.append(number, pane_ms + number, None, encode(one))
        store.land(topic, [Span(0, 0, len(events), records)])
    store.close()


@pytest.mark.clickhouse
def test_landed_told_and_replayed(
    clickhouse: LocalClickHouse, database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(clickhouse, database)
    driver = played(shop(requests=120), until_ms=T0_MS + 3 * HOUR)
    land(settings, driver)
    told = story(settings, "r0003")
    assert told.known
    assert told.answers[0].panes[0].predictions > 1
    assert {one.metric for one in told.answers[0].panes[0].figures} >= {"accuracy", "log_loss"}
    reviewed(settings, told.answers[0].panes[0])
    kept = [one for one in story(settings, "r0003").answers[0].alarms if one.kind == "review"]
    assert [(one.id, one.says) for one in kept] == [
        ("gate-1", "decided on canary:r, corrected since: 2 of gate-1"),
        ("metric-1", "decided on accuracy, corrected since: 2 of metric-1"),
    ]
    unknown = story(settings, "R0003 ")
    assert not unknown.known
    assert "'r0003'" in " ".join(unknown.likely)
    assert "not in what `record` has landed" in story(settings, "zzz").likely[0]
    assert trace(settings, "zzz", as_json=True) == FAILURE
    assert json.loads(capsys.readouterr().out)["v"] == 1

    file = tmp_path / "bold.toml"
    file.write_text(TRIED)
    assert policy_replay(settings, file, as_json=True) == OK
    found = json.loads(capsys.readouterr().out)
    said = {(one.key) for one in driver.outputs["feedback"]}
    assert found["check"]["different"] == 0
    assert found["check"]["equal"] >= len(said)
    assert found["changes"]["changed"] > 0
    assert found["metrics"]["all primary"]["before"]["predictions"] == 120
    assert found["metrics"]["all primary"]["after"]["predictions"] == 120
    file.write_text('[join]\nmodel = "shop"\nhorizon_ms = 900000\non_timeout = "negative"\n')
    assert policy_replay(settings, file, since=str(LATER.effective_from_ms), as_json=True) == OK
    assert json.loads(capsys.readouterr().out) == {"v": 1, "same": True}
    with pytest.raises(WeirError, match="models that have: other, shop"):
        policy_replay(settings, file, model="nope")
