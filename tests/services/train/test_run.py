"""The trainer on real parts: from a retrain event to one candidate and one version, through kills and bad events."""

import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas.control import Control, ReferenceSet
from schemas.event import decode, encode
from schemas.lifecycle import Candidate, Retrain
from schemas.records import DeadLetter
from schemas.settings import Settings
from schemas.topics import topic_name
from services.clickhouse import connect, database_of
from services.kafka import Sender, read_to_end
from services.local.owner import DirectoryOwner
from services.train import run
from services.train.artifact import WEIGHTS, load, registry_of, runs_of, save, versions
from services.train.attempt import attend
from services.train.initial import train_initial
from services.train.rows import Rows
from streams.runtime import kafka as ours
from streams.runtime.offsets import GroupOffsets
from streams.runtime.topics import ensure_topics
from tests.services.record.harness import environment, recording, until
from tests.services.threads import DEADLINE_S, in_thread
from tests.services.train.events import outcomes, predictions, retrain
from tests.services.train.making import artifact
from tests.services.train.rowing import rows

pytestmark = [pytest.mark.kafka, pytest.mark.clickhouse]


@pytest.fixture
def settings(namespace: Settings, tmp_path: Path) -> Settings:
    return namespace.model_copy(update={"data_dir": tmp_path})


def send_rows(settings: Settings, given: Rows) -> None:
    with Sender(settings, "test") as sender:
        for prediction in predictions(given):
            sender.send("predictions", encode(prediction), key=prediction.request_id.encode())
        for outcome in outcomes(given):
            sender.send("feedback", encode(outcome), key=outcome.request_id.encode())


def ask(settings: Settings, *events: Retrain | bytes) -> None:
    with Sender(settings, "test") as sender:
        for event in events:
            sender.send("retrain", event if isinstance(event, bytes) else encode(event), key=b"m")


@contextmanager
def training(settings: Settings) -> Iterator[None]:
    stop = threading.Event()
    with in_thread(lambda: run.run(settings, stop), stop):
        yield


def run_until_answered(settings: Settings) -> None:
    """Run the trainer until its group has committed the end of `retrain`."""
    place = (topic_name(settings.namespace, "retrain"), 0)
    end = ours.ends(ours.make_admin(settings), [place])[place][1]
    with GroupOffsets(settings, "train", "probe") as group, training(settings):
        until(lambda: group.committed([place])[place] >= end, "answers")


def bodies(settings: Settings, topic: str) -> list[bytes]:
    return [message.value() or b"" for message in read_to_end(settings, topic)]


def announced(settings: Settings) -> list[Candidate]:
    return [decode(body, Candidate) for body in bodies(settings, "candidates")]


def test_a_retrain_event_becomes_a_candidate_with_its_evidence(settings: Settings) -> None:
    given = rows(800)
    first = train_initial(
        settings,
        "m",
        "1",
        features={name: given.x[:, i] for i, name in enumerate(given.names)},
        labels=1 - given.y,  # what version 1 learnt is the contrary of what is true now
        at_ms=given.at_ms - 10_000_000,
        subjects=given.subjects,
    )
    send_rows(settings, given)
    ask(settings, retrain(given))
    with recording(settings):
        run_until_answered(settings)
    (candidate,) = announced(settings)
    assert (candidate.version, candidate.rows, candidate.error) == ("2", 800, "")
    saved = load(Path(candidate.artifact), sha256=candidate.sha256)
    assert saved.card.lineage.dataset == candidate.dataset == given_digest(settings, saved.card.lineage.pins, given)
    assert saved.card.lineage.base_version == "1"
    values, theirs = ({metric.metric: metric for metric in found} for found in (candidate.metrics, candidate.champion))
    assert (values["auc"].value or 0) > 0.85
    assert (theirs["auc"].value or 1) < 0.2
    assert values["auc"].n == theirs["auc"].n == 160
    assert values["auc"].maturity == 1.0
    assert "majority.accuracy" in candidate.baselines
    frozen = [msgspec.json.decode(body, type=Control) for body in bodies(settings, "control")]
    ids = [event.reference.id for event in frozen if isinstance(event, ReferenceSet)]
    assert Counter(ids) == dict.fromkeys([first.card.reference.id, candidate.reference], settings.partitions)
    assert versions(registry_of(settings), "m") == ["1", "2"]


