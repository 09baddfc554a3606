"""`weir verify`: the topics through the naive twin, compared with `feedback`; and the residual.

A join that runs goes on while its logs are read, so everything is cut at the newest step of each partition: inputs
below the step's offsets, feedback and dead letters with a clock up to the step's. That cut is exact where the next
step, if there is one by then, has a later clock; then counters, dead letters and outcomes that are not due yet are
compared too. Otherwise it is tried again, and at last only what is due is compared.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from schemas.errors import FAILURE, OK, WeirError
from schemas.event import decode
from schemas.records import Step
from schemas.settings import Settings
from schemas.topics import INPUTS
from services.record.residual import Residual, residuals, total
from streams.join.naive import Bounds, Record, timers_clock
from streams.join.verify import Report, said_in
from streams.join.verify import verify as compare

if TYPE_CHECKING:
    from services.record.recount import Compared

Say = Callable[[str], None]

LOGS = ("control", *INPUTS)
SENTENCES = 20
TRIES = 5
PROGRESS_S = 2.0


class _Said(msgspec.Struct):
    """When a feedback was said."""

    joined_at_ms: int


class _Died(msgspec.Struct):
    """Which stage buried a dead letter of which partition, and when."""

    stage: str
    partition: int
    at_ms: int


@dataclass(slots=True)
class Cut:
    """One step of each partition, whether what came of it can be told from what came later, and all steps up to it."""

    steps: dict[int, Step]
    exact: bool
    taken: dict[int, list[Step]]

    @property
    def clocks(self) -> dict[int, int]:
        """Partition → clock."""
        return {number: step.clock_ms for number, step in self.steps.items()}

    @property
    def counters(self) -> Counter[str]:
        """Classes summed over the partitions."""
        summed: Counter[str] = Counter()
        for step in self.steps.values():
            summed.update(step.counters)
        return summed


@dataclass(slots=True)
class Verification:
    """What was found. `residuals` is None when they could not be asked; `problem` then says why.

    `measures` and `measures_problem` likewise, where they were asked for (`with_measures`).
    """

    report: Report
    cut: Cut
    requests: int
    residuals: list[Residual] | None = None
    problem: str = ""
    with_measures: bool = False
    measures: Compared | None = None
    measures_problem: str = ""

    @property
    def ok(self) -> bool:
        """True when the twin agrees, nothing is lost, and what was measured is what is counted again."""
        if self.with_measures and (self.measures is None or self.measures.differing):
            return False
        return self.report.ok and self.residuals is not None and self.residual == 0

    @property
    def mismatches(self) -> int:
        """How many things are not as the twin says."""
        return len(self.report.mismatches)

    @property
    def residual(self) -> int:
        """How many positions are lost or counted twice, all inputs and partitions together.

        Raises `WeirError` when it could not be asked.
        """
        if self.residuals is None:
            raise WeirError(f"the residual is unknown: {self.problem}", fix="start ClickHouse and `weir record`")
        return sum(abs(one.value) for one in self.residuals)


def verify(settings: Settings, as_json: bool, measures: bool = False) -> int:
    """Run it and print the result; give the exit code. Raises `WeirError` when there is nothing to compare."""
    found = verification(settings, _say, measures=measures)
    print(json.dumps(as_object(found)) if as_json else as_text(found))
    return OK if found.ok else FAILURE


def verification(settings: Settings, say: Say = lambda text: None, *, measures: bool = False) -> Verification:
    """Read the namespace and compare; `measures` counts the ledgers again too. `say` is told what takes long.

    Raises `WeirError`.
    """
    from services.kafka import places_of
    from streams.runtime.kafka import earliest, ends, make_admin, wait_for_kafka

    wait_for_kafka(settings, timeout_s=5)
    admin = make_admin(settings, "verify")
    places = {place: topic for topic in LOGS for place in places_of(settings, topic)}
    _refuse_truncated(earliest(admin, list(places)))
    cut, feedback, dead_letters = _read_said(settings, say)
    logs = {topic: list(_below(settings, topic, cut, say)) for topic in LOGS}
    stable = ends(admin, list(places))
    unread = any(cut.steps[place[1]].offsets.get(topic, 0) < stable[place][0] for place, topic in places.items())
    say("comparing with the naive twin")
    bounds = Bounds.of(settings)
    report = compare(
        logs,
        feedback,
        bounds,
        _timers_clocks(cut, logs["control"], bounds),
        dead_letters=dead_letters if cut.exact else None,
        counters=cut.counters if cut.exact else None,
        exact=cut.exact,
        in_flight=unread or not cut.exact,
    )
    found = Verification(report, cut, len({record.key for record in logs["predictions"]}), with_measures=measures)
    _add_residuals(settings, found, say)
    if measures:
        _add_measures(settings, found, say)
    return found


def _read_said(settings: Settings, say: Say) -> tuple[Cut, list[Record], list[Record]]:
    """Choose the cut, and read what the join said up to it: feedback and dead letters."""
    for attempt in range(TRIES):
        taken = _steps(settings, say)
        newest = {number: several[-1] for number, several in taken.items()}
        cut = Cut(newest, False, taken)
        feedback = list(_feedback(settings, cut.clocks, say))
        dead_letters = list(_dead_letters(settings, cut.clocks, say))
        if stands_apart(newest, _steps(settings, say)):
            return Cut(newest, True, taken), feedback, dead_letters
        say(f"the join goes on while its feedback is read; once more ({attempt + 1} of {TRIES})")
    return cut, feedback, dead_letters


def stands_apart(chosen: Mapping[int, Step], steps: Mapping[int, Sequence[Step]]) -> bool:
    """Say whether what came of the chosen steps can be told by its clock: the step after each has a later one.

    >>> one, two, three = (Step(stage="join", partition=0, number=n, offsets={}, clock_ms=clock_ms, processor="p",
    ...                         outputs=0, digest="") for n, clock_ms in ((1, 7), (2, 7), (3, 8)))
    >>> [stands_apart({0: step}, {0: [one, two, three]}) for step in (one, two, three)]
    [False, True, True]
    """
    for number, step in chosen.items():
        after = next((one for one in steps.get(number, ()) if one.number == step.number + 1), None)
        if after is not None and after.clock_ms <= step.clock_ms:
            return False
    return True


def as_object(found: Verification) -> dict[str, Any]:
    """Give everything as plain data."""
    report = found.report
    return {
        "ok": found.ok,
        "requests": found.requests,
        "records": report.records,
        "predictions": report.identities,
        "due": report.due,
        "pending": report.pending,
        "revisions": report.revisions,
        "beyond": report.beyond,
        "exact": found.cut.exact,
        "mismatches": [
            {"kind": one.kind, "identity": list(one.identity), "sentence": one.sentence} for one in report.mismatches
        ],
        "counters": {name: count for name, count in sorted(found.cut.counters.items()) if count},
        "residual": None if found.residuals is None else total(found.residuals),
        "residual_unknown": found.problem,
        **(_measures_object(found) if found.with_measures else {}),
    }


def _measures_object(found: Verification) -> dict[str, Any]:
    if found.measures is None:
        return {"measures": None, "measures_unknown": found.measures_problem}
    return {"measures": {"equal": found.measures.equal, "differing": found.measures.differing}}


def as_text(found: Verification) -> str:
    """Give a table for people."""
    report = found.report
    rows = [
        ("requests", found.requests, ""),
        ("records", report.records, "predictions, labels, signals, control"),
        ("standing predictions", report.identities, f"{report.due} due, {report.pending} before their deadline"),
        ("revisions", report.revisions, "feedback compared" + ("" if found.cut.exact else ", of what is due")),
        ("not comparable", report.beyond, "requests whose id came back after their state had ended"),
        ("mismatches", len(report.mismatches), _kinds(report)),
    ]
    lines = [f"{name:<22}{count:>10}  {about}".rstrip() for name, count, about in rows]
    if found.residuals is None:
        lines.append(f"{'residual':<22}{'unknown':>10}  {found.problem}")
    for topic, value in total(found.residuals or ()).items():
        where = ", ".join(
            f"partition {one.partition}: counted {one.counted}, landed {one.landed} below offset {one.offset}"
            for one in found.residuals or ()
            if one.topic == topic and one.value
        )
        lines.append(f"{'residual ' + topic:<22}{value:>10}  {where}".rstrip())
    if found.measures is not None:
        lines.append(f"measures: {found.measures.equal} panes equal, {len(found.measures.differing)} differ")
        lines += [f"  {sentence}" for sentence in found.measures.differing[:SENTENCES]]
    elif found.with_measures:
        lines.append(f"measures: unknown, {found.measures_problem}")
    shown = report.mismatches[:SENTENCES]
    lines += [f"  {one.kind} {'/'.join(map(str, one.identity))}: {one.sentence}" for one in shown]
    if len(report.mismatches) > SENTENCES:
        lines.append(f"  … and {len(report.mismatches) - SENTENCES} more (--json gives all)")
    lines.append("all is well" if found.ok else "NOT well")
    return "\n".join(lines)


def _kinds(report: Report) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in Counter(one.kind for one in report.mismatches).most_common())


def _add_residuals(settings: Settings, found: Verification, say: Say) -> None:
    say("counting what has landed")
    try:
        found.residuals = residuals(settings) or None
        found.problem = "" if found.residuals else "no step of the join has landed yet: does `weir record` run?"
    except WeirError as error:
        found.problem = error.message


def _add_measures(settings: Settings, found: Verification, say: Say) -> None:
    if not found.cut.exact:
        found.measures_problem = "the join goes on too fast to tell what it had said at one moment: try again later"
        return
    from services.cli.verify_measures import compared

    try:
        found.measures = compared(settings, found.cut.steps, say)
    except WeirError as error:
        found.measures_problem = error.message


def _refuse_truncated(first: Mapping[tuple[str, int], int]) -> None:
    gone = [f"{topic}[{number}] begins at {offset}" for (topic, number), offset in first.items() if offset > 0]
    if gone:
        raise WeirError(
            f"the logs no longer reach back to their beginning, and the twin needs them whole: {', '.join(gone[:3])}",
            fix="verify a namespace that is younger than the retention of its topics",
        )


def _steps(settings: Settings, say: Say) -> dict[int, list[Step]]:
    """Give the join's steps by partition, in order."""
    found: dict[int, list[Step]] = {}
    for record in _read(settings, "steps", say):
        step = decode(record.value or b"", Step)
        if step.stage == "join":
            found.setdefault(step.partition, []).append(step)
    if len(found) < settings.partitions:
        raise WeirError(
            f"the join has taken steps of {len(found)} of {settings.partitions} partitions: nothing can be compared",
            fix="start it (weir join, or weir up) and wait a second",
        )
    return found


