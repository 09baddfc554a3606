"""Counted again by SQL: the same integers as `measure` emitted, and different ones as soon as a row is gone."""

from __future__ import annotations

import uuid
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from schemas.control import ClockAdvanced
from schemas.event import decode, encode
from schemas.feedback import Feedback
from schemas.records import Step
from schemas.settings import ClickHouse, Join, Kafka, Runtime, Settings
from schemas.topics import INPUTS, TOPICS
from services.cli.verify import as_text, verification
from services.clickhouse import connect
from services.kafka import Sender, read_to_end
from services.local.kafka import LocalKafka
from services.record.land import Span, Store
from services.record.recount import compare, measured, recount, references_of
from streams.join.admission import JoinBounds
from streams.join.naive import Expected, OutcomeId, Record, expect
from streams.join.outcome import Counted, Named, Outcome
from streams.join.processor import JoinProcessor
from streams.measure.ledger import JUDGED, LISTS, RANKING, RELEVANT, VECTORS, Ledger
from streams.measure.measure import Measure
from streams.runtime.backlog import Backlog
from streams.runtime.records import Records
from streams.runtime.topics import ensure_topics
from tests.processes import Process, process, until
from tests.services.record.shapes import DIMENSION, announced, enriched, frozen, reference, traffic
from tests.streams.join.driver import Driver
from tests.streams.join.histories import BOUNDS, T0_MS, History, S, history
from tests.streams.measure.naive import count

PANE_MS = 60 * S


def settings_of(at: ClickHouse, given: History) -> Settings:
    bounds = given.bounds
    return Settings(
        namespace="recount",
        clickhouse=at,
        partitions=bounds.partitions,
        clock="virtual" if bounds.virtual else "broker",
        join=Join(
            skew_ms=bounds.skew_ms,
            early_label_ms=bounds.early_label_ms,
            grace_ms=bounds.grace_ms,
            max_event_bytes=bounds.max_event_bytes,
            slice_dimension=DIMENSION,
            pane_ms=PANE_MS,
        ),
    )


def played(given: History, seed: int) -> Driver[Any]:
    """Run a history through join and measure, in memory."""
    measure = Measure(partitions=given.bounds.partitions, pane_ms=PANE_MS, slice_dimension=DIMENSION)
    driver = Driver(JoinProcessor(JoinBounds(**asdict(given.bounds)), measure), given, Random(seed))
    driver.run()
    return driver


def land(settings: Settings, topic: str, said: list[Record]) -> None:
    """Land records as the recorder would."""
    store = Store(settings)
    store.prepare()
    spans = []
    for number in sorted({record.partition for record in said}):
        mine = sorted((one for one in said if one.partition == number), key=lambda one: one.offset)
        records = Records(
            [one.offset for one in mine],
            [one.append_ms for one in mine],
            [one.key for one in mine],
            [one.value for one in mine],
            {i: tuple(one.headers) for i, one in enumerate(mine) if one.headers},
        )
        spans.append(Span(number, mine[0].offset, mine[-1].offset + 1, records))
    store.land(topic, spans)
    store.close()


