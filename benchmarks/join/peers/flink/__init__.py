"""Flink: a DataStream job with event-time timers, in a mini-cluster of one JVM, exactly once into Kafka.

State lies on the heap (`hashmap`), which is faster than RocksDB while it fits. A checkpoint writes all of it, so one
every 100 ms would cost more than the join itself; it takes one every second.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.join.peer import Peer
from benchmarks.join.peers import maven

FLAGS = (
    # Java's modules that Flink's own start script opens.
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
    "--add-opens=java.base/java.util=ALL-UNNAMED",
    "--add-opens=java.base/java.util.concurrent=ALL-UNNAMED",
    "--add-opens=java.base/java.net=ALL-UNNAMED",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/java.time=ALL-UNNAMED",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)


def _prepare(cache: Path) -> Sequence[str]:
    return maven.build(cache, Path(__file__).parent, heap="2g", flags=FLAGS)


PEER = Peer(
    name="flink",
    title="Flink DataStream",
    version="2.2.1, Kafka connector 5.0.0-2.2",
    guarantee="exactly once",
    prepare=_prepare,
    build=True,
    timers="event",
    position="output",
)
