"""From alerts to a real receiver and back, with an injected clock: retries, holds, 410, order, restarts."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from pathlib import Path

import pytest
import standardwebhooks.webhooks
from pydantic import SecretStr

from schemas.errors import WeirError
from schemas.settings import AlertDelivery, Webhook
from services.alert.courier import Courier
from services.alert.desk import Desk, check
from services.alert.look import View, look
from services.alert.plan import HOUR_MS, MINUTE_MS, RETRY_MS
from services.alert.store import KEEP_MS, NAME, Store
from tests.services.alert.receiver import SECRET, Reply, alert, receiving

START_MS = 1_800_000_000_000
REPEAT_MS = 4 * HOUR_MS


class Clock:
    """The time, ours and the receiver's."""

    def __init__(self) -> None:
        self.now_ms = START_MS

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()

    class Moment(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Moment:
            return cls.fromtimestamp(clock.now_ms / 1000, tz)

    monkeypatch.setattr(standardwebhooks.webhooks, "datetime", Moment)
    return clock


class Office:
    """A desk with its couriers over one store, as the process has them, without Kafka and threads."""

    def __init__(self, directory: Path, clock: Clock, *webhooks: Webhook, repeat_ms: int = REPEAT_MS) -> None:
        self.directory, self.clock = directory, clock
        settings = AlertDelivery(webhooks=list(webhooks), repeat_ms=repeat_ms, timeout_s=5)
        self.store = Store(directory / NAME)
        self.desk = Desk("prod", settings, self.store, clock)
        self.couriers = [Courier(one, self.store, timeout_s=5, now_ms=clock) for one in webhooks]

    def deliver(self) -> int:
        """Make every attempt that is due; give their number."""
        count = 0
        for courier in self.couriers:
            while courier.deliver() is not None:
                count += 1
        return count

    def wait(self) -> int:
        """Let time pass until something is due, and give how long that took."""
        moments = [due_ms for courier in self.couriers if (due_ms := courier.next_due_ms()) is not None]
        before_ms, self.clock.now_ms = self.clock.now_ms, max(self.clock.now_ms, min(moments))
        return self.clock.now_ms - before_ms

    @property
    def shown(self) -> View:
        return look(self.directory)

    def close(self) -> None:
        for courier in self.couriers:
            courier.close()
        self.store.close()


@pytest.fixture
def opened() -> Iterator[list[Office]]:
    offices: list[Office] = []
    yield offices
    for office in offices:
        office.close()


def test_an_alert_arrives_signed_and_once(tmp_path: Path, clock: Clock, opened: list[Office]) -> None:
    with receiving() as receiver:
        opened.append(office := Office(tmp_path, clock, receiver.webhook()))
        assert office.desk.take([alert("a"), alert("a")]) == 1, "the same id is the same alert"
        assert office.desk.take([alert("a"), alert("b")]) == 0, "grouped"
        assert office.deliver() == 1
        assert office.desk.take([alert("c", status="resolved"), alert("d", status="resolved")]) == 1
        assert office.deliver() == 1
        assert office.deliver() == 0
    assert receiver.told == [("f", "firing"), ("f", "resolved")]
    assert receiver.posts[0].path == "/ops"
    assert receiver.posts[0].headers["content-type"] == "application/json"
    rows = office.shown.deliveries
    assert [(row.status, row.state, row.next_attempt_ms) for row in rows] == [
        ("resolved", "delivered", None),
        ("firing", "delivered", None),
    ]
    assert [attempt.status for attempt in rows[0].attempts] == [204]
    assert (office.shown.endpoints[0].delivered, office.shown.firing) == (2, [])


def test_a_failed_attempt_is_made_again_with_the_same_id(tmp_path: Path, clock: Clock, opened: list[Office]) -> None:
    script = [Reply(500, body=b"broken " * 400), Reply(302, {"location": "/elsewhere"}), Reply(404)]
    with receiving(*script) as receiver:
        opened.append(office := Office(tmp_path, clock, receiver.webhook()))
        office.desk.take([alert("a")])
        waited = []
        for _ in range(4):
            waited.append(office.wait())
            assert office.deliver() == 1
    assert waited == list(RETRY_MS[:4])
    assert len({post.id for post in receiver.posts}) == 1
    assert len({post.body for post in receiver.posts}) == 1
    assert {post.path for post in receiver.posts} == {"/ops"}, "a redirect is not followed"
    assert [post.at_s - START_MS // 1000 for post in receiver.posts] == [0, 5, 305, 2105], "of the attempt"
    (row,) = office.shown.deliveries
    assert [attempt.status for attempt in row.attempts] == [500, 302, 404, 204]
    assert row.state == "delivered"
    assert row.attempts[0].said == ("broken " * 400)[:1024]
    assert "not followed" in row.attempts[1].said


def test_after_three_days_it_is_dead(tmp_path: Path, clock: Clock, opened: list[Office]) -> None:
    with receiving(otherwise=Reply(500)) as receiver:
        opened.append(office := Office(tmp_path, clock, receiver.webhook()))
        office.desk.take([alert("a")])
        for _ in RETRY_MS:
            office.wait()
            assert office.deliver() == 1
        assert office.couriers[0].next_due_ms() is None
        assert len(receiver.posts) == 10
        assert office.shown.deliveries[0].state == "dead"
        receiver.otherwise = Reply()
        office.desk.take([alert("b", "g")])
        assert office.deliver() == 1, "the endpoint itself goes on"
    assert [row.state for row in office.shown.deliveries] == ["delivered", "dead"]


def test_nobody_listens(tmp_path: Path, clock: Clock, opened: list[Office]) -> None:
    with receiving() as receiver:
        pass
    opened.append(office := Office(tmp_path, clock, receiver.webhook()))
    office.desk.take([alert("a")])
    assert office.deliver() == 1
    (row,) = office.shown.deliveries
    assert (row.state, row.attempts[0].status) == ("pending", None)
    assert "ConnectError" in row.why


def test_410_ends_the_endpoint_until_its_url_changes(tmp_path: Path, clock: Clock, opened: list[Office]) -> None:
    with receiving(Reply(410)) as receiver:
        opened.append(office := Office(tmp_path, clock, receiver.webhook()))
        office.desk.take([alert("a"), alert("b", "g")])
        assert office.deliver() == 1, "the second is dead before it is tried"
        office.desk.take([alert("c", "h")])
        assert office.deliver() == 0
        assert [row.state for row in office.shown.deliveries] == ["dead"] * 3
        assert "HTTP 410" in office.shown.endpoints[0].disabled_why
        opened.append(same := Office(tmp_path, clock, receiver.webhook()))
        same.desk.take([alert("d", "i")])
        assert same.deliver() == 0, "a restart enables nothing"
        opened.append(moved := Office(tmp_path, clock, receiver.webhook(host="localhost")))
        moved.desk.take([alert("e", "j")])
        assert moved.deliver() == 1
        assert receiver.told == [("f", "firing"), ("j", "firing")]


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_holds_the_whole_endpoint(tmp_path: Path, clock: Clock, opened: list[Office], status: int) -> None:
    with receiving(Reply(status, {"retry-after": "90"})) as receiver, receiving() as other:
        opened.append(office := Office(tmp_path, clock, receiver.webhook(), other.webhook("other")))
        office.desk.take([alert("a"), alert("b", "g")])
        assert office.deliver() == 3, "one was told to wait, and the other endpoint is not held"
        assert len(other.posts) == 2
        assert office.wait() == 90_000
        assert office.deliver() == 2
        assert sorted(receiver.told) == [("f", "firing"), ("f", "firing"), ("g", "firing")]


def test_the_end_never_overtakes_the_beginning(tmp_path: Path, clock: Clock, opened: list[Office]) -> None:
    with receiving(Reply(500)) as receiver:
        opened.append(office := Office(tmp_path, clock, receiver.webhook()))
        office.desk.take([alert("a")])
        office.deliver()
        office.desk.take([alert("b", status="resolved"), alert("c", "g")])
        assert office.deliver() == 1, "another fingerprint does not wait"
        office.wait()
        assert office.deliver() == 2
        assert receiver.told == [("f", "firing"), ("g", "firing"), ("f", "firing"), ("f", "resolved")]


def test_reminders(tmp_path: Path, clock: Clock, opened: list[Office]) -> None:
    with receiving() as receiver, receiving(otherwise=Reply(500)) as away:
        webhooks = (receiver.webhook(), away.webhook("away"))
        opened.append(office := Office(tmp_path, clock, *webhooks))
        office.desk.take([alert("a"), alert("b", "news", severity="info")])
        office.deliver()
        clock.now_ms += REPEAT_MS - 1
        assert office.desk.remind() == 0
        opened.append(office := Office(tmp_path, clock, *webhooks))  # a restart forgets no reminder
        clock.now_ms += 1
        assert office.desk.remind() == 1
        assert office.desk.remind() == 0
        office.deliver()
        assert receiver.told == [("f", "firing"), ("news", "firing"), ("f", "firing")]
        assert [post.event["data"]["repeat"] for post in receiver.posts] == [0, 0, 1]
        assert len({post.id for post in receiver.posts}) == 3
        assert office.shown.endpoints[0].pending == 2, "who is away is not reminded of what it has not been told"
        office.desk.take([alert("c", status="resolved")])
        clock.now_ms += 10 * REPEAT_MS
        assert office.desk.remind() == 0


def test_each_endpoint_has_its_rules(tmp_path: Path, clock: Clock, opened: list[Office]) -> None:
    with receiving() as receiver:
        webhooks = (
            receiver.webhook("all"),
            receiver.webhook("drift", rules=["drift:*"]),
            receiver.webhook("train", rules=["training-failed"]),
        )
        opened.append(office := Office(tmp_path, clock, *webhooks))
        office.desk.take([alert("a", "f", rule="drift:score"), alert("b", "g", rule="training-failed")])
        office.deliver()
    assert sorted((post.path, post.event["data"]["rule"]) for post in receiver.posts) == [
        ("/all", "drift:score"),
        ("/all", "training-failed"),
        ("/drift", "drift:score"),
        ("/train", "training-failed"),
    ]


def test_a_restart_goes_on_where_it_was(tmp_path: Path, clock: Clock, opened: list[Office]) -> None:
    with receiving(Reply(500), Reply(500)) as receiver:
        opened.append(office := Office(tmp_path, clock, receiver.webhook()))
        office.desk.take([alert("a")], [("t", 0, "id", 7)])
        office.deliver()
        office.wait()
        office.deliver()
        opened.append(office := Office(tmp_path, clock, receiver.webhook()))
        assert office.store.position("t", 0) == ("id", 7)
        assert office.desk.take([alert("a"), alert("b")]) == 0, "read again, or of the same episode: nothing new"
        assert office.deliver() == 0
        assert office.wait() == 5 * MINUTE_MS
        assert office.deliver() == 1
        assert len({post.id for post in receiver.posts}) == 1
        assert office.shown.deliveries[0].state == "delivered"


def test_the_answer_is_lost_and_the_attempt_made_again(tmp_path: Path, clock: Clock, opened: list[Office]) -> None:
    with receiving() as receiver:
        opened.append(office := Office(tmp_path, clock, receiver.webhook()))
        office.desk.take([alert("a")])
        office.store.settled = _killed  # type: ignore[method-assign, assignment]
        with pytest.raises(KeyboardInterrupt):
            office.deliver()
        opened.append(office := Office(tmp_path, clock, receiver.webhook()))
        assert office.deliver() == 1
        assert [post.id for post in receiver.posts] == [receiver.posts[0].id] * 2


def _killed(*args: object) -> None:
    raise KeyboardInterrupt


def test_all_of_a_batch_or_nothing(tmp_path: Path, clock: Clock, opened: list[Office]) -> None:
    with receiving() as receiver:
        opened.append(office := Office(tmp_path, clock, receiver.webhook()))
        office.store.move = _killed  # type: ignore[method-assign, assignment]
        with pytest.raises(KeyboardInterrupt):
            office.desk.take([alert("a")], [("t", 0, "id", 1)])
        opened.append(office := Office(tmp_path, clock, receiver.webhook()))
        assert (office.deliver(), office.store.position("t", 0)) == (0, None)
        assert office.desk.take([alert("a")], [("t", 0, "id", 1)]) == 1
        assert office.deliver() == 1


def test_a_full_disk_loses_nothing(tmp_path: Path, clock: Clock, opened: list[Office]) -> None:
    with receiving() as receiver:
        opened.append(office := Office(tmp_path, clock, receiver.webhook()))
        office.desk.take([alert("a")], [("t", 0, "id", 1)])
        (pages,) = office.store._connection.execute("PRAGMA page_count").fetchone()
        office.store._connection.execute(f"PRAGMA max_page_count = {pages}")
        many = [alert(f"b{number}", f"g{number}", summary="s" * 1000) for number in range(100)]
        with pytest.raises(WeirError, match=r"full(.|\n)*has space"):
            office.desk.take(many, [("t", 0, "id", 101)])
        assert office.store.position("t", 0) == ("id", 1), "nothing of it was taken, so it is read again"
        opened.append(office := Office(tmp_path, clock, receiver.webhook()))
        assert office.desk.take(many, [("t", 0, "id", 101)]) == 100
        assert office.deliver() == 101


def test_an_endpoint_leaves_the_settings(tmp_path: Path, clock: Clock, opened: list[Office]) -> None:
    with receiving(otherwise=Reply(500)) as receiver:
        opened.append(office := Office(tmp_path, clock, receiver.webhook()))
        office.desk.take([alert("a")])
        office.deliver()
        opened.append(office := Office(tmp_path, clock))
        (row,) = office.shown.deliveries
    assert (row.state, "no webhook of this name" in row.why) == ("dead", True)


def test_what_ended_long_ago_is_forgotten(tmp_path: Path, clock: Clock, opened: list[Office]) -> None:
    with receiving() as receiver:
        opened.append(office := Office(tmp_path, clock, receiver.webhook()))
        office.desk.take([alert("a"), alert("b", status="resolved"), alert("c", "g")])
        office.deliver()
        office.store.tidy(clock.now_ms + KEEP_MS)
        assert len(office.shown.deliveries) == 3
        office.store.tidy(clock.now_ms + KEEP_MS + 1)
        assert (office.shown.deliveries, [row.fingerprint for row in office.shown.firing]) == ([], ["g"])


def test_the_file_is_ours_alone_and_knows_its_version(tmp_path: Path) -> None:
    assert look(tmp_path) == View()
    store = Store(tmp_path / NAME)
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o600
    with store.writing() as execute:
        execute("PRAGMA user_version = 99")
    store.close()
    with pytest.raises(WeirError, match="schema version 99"):
        Store(tmp_path / NAME)
    (tmp_path / NAME).write_bytes(b"not a database, but longer than a header of SQLite would be" * 20)
    with pytest.raises(WeirError, match="cannot be used"):
        Store(tmp_path / NAME)


def test_settings_that_cannot_be() -> None:
    one = Webhook(name="ops", url="https://example.org/", secret=SecretStr(SECRET))
    check(AlertDelivery(webhooks=[one]))
    with pytest.raises(WeirError, match="two webhooks are named 'ops'"):
        check(AlertDelivery(webhooks=[one, one]))
    with pytest.raises(WeirError, match=r"repeat_ms is -1"):
        check(AlertDelivery(repeat_ms=-1))
    with pytest.raises(WeirError, match="timeout_s 0"):
        check(AlertDelivery(timeout_s=0))
    assert datetime.fromtimestamp(START_MS / 1000, UTC).year == 2027
