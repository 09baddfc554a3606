"""Serving on a real Kafka: follows `promote`, swaps under load, splits, shadows, reports, and outlives Kafka."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from schemas.event import decode, encode
from schemas.lifecycle import RolloutStatus
from schemas.settings import Serve, Settings
from services.kafka import Sender, read_to_end
from services.local.kafka import LocalKafka
from services.serve.routing import Router
from services.serve.segments import Segments
from streams.runtime.topics import ensure_topics
from tests.services.serve.serving import (
    NOBODY,
    Client,
    predictions,
    primary,
    promote,
    put_models,
    quiet,
    send,
    serves,
    serving,
    settings_in,
    shadow,
    until,
)

pytestmark = pytest.mark.kafka


@pytest.fixture
def settings(on_kafka: Settings, tmp_path: Path) -> Settings:
    """Give a namespace with three versions of the model in its registry."""
    made = on_kafka.model_copy(update={"data_dir": tmp_path, "serve": Serve(port=0)})
    put_models(made, v1=0.0, v2=1.0, v3=-1.0)
    return made


def statuses(settings: Settings) -> list[RolloutStatus]:
    """Give what the server reported."""
    return [decode(one.value() or b"", RolloutStatus) for one in read_to_end(settings, "rollout-status")]


class Load:
    """Clients that ask without pause, and what they got."""

    def __init__(self, port: int, clients: int = 3) -> None:
        self.stop = threading.Event()
        self.answers: list[tuple[int, Any]] = []
        self.slowest_s = 0.0
        self._threads = [threading.Thread(target=self._ask, args=(port, i)) for i in range(clients)]

    def _ask(self, port: int, number: int) -> None:
        client, i = Client(port), 0
        while not self.stop.is_set():
            began = time.monotonic()
            try:
                got = client.predict(request_id=f"{number}-{i}", features={"a": i % 7, "b": 0}, subject=f"s{i % 500}")
            except OSError as error:
                got = (0, repr(error))
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            self.answers.append(got)
            i += 1
        client.close()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Ask while the block lasts."""
        for one in self._threads:
            one.start()
        try:
            yield
        finally:
            self.stop.set()
            for one in self._threads:
                one.join()


def test_the_event_of_an_answer(settings: Settings) -> None:
    send(settings, promote(1, primary("v1")))
    with serving(settings) as client:
        until(lambda: serves(client, 1))
        before_ms = time.time_ns() // 1_000_000
        status, answer = client.predict(
            request_id="r1",
            features={"a": 3, "b": None, "c": "x"},
            subject="anna",
            slices={"land": "de"},
            app_version="2",
        )
        until(lambda: quiet(client))
    assert status == 200
    ((event, record),) = predictions(settings)
    assert record.key() == b"r1"
    assert before_ms <= event.at_ms <= time.time_ns() // 1_000_000
    assert event.latency_ms is not None
    assert 0 < event.latency_ms < 1_000
    assert event.event_id
    assert json.loads(record.value() or b"") == {
        "request_id": "r1",
        "at_ms": event.at_ms,
        "model": "spam",
        "version": "v1",
        "deployment": "v1",
        "app_version": "2",
        "score": answer["score"],
        "prediction": answer["prediction"],
        "features": {"a": 3, "b": None, "c": "x"},
        "slices": {"land": "de"},
        "subject": "anna",
        "threshold": 0.5,
        "latency_ms": event.latency_ms,
        "event_id": event.event_id,
    }
    (status_event,) = statuses(settings)
    assert (status_event.revision, status_event.converged, status_event.error) == (1, True, "")


def test_only_the_highest_revision_of_its_own_endpoint_counts(settings: Settings) -> None:
    other = promote(9, primary("v3"), endpoint="other")
    send(settings, promote(1, primary("v1")), promote(3, primary("v2")), other, promote(2, primary("v1")))
    with Sender(settings) as sender:
        sender.send("promote", b"not json", key=b"default")
        sender.send("promote", encode(other), key=b"default")  # a key that is not its endpoint
    with serving(settings) as client:
        until(lambda: serves(client, 3))
        send(settings, promote(2, primary("v3")))
        time.sleep(0.5)
        assert client.predict(features={"a": 1})[1]["version"] == "v2"
    assert [one.revision for one in statuses(settings)] == [3]  # what was superseded is never loaded


