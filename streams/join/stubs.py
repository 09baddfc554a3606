"""The second tier: what stays of a request that has been put away to make room, and what an open question holds.

**Putting away.** A step that carries a cut (`Batch.cut_ms`) puts away every request of which all that was read is older
than the cut and everything it says has landed by then, unless something of it is due soon, or its state is more than
the set of its events: a conflict, a parked label or signal, very many events. What is put away is found again in the
store of what has landed, so nothing is lost, whatever the cut was.

**Stub.** It stays until the request would have left state anyway. It knows when something will be due
(`ask_ms`: the request is asked for `ahead_ms` before, so that its negative leaves in time; `silent_ms`: a deadline that
says nothing moves the class alone) and the classes in which the request counts. Between two such moments what is known
of a request does not change, so what it was when it was put away is what it was just before the next (`as_was_ms`).

**Question.** The first record that concerns a request that was put away, a moment that is due, or another policy makes
a question of its stub. Until the answer has come, records of the request are counted as parked and kept (`Held`); then
they are taken as if they came now. A question that stays open for `AGAIN_MS` is asked again: it may have been lost.
docs/recall.md is the contract.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from schemas.policy import JoinPolicy
from schemas.recall import Cause
from streams.join.admission import Admitted
from streams.runtime.records import Records

OPEN, PROVISIONAL = "predictions.open", "predictions.provisional"
VOID, UNLABELLED, FINAL = "predictions.void", "predictions.unlabelled", "predictions.final"

AGAIN_MS = 3_600_000
"""After how long, by the join's clock, an open question is asked again."""

Place = tuple[str, int]
"""Topic, and position (`streams.runtime.records.position`: offset, and index in an envelope)."""


class Away(Struct, gc=False):
    """A standing prediction that has been put away: its content hash, its class, how many revisions were said of it.

    `said` tells whether any of them is about the first label name, which the class is about; `deployment` is None where
    the prediction is the only one of its request.
    """

    model: str
    deployment: str | None
    at_ms: int
    content: int
    policy: JoinPolicy
    counter: str
    revisions: int
    said: bool

    @property
    def deadline_ms(self) -> int:
        """The deadline of the first outcome, which the class is about."""
        return self.at_ms + self.policy.wait_ms


class Stub(Struct, gc=False):
    """What stays of a request that has been put away. `due_ms` is the next moment at which it must be looked at."""

    due_ms: int
    ask_ms: int | None
    ends_ms: int
    cases: tuple[Away, ...]

    @property
    def as_was_ms(self) -> int:
        """A clock at which all is known of the request that was known when it was put away, and no more."""
        return (self.ends_ms if self.ask_ms is None else self.ask_ms) - 1

    def next_due_ms(self, ahead_ms: int) -> int:
        """Give the next moment: the question before something is due, a deadline that says nothing, or the end."""
        moments = [self.ends_ms]
        if self.ask_ms is not None:
            moments.append(self.ask_ms - ahead_ms)
        moments += [case.deadline_ms for case in self.cases if self.silent(case)]
        return min(moments)

    def silent(self, case: Away) -> bool:
        """Say whether a case's deadline is ahead and moves nothing but its class."""
        return case.counter == OPEN and (self.ask_ms is None or case.deadline_ms < self.ask_ms)


def after_silence(case: Away) -> str:
    """Give the class of a prediction of which nothing is said when its deadline has passed."""
    return VOID if case.said else UNLABELLED


class Held(Struct, gc=False):
    """A record that waits for the answer: one row of `records`, and what was admitted of it."""

    topic: str
    records: Records
    admitted: Admitted

    @property
    def place(self) -> Place:
        """Where it stands in the log."""
        return self.topic, self.records.position(0)


class Asked(Struct, gc=False):
    """An open question: the step that asked, the stub, what came since, the parts of the answer that have come.

    `due_ms` is when it is asked again.
    """

    step: int
    cause: Cause
    stub: Stub
    held: list[Held]
    parts: dict[int, bytes]
    due_ms: int

    def kept(self) -> Iterator[Place]:
        """Give the places of the records that are kept."""
        return (held.place for held in self.held)
