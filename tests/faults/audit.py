"""What a reader of committed records finds at the end of a round, against what should be there.

Three accounts, independent of each other:

- **What was said.** Every recorded step is taken again from nothing, over the records below its vector; what it gives
  is exactly what must be in the output topics, byte for byte, no more and no less (`balance`).
- **What was meant.** The naive twin over the input topics: last revisions, chains of `was`, dead letters, counters.
- **What has landed.** `weir record` reads the same topics into ClickHouse, killed now and then: the residual is 0, and
  the ledgers that `measure` emitted are what SQL counts again from the rows.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from schemas.event import decode
from schemas.records import Step
from schemas.settings import Settings
from schemas.topics import INPUTS, TOPICS, topic_name
from services.kafka import read_to_end
from streams.join.naive import Record
from streams.join.verify import Mismatch
from streams.runtime import kafka
from streams.runtime.clock import RECALLED
from streams.runtime.processor import Batch, whole_parts
from streams.runtime.records import Records
from streams.runtime.snapshot import SnapshotStore
from streams.runtime.steps import digest
from streams.stages import join_processor

LOGS = ("control", *INPUTS)
READ = (*LOGS, RECALLED)
OUTCOME = ("request_id", "model", "deployment", "name", "item")
CHAINS = frozenset({"gap", "was", "clock", "repeated"})
LOST = frozenset({"missing", "dead_missing"})


class Told(NamedTuple):
    """A record as far as its meaning goes."""

    topic: str
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(slots=True)
class Balance:
    """What is not in the topics as the steps gave it. `altered`: it is there, with other bytes; `invented`: it is not
    from any step.
    """

    lost: list[Told] = field(default_factory=list)
    duplicated: list[Told] = field(default_factory=list)
    altered: list[Told] = field(default_factory=list)
    invented: list[Told] = field(default_factory=list)

    @property
    def concerned(self) -> set[str]:
        """The requests whose revisions are touched by it."""
        touched = (*self.lost, *self.duplicated, *self.altered, *self.invented)
        return {identity(one)[1] for one in touched if one.topic == "feedback"}


@dataclass(slots=True)
class Findings:
    """The figures of a round, all 0 when nothing is amiss but for what was compared; `sentences` say what is.

    `resent` counts records of the feed that are in the log more than once: a broker that was killed forgets what an
    idempotent producer sent with timestamps of long ago (docs/faults.md). The join counts them as duplicates.
    """

    lost: int = 0
    duplicated: int = 0
    wrong: int = 0
    broken_chains: int = 0
    residual: int = 0
    outputs: int = 0
    steps: int = 0
    states: int = 0
    predictions: int = 0
    revisions: int = 0
    beyond: int = 0
    panes: int = 0
    resent: int = 0
    sentences: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is amiss."""
        figures = (self.lost, self.duplicated, self.wrong, self.broken_chains, self.residual)
        return not any(figures) and not self.sentences

    def add(self, other: Findings) -> None:
        """Sum with those of another round."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


def identity(one: Told) -> tuple[str, ...]:
    """Give what a record is about: two that differ only in what they say of it have the same."""
    if one.topic != "feedback":
        return (one.topic, (one.key or b"").decode(errors="replace"))
    body = msgspec.json.decode(one.value)
    return (one.topic, *(str(body.get(name, "")) for name in OUTCOME), str(body.get("revision")))


def balance(expected: Iterable[Told], seen: Iterable[Told]) -> Balance:
    """Compare two multisets; a record that is missing where another about the same came is altered, not lost."""
    due, there = Counter(expected), Counter(seen)
    found = Balance()
    missing, more = list((due - there).elements()), list((there - due).elements())
    for one in more:
        if one in due:
            found.duplicated.append(one)
            continue
        original = next((other for other in missing if identity(other) == identity(one)), None)
        if original is None:
            found.invented.append(one)
        else:
            missing.remove(original)
            found.altered.append(one)
    found.lost = missing
    return found


def judge(found: Balance, mismatches: Sequence[Mismatch]) -> Findings:
    """Count what the balance and the twin found, each thing once.

    A mismatch of a request whose records are lost, doubled or altered follows from that and is not counted again, but
    for its chains: `broken_chains` counts outcomes.
    """
    findings = Findings(
        lost=len(found.lost), duplicated=len(found.duplicated), wrong=len(found.altered) + len(found.invented)
    )
    for name in ("lost", "duplicated", "altered", "invented"):
        told: list[Told] = getattr(found, name)
        findings.sentences += [f"{name}: {'/'.join(identity(one))}: {one.value[:300]!r}" for one in told[:5]]
    chains = set()
    concerned = found.concerned
    for one in mismatches:
        findings.sentences.append(f"{one.kind} {'/'.join(map(str, one.identity))}: {one.sentence[:500]}")
        if one.kind in CHAINS:
            chains.add(one.identity)
        elif one.identity[:1] and one.identity[0] in concerned:
            continue
        elif one.kind in LOST or (one.kind == "unforwarded" and one.got == 0):
            findings.lost += 1
        elif one.kind == "unforwarded" or (one.kind == "dead_unexpected" and isinstance(one.got, int)):
            findings.duplicated += 1
        else:
            findings.wrong += 1
    findings.broken_chains = len(chains)
    return findings


# --- a namespace


@dataclass(slots=True)
class Logs:
    """All committed records of a namespace, by logical topic."""

    records: dict[str, list[Record]]
    steps: dict[int, list[Step]]

    def told(self, topics: Iterable[str]) -> list[Told]:
        """Give the records of topics as far as their meaning goes."""
        return [told_of(topic, record) for topic in topics for record in self.records[topic]]


def told_of(topic: str, record: Record) -> Told:
    """Give a record as far as its meaning goes."""
    headers = tuple((str(name), bytes(value or b"")) for name, value in record.headers)
    return Told(topic, record.key, record.value or b"", headers)


def read_logs(settings: Settings) -> Logs:
    """Read everything, committed records only."""
    records = {topic: [_record(message) for message in read_to_end(settings, topic)] for topic in TOPICS}
    taken: dict[int, list[Step]] = defaultdict(list)
    for record in sorted(records["steps"], key=lambda record: (record.partition, record.offset)):
        step = decode(record.value or b"", Step)
        if step.stage == "join":
            taken[step.partition].append(step)
    return Logs(records, dict(taken))


def _record(message: Any) -> Record:
    return Record(
        message.partition(),
        message.offset(),
        message.timestamp()[1],
        message.key(),
        message.value(),
        tuple(message.headers() or ()),
    )


@dataclass(slots=True)
class Retaken:
    """Every step taken again: all outputs, the last states as bytes, and what was odd about the steps."""

    outputs: list[Told] = field(default_factory=list)
    states: dict[int, Mapping[str, bytes]] = field(default_factory=dict)
    odd: list[str] = field(default_factory=list)
    lost_steps: int = 0
    repeated_steps: int = 0


def retake(settings: Settings, logs: Logs) -> Retaken:
    """Take every recorded step again, from nothing, by the plainest loop that can."""
    processor = join_processor(settings)
    found = Retaken()
    for partition, steps in sorted(logs.steps.items()):
        numbers = [step.number for step in steps]
        found.lost_steps += max(numbers) - len(set(numbers))
        found.repeated_steps += len(numbers) - len(set(numbers))
        if numbers != list(range(1, len(numbers) + 1)):
            found.odd.append(f"partition {partition}: the steps are not numbered 1, 2, …: {_breaks(numbers)}")
            continue
        state = processor.empty(partition)
        waiting = {name: _of(logs, name, partition) for name in READ}
        for step in steps:
            inputs = {name: _below(waiting[name], step.offsets.get(name, 0)) for name in READ}
            batch = Batch(partition, step.number, inputs, step.offsets, step.cut_ms)
            stepped = processor.step(state, batch, step.clock_ms)
            if digest(stepped.outputs) != step.digest or len(stepped.outputs) != step.outputs:
                found.odd.append(f"partition {partition}, step {step.number}: taken again it gives other outputs")
            if dict(stepped.counters) != dict(step.counters):
                found.odd.append(f"partition {partition}, step {step.number}: taken again it gives other counters")
            for one in stepped.outputs:
                headers = tuple((name, bytes(value)) for name, value in one.headers)
                found.outputs.append(Told(one.topic, one.key, bytes(one.value), headers))
        unread = {name: len(records) for name, records in waiting.items() if records}
        if unread:
            found.odd.append(f"partition {partition}: the last step has not read {unread}")
        found.states[partition] = whole_parts(processor, state)
    return found


def _breaks(numbers: Sequence[int]) -> list[tuple[int, int]]:
    return [(one, other) for one, other in itertools.pairwise(numbers) if other != one + 1][:5]


def _of(logs: Logs, name: str, partition: int) -> list[Record]:
    """Give a partition's records, the last one first: they are taken from the end."""
    mine = (record for record in logs.records[name] if record.partition == partition)
    return sorted(mine, key=lambda record: record.offset, reverse=True)


