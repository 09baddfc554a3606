"""Topics of one namespace, and the log in them.

A backlog is written with timestamps of its own schedule (`CreateTime`), which ends about now; then its topics are
*sealed*: they become `LogAppendTime`, as Weir asks of them. What is in them stays as it is, so everybody reads the same
twenty minutes of events, whatever the machine needed to write them, and timeouts fall due in the middle of the run.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

from benchmarks.join.envelopes import HEADERS, Counts, enclosed, read_below
from benchmarks.join.history import MODEL, Record
from schemas.settings import Join, Kafka, Settings
from schemas.topics import topic_name
from streams.runtime import kafka
from streams.runtime.topics import planned

EARLY_LABEL_MS = 60_000
PATIENCE_S = 15.0
BACKDATED = ("control", "predictions", "labels")
_STAMP = "message.timestamp.type"


def settings_of(bootstrap: str, namespace: str, partitions: int, timeout_ms: int) -> Settings:
    """Give Weir's settings: defaults, but for how long a label waits, and for the grace period of short timeouts."""
    join = Join(early_label_ms=EARLY_LABEL_MS, grace_ms=grace_ms(timeout_ms))
    return Settings(namespace=namespace, partitions=partitions, kafka=Kafka(bootstrap=bootstrap), join=join)


def grace_ms(timeout_ms: int) -> int:
    """Give Weir's grace period, shorter than its default.

    A clock that jumps by more is held for so long by the brokers' time. Over a backlog that is read a thousand times as
    fast as it was written every step is such a jump, and the last negatives would come a minute after the rest.

    >>> grace_ms(120_000), grace_ms(4_000)
    (5000, 4000)
    """
    return min(5_000, timeout_ms)


def tail_ms(timeout_ms: int) -> int:
    """Give how long ticks have to go on until every clock has passed every timeout; Weir waits a jump out."""
    return timeout_ms + 2 * grace_ms(timeout_ms) + 20_000


@dataclass(frozen=True, slots=True)
class Log:
    """The topics of a namespace."""

    settings: Settings
    admin: AdminClient
    counts: Counts = field(default_factory=dict)

    def topic(self, logical: str) -> str:
        """Give Kafka's name of one of Weir's topics."""
        return topic_name(self.settings.namespace, logical)

    def output(self, peer: str) -> str:
        """Give the name of a peer's output topic; Weir's is `feedback`."""
        return self.topic("feedback") if peer.startswith("weir") else f"{self.settings.namespace}.out-{peer}"

    def create(self, *, backdated: bool) -> None:
        """Create Weir's topics. `control` is backdated in any case: a policy has to be a minute old to be in force."""
        create_time = BACKDATED if backdated else ("control",)
        stamped = {self.topic(name): "CreateTime" for name in create_time}
        self._create(
            NewTopic(plan.topic, plan.partitions, 1, config={**plan.config, _STAMP: stamped[plan.topic]})
            if plan.topic in stamped
            else NewTopic(plan.topic, plan.partitions, 1, config=plan.config)
            for plan in planned(self.settings)
        )

    def create_output(self, peer: str) -> str:
        """Create a peer's output topic, unless it is there, and give its name."""
        name = self.output(peer)
        if name not in self.admin.list_topics(timeout=30).topics:
            self._create([NewTopic(name, self.settings.partitions, 1, config={_STAMP: "LogAppendTime"})])
        return name

    def _create(self, wanted: Iterable[NewTopic]) -> None:
        futures = self.admin.create_topics(list(wanted), request_timeout=60)
        for future in futures.values():
            future.result()
        deadline = time.monotonic() + 30
        while not set(futures) <= set(self.admin.list_topics(timeout=30).topics):
            if time.monotonic() > deadline:
                raise TimeoutError("created topics do not show up within 30 s")
            time.sleep(0.02)

    def drop(self, topic: str) -> None:
        """Delete a topic that has been judged: disks are small."""
        for future in self.admin.delete_topics([topic]).values():
            future.result()

    def policy(self, first_ms: int, timeout_ms: int, *, carry: bool = True) -> None:
        """Put the policy into every partition of `control`, in force from before `first_ms` on, and seal it."""
        body = policy_body(first_ms - 120_000, timeout_ms, carry=carry)
        records = [
            Record(False, first_ms - 240_000, b"", body, partition) for partition in range(self.settings.partitions)
        ]
        produce(self.settings.kafka.bootstrap, records, self.topic("control"), "")
        self.seal("control")

    def write(self, records: Iterable[Record]) -> int:
        """Write predictions and labels at the times of their records. Gives how many."""
        return produce(self.settings.kafka.bootstrap, records, self.topic("predictions"), self.topic("labels"))

    def write_enclosed(self, records: Iterable[Record]) -> int:
        """Write predictions and labels in envelopes. Gives how many envelopes these are."""
        made = enclosed(records, self.settings.partitions, self.counts)
        return produce(
            self.settings.kafka.bootstrap, made, self.topic("predictions"), self.topic("labels"), headers=HEADERS
        )

    def read(self, topic: str, partition: int, offset: int) -> int:
        """Give how many events lie below an offset of an input."""
        if not self.counts:
            return offset
        return read_below(self.counts, (topic == self.topic("labels"), partition), offset)

    def seal(self, *logical: str) -> None:
        """Let the broker stamp what comes from now on, and wait until it says that it does."""
        resources = [
            ConfigResource(
                ResourceType.TOPIC,
                self.topic(name),
                incremental_configs=[ConfigEntry(_STAMP, "LogAppendTime", incremental_operation=AlterConfigOpType.SET)],
            )
            for name in logical
        ]
        for future in self.admin.incremental_alter_configs(resources, request_timeout=30).values():
            future.result()
        deadline = time.monotonic() + 30
        while True:
            found = self.admin.describe_configs(resources, request_timeout=30).values()
            if all(future.result()[_STAMP].value == "LogAppendTime" for future in found):
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{_STAMP} of {', '.join(logical)} does not change within 30 s")
            time.sleep(0.02)

    def ends(self, topic: str, *, committed: bool = False) -> int:
        """Give how many offsets a topic has, over its partitions; transaction markers count.

        So do open transactions, unless only what is `committed` is asked for.
        """
        return sum(stable if committed else high for stable, high in self.places(topic).values())

    def places(self, topic: str) -> dict[kafka.Place, tuple[int, int]]:
        """Give (last stable offset, high watermark) of each partition.

        A topic that was just made may have a leader epoch that the client takes for wrong: then it is asked again.
        """
        places = [(topic, partition) for partition in range(self.settings.partitions)]
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return kafka.ends(self.admin, places)
            except KafkaException:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)


