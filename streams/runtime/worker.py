"""The loop: gather, confirm, step, commit. One process, one worker slot, one processor, any number of partitions.

A cycle gathers what there is (at least `commit_ms` apart, bounded by count and bytes), takes one step of every
partition that read something or has a timer due, and commits all of it in one Kafka transaction: outputs, one record
per step, offsets with the step number as metadata. Outputs produced twice because of a crash are never both visible.

Assignment. The group shares out the inputs other than control; control has a copy in every partition and is added by
hand, so it may have more partitions than the stage. Nothing is fetched before its state is restored: the group's
assignment is answered with an empty one, and the real one follows with explicit offsets.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable
from functools import partial
from typing import Generic, TypeVar

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from schemas.settings import Settings
from schemas.topics import topic_name
from streams.runtime import kafka, steps
from streams.runtime.clock import CONTROL, RECALLED
from streams.runtime.failures import Fenced, KafkaFailed
from streams.runtime.health import PartitionProgress, Progress, serve
from streams.runtime.history import History
from streams.runtime.idle import TICK_S, confirm, ticking
from streams.runtime.intake import Intake
from streams.runtime.partition import Partition, columns
from streams.runtime.phase import Phase, told
from streams.runtime.processor import Batch, Processor
from streams.runtime.restore import Abandoned, Restored, Restorer, read_committed
from streams.runtime.room import Room
from streams.runtime.slot import Slot, client_name, shared

StateT = TypeVar("StateT")

IDLE_S = 0.05
LEAD_MS = 600_000
"""An input that leads the least of its partition by more than this is paused, so that state stays small."""

_log = structlog.get_logger()


def run(
    processor: Processor[StateT],
    settings: Settings,
    stop: threading.Event | None = None,
    history: History | None = None,
) -> None:
    """Feed a processor until `stop` is set; then finish the step, write snapshots and leave.

    Health is served at `runtime.health_host`, on a port that the log names (`working`). `history` has records that
    Kafka no longer has, for a restore.

    Raises `WeirError`; its `code` is the exit status that the process should end with (see `failures`). After an
    error nothing may be retried in this process.
    """
    port = settings.runtime.health_port
    if settings.runtime.standby:
        from streams.runtime.standby import Standby

        Standby(processor, settings, stop=stop, health_port=port, history=history).run()
    else:
        Worker(processor, settings, stop=stop, health_port=port, history=history).run()


class Worker(Generic[StateT]):
    """One worker slot. `run` may be called once. `health_port` None serves no HTTP, 0 takes a free port.

    `slot` is one that was taken already: a standby's. `history` has records that Kafka no longer has.
    """

    def __init__(
        self,
        processor: Processor[StateT],
        settings: Settings,
        *,
        stop: threading.Event | None = None,
        health_port: int | None = None,
        slot: Slot[StateT] | None = None,
        progress: Progress | None = None,
        history: History | None = None,
    ) -> None:
        self.processor, self.settings, self._history = processor, settings, history
        self.stop = stop or threading.Event()
        self.progress = progress or Progress(processor.stage, settings.runtime.worker)
        self.health = serve(self.progress, settings.runtime, health_port)
        self._inputs = steps.in_order(processor.inputs)
        self._shared = shared(self._inputs)
        self._logical = {topic_name(settings.namespace, name): name for name in self._inputs}
        self._topic = {name: topic for topic, name in self._logical.items()}
        self._virtual = settings.clock == "virtual"
        self._client = client_name(settings, processor.stage)
        self._running: dict[int, Partition[StateT]] = {}
        self._slot = slot
        self._kept: dict[int, Restored[StateT]] = {} if slot is None else dict(slot.kept)
        self._pending: list[int] | None = None  # assigned and not yet restored
        self._committed_at = self._second_at = 0.0
        self._phase = told()
        self._held = contextlib.ExitStack()
        self._room = Room.of(processor, settings)

    def run(self) -> None:
        """Run until `stop` is set. Raises `WeirError`; see `run` of this module."""
        try:
            if self._slot is None and not kafka.wait_for_kafka(self.settings, self.stop):
                return
            self._open()
            port = None if self.health is None else self.health.port
            _log.info("working", stage=self.processor.stage, worker=self.settings.runtime.worker, health_port=port)
            self._loop()
            self._leave()
        except KafkaException as error:
            fenced = error.args[0].code() in (KafkaError.FENCED_INSTANCE_ID, KafkaError._FENCED)
            if fenced or "fenced" in error.args[0].str():  # a fatal error has a code of its own
                raise Fenced(self._client, kafka.reason(error)) from error
            raise KafkaFailed(kafka.reason(error)) from error
        finally:
            self.progress.ready = False
            self._held.close()
            if self.health is not None:
                self.health.close()
            if self._room is not None:
                self._room.close()
            if self._slot is not None:
                self._slot.keeping.close()

    # --- joining and leaving

    def _open(self) -> None:
        slot = self._slot
        if slot is None:
            slot = self._slot = Slot.of(self.processor, self.settings, self.progress, self._phase)
            slot.out.take_slot()  # before any committed offset is asked for: it may settle a transaction over them
        self._admin, self._snapshots, self._out, self._consumer = slot.admin, slot.snapshots, slot.out, slot.consumer
        self._keeping = slot.keeping
        self._intake = Intake(slot.consumer, self._logical, lambda number: self._running.get(number))
        self._held.callback(self._intake.close)  # else the consumer, when it is let go, waits for it
        topics = [self._topic[name] for name in self._shared]
        self._consumer.subscribe(topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)

    def _leave(self) -> None:
        self._keeping.all(self._states())
        self._intake.close()
        self._consumer.close()
        self._out.close()
        _log.info("left", stage=self.processor.stage, worker=self.settings.runtime.worker)

    def _assigned(self, consumer: Consumer, given: list[TopicPartition]) -> None:
        consumer.assign([])  # nothing is fetched before its state is there
        mine = {(self._logical[tp.topic], tp.partition) for tp in given}
        numbers = {tp.partition for tp in given}
        whole = [number for number in numbers if all((name, number) in mine for name in self._shared)]
        if len(whole) < len(numbers):
            _log.warning("partitions_incomplete", partitions=sorted(numbers - set(whole)), stage=self.processor.stage)
        self._pending = sorted(whole)
        self.progress.ready = False

    def _revoked(self, consumer: Consumer, taken: list[TopicPartition]) -> None:
        """Nothing is open here: a transaction begins and ends between two polls. What was gathered is read again."""
        consumer.unassign()
        self._kept.update((number, part.at) for number, part in self._running.items())
        self._running, self._pending = {}, None
        self._intake.clear()
        self.progress.partitions, self.progress.ready = {}, False

    def _take_up(self) -> None:
        """Restore what was assigned, then fetch it."""
        numbers = self._pending
        if numbers is None:
            return
        self._phase.enter(Phase.RESTORE)
        self.progress.restoring = tuple(numbers)
        alive = partial(self._alive, numbers)
        restorer = Restorer(self.processor, self.settings, self._snapshots, self._admin, alive, self._history)
        running: dict[int, Partition[StateT]] = {}
        try:
            committed = read_committed(self._consumer, self.settings, self._inputs, numbers)
            for number in numbers:
                kept = self._kept.get(number)
                if kept is None or kept.step != committed[number].step or kept.step == 0 or kept.owed:
                    kept = restorer.restore(number, committed[number])
                    self.progress.restored[number] = kept.told()
                running[number] = Partition(number, kept, dict(kept.offsets), columns(self._inputs))
        except Abandoned:
            return
        finally:
            restorer.close()
            self.progress.restoring = ()
        self._running, self._pending, self._kept = running, None, {}
        self._keeping.begin(self._states())
        if CONTROL in self._inputs and not self._virtual and not self._control_first():
            return
        if not all(self._catch_up(part) for part in running.values()):
            return
        places = [
            TopicPartition(self._topic[name], number, part.position[name])
            for number, part in running.items()
            for name in self._inputs
        ]
        self._intake.assign(places)
        self._consumer.resume(places)  # a pause outlives an assignment
        if not self._virtual:
            self._transact(running.values())  # the first tick: from now on there is a moment to confirm
        self.progress.ready = True
        if self._slot is not None and self._slot.silent_at is not None:
            silent_s = round(time.monotonic() - self._slot.silent_at, 3)
            _log.info("took_over", worker=self.settings.runtime.worker, partitions=numbers, silent_s=silent_s)
            self._slot.silent_at = None
        self._look()

    def _states(self) -> dict[int, Restored[StateT]]:
        return {number: part.at for number, part in self._running.items()}

    def _catch_up(self, part: Partition[StateT]) -> bool:
        """Step over records that nobody has read yet and Kafka no longer has.

        False: the partitions were taken away, or the process was asked to stop.
        """
        running = self._running
        for name, (records, end) in part.at.owed.items():
            for portion in records:
                part.take(name, portion)
                self._transact([part])
                message = self._consumer.poll(0)  # keeps the membership
                self.progress.polled_at = time.monotonic()
                if message is not None:
                    self._intake.keep(message)
                if self.stop.is_set() or self._running is not running:
                    return False
            part.position[name] = max(part.position[name], end)
        part.at.owed = {}
        return True

    def _control_first(self) -> bool:
        """Read `control` to its end before any event: over a backlog, what is in force would come after the first ones.

        False: the partitions were taken away, or the process was asked to stop. With a virtual clock the driver's
        barrier orders the two, and reading ahead would move the clock.
        """
        topic = self._topic[CONTROL]
        ends = kafka.ends(self._admin, [(topic, number) for number in self._running])
        parts = list(self._running.values())
        self._intake.assign([TopicPartition(topic, part.number, part.position[CONTROL]) for part in parts])
        while any(part.position[CONTROL] < ends[topic, part.number][0] for part in parts):
            self._intake.fetch(1, IDLE_S)
            self._intake.fetch(self.settings.runtime.batch_events, 0)
            self.progress.polled_at = time.monotonic()
            if self.stop.is_set() or not self._running:
                return False
        return True

    def _alive(self, numbers: list[int]) -> None:
        """Keep the membership while restoring. Raises `Abandoned`."""
        message = self._consumer.poll(0)
        self.progress.polled_at = time.monotonic()
        if message is not None:
            self._intake.keep(message)
        if self.stop.is_set() or self._pending is not numbers:
            raise Abandoned

    # --- one cycle

    def _loop(self) -> None:
        while not self.stop.is_set():
            self._take_up()
            self._gather()
            now = time.monotonic()
            due = set() if self._virtual else self._idle(now)
            due |= {part for part in self._running.values() if part.events or part.behind or part.cut_ms}
            if due or (self._virtual and self._past_markers()):
                self._transact(due)
            self._keeping.due(self._states(), now)
            if now - self._second_at >= TICK_S:
                self._second_at = now
                self._once_a_second()

    def _idle(self, now: float) -> set[Partition[StateT]]:
        skew_ms, parts = self.settings.join.broker_skew_ms, self._running.values()
        moment_ms = None if self._out.moment_ms is None else self._out.moment_ms - skew_ms
        if not confirm(parts, moment_ms, self._admin, self._topic, now):
            self._admin = kafka.make_admin(self.settings, self._client)
        return set(ticking(parts, self._out, skew_ms, now))

    def _gather(self) -> None:
        asking = any(part.asking for part in self._running.values())
        self._phase.enter(Phase.RECALL if asking else Phase.POLL if self._running else Phase.START)
        limit = self.settings.runtime.batch_events
        window_s = self._committed_at + self.settings.runtime.commit_ms / 1000 - time.monotonic()
        if window_s > 0:
            self._intake.fetch(limit, window_s)
        elif not any(part.behind for part in self._running.values()):
            self._intake.fetch(1, IDLE_S)
        while not self._intake.full and self._intake.events < limit:
            if not self._intake.fetch(limit - self._intake.events, 0):
                break
        self.progress.polled_at = time.monotonic()

    # --- steps and commits

    def _transact(self, due: Iterable[Partition[StateT]]) -> None:
        """Take a step of each partition and commit them together with every position that moved past markers."""
        self._phase.enter(Phase.STEP)
        due = sorted(due, key=lambda part: part.number)
        for part in due:
            self._step(part)
        self._intake.clear()  # all that was gathered is stepped over
        stepping = set(due)
        offsets = {
            (self._topic[name], part.number): part.position[name]
            for part in self._running.values()
            if part in stepping or (self._virtual and not part.events)
            for name in self._inputs
        }
        if not offsets:
            return
        began = time.monotonic()
        self._out.commit(self._consumer, offsets, {part.number: part.at.step for part in self._running.values()})
        now = time.monotonic()
        for place, offset in offsets.items():
            self._running[place[1]].at.offsets[self._logical[place[0]]] = offset
        for part in due:
            part.stepped_at = now
        self._committed_at = self.progress.committed_at = now
        self.progress.commit_seconds.observe(now - began)
        self.progress.commits += 1

    def _step(self, part: Partition[StateT]) -> None:
        at = part.at
        if part.gathered.get(RECALLED):
            self._phase.enter(Phase.RECALL)
        batch = Batch(part.number, at.step + 1, part.gathered, dict(part.position), part.cut_ms)
        stepped = steps.take(self.processor, at.state, at.clock, batch)
        self._phase.enter(Phase.STEP)
        step = steps.record(self.processor, batch, stepped, at.clock.ms)
        self._out.send(stepped.outputs, at.clock.ms)
        self._out.send_step(step, partial(setattr, at, "steps_offset"))
        at.counters = stepped.counters
        self.progress.steps += 1
        self.progress.events += part.events
        self.progress.outputs += len(stepped.outputs)
        part.stepped(batch.step, stepped.wake_at_ms)

    def _past_markers(self) -> bool:
        """Whether an end was found past transaction markers, so that committing it makes the stage drained.

        With a broker clock the next tick does it.
        """
        return any(part.position != part.at.offsets for part in self._running.values())

    # --- upkeep

    def _once_a_second(self) -> None:
        self._look()
        if self._room is not None:
            self._room.look(self._running.values())
        if not self._virtual:
            self._balance()

    def _look(self) -> None:
        """Show where every partition stands."""
        shown: dict[int, PartitionProgress] = {}
        for number, part in self._running.items():
            ends: dict[str, int] = {}
            for name in self._inputs:
                _, end = self._consumer.get_watermark_offsets(TopicPartition(self._topic[name], number), cached=True)
                ends[name] = max(end, 0)
            shown[number] = part.progress(ends)
        self.progress.partitions = shown

    def _balance(self) -> None:
        """Pause inputs that run far ahead of the least; let them go on when the lead has halved."""
        for part in self._running.values():
            for name, lead_ms in part.leads_ms().items():
                place = [TopicPartition(self._topic[name], part.number)]
                if name not in part.paused and lead_ms > LEAD_MS:
                    self._consumer.pause(place)
                    part.paused.add(name)
                    _log.info("input_paused", input=name, partition=part.number, lead_ms=lead_ms, held=part.held)
                elif name in part.paused and lead_ms < LEAD_MS // 2:
                    self._consumer.resume(place)
                    part.paused.discard(name)
