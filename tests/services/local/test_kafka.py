"""The embedded broker is a real one, loses nothing that it acknowledged, and leaves nothing running."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from services.local.broker_settings import FENCED
from services.local.kafka import KafkaFailed, LocalKafka
from services.local.owner import DirectoryInUse

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

LONG_AGO_MS = 946_684_800_000  # the year 2000
LONG_AHEAD_MS = 4_102_444_800_000  # the year 2100

PARENT = """
import sys
from services.local.kafka import LocalKafka
kafka = LocalKafka(sys.argv[1]).start()
print(kafka.bootstrap, kafka.pid, flush=True)
sys.stdin.read()
"""


def new_topic(bootstrap: str) -> str:
    name = f"test-{uuid.uuid4().hex[:12]}"
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(name, 1, 1)])[name].result(timeout=20)
    return name


def produce(bootstrap: str, topic: str, values: list[bytes]) -> list[bytes]:
    """Produce with acks=all; return what was acknowledged."""
    acknowledged: list[bytes] = []

    def report(error: object, message: Message) -> None:
        value = message.value()
        if error is None and value is not None:
            acknowledged.append(value)

    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 0})
    for value in values:
        producer.produce(topic, value, on_delivery=report)
        producer.poll(0)
    producer.flush(20)
    return acknowledged


def read_all(bootstrap: str, topic: str) -> list[Message]:
    """Every committed message of the topic's one partition. The end is told by the client: offsets have gaps."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": uuid.uuid4().hex,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        messages: list[Message] = []
        while True:
            message = consumer.poll(20)
            assert message is not None, "no message and no end within 20 s"
            error = message.error()
            if error is not None and error.code() == KafkaError._PARTITION_EOF:
                return messages
            assert error is None
            messages.append(message)
    finally:
        consumer.close()


def values(bootstrap: str, topic: str) -> list[bytes | None]:
    return [message.value() for message in read_all(bootstrap, topic)]


def _hear_interrupts() -> None:
    """A test run in the background ignores SIGINT, and so would what it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str, psutil.Process]]:
    """Another process that owns a broker in `tmp_path / "data"`: it, the address, the JVM."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "data")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_hear_interrupts,
    )
    assert process.stdout is not None
    bootstrap, pid = process.stdout.readline().split()
    yield process, bootstrap, psutil.Process(int(pid))
    process.kill()
    process.communicate(timeout=10)


def test_times_of_any_age_are_kept(kafka: LocalKafka, topic: str) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for at_ms in (LONG_AGO_MS, LONG_AHEAD_MS):
        producer.produce(topic, b"x", timestamp=at_ms)
    assert producer.flush(20) == 0
    assert [m.timestamp()[1] for m in read_all(kafka.bootstrap, topic)] == [LONG_AGO_MS, LONG_AHEAD_MS]


def test_an_aborted_transaction_is_not_read(kafka: LocalKafka, topic: str) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": topic})
    producer.init_transactions(20)
    for value, keep in ((b"aborted", False), (b"committed", True)):
        producer.begin_transaction()
        producer.produce(topic, value)
        producer.flush(20)
        if keep:
            producer.commit_transaction(20)
        else:
            producer.abort_transaction(20)
    assert values(kafka.bootstrap, topic) == [b"committed"]


def test_a_misspelt_topic_is_an_error(kafka: LocalKafka) -> None:
    seen = AdminClient({"bootstrap.servers": kafka.bootstrap}).list_topics("no-such-topic", timeout=20)
    assert seen.topics["no-such-topic"].error is not None
    assert "no-such-topic" not in AdminClient({"bootstrap.servers": kafka.bootstrap}).list_topics(timeout=20).topics


def test_listens_on_loopback_only_and_stays_small(kafka: LocalKafka) -> None:
    jvm = psutil.Process(kafka.pid)
    listening = [c.laddr.ip for c in jvm.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert len(listening) == 2
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}
    assert jvm.memory_info().rss < 400 << 20


def test_kept_port_and_data_over_a_clean_restart(tmp_path: Path) -> None:
    kafka = LocalKafka(tmp_path)
    with pytest.raises(KafkaFailed, match="start"):
        kafka.bootstrap  # noqa: B018
    with kafka:
        first = kafka.bootstrap
        topic = new_topic(first)
        assert produce(first, topic, [b"a"]) == [b"a"]
        assert kafka.start() is kafka
    assert not kafka.alive
    assert kafka.pid is None
    with kafka:
        assert kafka.bootstrap == first
        assert values(first, topic) == [b"a"]
    with socket.create_server(("127.0.0.1", int(first.split(":")[1]))), kafka:  # somebody took the port meanwhile
        assert kafka.bootstrap != first
        assert values(kafka.bootstrap, topic) == [b"a"]


