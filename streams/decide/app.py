"""The Faust app of a namespace: its settings, one active worker, a table that is planned as ours.

What is replaced of Faust, and why, stands at the top of `streams.decide.driver`.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import faust
from faust.assignor.client_assignment import ClientAssignment
from faust.assignor.partition_assignor import PartitionAssignor
from mode.utils.objects import cached_property
from mode.utils.queues import FlowControlEvent

from schemas.errors import USAGE, WeirError
from schemas.settings import Settings
from schemas.topics import topic_name
from streams.decide.driver import Transport
from streams.decide.progress import Progress
from streams.decide.reading import INPUTS
from streams.runtime.kafka import LARGE_MESSAGE_BYTES

COMMIT_S = 0.1
SESSION_S = 8.0
QUIESCE_S = 5.0


class OneActive(PartitionAssignor):
    """Gives every input and the table to one member; `replicas` others follow the table.

    Who is active stays so while it lives: it claims its partitions whenever it joins again.
    """

    def _perform_assignment(self, cluster: Any, member_metadata: Any) -> Any:
        clients = {member: self._get_client_metadata(one) for member, one in member_metadata.items()}
        self._update_member_urls(clients)
        topics = sorted({topic for one in member_metadata.values() for topic in one.subscription})
        partitions = {topic: sorted(cluster.partitions_for_topic(topic) or ()) for topic in topics}
        active = min(clients, key=lambda member: (not clients[member].assignment.actives, member))
        assignments = {member: ClientAssignment(actives={}, standbys={}) for member in clients}
        assignments[active].actives.update({topic: own for topic, own in partitions.items() if own})
        changelogs = self._table_manager.changelog_topics & set(topics)
        for member in sorted(set(clients) - {active})[: self.replicas]:
            assignments[member].standbys.update({topic: partitions[topic] for topic in changelogs})
        return self._protocol_assignments(
            assignments,
            self._get_changelog_distribution(assignments),
            self._get_external_topic_distribution(assignments),
            dict.fromkeys(topics, 0),
        )


class FlowControl(FlowControlEvent):
    """Tells whether batches may reach the agent. To resume what flows changes nothing: what waits there stays."""

    def resume(self) -> None:
        """Let batches pass again, and empty the queues of those that were read before the flow was stopped."""
        if not self.is_active():
            super().resume()


class StateTable(faust.Table[bytes, bytes]):
    """A table whose changelog is planned in `schemas.topics` under the table's own name."""

    def _changelog_topic_name(self) -> str:
        return topic_name(cast(App, self.app).settings.namespace, self.name)


class App(faust.App):
    """The Faust app of one namespace. `inputs` maps Kafka's topic names to logical ones."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.progress = Progress()
        self.inputs = {topic_name(settings.namespace, name): name for name in INPUTS}
        self.busy = asyncio.Lock()
        super().__init__(
            id=f"{settings.namespace}.decide",
            broker=_broker(settings),
            broker_client_id=f"weir-decide-{settings.runtime.worker}",
            broker_session_timeout=SESSION_S,
            broker_heartbeat_interval=1.0,
            broker_request_timeout=30.0,
            broker_commit_interval=COMMIT_S,
            consumer_auto_offset_reset="earliest",
            consumer_group_instance_id=f"{settings.namespace}.decide.{settings.runtime.worker}",
            processing_guarantee="at_least_once",
            producer_acks=-1,
            producer_linger=0.0,
            producer_max_request_size=LARGE_MESSAGE_BYTES,  # a dead letter holds its record in base64
            store="memory://",
            table_standby_replicas=1,
            PartitionAssignor=OneActive,
            Table=StateTable,
            stream_wait_empty=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            web_enabled=False,
            datadir=str(settings.data_dir / "decide"),
            autodiscover=False,
        )

    @cached_property
    def flow_control(self) -> FlowControl:
        """What Faust stops for a rebalance and resumes after it."""
        return FlowControl(loop=self.loop)

    def _new_transport(self) -> Any:
        return Transport(self.conf.broker_consumer, self)

    async def quiesce(self) -> None:
        """Wait until no batch is in progress; not for ever, because the group waits for us."""
        try:
            async with asyncio.timeout(QUIESCE_S):
                await self.busy.acquire()
        except TimeoutError:
            self.log.warning("a batch has been in progress for %s s; it will be read again", QUIESCE_S)
        else:
            self.busy.release()

    def is_active(self) -> bool:
        """Say whether this member decides; otherwise it only follows the table."""
        return any(tp.topic in self.inputs for tp in self.assignor.assigned_actives())


def _broker(settings: Settings) -> str:
    protocol = settings.kafka.properties.get("security.protocol", "PLAINTEXT").upper()
    if protocol != "PLAINTEXT":
        raise WeirError(
            f"decide speaks to Kafka through another library, which is not told of security.protocol={protocol} yet",
            fix="give decide a listener without TLS and SASL, on loopback or a private network",
            code=USAGE,
        )
    return ";".join(f"kafka://{server.strip()}" for server in settings.kafka.bootstrap.split(","))
