"""Kafka Streams: the processor API with RocksDB stores and a punctuator, exactly once.

What tunes it: `exactly_once_v2` with its default commit interval of 100 ms; as many threads as cores. All else is the
library's default: stores on disk with changelogs, and partitions of a task merged by timestamp.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.join.peer import Peer
from benchmarks.join.peers import maven


def _prepare(cache: Path) -> Sequence[str]:
    return maven.build(cache, Path(__file__).parent, heap="1g", flags=["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"])


PEER = Peer(
    name="kafka_streams",
    title="Kafka Streams",
    version="4.3.1",
    guarantee="exactly once",
    prepare=_prepare,
    build=True,
    timers="event",
    position="group",
)
