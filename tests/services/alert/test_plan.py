"""Grouping and retries as pure functions, over generated histories too."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.alert.plan import (
    HOUR_MS,
    MAX_HOLD_MS,
    RETRY_MS,
    Answer,
    Episode,
    Fate,
    Notice,
    receive,
    remind,
    reminder_ms,
    retry_after_ms,
    settle,
)
from tests.services.alert.receiver import alert

REPEAT_MS = 1_000


def told_of(*steps: tuple[int, str, str, str]) -> list[tuple[int, str, int]]:
    """Play (now_ms, id or `remind`, status, severity); give (now_ms, alert id, repeat) of each notice."""
    episode: Episode | None = None
    told = []
    for now_ms, id, status, severity in steps:
        notice: Notice | None
        if id == "remind":
            assert episode is not None
            episode, notice = remind(episode, now_ms, REPEAT_MS)
        else:
            event = alert(id, status="firing" if status == "firing" else "resolved", severity=severity)
            episode, notice = receive(episode, event, now_ms, REPEAT_MS)
        if notice is not None:
            told.append((now_ms, notice.alert.id, notice.repeat))
    return told


def test_an_episode_is_told_at_its_beginning_and_its_end() -> None:
    assert told_of(
        (0, "a", "firing", "warning"),
        (10, "b", "firing", "warning"),
        (20, "c", "resolved", "warning"),
        (30, "d", "resolved", "warning"),
        (40, "e", "firing", "warning"),
    ) == [(0, "a", 0), (20, "c", 0), (40, "e", 0)]


def test_what_fires_on_is_told_again_only_after_a_while() -> None:
    assert told_of(
        (0, "a", "firing", "warning"),
        (999, "remind", "", ""),
        (1000, "remind", "", ""),
        (1500, "b", "firing", "warning"),
        (2000, "c", "firing", "warning"),
        (2999, "remind", "", ""),
        (3000, "remind", "", ""),
        (3001, "d", "resolved", "warning"),
        (9000, "remind", "", ""),
    ) == [(0, "a", 0), (1000, "a", 1), (2000, "c", 2), (3000, "c", 3), (3001, "d", 0)]


def test_what_gets_worse_does_not_wait_and_flapping_does() -> None:
    assert told_of(
        (0, "a", "firing", "warning"),
        (1, "b", "firing", "critical"),
        (2, "c", "firing", "warning"),
        (3, "d", "firing", "critical"),
    ) == [(0, "a", 0), (1, "b", 1)]


def test_news_is_not_repeated_and_zero_means_never() -> None:
    news, _ = receive(None, alert("a", severity="info"), 0, REPEAT_MS)
    assert reminder_ms(news, REPEAT_MS) is None
    assert remind(news, 10**12, REPEAT_MS) == (news, None)
    grave, _ = receive(None, alert("a", severity="critical"), 0, 0)
    assert reminder_ms(grave, 0) is None


def test_an_end_without_a_beginning_is_told_once() -> None:
    assert told_of((0, "a", "resolved", "error"), (1, "b", "resolved", "error")) == [(0, "a", 0)]


@given(
    st.lists(
        st.tuples(st.integers(0, 700), st.sampled_from(["firing", "resolved", "remind"]), st.sampled_from([0, 1])),
        max_size=40,
    )
)
def test_any_history(steps: list[tuple[int, str, int]]) -> None:
    episode: Episode | None = None
    now_ms, last_told_ms, last_status, worst = 0, -(10**9), "resolved", -1
    for number, (passed_ms, kind, grade) in enumerate(steps):
        now_ms += passed_ms
        severity = ("warning", "critical")[grade]
        if kind == "remind":
            if episode is None:
                continue
            episode, notice = remind(episode, now_ms, REPEAT_MS)
        else:
            event = alert(str(number), status="firing" if kind == "firing" else "resolved", severity=severity)
            episode, notice = receive(episode, event, now_ms, REPEAT_MS)
        began = kind == "firing" and last_status == "resolved"
        if notice is None:
            assert not began, "a beginning is always told"
            assert not (kind == "resolved" and last_status == "firing"), "an end is always told"
        elif notice.alert.status == "firing" and last_status == "firing":
            assert now_ms - last_told_ms >= REPEAT_MS or grade > worst, "within repeat_ms only what is worse"
        if kind != "remind":
            worst = -1 if kind == "resolved" else (grade if began else max(worst, grade))
            last_status = kind
        if notice is not None:
            last_told_ms = now_ms
        assert episode is not None
        assert episode.firing == (last_status == "firing")


def test_retries_go_on_for_three_days_and_end() -> None:
    now_ms, moments = 0, [0]
    for attempts in range(1, 11):
        fate = settle(attempts, Answer(500), now_ms)
        if fate.state == "dead":
            break
        now_ms = fate.next_attempt_ms
        moments.append(now_ms)
    assert attempts == len(RETRY_MS) == 10
    assert [round(moment / HOUR_MS, 2) for moment in moments[:5]] == [0.0, 0.0, 0.08, 0.58, 2.58]
    assert 72 * HOUR_MS < moments[-1] < 80 * HOUR_MS


def test_only_2xx_is_success() -> None:
    assert all(settle(1, Answer(status), 0).state == "delivered" for status in (200, 202, 204, 299))
    assert all(settle(1, Answer(status), 0).state == "pending" for status in (None, 100, 301, 308, 400, 401, 404, 500))
    assert settle(1, Answer(410), 0) == Fate("dead", disable=True)


def test_patience_is_granted_within_reason() -> None:
    assert settle(1, Answer(503, retry_after="60"), 7) == Fate("pending", 60_007, 60_007)
    assert settle(3, Answer(429, retry_after="60"), 7).next_attempt_ms == 7 + RETRY_MS[3], "the plan is longer"
    assert settle(1, Answer(500, retry_after="60"), 7) == Fate("pending", 5_007), "only 429 and 503 may ask"
    assert settle(10, Answer(429, retry_after="60"), 0) == Fate("dead", hold_until_ms=60_000)
    assert retry_after_ms("9" * 400, 0) == retry_after_ms("99999999", 0) == MAX_HOLD_MS
    for nonsense in ("", "-5", "1.5", "٣", "Thu, 99 Jan 9999 99:99:99 GMT", "Thu, 01 Jan 1970 00:00:00 GMT", "\x00"):
        assert retry_after_ms(nonsense, 10) == 0, nonsense
