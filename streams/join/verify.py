"""Does `feedback` say what the logs mean? The naive twin's expectation against a run's actual revisions.

Two kinds of checks. Those of one identity's revisions among themselves hold at any moment: numbers without gaps, `was`
chains, no repetition. Those against the twin hold for what is due: the last revision equals `resolve` up to status once
the deadline has passed, and nobody else has feedback. Dead letters and counters are compared when they are given.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import msgspec

from schemas.envelope import CONTENT_TYPE, ROWS
from schemas.event import decode
from schemas.feedback import Feedback, Was
from schemas.records import DeadLetter
from streams.join.naive import (
    Bounds,
    Dead,
    Expectation,
    Expected,
    Logs,
    Outcome,
    OutcomeId,
    Record,
    Standing,
    expect,
    partition_of,
    same_value,
)

MismatchKind = Literal[
    "unreadable",  # not a Feedback, or not a DeadLetter
    "misplaced",  # in another partition, or under another key, than its request's
    "clock",  # joined_at_ms before the revision before it
    "gap",  # revision numbers are not 1, 2, …
    "was",  # `was` is not the revision before
    "repeated",  # a revision that changes nothing
    "unexpected",  # feedback of an identity without a standing prediction
    "missing",  # no feedback where there should be some
    "different",  # the last revision is not what the log means
    "unforwarded",  # a misrouted record that is not, or more than once, where it belongs
    "dead_missing",  # a record that should have been a dead letter
    "dead_unexpected",  # a dead letter that should not be one, or with another reason, or twice
    "counter",  # a class counter differs
]

# The fields of a prediction, or of its item or output, that `feedback` repeats under the same name.
SUMMARY = (
    "version",
    "role",
    "app_version",
    "score",
    "prediction",
    "threshold",
    "position",
    "slices",
    "subject",
    "experiments",
    "action",
    "propensity",
)
# Those of them that `was` repeats when another prediction stood then.
WAS_SUMMARY = ("version", "role", "score", "prediction", "threshold", "subject", "slices")


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One thing that is not as it should be; `identity` names a prediction, a position or a counter."""

    kind: MismatchKind
    identity: tuple[str | int, ...]
    expected: object
    got: object
    sentence: str


@dataclass(slots=True)
class Report:
    """What was compared, and what does not fit. `beyond` requests are not compared (docs/join.md, "Beyond")."""

    mismatches: list[Mismatch] = field(default_factory=list)
    records: int = 0
    identities: int = 0
    revisions: int = 0
    due: int = 0
    pending: int = 0
    beyond: int = 0

    @property
    def ok(self) -> bool:
        """True when nothing is amiss."""
        return not self.mismatches

    @property
    def summary(self) -> str:
        """Say it in one line."""
        kinds = Counter(mismatch.kind for mismatch in self.mismatches)
        found = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        compared = (
            f"{self.records} records, {self.identities} standing predictions ({self.due} due, {self.pending} before "
            f"their deadline), {self.revisions} revisions, {self.beyond} requests not comparable"
        )
        return f"{'equal' if self.ok else f'{len(self.mismatches)} mismatches ({found})'}: {compared}"


def verify(
    logs: Logs,
    feedback: Sequence[Record],
    bounds: Bounds,
    clock_by_partition: Mapping[int, int],
    *,
    dead_letters: Sequence[Record] | None = None,
    counters: Mapping[str, int] | None = None,
    exact: bool = False,
    in_flight: bool = False,
) -> Report:
    """Compare a run with the naive twin.

    `logs` maps each input (and `control`) to all its records from the beginning up to what the run has read; those of
    one partition come in offset order. `feedback` and, if given, `dead_letters` (stage `join` only) are read from their
    topics up to the same step, `counters` are that step's classes summed over the partitions, `clock_by_partition` its
    timers' clocks (`naive.timers_clock`): before an identity's deadline only its chain is checked. `exact` says that
    logs and clocks are those of one step of each partition, to the record and the millisecond; then what is not yet due
    is compared too. `in_flight` says that logs end amid the stream, so that what was forwarded may not have been read
    yet.
    """
    feedback = [row for record in feedback for row in said_in(record)]
    report = Report(records=sum(len(records) for records in logs.values()), revisions=len(feedback))
    chains = _read_chains(feedback, bounds, report)
    expectation = expect(logs, bounds, clock_by_partition, said=chains)
    report.identities = len({identity[:3] for identity in expectation.outcomes})
    report.beyond = len(expectation.beyond)
    for identity, chain in chains.items():
        if identity[0] not in expectation.beyond:
            report.mismatches += check_chain(identity, chain)
    report.mismatches += _check_outcomes(expectation, chains, clock_by_partition, report, exact)
    report.mismatches += _check_forwarded(expectation, logs, bounds, in_flight)
    if dead_letters is not None and not expectation.beyond:
        report.mismatches += check_dead_letters(expectation, _read_dead_letters(dead_letters, report))
    if counters is not None and not expectation.beyond and not expectation.undecided:
        report.mismatches += check_counters(expectation.counters, counters)
    return report


