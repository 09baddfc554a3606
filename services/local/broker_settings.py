"""What the embedded broker runs with: its properties, its log format, its JVM flags. Values only, no process.

Durability. Kafka acknowledges a record once it is in the operating system's page cache. That survives the end of every
process, `kill -9` included, because the kernel still owns the page; only a crash of the kernel or a power cut within
the next half minute or so loses it. One replica on one machine is for that machine's owner, so the flush intervals stay
at Kafka's default (never explicitly): forcing every append would cost a disk flush per batch and protect only from
events that a second machine protects from better. The KRaft metadata log is flushed by Kafka itself.
"""

from __future__ import annotations

from pathlib import Path

HOST = "127.0.0.1"
_FOR_EVER_MS = 2**63 - 1
_DAY_MS = 86_400_000

BROKER: dict[str, str | int] = {
    "process.roles": "broker,controller",
    "node.id": 1,
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    # One node: every internal topic has one replica.
    "default.replication.factor": 1,
    "offsets.topic.replication.factor": 1,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    # Their default of 50 partitions is 50 directories to open at each start.
    "offsets.topic.num.partitions": 8,
    "transaction.state.log.num.partitions": 8,
    "share.coordinator.state.topic.num.partitions": 4,
    # Topics are planned; a misspelt name must be an error, not a new topic.
    "auto.create.topics.enable": "false",
    # A replay has an origin in the past and a virtual clock: `CreateTime` of any age must pass, both ways.
    "log.message.timestamp.before.max.ms": _FOR_EVER_MS,
    "log.message.timestamp.after.max.ms": _FOR_EVER_MS,
    # A machine that was off for weeks finds its groups' offsets and its transactional ids (fencing) again.
    "offsets.retention.minutes": 365 * 24 * 60,
    "transactional.id.expiration.ms": 24 * _DAY_MS,  # a 32-bit number
    # A lone broker must keep its partitions while it lives. Nobody could take over, and losing them costs more than
    # time: they have no leader for a moment, and a transaction that ends in that moment is called complete without a
    # marker in them (Kafka 4.3: no leader is taken for a deleted topic), so that its readers wait for ever. A busy
    # machine stalls a broker for seconds: it is not fenced for that. Nor does it hand over before it stops: what is
    # committed meanwhile would be such a transaction. Who is gone is fenced before its successor starts
    # (`services.local.kafka`).
    "controlled.shutdown.enable": "false",
    "broker.session.timeout.ms": 120_000,
    "broker.heartbeat.interval.ms": 400,
    # A dead worker is noticed in seconds: nobody is far away here.
    "group.initial.rebalance.delay.ms": 0,
    "group.min.session.timeout.ms": 1000,
    "group.consumer.min.session.timeout.ms": 1000,
    "group.consumer.session.timeout.ms": 10_000,
    "group.consumer.min.heartbeat.interval.ms": 500,
    "group.consumer.heartbeat.interval.ms": 2000,
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1000,
    # Small: the defaults suit a machine of its own. The cleaner's buffer alone would be 128 MB.
    "num.network.threads": 2,
    "num.io.threads": 4,
    "background.threads": 2,
    "num.recovery.threads.per.data.dir": 2,
    "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
    "log.segment.bytes": 256 * 1024 * 1024,
}

_LOG4J = """\
status = error
appender.file.type = RollingFile
appender.file.name = file
appender.file.fileName = ${sys:weir.log}
appender.file.filePattern = ${sys:weir.log}.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{yyyy-MM-dd'T'HH:mm:ss.SSSXXX} %p %c{1}: %m%n
appender.file.policies.type = Policies
appender.file.policies.size.type = SizeBasedTriggeringPolicy
appender.file.policies.size.size = 8MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 2
rootLogger.level = warn
rootLogger.appenderRef.file.ref = file
"""
_LOG4J_CONTROLLER = """\
logger.controller.name = org.apache.kafka.controller
logger.controller.level = info
"""


def broker_properties(topics: Path, port: int, controller_port: int) -> str:
    """The text of `server.properties`: loopback only, data in `topics`.

    >>> "listeners=PLAINTEXT://127.0.0.1:9092,CONTROLLER://" in broker_properties(Path("t"), 9092, 9093)
    True
    """
    settings: dict[str, str | int | Path] = {
        **BROKER,
        "log.dirs": topics,
        "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{port}",
        # The static voter, not the dynamic quorum: its address may change with a restart on another port.
        "controller.quorum.voters": f"1@{HOST}:{controller_port}",
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


ACTIVE, FENCED = b"Performing controller activation", b"Fencing broker 1 "
"""In the log of the lone controller below: it begins, and it gives up the broker that its metadata remember."""


def controller_properties(topics: Path, controller_port: int) -> str:
    """The text of `controller.properties`: the controller alone, on the same data, with nobody to hear from.

    It appends to its log all the time, so that one can see that what it did before is in it.
    """
    settings: dict[str, str | int | Path] = {
        "process.roles": "controller",
        "node.id": 1,
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT",
        "listeners": f"CONTROLLER://{HOST}:{controller_port}",
        "controller.quorum.voters": f"1@{HOST}:{controller_port}",
        "log.dirs": topics,
        "broker.session.timeout.ms": 200,
        "metadata.max.idle.interval.ms": 50,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def log4j_properties(*, controller: bool = False) -> str:
    """The text of `log4j2.properties`: warnings and errors, three files of 8 MB at most; what a controller does."""
    return _LOG4J + (_LOG4J_CONTROLLER if controller else "")


def jvm_flags(directory: Path, *, heap_mb: int) -> list[str]:
    """Flags for a small, quickly started JVM with all its files in `directory`."""
    return [
        f"-Xmx{heap_mb}m",
        "-XX:+UseSerialGC",
        # C1 only: 2.5 s of CPU time for a start instead of 4.2 s, at some cost in peak throughput.
        "-XX:TieredStopAtLevel=1",
        "-XX:ReservedCodeCacheSize=64m",
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:-UsePerfData",
        "-Xlog:disable",  # an unfit start cache is not worth a warning per class
        "-Xlog:all=error:stderr",
        f"-XX:ErrorFile={directory}/jvm-crash.log",
        f"-Djava.io.tmpdir={directory}/tmp",
        "-Djava.awt.headless=true",
        "-Djava.net.preferIPv4Stack=true",
        "--enable-native-access=ALL-UNNAMED",
        "--sun-misc-unsafe-memory-access=allow",
        f"-Dweir.log={directory}/kafka.log",
        f"-Dlog4j2.configurationFile={directory}/log4j2.properties",
    ]
