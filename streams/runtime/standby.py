"""A warm standby of one worker slot: it follows the worker's steps, and goes on in its place when they stop.

**Following.** The group says which partitions the slot has. Their recorded steps are taken again as they become
visible (`following`), with readers outside of the group; nothing is produced and nothing is committed. So the state
here is always that after a committed step, and whoever computes something else than the worker did stops and says so.

**Taking over.** When no step of the slot was seen for `takeover_ms` (`vigil` says what counts), the standby takes the
slot, not the group: `init_transactions` with the slot's transactional id fences the worker and settles the transaction
that it left open; the step number that is committed then is final; what is missing up to there is read; the group is
joined with the slot's `group.instance.id`, which fences the worker's membership and gives its partitions without a
rebalance. From there on this is a worker like any other.

**A wrong guess is safe.** A worker that was only slow finds itself fenced at its next commit or poll, and ends with its
exit code for that (71) and nothing committed: its steps never became visible, so the standby never saw them, and what
they read is read again. Of two standbys that take over at once, the later one fences the earlier. Every standby waits
a little longer than it must, by chance, so that the first one is usually seen by the second. Where not, one may win
the transactions and the other the membership, and neither can take a step. So whoever is fenced before its first
commit makes no second try: it follows again, sees the other at work or silence once more, and waits longer each time.

**Only with a broker's clock.** Idle partitions then tick once a second, which makes silence mean something. With a
virtual clock a slot may rightly be silent for ever.
"""

from __future__ import annotations

import random
import threading
import time
from typing import Generic, TypeVar

import structlog
from confluent_kafka import KafkaException

from schemas.errors import USAGE, WeirError
from schemas.settings import Settings
from schemas.topics import topic_name
from streams.runtime import kafka, steps
from streams.runtime.failures import Fenced, KafkaFailed
from streams.runtime.following import Following
from streams.runtime.health import Progress, serve
from streams.runtime.history import History
from streams.runtime.phase import told
from streams.runtime.processor import Processor
from streams.runtime.restore import Abandoned, Restorer, read_committed
from streams.runtime.slot import Slot, shared
from streams.runtime.vigil import Holder, Roster, Vigil
from streams.runtime.worker import Worker

StateT = TypeVar("StateT")

WAIT_S = 0.05
STAGGER_S = 0.1
VACANT_S = 10.0
"""How long a slot may have no worker at all before a standby that never followed one begins: one may be starting."""

CATCH_UP_S = 30.0
TRIES = 4
"""How often a standby takes a slot over that it loses again before its first commit."""

_log = structlog.get_logger()