def test_swaps_under_load_fail_nobody(settings: Settings) -> None:
    send(settings, promote(1, primary("v1")))
    versions = ["v2", "v3", "v1"] * 5
    with serving(settings) as client:
        until(lambda: serves(client, 1))
        load = Load(client.port)
        with load.running():
            for revision, version in enumerate(versions, start=2):
                send(settings, promote(revision, primary(version)))
                until(lambda revision=revision: serves(client, revision))  # type: ignore[misc]
        until(lambda: quiet(client))
    assert [status for status, _ in load.answers if status != 200] == []
    assert len(load.answers) > 500
    assert {answer["revision"] for _, answer in load.answers} >= set(range(2, len(versions) + 1))
    wrong = [a for _, a in load.answers if a["revision"] > 1 and a["version"] != versions[a["revision"] - 2]]
    assert wrong == []
    assert load.slowest_s < 2
    events = [event for event, _ in predictions(settings)]
    answered = {answer["request_id"]: answer["version"] for _, answer in load.answers}
    assert {event.request_id: event.version for event in events} == answered
    assert len(events) == len(answered)


def test_a_broken_artifact_changes_nothing_until_it_is_mended(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.serve.follow.RETRY_S", (0.1, 0.2))
    weights = tmp_path / "registry" / "spam" / "v2" / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    send(settings, promote(1, primary("v1")))
    with serving(settings) as client:
        until(lambda: serves(client, 1))
        send(settings, promote(2, primary("v2")))
        until(lambda: client.endpoint()["error"])
        state = client.endpoint()
        assert (state["revision"], state["desired_revision"], state["converged"]) == (1, 2, False)
        assert client.predict(features={"a": 1})[1]["version"] == "v1"
        assert client.ask("GET", "/readyz")[0] == 200
        weights.write_bytes(whole)
        until(lambda: serves(client, 2))
        assert client.endpoint()["error"] == ""
    found = statuses(settings)
    assert [(one.revision, one.converged) for one in found] == [(1, True), (2, False), (2, True)]
    assert "damaged" in found[1].error


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ([primary("v2", 0.5)], "must sum to 1"),
        ([shadow("v2")], "no deployment takes primary traffic"),
        ([primary("v9")], "is no model"),
    ],
)
def test_an_impossible_state_is_reported(settings: Settings, made: list[Any], words: str) -> None:
    send(settings, promote(1, primary("v1")))
    with serving(settings) as client:
        until(lambda: serves(client, 1))
        send(settings, promote(2, *made))
        assert words in until(lambda: client.endpoint()["error"])
        assert client.predict(features={"a": 1})[0] == 200


def test_a_rollback_needs_nothing_from_disk(settings: Settings, tmp_path: Path) -> None:
    send(settings, promote(1, primary("v1")))
    with serving(settings) as client:
        until(lambda: serves(client, 1))
        send(settings, promote(2, primary("v2")))
        until(lambda: serves(client, 2))
        shutil.rmtree(tmp_path / "registry")
        send(settings, promote(3, primary("v1"), stage="rollback"))
        until(lambda: serves(client, 3))
        assert client.predict(features={"a": 1})[1]["version"] == "v1"