def said_in(record: Record) -> list[Record]:
    """Give the rows of a record of `feedback`: of an envelope one by one, else the record itself."""
    if dict(record.headers).get(CONTENT_TYPE) != ROWS or not record.value:
        return [record]
    found = []
    for index, row in enumerate(record.value.split(b"\n")):
        try:
            key: bytes | None = decode(row, _Whose).request_id.encode()
        except (msgspec.MsgspecError, UnicodeDecodeError):
            key = record.key
        found.append(replace(record, key=key, value=row, headers=(), index=index))
    return found


class _Whose(msgspec.Struct):
    request_id: str


def _read_chains(records: Sequence[Record], bounds: Bounds, report: Report) -> dict[OutcomeId, list[Feedback]]:
    chains: dict[OutcomeId, list[Feedback]] = {}
    for record in records:
        place = ("feedback", record.partition, record.offset)
        try:
            one = decode(record.value or b"", Feedback)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            sentence = f"feedback {record.partition}/{record.offset} is not a Feedback: {error}"
            report.mismatches.append(Mismatch("unreadable", place, "Feedback", record.value, sentence))
            continue
        belongs = (partition_of(one.request_id, bounds.partitions), one.request_id.encode())
        if (record.partition, record.key) != belongs:
            sentence = f"feedback {record.partition}/{record.offset} of request {one.request_id!r} is out of its place"
            report.mismatches.append(Mismatch("misplaced", place, belongs, (record.partition, record.key), sentence))
        identity = (one.request_id, one.model, one.deployment, one.name, one.item or "")
        chains.setdefault(identity, []).append(one)
    return chains


def check_chain(identity: OutcomeId, chain: Sequence[Feedback]) -> list[Mismatch]:
    """Check the revisions of one identity among themselves, in the order of the log."""
    found: list[Mismatch] = []

    def complain(kind: MismatchKind, expected: object, got: object, what: str) -> None:
        found.append(Mismatch(kind, identity, expected, got, f"{what}: expected {expected!r}, got {got!r}"))

    before: Feedback | None = None
    for one in chain:
        number = 1 if before is None else before.revision + 1
        if one.revision != number:
            complain("gap", number, one.revision, "the number of a revision")
        if before is not None and one.joined_at_ms < before.joined_at_ms:
            complain("clock", f">= {before.joined_at_ms}", one.joined_at_ms, f"joined_at_ms of revision {one.revision}")
        expected = None if before is None else was_of(before, other_prediction=_predicts_otherwise(one))
        if not _same_was(expected, one.was):
            complain("was", expected, one.was, f"`was` of revision {one.revision}")
        if (one.label is None) != (one.status == "void") or (one.label is None) != (one.label_kind is None):
            shape = (one.status, one.label, one.label_kind)
            complain("different", "void exactly when label and kind are null", shape, f"revision {one.revision}")
        if before is None and one.label is None:
            complain("repeated", "a label", None, "the first revision says nothing")
        elif before is not None and _says_the_same(before, one) and not _predicts_otherwise(one):
            shown = (before.label, before.label_kind, before.weight)
            complain("repeated", f"other than {shown!r}", shown, f"revision {one.revision} changes nothing")
        if before is not None and not _predicts_otherwise(one) and _summary(before) != _summary(one):
            complain(
                "was", _summary(before), _summary(one), f"revision {one.revision} hides a change of its prediction"
            )
        before = one
    return found