def cuts_of(driver: Driver[Any], seed: int) -> dict[int, Step]:
    """Choose a step of each partition, somewhere in the middle, after which the clock went on."""
    found = {}
    for number, part in enumerate(driver.parts):
        later = [i for i, one in enumerate(part.steps[:-1]) if one.clock_ms < part.steps[i + 1].clock_ms]
        chosen = Random(seed).choice(later[len(later) // 2 :])
        offsets = {}
        for topic in ("control", "predictions"):
            read = [one.batch.inputs.get(topic) for one in part.steps[: chosen + 1]]
            offsets[topic] = max((one.offsets[-1] + 1 for one in read if one), default=0)
        found[number] = Step(
            stage="join",
            partition=number,
            number=chosen,
            offsets=offsets,
            clock_ms=part.steps[chosen].clock_ms,
            processor="test",
            outputs=0,
            digest="",
        )
    return found


def test_slices_beyond_the_most_are_compared_as_a_sum() -> None:
    def key(model: str, part: str) -> Any:
        return (model, "1", "", "primary", part, 0)

    one, two = Ledger({"n": {0: 1}}), Ledger({"n": {0: 2}})
    ours = {key("m", "c=a"): one, key("m", "c=~other"): two, key("k", "c=a"): one}
    theirs = {key("m", "c=a"): two, key("m", "c=b"): one, key("k", "c=a"): one}
    assert compare(ours, theirs).equal == 2
    assert len(compare(ours, theirs | {key("k", "c=b"): one}).differing) == 1
    assert len(compare(ours, theirs | {key("m", "c=c"): one}).differing) == 1


def test_classes_beyond_the_most_are_compared_as_a_sum() -> None:
    def key(model: str) -> Any:
        return (model, "1", "", "primary", "", 0)

    ours = {key("m"): Ledger({"class:a": {0: 1}, "class:~other": {0: 2, 2: 1}}), key("k"): Ledger({"class:a": {0: 1}})}
    theirs = {key("m"): Ledger({"class:b": {0: 2}, "class:c": {0: 1, 2: 1}}), key("k"): Ledger({"class:a": {0: 1}})}
    assert compare(ours, theirs).equal == 2
    assert len(compare(ours, theirs | {key("k"): Ledger({"class:b": {0: 1}})}).differing) == 1
    assert len(compare(ours, theirs | {key("m"): Ledger({"class:b": {0: 2}})}).differing) == 1


@pytest.mark.clickhouse
@pytest.mark.parametrize("seed", [0, 1, 3, 4, 5, 6])
def test_any_history_counted_again(at: ClickHouse, seed: int) -> None:
    bounds = replace(BOUNDS, virtual=seed % 2 == 0)
    references = [reference("m1", "", at_ms=T0_MS + 500 * S), reference("m2", "v2"), reference("m1", "", at_ms=0)]
    made = enriched(history(Random(seed), requests=60, events=1_500, bounds=bounds))
    driver = played(announced(made, *references), seed)
    while beyond := expect(driver.logs, bounds, driver.clocks).beyond:
        made = made.without(beyond)
        driver = played(announced(made, *references), seed)
    settings = settings_of(at, made)
    for topic in ("control", "predictions"):
        land(settings, topic, driver.logs[topic])
    for topic in ("feedback", "measures"):
        land(settings, topic, driver.outputs[topic])
    client = connect(settings)
    assert len(references_of(client)) == 9
    for cuts in (None, cuts_of(driver, seed)):
        ours, theirs = measured(client, cuts), recount(client, settings, references_of(client), cuts)
        found = compare(ours, theirs)
        assert not found.differing, found.differing[:5]
        assert ours == theirs
        assert len(ours) > 5
    client.close()


@pytest.mark.clickhouse
def test_lists_with_relevant_items_counted_again(at: ClickHouse) -> None:
    made = traffic(Random(5), 300, replace(BOUNDS, virtual=True))
    driver = played(made, 5)
    settings = settings_of(at, made)
    for topic in ("control", "predictions"):
        land(settings, topic, driver.logs[topic])
    for topic in ("feedback", "measures"):
        land(settings, topic, driver.outputs[topic])
    client = connect(settings)
    for cuts in (None, cuts_of(driver, 5)):
        ours, theirs = measured(client, cuts), recount(client, settings, (), cuts)
        assert not compare(ours, theirs).differing
        lists = Ledger()
        for ledger in theirs.values():
            lists.add_pairs(RANKING, ledger.cells.get(RANKING, {}).items())
        assert lists.get(RANKING, LISTS) > lists.get(RANKING, JUDGED) > lists.get(RANKING, RELEVANT) > 20
    client.close()


# --- the real thing


def advance(sender: Sender, settings: Settings, now_ms: int) -> None:
    for partition in range(settings.partitions):
        sender.send("control", encode(ClockAdvanced(now_ms=now_ms)), partition=partition, append_ms=now_ms)
    sender.flush()


def drain(settings: Settings, worker: Process, stage: str, topics: tuple[str, ...]) -> None:
    with Backlog(settings, stage, topics) as backlog:
        until(lambda: worker.alive and backlog.drained(), f"{stage} to drain", of=worker)


def play(settings: Settings, given: History, join: Process) -> None:
    """Send control first, then everything in its order, the clock behind it, then the clock to the end."""
    inputs = ("control", *INPUTS)
    first = [one for one in given.arrivals if one.topic == "control"]
    rest = [one for one in given.arrivals if one.topic != "control"]
    size = -(-len(rest) // 6)
    with Sender(settings) as sender:
        for chunk in (first, *(rest[start : start + size] for start in range(0, len(rest), size))):
            for one in chunk:
                sender.send(one.topic, one.value, key=one.key, partition=one.partition, append_ms=one.append_ms)
            sender.flush()
            drain(settings, join, "join", inputs)
            advance(sender, settings, chunk[-1].append_ms)
            drain(settings, join, "join", inputs)
        advance(sender, settings, rest[-1].append_ms + 86_400 * S)
        drain(settings, join, "join", inputs)


def log(settings: Settings, topic: str) -> list[Record]:
    return [
        Record(
            m.partition() or 0,
            m.offset() or 0,
            m.timestamp()[1],
            m.key(),
            m.value(),
            m.headers() or (),  # type: ignore[arg-type]  # consumed headers are (str, bytes | None) pairs
        )
        for m in read_to_end(settings, topic)
    ]


def naively(settings: Settings, given: History, pane_ms: int) -> dict[Any, Any]:
    """Count everything again in plain Python, from Kafka's logs: the twins of the join and of measure."""
    logs = {topic: log(settings, topic) for topic in ("control", *INPUTS)}
    last = {}
    for record in sorted(log(settings, "feedback"), key=lambda one: one.offset):
        said = decode(record.value or b"", Feedback)
        last[said.request_id, said.model, said.deployment, said.name, said.item or ""] = said
    expected = expect(logs, given.bounds, dict.fromkeys(range(given.bounds.partitions), T0_MS + 10**9))
    assert not expected.beyond

    def outcome(identity: OutcomeId, one: Expected) -> Outcome:
        found = one.outcome
        if found.label is None:
            return Outcome()
        said = last[identity]  # a source that repeats itself later is no revision
        assert (said.label, said.label_kind, said.weight) == (found.label, found.kind, found.weight)
        return Outcome(found.label, found.kind, found.weight, labelled_at_ms=said.labelled_at_ms)

    known = {("m1", "1"): reference("m1", "1").reference}
    told = {identity: outcome(identity, one) for identity, one in expected.outcomes.items()}
    names: dict[Any, list[str]] = {}
    items: dict[Any, tuple[tuple[str, Outcome], ...]] = {}
    for identity, each in told.items():
        if identity[4]:
            items[identity[:4]] = (*items.get(identity[:4], ()), (identity[4], each))
        else:
            names.setdefault(identity[:3], []).append(identity[3])
    standing = []
    for identity, one in expected.outcomes.items():
        if one.first:
            body, (name, *rest) = one.standing.body, names[identity[:3]]
            assert name == identity[3]
            others = [
                Named(other, told[*identity[:3], other, ""], None, value=True)
                if other == "revenue"
                else Named(other, told[*identity[:3], other, ""], items.get((*identity[:3], other)))
                for other in rest
            ]
            output = name if name in (body.outputs or {}) else None
            counted = Counted(body, told[identity], 0, items.get(identity[:4]), output, tuple(others))
            standing.append(counted)
    rows = {("m1", "1"): frozen("m1", "1")}
    return count(standing, pane_ms=pane_ms, dimension=DIMENSION, references=known, parities=rows)


@pytest.mark.kafka
@pytest.mark.clickhouse
@pytest.mark.timeout(300)
def test_measures_equal_sql_equal_python(kafka: LocalKafka, at: ClickHouse, tmp_path: Path) -> None:
    bounds = replace(BOUNDS, virtual=True)
    given = announced(traffic(Random(11), 600, bounds), reference("m1", "1"), frozen("m1", "1"))
    settings = settings_of(at, given).model_copy(
        update={
            "namespace": f"recount-{uuid.uuid4().hex[:8]}",
            "kafka": Kafka(bootstrap=kafka.bootstrap),
            "data_dir": tmp_path,
            "runtime": Runtime(commit_ms=20, snapshot_s=5.0),
        }
    )
    ensure_topics(settings)
    with process("join", settings) as join, process("record", settings) as record:
        play(settings, given, join)
        drain(settings, record, "record", tuple(TOPICS))
        client = connect(settings)
        ours, theirs = measured(client), recount(client, settings, references_of(client))
        found = verification(settings, measures=True)
    assert found.ok, as_text(found)
    assert found.measures is not None
    assert "0 differ" in as_text(found)

    cells = {key: ledger.cells for key, ledger in ours.items()}
    assert cells == {key: ledger.cells for key, ledger in theirs.items()}
    assert cells == naively(settings, given, PANE_MS)
    seen = {name for vectors in cells.values() for name in vectors}
    named = {name for name in seen if name.startswith("label:")}
    assert {
        "label:refund:score.pos",
        "label:refund:ranking",
        "label:refund:error.over",
        "label:revenue:value.sum",
    } <= named
    seen -= named
    beside = {name for name in seen if name.startswith("parity:")}
    assert beside == {
        "parity:rows",
        "parity:score",
        *(f"parity:feature:{of}" for of in ("price", "constant", "plan", "gone")),
    }
    seen -= beside
    classes = {name for name in seen if name.startswith("class:")}
    assert seen - classes == {*VECTORS, "feature:price", "feature:constant", "feature:plan"} - {
        "feature:",
        "class:",
        "parity:",
        "value",
        "value.sum",
        "bucket.value",
        "bucket.value.sum",
    }
    assert len(classes) > 3
    assert compare(ours, theirs).equal == len(ours) > 80

    once = "request_id IN (SELECT request_id FROM predictions GROUP BY request_id HAVING count() = 1)"
    for table, chosen in (
        ("feedback", "label_json != '' AND isNull(item) ORDER BY revision DESC, offset"),
        ("predictions", f"{once} ORDER BY request_id"),
    ):
        where = f"(partition, offset) IN (SELECT partition, offset FROM {table} WHERE {chosen} LIMIT 1)"
        client.command(f"DELETE FROM landed_{table} WHERE {where}")
        wrong = compare(ours, recount(client, settings, references_of(client)))
        assert wrong.differing
        assert "measured" in wrong.differing[0]
    client.close()