class Standby(Generic[StateT]):
    """A standby of the slot `runtime.worker`. `run` may be called once. `health_port` as for `Worker`."""

    def __init__(
        self,
        processor: Processor[StateT],
        settings: Settings,
        *,
        stop: threading.Event | None = None,
        health_port: int | None = None,
        history: History | None = None,
    ) -> None:
        if settings.clock == "virtual":
            raise WeirError(
                f"a standby needs a broker's clock, and namespace {settings.namespace!r} has a virtual one: "
                "nothing ticks there, so silence says nothing about the worker",
                fix="run the worker alone (without --standby, runtime.standby); it restores itself when started again",
                code=USAGE,
            )
        self.processor, self.settings, self._history = processor, settings, history
        self.stop = stop or threading.Event()
        self.progress = Progress(processor.stage, settings.runtime.worker, following=True)
        self.worker: Worker[StateT] | None = None
        self._health = serve(self.progress, settings.runtime, health_port)
        self._inputs = steps.in_order(processor.inputs)
        self._topic = {name: topic_name(settings.namespace, name) for name in self._inputs}
        self._holder: Holder | None = None
        # Where both keep their snapshots in one place the worker's are enough, and two writers would only disturb.
        self._keeps = not settings.runtime.snapshots

    def run(self) -> None:
        """Follow until the slot is silent, then work, until `stop` is set. Raises `WeirError`; see `worker.run`."""
        try:
            if kafka.wait_for_kafka(self.settings, self.stop):
                for lost in range(TRIES):
                    if self._ended(lost):
                        return
                slot = kafka.transactional_id(self.settings, self.processor.stage)
                raise Fenced(slot, f"it was taken over {TRIES} times and lost again each time, before the first commit")
        except KafkaException as error:
            raise KafkaFailed(kafka.reason(error)) from error
        finally:
            self.progress.ready = False
            if self._health is not None:
                self._health.close()

    def _ended(self, lost: int) -> bool:
        """Follow, and work once the slot is silent. False: it was lost before the first commit."""
        self._open(lost)
        slot, progress, commits = self._slot, self.progress, self.progress.commits
        try:
            try:
                taken = self._follow()
            finally:
                threading.Thread(target=self._following.close, name="close-following").start()
            if taken:
                self._work()
            else:
                self._leave()
            return True
        except Fenced:
            if progress.commits != commits:
                raise
        _log.warning("takeover_lost", worker=self.settings.runtime.worker, then="following again")
        slot.keeping.close()
        threading.Thread(target=slot.consumer.close, name="close-member").start()
        self.worker, progress.following, progress.partitions = None, True, {}
        return False

    def _open(self, lost: int) -> None:
        settings, stage = self.settings, self.processor.stage
        self._holder, self._answered_at, self._stagger_s = None, float("-inf"), STAGGER_S * 4**lost
        self._slot: Slot[StateT] = Slot.of(self.processor, settings, self.progress, told())
        group, instance = kafka.group_id(settings.namespace, stage), kafka.transactional_id(settings, stage)
        self._roster = Roster(group, instance, [self._topic[name] for name in shared(self._inputs)], self._slot.admin)
        self._following = Following(self.processor, settings)
        self._vigil = Vigil(VACANT_S + random.uniform(0, self._stagger_s), time.monotonic())
        port = None if self._health is None else self._health.port
        _log.info("following", stage=stage, worker=settings.runtime.worker, health_port=port)

    def _leave(self) -> None:
        if self._keeps:
            self._slot.keeping.all(self._following.at)
        self._slot.keeping.close()
        self._slot.consumer.close()
        self._slot.out.close()
        _log.info("left", stage=self.processor.stage, worker=self.settings.runtime.worker, following=True)

    # --- following

    def _follow(self) -> bool:
        """Follow until the slot is ours (True), or `stop` is set (False)."""
        while not self.stop.is_set():
            self._listen()
            self._ask()
            now = time.monotonic()
            self._vigil.look(now)
            self.progress.polled_at = self.progress.committed_at = now
            self.progress.lag_steps = self._following.lag
            self.progress.ready = bool(self._following.at)
            if self._keeps:
                self._slot.keeping.due(self._following.at, now)
            if self._vigil.silent(now) and self._certain():
                self._take_over()
                return True
        return False

    def _listen(self) -> None:
        """Take again what was recorded. A step that was read is a sign of life, unless nobody holds the slot."""
        following, heard, taken = self._following, self._following.heard, self._following.taken
        if following.at:
            following.advance(WAIT_S)
        else:
            self.stop.wait(WAIT_S)
        self.progress.steps += following.taken - taken
        if following.heard > heard and self._holder is not None and self._holder.member is not None:
            self._vigil.sign(time.monotonic())

    def _ask(self) -> None:
        """Keep asking the group who holds the slot; follow what changed."""
        now = time.monotonic()
        try:
            self._slot.consumer.poll(0)
            self._roster.ask(now)
            holder = self._roster.answer()
        except KafkaException:
            self._vigil.sign(now)  # Kafka does not answer, so silence says nothing
            return
        if holder is None:
            return
        before, self._answered_at = self._holder, holder.asked_at
        if not holder.settled:
            self._vigil.sign(now)
            return
        self._holder = holder
        if before is None or (before.member, before.partitions) != (holder.member, holder.partitions):
            self._vigil.sign(now)
            _log.info("slot_held", worker=self.settings.runtime.worker, by=holder.member, partitions=holder.partitions)
        # A slot that nobody holds any more keeps the partitions that it had: whoever takes it may get them again.
        if holder.member is not None and set(holder.partitions) != set(self._following.at):
            self._change(holder.partitions)

    def _change(self, numbers: tuple[int, ...]) -> None:
        """Follow these partitions: those that are new are restored first."""
        at = {number: restored for number, restored in self._following.at.items() if number in numbers}
        new = [number for number in numbers if number not in at]
        self.progress.ready, self.progress.restoring = False, tuple(new)
        slot = self._slot
        restorer = Restorer(self.processor, self.settings, slot.snapshots, slot.admin, self._alive, self._history)
        try:
            committed = read_committed(self._slot.consumer, self.settings, self._inputs, new)
            for number in new:
                at[number] = restorer.restore(number, committed[number])
        except Abandoned:
            return
        finally:
            restorer.close()
            self.progress.restoring = ()
        topics = [*self._topic.values(), topic_name(self.settings.namespace, "steps")]
        places = [(topic, number) for topic in topics for number in numbers]
        self._following.follow(at, kafka.earliest(self._slot.admin, places))
        self._slot.keeping.begin(at)
        silence_s = self.settings.runtime.takeover_ms / 1000 + random.uniform(0, self._stagger_s)
        self._vigil = Vigil(silence_s, time.monotonic())

    def _alive(self) -> None:
        self.progress.polled_at = time.monotonic()
        if self.stop.is_set():
            raise Abandoned

    def _certain(self) -> bool:
        """Whether Kafka says, asked after most of the silence, that the slot has no new holder and no unread step."""
        now, late = time.monotonic(), self._vigil.since + self._vigil.silence_s * 0.75
        if self._holder is None or self._answered_at < late:
            self._roster.ask(now, 0)
            return False
        steps_topic = topic_name(self.settings.namespace, "steps")
        try:
            ends = kafka.ends(self._slot.admin, [(steps_topic, number) for number in self._following.at], patience_s=0)
        except KafkaException as error:
            _log.warning("ends_unknown", reason=kafka.reason(error), effect="no takeover yet")
            self._vigil.sign(now)
            return False
        if unheard := self._following.unheard(ends):
            _log.warning("steps_unread", partitions=unheard, effect="no takeover yet")
            self._vigil.sign(now)
            return False
        return True

    # --- taking over

    def _take_over(self) -> None:
        """Take the slot and read up to what is committed. Raises `UnknownOutcome`."""
        slot, began = self._slot, time.monotonic()
        silent_at = self._vigil.since
        _log.warning(
            "taking_over",
            worker=self.settings.runtime.worker,
            silent_s=round(began - silent_at, 3),
            held_by=self._holder and self._holder.member,
            partitions=sorted(self._following.at),
        )
        slot.out.take_slot()
        fenced = time.monotonic()
        committed = read_committed(slot.consumer, self.settings, self._inputs, list(self._following.at))
        behind = self._behind({number: one.step for number, one in committed.items()})
        _log.info(
            "slot_taken",
            seconds=round(fenced - began, 3),
            caught_up_s=round(time.monotonic() - fenced, 3),
            behind=behind,
        )
        slot.kept, slot.silent_at = dict(self._following.at), silent_at

    def _behind(self, committed: dict[int, int]) -> list[int]:
        """Follow up to what is committed. Gives the partitions that do not get there: the worker restores those."""
        deadline = time.monotonic() + CATCH_UP_S
        while behind := [n for n, at in self._following.at.items() if at.step < committed[n]]:
            if self.stop.is_set() or time.monotonic() > deadline:
                return behind
            self._following.advance(WAIT_S)
        return []

    def _work(self) -> None:
        """Go on as the slot's worker. Raises as `Worker.run` does."""
        self.progress.following = False
        self.worker = Worker(
            self.processor,
            self.settings,
            stop=self.stop,
            slot=self._slot,
            progress=self.progress,
            history=self._history,
        )
        self.worker.run()