def _below(waiting: list[Record], end: int) -> Records:
    records = Records()
    while waiting and waiting[-1].offset < end:
        one = waiting.pop()
        records.append(one.offset, one.append_ms, one.key, one.value, one.headers or None)
    return records


def said(logs: Logs, retaken: Retaken) -> Balance:
    """Compare what the steps gave with what committed readers see.

    Of what the join sends back into its inputs only that is compared, for the inputs are the apps'.
    """
    returned = {one for one in retaken.outputs if one.topic in LOGS}
    others = [topic for topic in TOPICS if topic not in READ and topic != "steps"]
    seen = [*logs.told(others), *(one for one in logs.told(LOGS) if one in returned)]
    return balance(retaken.outputs, seen)


def compare_states(settings: Settings, logs: Logs, retaken: Retaken) -> tuple[int, list[str]]:
    """Compare the snapshots of a clean stop with the steps taken again; give how many are equal, and differences."""
    processor = join_processor(settings)
    log = kafka.topic_identity(kafka.make_admin(settings), topic_name(settings.namespace, "steps"))
    store = SnapshotStore.of(settings, processor.stage, log)

    def loaded(partition: int, parts: Mapping[str, bytes]) -> Mapping[str, bytes]:
        return whole_parts(processor, processor.load(partition, parts))

    odd = []
    for partition, parts in sorted(retaken.states.items()):
        last = logs.steps[partition][-1].number
        manifest, kept = next(store.newest(partition, up_to_step=last), (None, None))
        if manifest is None or kept is None or manifest.header.step != last:
            found = None if manifest is None else manifest.header.step
            odd.append(f"partition {partition}: a clean stop left no snapshot of step {last} (the newest is {found})")
        elif loaded(partition, kept) != loaded(partition, parts):
            odd.append(f"partition {partition}: the state at step {last} is not that of its steps taken again")
    return len(retaken.states) - len(odd), odd