def given_digest(settings: Settings, pins: dict[str, int], given: Rows) -> str:
    from services.train.dataset import read

    return read(settings, retrain(given), pins).rows.digest()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_anywhere_a_run_ends_in_one_version_and_one_candidate(settings: Settings) -> None:
    given = rows(600)
    send_rows(settings, given)
    seen: dict[str, bytes] = {}
    with recording(settings):
        for number, point in enumerate(("planned", "saved", "finished", "sent"), 1):
            asked = retrain(given, f"retrain-{point}", base_version="")
            ask(settings, asked)
            assert start_victim(settings, point).wait(DEADLINE_S) == -signal.SIGKILL, point
            kept = list(registry_of(settings).glob("m/[0-9]*/sha256"))
            assert len(kept) == (number - 1 if point == "planned" else number), point
            run_until_answered(settings)
            mine = {body for body in bodies(settings, "candidates") if asked.retrain_id.encode() in body}
            assert len(mine) == 1, point
            (seen[point],) = mine
    said = [decode(body, Candidate) for body in seen.values()]
    assert [candidate.version for candidate in said] == ["1", "2", "3", "4"]
    assert len({weights(candidate) for candidate in said}) == 1
    assert len(bodies(settings, "candidates")) == 5  # what was sent before the kill was sent again, the same


def weights(candidate: Candidate) -> bytes:
    return (Path(candidate.artifact) / WEIGHTS).read_bytes()


def start_victim(settings: Settings, point: str) -> subprocess.Popen[bytes]:
    told = {**environment(settings), "WEIR_DATA_DIR": str(settings.data_dir)}
    command = [sys.executable, "-m", "tests.services.train.victim", point]
    return subprocess.Popen(command, env=told, stderr=subprocess.DEVNULL)


def test_what_cannot_be_trained_is_answered_and_the_next_event_is_served(settings: Settings) -> None:
    given = rows(600)
    send_rows(settings, given)
    few = retrain(given, "too-few", to_ms=int(given.at_ms[50]))
    strange = retrain(given, "../../strange", base_version="gone")
    ask(settings, few, b"{not json", b'{"retrain_id": "x"}', strange, few)
    with recording(settings):
        run_until_answered(settings)
    bad, good, again = announced(settings)
    assert bad == again
    assert (bad.retrain_id, bad.version, bad.artifact) == ("too-few", "none", "")
    assert "50 labelled rows, and a model needs at least 200" in bad.error
    assert (good.retrain_id, good.version, good.error) == ("../../strange", "1", "")
    assert Path(good.artifact).parent.parent == registry_of(settings)
    letters = [decode(body, DeadLetter) for body in bodies(settings, "dead-letters")]
    assert [(letter.reason, letter.offset) for letter in letters] == [("unreadable", 1), ("unreadable", 2)]


def test_a_run_that_another_process_works_on_is_waited_for(settings: Settings) -> None:
    given = rows(300)
    send_rows(settings, given)
    asked = retrain(given, base_version="")
    home = runs_of(registry_of(settings), "m", asked.retrain_id)
    done: list[Any] = []
    with recording(settings):
        # The lock belongs to the open file: a second owner in this process is refused like one in another.
        with DirectoryOwner(home, purpose="a test"):
            thread = threading.Thread(target=lambda: done.append(attend(settings, asked, threading.Event())))
            thread.start()
            thread.join(1.0)
            assert not done
        thread.join(DEADLINE_S)
    ((body, made),) = done
    assert decode(body, Candidate).version == made.card.version == "1"


def test_a_version_that_is_taken_is_left_alone(settings: Settings) -> None:
    save(registry_of(settings), artifact("7", model="m"))
    given = rows(300)
    send_rows(settings, given)
    ask(settings, retrain(given, base_version="7"))
    with recording(settings):
        run_until_answered(settings)
    (candidate,) = announced(settings)
    assert candidate.version == "8"
    assert load(registry_of(settings) / "m" / "7").card.lineage.retrain_id == "run-1"


def test_where_the_clock_is_virtual_everything_happens_at_the_event(settings: Settings) -> None:
    virtual = settings.model_copy(update={"namespace": f"{settings.namespace}-v", "clock": "virtual"})
    ensure_topics(virtual)
    given = rows(300)
    send_rows(virtual, given)
    asked = retrain(given, base_version="")
    ask(virtual, asked)
    with recording(virtual):
        run_until_answered(virtual)
    (message,) = read_to_end(virtual, "candidates")
    candidate = decode(message.value() or b"", Candidate)
    assert candidate.error == ""
    assert message.timestamp()[1] == candidate.at_ms == asked.at_ms
    assert {message.timestamp()[1] for message in read_to_end(virtual, "control")} == {asked.at_ms}
    client = connect(virtual)
    client.command(f"DROP DATABASE `{database_of(virtual)}`")
    client.close()