def test_a_canary_splits_by_subject_and_tags(settings: Settings) -> None:
    arms = (primary("v1", 0.75, "champion"), primary("v2", 0.25, "challenger"))
    send(settings, promote(1, *arms, rollout_id="ro", stage="canary", salt="salt"))
    router = Router(arms, "salt")
    with serving(settings) as client:
        until(lambda: serves(client, 1))
        for i in range(400):
            client.predict(features={"a": i % 5}, subject=f"s{i % 100}")
        for i in range(100):
            client.predict(features={"a": 1}, request_id=f"alone-{i}")  # no subject: the request is the unit
        until(lambda: quiet(client))
    events = [event for event, _ in predictions(settings)]
    assert len(events) == 500
    for event in events:
        place = router.route(event.subject or event.request_id)
        assert event.version == ("v1", "v2")[place]
        assert event.experiments == {"canary:ro": ("champion", "challenger")[place]}
    assert 0.1 < Counter(event.version for event in events)["v2"] / 500 < 0.45


def test_shadows_answer_after_the_answer(settings: Settings) -> None:
    send(
        settings,
        promote(1, primary("v1", 1.0, "champion"), shadow("v2", "challenger"), rollout_id="ro", stage="shadow"),
    )
    with serving(settings) as client:
        until(lambda: serves(client, 1))
        answers = [client.predict(features={"a": i}, subject="s")[1] for i in range(50)]
        until(lambda: quiet(client))
    assert {answer["version"] for answer in answers} == {"v1"}
    by_role: dict[str, list[Any]] = {"primary": [], "shadow": []}
    for event, _ in predictions(settings):
        by_role[event.role].append(event)
    assert {one.request_id for one in by_role["shadow"]} == {one["request_id"] for one in answers}
    assert len(by_role["primary"]) == len(by_role["shadow"]) == 50
    pairs = {one.request_id: one for one in by_role["primary"]}
    for one in by_role["shadow"]:
        other = pairs[one.request_id]
        assert (one.at_ms, one.subject, one.features) == (other.at_ms, other.subject, other.features)
        assert (one.deployment, one.experiments) == ("v2", {"shadow:ro": "challenger"})
        assert other.experiments == {"shadow:ro": "champion"}
        assert one.score > other.score
        assert one.event_id != other.event_id