def told_of_recall(logs: Logs) -> Counter[str]:
    """Say how much was put away, and asked for again."""
    found: Counter[str] = Counter()
    for steps in logs.steps.values():
        for name in ("put_away", "asked"):
            found[name] += steps[-1].counters.get(f"recalls.{name}", 0)
    return found


def audit(settings: Settings, logs: Logs, sent: Mapping[str, int], mismatches: Sequence[Mismatch]) -> Findings:
    """Take the first account of a round, and count it together with what the twin found.

    `sent` is how many records of each topic Kafka took from the feed.
    """
    retaken = retake(settings, logs)
    findings = judge(said(logs, retaken), mismatches)
    findings.lost += retaken.lost_steps
    findings.duplicated += retaken.repeated_steps
    findings.wrong += sum("taken again" in sentence for sentence in retaken.odd)
    findings.states, differences = compare_states(settings, logs, retaken)
    findings.wrong += len(differences)
    findings.sentences += [*retaken.odd, *differences]
    returned = Counter(one.topic for one in retaken.outputs if one.topic in LOGS)
    for topic in LOGS:
        logged = len(logs.records[topic]) - returned[topic]
        findings.resent += max(0, logged - sent.get(topic, 0))
        if logged < sent.get(topic, 0):
            findings.sentences.append(f"{topic}: Kafka took {sent.get(topic, 0)} records, {logged} are in the log")
    for partition, steps in logs.steps.items():
        last = steps[-1].counters
        if last.get("recalls.open") or last.get("recalls.missing") or last.get("recalls.dead"):
            findings.sentences.append(f"partition {partition}: not all that was put away came back: {last}")
    findings.outputs = len(retaken.outputs)
    findings.steps = sum(map(len, logs.steps.values()))
    return findings