def was_of(before: Feedback, *, other_prediction: bool) -> Was:
    """Give the `was` that a revision after `before` must carry."""
    was = Was(status=before.status, label=before.label, label_kind=before.label_kind, weight=before.weight)
    if not other_prediction:
        return was
    return msgspec.structs.replace(
        was, predicted_at_ms=before.predicted_at_ms, **{name: getattr(before, name) for name in WAS_SUMMARY}
    )


def _predicts_otherwise(one: Feedback) -> bool:
    return one.was is not None and one.was.predicted_at_ms is not None


def _same_was(expected: Was | None, got: Was | None) -> bool:
    if expected is None or got is None:
        return expected is got
    # Empty and absent are one: `was` omits what the prediction did not have.
    names = ("status", "label_kind", "weight", "predicted_at_ms", *WAS_SUMMARY)
    pairs = [(_or_none(getattr(expected, name)), _or_none(getattr(got, name))) for name in names]
    return all(same_value(one, other) for one, other in pairs) and same_value(expected.label, got.label)


def _or_none(value: object) -> object:
    return None if value in ("", {}) else value


def _says_the_same(one: Feedback, other: Feedback) -> bool:
    same_label = same_value(one.label, other.label)
    return same_label and one.label_kind == other.label_kind and one.weight == other.weight


def _summary(one: Feedback) -> dict[str, object]:
    return {"predicted_at_ms": one.predicted_at_ms} | {name: getattr(one, name) for name in SUMMARY}


def _summary_of(one: Standing) -> dict[str, object]:
    """Give what `feedback` repeats of an outcome's prediction."""
    body = one.body
    found: dict[str, object] = {"predicted_at_ms": body.at_ms, "position": None}
    found |= {name: getattr(body, name) for name in SUMMARY if name != "position"}
    if one.item is not None:
        entry = next(entry for entry in body.items or () if entry.item == one.item)
        found |= {"score": entry.score, "position": entry.position, "propensity": entry.propensity}
    elif one.policy.label_name in (body.outputs or {}):
        found["score"] = (body.outputs or {})[one.policy.label_name]
    return found


def _check_outcomes(
    expectation: Expectation,
    chains: Mapping[OutcomeId, Sequence[Feedback]],
    clock_by_partition: Mapping[int, int],
    report: Report,
    exact: bool,
) -> Iterable[Mismatch]:
    firsts = {identity[:3]: expected for identity, expected in expectation.outcomes.items() if expected.first}
    outcomes = dict(expectation.outcomes)
    for identity in chains:
        if identity in outcomes or identity[0] in expectation.beyond:
            continue
        stands = firsts.get(identity[:3])
        if stands is None:
            sentence = f"{identity} has feedback, but the log has no standing prediction of it"
            yield Mismatch("unexpected", identity, None, len(chains[identity]), sentence)
        else:  # an outcome that another policy had: it has to be taken back
            outcomes[identity] = replace(stands, outcome=Outcome(), first=False)
    for identity, expected in outcomes.items():
        if identity[0] in expectation.beyond:
            continue
        due = clock_by_partition.get(expected.partition, 0) >= expected.standing.deadline_ms
        if expected.first:
            report.due += due
            report.pending += not due
        if not due and not exact:
            continue
        yield from check_last(identity, expected, chains.get(identity, ()))


def check_last(identity: OutcomeId, expected: Expected, chain: Sequence[Feedback]) -> Iterable[Mismatch]:
    """Check that the last revision says what `resolve` says, from the prediction that stands."""
    outcome = expected.outcome
    if not chain:
        if outcome.label is not None:
            sentence = f"{identity} should be {outcome.label!r} ({outcome.kind}), but nothing was said of it"
            yield Mismatch("missing", identity, outcome, None, sentence)
        return
    last = chain[-1]
    got = Outcome(last.label, last.label_kind, last.weight, last.status)
    same = same_value(outcome.label, got.label) and outcome.kind == got.kind and outcome.weight == got.weight
    if not same:
        sentence = (
            f"{identity} should be {outcome.label!r} ({outcome.kind}, weight {outcome.weight}), but its last revision "
            f"{last.revision} says {got.label!r} ({got.kind}, weight {got.weight})"
        )
        yield Mismatch("different", identity, outcome, got, sentence)
    if outcome.label is None:
        return  # the standing prediction does not count while nothing is said
    summary, said = _summary_of(expected.standing), _summary(last)
    if expected.standing.policy.label == last.policy:
        features = expected.standing.body.features if expected.standing.policy.carry == "features" else {}
        rate = expected.standing.policy.negative_sample
        correction = None if rate == 1.0 else math.log(rate)
        summary |= {"features": features, "log_odds_correction": correction}
        said |= {"features": last.features, "log_odds_correction": last.log_odds_correction}
    wrong = [name for name in summary if not same_value(summary[name], said[name])]
    if wrong:
        sentence = f"the last revision of {identity} shows another prediction than the standing one: {', '.join(wrong)}"
        expected_fields = {name: summary[name] for name in wrong}
        yield Mismatch("different", identity, expected_fields, {name: said[name] for name in wrong}, sentence)