def test_a_shadow_too_many_is_dropped_and_counted(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.serve.predict.SHADOWS_WAITING", 0)
    send(settings, promote(1, primary("v1"), shadow("v2")))
    with serving(settings) as client:
        until(lambda: serves(client, 1))
        assert client.predict(features={"a": 1})[0] == 200
        assert "weir_serve_shadows_dropped_total 1.0" in client.ask("GET", "/metrics")[1]
        assert quiet(client) or until(lambda: quiet(client))
    assert [event.role for event, _ in predictions(settings)] == ["primary"]


def test_in_a_virtual_namespace_the_barrier_is_true(kafka: LocalKafka, tmp_path: Path) -> None:
    settings = settings_in(tmp_path, bootstrap=kafka.bootstrap, namespace=f"v-{tmp_path.name}", clock="virtual")
    ensure_topics(settings)
    put_models(settings, v1=0.0, v2=1.0)
    send(settings, promote(1, primary("v1"), at_ms=1_000))
    with serving(settings) as client:
        until(lambda: serves(client, 1))
        for revision in range(2, 12):
            assert client.predict(features={"a": 1}, at_ms=10_000 * revision)[0] == 200
            send(settings, promote(revision, primary(f"v{revision % 2 + 1}"), at_ms=1_000))
            # As soon as Kafka has the record, nobody may be told that the old state is what is desired.
            state = client.endpoint()
            assert not state["converged"] or state["revision"] == revision
            until(lambda revision=revision: serves(client, revision))  # type: ignore[misc]
        until(lambda: quiet(client))
    found = predictions(settings)
    assert [(event.at_ms, record.timestamp()[1]) for event, record in found] == [
        (event.at_ms,) * 2 for event, _ in found
    ]
    assert [one.at_ms for one in statuses(settings)] == [1_000, *(10_000 * revision for revision in range(2, 12))]


@pytest.mark.serial
def test_kafka_may_go_and_come_back(tmp_path: Path) -> None:
    with LocalKafka(tmp_path / "kafka") as kafka:
        settings = settings_in(tmp_path, bootstrap=kafka.bootstrap, namespace="away", partitions=2)
        ensure_topics(settings)
        put_models(settings, v1=0.0, v2=1.0)
        send(settings, promote(1, primary("v1")))
        answers: list[tuple[int, Any]] = []
        with serving(settings, flush_s=0) as client:
            until(lambda: serves(client, 1))
            answers += [client.predict(features={"a": i}) for i in range(100)]
            kafka.kill()
            answers += [client.predict(features={"a": i}) for i in range(500)]
            assert client.endpoint()["outbox"]["pending"] >= 500
        with serving(settings) as client:  # a restart while Kafka is away answers as before
            until(lambda: client.ask("GET", "/readyz")[0] == 200)
            assert client.endpoint()["outbox"]["pending"] >= 500
            answers += [client.predict(features={"a": i}) for i in range(100)]
            kafka.start()
            send(settings, promote(2, primary("v2")))
            until(lambda: serves(client, 2), 60)
            answers += [client.predict(features={"a": i}) for i in range(100)]
            until(lambda: quiet(client), 60)
        assert {status for status, _ in answers} == {200}
        events = [event for event, _ in predictions(settings)]
        once = {event.event_id: event for event in events}
        assert sorted(event.request_id for event in once.values()) == sorted(one["request_id"] for _, one in answers)
        assert Counter(event.version for event in once.values()) == {"v1": 700, "v2": 100}


def test_kafka_outranks_what_the_last_run_kept(settings: Settings) -> None:
    directory = settings.data_dir / "outbox" / settings.namespace / "default"
    directory.mkdir(parents=True)
    (directory / "served.json").write_bytes(encode(promote(50, primary("v3"))))  # of a Kafka that is no more
    send(settings, promote(1, primary("v1")))
    with serving(settings) as client:
        until(lambda: serves(client, 1))
        assert client.predict(features={"a": 1})[1]["version"] == "v1"


def test_topics_may_come_later(kafka: LocalKafka, tmp_path: Path) -> None:
    settings = settings_in(tmp_path, bootstrap=kafka.bootstrap, namespace=f"late-{tmp_path.name}", partitions=1)
    put_models(settings, v1=0.0)
    with serving(settings) as client:
        assert client.predict(features={"a": 1})[0] == 503
        ensure_topics(settings)
        send(settings, promote(1, primary("v1")))
        until(lambda: serves(client, 1))
        assert client.predict(features={"a": 1})[0] == 200
        until(lambda: quiet(client))


def test_a_killed_process_has_lost_no_event(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    send(settings, promote(1, primary("v1")))
    with serving(settings) as client:  # leaves on disk what to serve without Kafka
        until(lambda: serves(client, 1))
    environment = {
        **os.environ,
        "WEIR_NAMESPACE": settings.namespace,
        "WEIR_DATA_DIR": str(settings.data_dir),
        "WEIR_KAFKA__BOOTSTRAP": NOBODY,
        "WEIR_SERVE__PORT": str(port),
    }
    command = [sys.executable, "-m", "services.cli", "serve"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    client = Client(port)
    try:
        until(lambda: answers(client))
        asked = [client.predict(features={"a": i}) for i in range(200)]
        log = settings.data_dir / "outbox" / settings.namespace / "default"
        until(lambda: sum(one.waiting for one in [Segments(log)]) == 201)  # with the status
        process.send_signal(signal.SIGKILL)
        process.wait(20)
    finally:
        process.kill()
        process.wait(20)
        client.close()
    assert {status for status, _ in asked} == {200}
    with serving(settings) as client:
        until(lambda: quiet(client))
    sent = {event.event_id: event.request_id for event, _ in predictions(settings)}
    assert sorted(sent.values()) == sorted(answer["request_id"] for _, answer in asked)


def answers(client: Client) -> bool:
    """Whether the server is up and ready."""
    try:
        return client.ask("GET", "/readyz")[0] == 200
    except OSError:
        client.close()
        return False
