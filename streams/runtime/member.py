"""A member of a group whose work lies elsewhere: it reads, does something that may take long, and then commits.

For stages that write no Kafka transaction (`record`, `recall`): their effect is in another store, or may happen again.
What they share is how to live in the group:

- **Begin** where the group left off. What Kafka assigns is `pending` until the stage has found out where to begin and
  calls `begin`; nothing is fetched before. The member is static by worker: a restart has its partitions at once.
- **Patience.** `insist` calls something until it works, with back-off; fetching is paused, the membership kept alive.
- **Taken away.** When partitions go to others, or the process is to stop, whatever waits raises `TakenAway`: what is
  held is forgotten (`forget`), and whoever is next begins at what is committed.
- **Put out.** A group that takes nothing more from this consumer (a broker that was killed forgot it) is joined anew;
  when that is needed again and again, another process has our name, and the stage ends and says so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from schemas.errors import ENVIRONMENT, WeirError
from schemas.settings import Settings
from schemas.topics import topic_name
from streams.runtime import kafka
from streams.runtime.health import Progress
from streams.runtime.kafka import Place
from streams.runtime.offsets import TRY_S, Commit, committed

BACKOFF_S = (0.2, 5.0)
FENCED_TIMES, FENCED_S = 3, 60.0
COMMIT_S = 10.0
_POLL_S = 0.1

_NOT_OURS = (
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError._ASSIGNMENT_LOST,
    KafkaError._STATE,
)
_FENCED = (KafkaError._FATAL, KafkaError.FENCED_INSTANCE_ID)

ResultT = TypeVar("ResultT")

_log = structlog.get_logger()
_rdkafka = logging.getLogger("librdkafka")


class TakenAway(Exception):
    """The partitions were taken away, or the process was asked to stop, amid work. Whoever is next does it again."""


class PutOut(Exception):
    """The group takes nothing more from this consumer: a broker that was killed forgot it, or another has our name."""


def cannot_go_on(settings: Settings, stage: str, reason: str) -> WeirError:
    """Give the error of a process whose place in the group another has taken."""
    return WeirError(
        f"`weir {stage}` cannot go on as worker {settings.runtime.worker!r}: {reason}",
        fix=f"another `weir {stage}` with the same runtime.worker may run: stop one, or name it otherwise",
        code=ENVIRONMENT,
    )


def put_out_once_more(settings: Settings, stage: str, before: Sequence[float], reason: str) -> list[float]:
    """Take note that the group takes nothing more from a consumer, which is to be opened anew; gives the latest times.

    Raises `WeirError` when it happens again and again: then another process has the name.
    """
    now = time.monotonic()
    times = [*(at for at in before if now - at < FENCED_S), now]
    if len(times) > FENCED_TIMES:
        raise cannot_go_on(settings, stage, reason)
    _log.warning("joined_anew", stage=stage, reason=reason)
    return times


class Member:
    """One member of a stage's group, for one thread; opened and closed as a `with` block.

    `topics` are logical names. `forget` drops what is held and not done; `late` takes what still comes during a pause:
    ends of partitions, errors (`refuse` them), perhaps records. `away` are exceptions that mean "try again later",
    beside Kafka's own. `properties` are the consumer's, beyond ours. `pending` is what Kafka has assigned and nobody
    has begun; `generation` changes whenever what is held is forgotten; `waits` counts tries in vain.
    """

    def __init__(
        self,
        settings: Settings,
        stage: str,
        topics: Sequence[str],
        stop: threading.Event,
        *,
        forget: Callable[[], None],
        late: Callable[[Sequence[Message]], object],
        away: tuple[type[Exception], ...] = (),
        properties: Mapping[str, Any] | None = None,
    ) -> None:
        self.stage, self.stop = stage, stop
        self.progress = Progress(stage, settings.runtime.worker)
        self.pending: list[Place] | None = None
        self.generation = 0
        self.waits = 0
        self._settings = settings
        self._topics = [topic_name(settings.namespace, name) for name in topics]
        self._forget, self._late = forget, late
        self._away: tuple[type[Exception], ...] = away
        self._passing: tuple[type[Exception], ...] = (*away, KafkaException)
        self._properties = dict(properties or {})
        self._given: list[Place] = []
        self._fetched: list[Place] = []
        self._paused = False
        self._put_out: list[float] = []
        self._stray: list[Message] = []
        self._said: tuple[KafkaError | None, dict[Place, int]] | None = None

    def __enter__(self) -> Self:
        self._consumer = self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._consumer.close()

    def run(self, turn: Callable[[], None]) -> None:
        """Take one turn after the other until asked to stop. Raises `WeirError` when put out again and again."""
        while not self.stop.is_set():
            try:
                turn()
            except TakenAway as error:
                if not self.stop.is_set():
                    _log.info("begun_anew", stage=self.stage, reason=str(error) or "the partitions were taken away")
                self._begin_anew()
            except PutOut as error:
                self._join_anew(str(error))

    def _open(self) -> Consumer:
        client = f"{self.stage}-{self._settings.runtime.worker}"
        group = kafka.group_id(self._settings.namespace, self.stage)
        properties = kafka.consumer_properties(self._settings, client, group, instance=client)
        properties |= {**self._properties, "on_commit": self._on_commit}
        consumer = Consumer(properties, logger=_rdkafka)
        consumer.subscribe(self._topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)
        return consumer

    # --- assignment

    def _assigned(self, consumer: Consumer, given: list[TopicPartition]) -> None:
        consumer.assign([])  # nothing is fetched before it is known where to begin
        self._given = [(tp.topic, tp.partition) for tp in given]
        self.pending, self._fetched = list(self._given), []
        self.generation += 1

    def _revoked(self, consumer: Consumer, taken: list[TopicPartition]) -> None:
        consumer.unassign()
        self._let_go()

    def _let_go(self) -> None:
        self.pending, self._given, self._fetched, self._paused, self._stray = None, [], [], False, []
        self.generation += 1
        self._forget()

    def _begin_anew(self) -> None:
        """Go back to what is committed. When the partitions are still ours, nobody will tell us again."""
        given = self._given
        self._let_go()
        self._given, self.pending = given, list(given) or None

    def _join_anew(self, reason: str) -> None:
        self._put_out = put_out_once_more(self._settings, self.stage, self._put_out, reason)
        self._consumer.close()
        self._let_go()
        self._consumer = self._open()

    def begin(self, places: list[Place], starts: Mapping[Place, int]) -> None:
        """Fetch what was `pending` from where the stage begins. Raises `TakenAway` when it is not pending any more."""
        if self.pending is not places:
            raise TakenAway
        self.pending = None
        self.fetch(starts)
        self.progress.ready = True

    def fetch(self, starts: Mapping[Place, int]) -> None:
        """Fetch these places, from these offsets, and no others."""
        assigned = [TopicPartition(*place, start) for place, start in starts.items()]
        self._consumer.assign(assigned)
        self._consumer.resume(assigned)  # a pause outlives the assignment in which it was made
        self._fetched, self._paused = list(starts), False

    def still(self, generation: int) -> None:
        """Raise `TakenAway` when what was ours then is not any more, or the process is asked to stop."""
        if self.stop.is_set() or self.generation != generation:
            raise TakenAway

    # --- reading

    def consume(self, most: int, wait_s: float) -> list[Message]:
        """Give what came: records, ends of partitions, errors. Waits up to `wait_s` seconds for `most` of them."""
        stray, self._stray = self._stray, []
        messages = self._consumer.consume(most, 0 if stray else wait_s)
        self.progress.polled_at = time.monotonic()
        return stray + messages

    def pause(self, wanted: bool) -> None:
        """Stop or go on fetching."""
        if wanted == self._paused:
            return
        places = [TopicPartition(*place) for place in self._fetched]
        self._consumer.pause(places) if wanted else self._consumer.resume(places)
        self._paused = wanted

    @property
    def paused(self) -> bool:
        """Whether fetching is paused."""
        return self._paused

    def end_of(self, place: Place) -> int:
        """Give the end of a fetched place as of the last fetch, negative when unknown. Asks nobody."""
        return int(self._consumer.get_watermark_offsets(TopicPartition(*place), cached=True)[1])

    def refuse(self, message: Message, error: KafkaError) -> None:
        """Take an error that came in place of a record. Raises `PutOut`, or `TakenAway` where reading begins anew."""
        if error.fatal() or error.code() in _FENCED:
            raise PutOut(error.str())
        if error.code() == KafkaError._AUTO_OFFSET_RESET:  # retention overtook us: begin anew at what is left
            raise TakenAway(error.str())
        _log.warning("kafka_error", topic=message.topic(), partition=message.partition(), reason=error.str())

    # --- offsets

    def committed(self, places: Sequence[Place]) -> dict[Place, Commit]:
        """Ask what the group has committed, as often as it takes. Raises `TakenAway`."""
        return self.insist(lambda: committed(self._consumer, places, patience_s=TRY_S))

    def commit(self, offsets: Mapping[Place, int], metadata: Mapping[Place, str] | None = None) -> None:
        """Commit, as often as it takes. Raises `TakenAway` when the group has given our partitions to others."""
        said = metadata or {}
        positions = [TopicPartition(*place, offset, metadata=said.get(place, "")) for place, offset in offsets.items()]

        def once() -> None:
            try:
                self._consumer.commit(offsets=positions, asynchronous=True)
                self._await_commit(offsets)
            except KafkaException as error:
                if error.args[0].fatal() or error.args[0].code() in _FENCED:
                    raise PutOut(kafka.reason(error)) from None
                if error.args[0].code() in _NOT_OURS:
                    raise TakenAway(kafka.reason(error)) from None
                raise

        self.insist(once)
        self.progress.commits += 1
        self.progress.committed_at = time.monotonic()

    def _on_commit(self, error: KafkaError | None, places: list[TopicPartition]) -> None:
        failed = next((tp.error for tp in places if tp.error is not None), None)
        self._said = error or failed, {(tp.topic, tp.partition): tp.offset for tp in places}

    def _await_commit(self, offsets: Mapping[Place, int]) -> None:
        """Wait until a commit is answered: a client asked to wait itself has no time limit when its broker is gone.

        Records that come meanwhile are kept for `consume`. Raises `KafkaException` and `TakenAway`.
        """
        generation, deadline = self.generation, time.monotonic() + COMMIT_S
        while self._said is None or self._said[1] != dict(offsets):
            message = self._consumer.poll(_POLL_S)
            self.progress.polled_at = time.monotonic()
            if self.generation != generation:
                raise TakenAway
            if message is not None:
                self._stray.append(message)
            if time.monotonic() > deadline:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"no answer to a commit for {COMMIT_S:g} s"))
        (error, _), self._said = self._said, None
        if error is not None:
            raise KafkaException(error)

    # --- patience

    def insist(self, call: Callable[[], ResultT]) -> ResultT:
        """Call until it works, with back-off, keeping the membership alive. Raises `TakenAway`."""
        wait_s, began = BACKOFF_S[0], time.monotonic()
        while True:
            try:
                result = call()
            except self._passing as error:
                self.progress.ready = False
                self.waits += 1
                self._say(error, began)
                self.wait(wait_s)
                wait_s = min(2 * wait_s, BACKOFF_S[1])
            else:
                if wait_s > BACKOFF_S[0]:
                    self.progress.ready = True
                    _log.info("works_again", stage=self.stage, waited_s=round(time.monotonic() - began, 1))
                return result

    def wait(self, seconds: float) -> None:
        """Wait without fetching. Raises `TakenAway` when there is no point in trying again."""
        generation, before = self.generation, self._paused
        self.pause(True)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            late = self.consume(1, min(_POLL_S, seconds))
            self.still(generation)
            self._late(late)
        self.pause(before)

    def wait_for(self, call: Callable[[], object]) -> bool:
        """Call until it works, before the group is joined. False: the process was asked to stop."""
        wait_s, began = BACKOFF_S[0], time.monotonic()
        while not self.stop.is_set():
            self.progress.polled_at = time.monotonic()
            try:
                call()
            except self._away as error:
                self._say(error, began)
                self.stop.wait(wait_s)
                wait_s = min(2 * wait_s, BACKOFF_S[1])
            else:
                return True
        return False

    def _say(self, error: BaseException, began: float) -> None:
        why = f"Kafka: {kafka.reason(error)}" if isinstance(error, KafkaException) else str(error)
        _log.warning("waiting", stage=self.stage, reason=why, waited_s=round(time.monotonic() - began, 1))
