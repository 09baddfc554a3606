"""Is the worker of a slot alive, and which partitions has it? What a standby may conclude from what it hears.

The sign of life is a step: with a broker's clock every running partition takes one at least once a second. Nothing
else counts, least of all a heartbeat of the group: a member that hangs keeps sending those, and one that died keeps its
place for a whole session.

Silence is counted only while it means something: this process looked (it was not asleep itself), Kafka answered, and
said that there is nothing that we have not read. A wrong guess is safe all the same, because taking a slot over fences
whoever had it; these rules only keep wrong guesses rare.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass

import structlog
from confluent_kafka import ConsumerGroupState, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConsumerGroupDescription

from streams.runtime import kafka

DEAF_S = 0.5
"""A longer pause between two looks is our own absence: who was not there heard nothing."""

ASK_S = 0.5
PATIENCE_S = 2.0

_log = structlog.get_logger()


class Vigil:
    """Counts how long a slot has been silent. All times are of `time.monotonic`.

    >>> vigil = Vigil(1.5, now=0.0)
    >>> for tenth in range(1, 15):
    ...     vigil.look(tenth / 10)
    >>> vigil.silent(1.4), vigil.silent(1.5)
    (False, True)
    >>> vigil.sign(1.5)  # a step
    >>> vigil.silent(1.6)
    False
    >>> vigil.look(9.0)  # we were away: the count begins anew
    >>> vigil.silent(9.1)
    False
    """

    def __init__(self, silence_s: float, now: float) -> None:
        self.silence_s = silence_s
        self.since = self._looked_at = now

    def sign(self, now: float) -> None:
        """A sign of life, or something else that makes the silence so far worthless."""
        self.since = now

    def look(self, now: float) -> None:
        """Say that we listen: to be called in every cycle."""
        if now - self._looked_at > DEAF_S:
            self.since = now
        self._looked_at = now

    def silent(self, now: float) -> bool:
        """Whether the slot has been silent for long enough."""
        return now - self.since >= self.silence_s


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a slot, in the group's words: its member id (None: nobody), and which partitions it was given.

    `settled` is False while the group shares out anew: then neither is worth anything. `asked_at` is when the question
    went out (`time.monotonic`).
    """

    member: str | None
    partitions: tuple[int, ...]
    settled: bool
    asked_at: float


class Roster:
    """Asks the group who holds a slot, and never waits for the answer. `inputs` are Kafka's names of what it shares."""

    def __init__(self, group: str, instance: str, inputs: Collection[str], admin: AdminClient) -> None:
        self._group, self._instance, self._inputs = group, instance, frozenset(inputs)
        self._admin = admin
        self._asked_at = float("-inf")
        self._asked: Future[ConsumerGroupDescription] | None = None

    def ask(self, now: float, every_s: float = ASK_S) -> None:
        """Send the question unless one is under way or was sent less than `every_s` ago."""
        if self._asked is None and now - self._asked_at >= every_s:
            asked: Mapping[str, Future[ConsumerGroupDescription]] = self._admin.describe_consumer_groups(
                [self._group], request_timeout=PATIENCE_S
            )
            self._asked, self._asked_at = asked[self._group], now

    def answer(self) -> Holder | None:
        """Give the answer when it has just come. Raises `KafkaException` when Kafka does not answer."""
        if self._asked is None or not self._asked.done():
            return None
        asked, self._asked = self._asked, None
        try:
            return holder(asked.result(), self._instance, self._inputs, self._asked_at)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                return Holder(None, (), True, self._asked_at)
            _log.warning("group_unknown", group=self._group, reason=kafka.reason(error))
            raise


def holder(description: ConsumerGroupDescription, instance: str, inputs: Collection[str], asked_at: float) -> Holder:
    """Read who holds the slot from the group's description. A partition counts when all its inputs were given."""
    settled = description.state in (ConsumerGroupState.STABLE, ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD)
    for member in description.members:
        if member.group_instance_id == instance:
            given = {(tp.topic, tp.partition) for tp in member.assignment.topic_partitions}
            numbers = sorted({number for _, number in given})
            whole = tuple(number for number in numbers if all((topic, number) in given for topic in inputs))
            return Holder(member.member_id, whole, settled, asked_at)
    return Holder(None, (), settled, asked_at)