def policy_body(effective_from_ms: int, timeout_ms: int, *, carry: bool) -> bytes:
    """Give the control record: labels count for five sixths of the timeout and may be late for the rest of it.

    >>> b'"horizon_ms":100000' in policy_body(0, 120_000, carry=True)
    True
    """
    policy = {
        "model": MODEL,
        "horizon_ms": timeout_ms * 5 // 6,
        "lateness_ms": timeout_ms - timeout_ms * 5 // 6,
        "retain_ms": timeout_ms,
        "on_timeout": "negative",
        "effective_from_ms": effective_from_ms,
        "carry": "features" if carry else "none",
    }
    return msgspec.json.encode({"kind": "policy_set", "policy": policy})


def produce(
    bootstrap: str,
    records: Iterable[Record],
    predictions: str,
    labels: str,
    headers: list[tuple[str, str | bytes | None]] | None = None,
) -> int:
    """Produce records with their own times, in order. Raises `RuntimeError` for one that the broker refused."""
    refused: list[str] = []

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            refused.append(f"{message.topic()}: {error.str()}")

    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "partitioner": "murmur2_random",
            "enable.idempotence": True,
            "linger.ms": 20,
            "queue.buffering.max.messages": 500_000,
            "delivery.report.only.error": True,
        }
    )
    sent = 0
    for record in records:
        topic, key = labels if record.is_label else predictions, record.key or None
        while True:
            try:
                producer.produce(
                    topic,
                    record.value,
                    key,
                    record.partition,
                    on_delivery=delivered,
                    timestamp=record.at_ms,
                    headers=headers,
                )
            except BufferError:
                producer.poll(0.05)
            else:
                break
        sent += 1
        if not sent % 10_000:
            producer.poll(0)
    left = producer.flush(60)
    if left or refused:
        raise RuntimeError(
            f"{left} records were not acknowledged within a minute, and {len(refused)} refused: {refused[:3]}"
        )
    return sent