def _check_forwarded(expectation: Expectation, logs: Logs, bounds: Bounds, in_flight: bool) -> Iterable[Mismatch]:
    copies = Counter(
        (topic, record.partition, dict(record.headers).get("weir-hop"), record.value)
        for topic, records in logs.items()
        for record in records
    )
    for topic, record in expectation.forwarded:
        hop = f"{topic}/{record.partition}/{record.offset}" + (f"/{record.index}" if record.index else "")
        count = sum(
            copies[topic, partition, hop.encode(), record.value]
            for partition in range(bounds.partitions)
            if partition != record.partition
        )
        if count > 1 or (count == 0 and not in_flight):
            sentence = f"{hop} is in the wrong partition and was forwarded {count} times"
            place = (topic, record.partition, record.offset)
            yield Mismatch("unforwarded", place, 1, count, sentence)


def _read_dead_letters(records: Sequence[Record], report: Report) -> list[Dead]:
    found = []
    for record in records:
        try:
            one = decode(record.value or b"", DeadLetter)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            place = ("dead-letters", record.partition, record.offset)
            sentence = f"dead-letters {record.partition}/{record.offset} is not a DeadLetter: {error}"
            report.mismatches.append(Mismatch("unreadable", place, "DeadLetter", record.value, sentence))
            continue
        found.append(Dead(one.topic, one.partition, one.offset, one.reason, one.index))
    return found


def check_dead_letters(expectation: Expectation, dead_letters: Iterable[Dead]) -> list[Mismatch]:
    """Compare dead letters as a set of (position, reason); each may come once."""
    found: list[Mismatch] = []
    actual = Counter(dead_letters)
    for dead in sorted(expectation.dead_letters - set(actual), key=repr):
        place = (dead.topic, dead.partition, dead.offset)
        sentence = f"{dead.topic} {dead.partition}/{dead.offset} should be a dead letter ({dead.reason})"
        found.append(Mismatch("dead_missing", place, dead.reason, None, sentence))
    for dead, count in sorted(actual.items(), key=repr):
        place = (dead.topic, dead.partition, dead.offset)
        if dead not in expectation.dead_letters | expectation.undecided:
            sentence = f"{dead.topic} {dead.partition}/{dead.offset} should be no dead letter of reason {dead.reason}"
            found.append(Mismatch("dead_unexpected", place, None, dead.reason, sentence))
        elif count > 1:
            sentence = f"{dead.topic} {dead.partition}/{dead.offset} is a dead letter {count} times"
            found.append(Mismatch("dead_unexpected", place, 1, count, sentence))
    return found


def check_counters(expected: Mapping[str, int], got: Mapping[str, int]) -> list[Mismatch]:
    """Compare the class counters (an absent one is 0); counters that are no class are left alone."""
    found: list[Mismatch] = []
    for name in sorted(name for name in {*expected, *got} if is_class(name)):
        one, other = expected.get(name, 0), got.get(name, 0)
        if one != other:
            found.append(Mismatch("counter", (name,), one, other, f"{name} should be {one}, but is {other}"))
    return found


ANY_KIND = ("duplicate", "forwarded", "quarantined", "dead")
CLASSES = frozenset(
    f"{topic}.{name}"
    for topic, own in {
        "predictions": ("open", "provisional", "final", "void", "unlabelled", "parked", "conflict"),
        "labels": ("parked", "joined"),
        "signals": ("parked", "joined"),
    }.items()
    for name in (*own, *ANY_KIND)
)


def is_class(name: str) -> bool:
    """Say whether a counter is one of the classes of docs/join.md, whose sum is the number of records read."""
    return name in CLASSES