def test_nothing_acknowledged_is_lost_when_everything_is_killed(
    tmp_path: Path, parent: tuple[subprocess.Popen[str], str, psutil.Process]
) -> None:
    process, bootstrap, jvm = parent
    topic = new_topic(bootstrap)
    sent = [b"%06d" % i for i in range(20_000)]
    acknowledged: list[bytes] = []
    enough = threading.Event()

    def report(error: object, message: Message) -> None:
        value = message.value()
        if error is None and value is not None:
            acknowledged.append(value)
            if len(acknowledged) >= 5000:
                enough.set()

    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 0, "message.timeout.ms": 3000})
    killer = threading.Thread(target=kill_all, args=(process, jvm, enough))
    killer.start()
    for value in sent:  # the kill falls into the middle of this
        producer.produce(topic, value, on_delivery=report)
        producer.poll(0.0001)
    producer.flush(10)
    killer.join()
    process.wait(10)  # until then it is there, dead or not, and says that it owns the directory
    assert len(acknowledged) >= 5000
    with LocalKafka(tmp_path / "data") as kafka:
        assert set(acknowledged) <= set(values(kafka.bootstrap, topic))


def kill_all(process: subprocess.Popen[str], jvm: psutil.Process, when: threading.Event) -> None:
    when.wait(60)
    guard = jvm.parent()
    assert guard is not None
    for pid in (jvm.pid, guard.pid, process.pid):
        os.kill(pid, signal.SIGKILL)


def test_the_broker_ends_with_a_killed_parent(
    tmp_path: Path, parent: tuple[subprocess.Popen[str], str, psutil.Process]
) -> None:
    process, bootstrap, jvm = parent
    topic = new_topic(bootstrap)
    assert produce(bootstrap, topic, [b"a"]) == [b"a"]
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    with LocalKafka(tmp_path / "data") as kafka:  # waits for the JVM's end
        assert not jvm.is_running() or jvm.status() == psutil.STATUS_ZOMBIE
        assert values(kafka.bootstrap, topic) == [b"a"]


def test_a_second_owner_is_refused_by_pid(
    tmp_path: Path, parent: tuple[subprocess.Popen[str], str, psutil.Process]
) -> None:
    process, bootstrap, _ = parent
    with pytest.raises(DirectoryInUse, match=rf"embedded Kafka: .*process {process.pid} "):
        LocalKafka(tmp_path / "data").start()
    assert AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=20).brokers


def test_ctrl_c_does_not_reach_the_broker_before_us(parent: tuple[subprocess.Popen[str], str, psutil.Process]) -> None:
    process, _, jvm = parent
    assert os.getpgid(jvm.pid) != os.getpgid(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    process.wait(60)
    psutil.wait_procs([jvm], timeout=20)
    assert not jvm.is_running() or jvm.status() == psutil.STATUS_ZOMBIE


def test_survives_the_thread_that_started_it(tmp_path: Path) -> None:
    kafka = LocalKafka(tmp_path)
    thread = threading.Thread(target=kafka.start)
    thread.start()
    thread.join()
    try:
        assert AdminClient({"bootstrap.servers": kafka.bootstrap}).list_topics(timeout=20).brokers
        assert kafka.alive
    finally:
        kafka.stop()


def test_a_broker_that_dies_at_start_says_why_and_frees_the_directory(tmp_path: Path) -> None:
    LocalKafka(tmp_path).start().stop()
    kafka = LocalKafka(tmp_path, heap_mb=5)
    with pytest.raises(KafkaFailed, match=re.compile("ended by itself.*memory.*heap_mb.*last lines:\n.+", re.DOTALL)):
        kafka.start()
    assert not kafka.alive
    LocalKafka(tmp_path).start().stop()


def test_a_broker_that_dies_later_is_noticed(tmp_path: Path) -> None:
    with LocalKafka(tmp_path) as kafka:
        assert kafka.pid is not None
        jvm = psutil.Process(kafka.pid)
        jvm.kill()
        psutil.wait_procs([jvm], timeout=10)
        for _ in range(1000):
            if not kafka.alive:
                break
            threading.Event().wait(0.01)
        assert not kafka.alive
        assert "exit status 137" in kafka.failure()
        kafka.start()
        assert kafka.alive


def test_a_told_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(KafkaFailed, match=f"port {port} of 127.0.0.1 is in use"):
            LocalKafka(tmp_path, port=port).start()


def test_stopping_twice_or_never_started_is_harmless(tmp_path: Path) -> None:
    kafka = LocalKafka(tmp_path)
    kafka.stop()
    kafka.kill()
    with pytest.raises(KafkaException):
        AdminClient({"bootstrap.servers": "127.0.0.1:1", "log_level": 0}).list_topics(timeout=0.2)


def test_a_stalled_broker_keeps_its_partitions(kafka: LocalKafka, topic: str) -> None:
    produce(kafka.bootstrap, topic, [b"before"])
    assert kafka.pid is not None
    jvm = psutil.Process(kafka.pid)
    jvm.suspend()
    threading.Event().wait(3)  # several heartbeats, whose absence nobody may count here
    jvm.resume()
    produce(kafka.bootstrap, topic, [b"after"])
    before, after = read_all(kafka.bootstrap, topic)
    assert before.leader_epoch() == after.leader_epoch()


def test_a_broker_that_is_gone_is_given_up_before_its_successor_starts(tmp_path: Path) -> None:
    kafka = LocalKafka(tmp_path)
    given_up = 0
    try:
        for end, wanted in ((kafka.kill, 1), (kafka.stop, 2), (kafka.kill, 3)):
            kafka.start()
            end()
            kafka.start()
            given_up = kafka.log_path.read_bytes().count(FENCED)
            assert given_up == wanted
    finally:
        kafka.stop()