def _below(settings: Settings, topic: str, cut: Cut, say: Say) -> Iterator[Record]:
    for record in _read(settings, topic, say):
        if record.partition in cut.steps and record.offset < cut.steps[record.partition].offsets.get(topic, 0):
            yield record


def _feedback(settings: Settings, clocks: Mapping[int, int], say: Say) -> Iterator[Record]:
    """Give feedback said up to the cut; what cannot be read stays, so that the report names it."""
    for record in _read(settings, "feedback", say):
        said = _peek(record, _Said)
        if said is None or said.joined_at_ms <= clocks.get(record.partition, 0):
            yield record


def _dead_letters(settings: Settings, clocks: Mapping[int, int], say: Say) -> Iterator[Record]:
    for record in _read(settings, "dead-letters", say):
        died = _peek(record, _Died)
        if died is None or (died.stage == "join" and died.at_ms <= clocks.get(died.partition, 0)):
            yield record


def _peek(record: Record, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(record.value or b"", type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _read(settings: Settings, topic: str, say: Say) -> Iterator[Record]:
    from services.kafka import read_to_end

    said_at = time.monotonic()
    for count, message in enumerate(read_to_end(settings, topic, client="verify")):
        if time.monotonic() - said_at > PROGRESS_S:
            said_at = time.monotonic()
            say(f"reading {topic}: {count:,} records")
        record = Record(
            message.partition() or 0,
            message.offset() or 0,
            message.timestamp()[1],
            message.key(),
            message.value(),
            message.headers() or (),  # type: ignore[arg-type]  # consumed headers are (str, bytes | None) pairs
        )
        yield from said_in(record) if topic == "feedback" and record.headers else [record]


def _timers_clocks(cut: Cut, control: Sequence[Record], bounds: Bounds) -> dict[int, int]:
    """Partition → the clock of its timers, which a freeze holds."""
    return {
        number: timers_clock(
            [record for record in control if record.partition == number],
            [(step.offsets.get("control", 0), step.clock_ms) for step in cut.taken[number]],
            bounds,
        )
        for number in cut.steps
    }


def _say(text: str) -> None:
    print(f"verify: {text}", file=sys.stderr, flush=True)
