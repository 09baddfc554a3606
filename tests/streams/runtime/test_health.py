"""What a worker shows of itself: alive, ready, and numbers that Prometheus can read."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request

import pytest

from schemas.errors import WeirError
from streams.runtime.health import COMMIT_AGE_S, POLL_AGE_S, HealthServer, PartitionProgress, Progress, answer


def progress(position: int = 5, end: int = 5) -> Progress:
    made = Progress("join", "0", ready=True)
    made.partitions = {
        0: PartitionProgress(7, 1234, {"labels": position}, {"labels": end}, {"labels.joined": 3}, {"labels": "unread"})
    }
    return made


def test_hanging_loop_is_ill() -> None:
    hung = progress()
    hung.polled_at = time.monotonic() - POLL_AGE_S - 1
    status, _, body = answer(hung, "/healthz")
    assert status == 503
    assert "the last poll is" in json.loads(body)["reason"]


def test_work_without_commits_is_ill_but_idleness_is_not() -> None:
    stuck, idle = progress(position=5, end=9), progress()
    for one in (stuck, idle):
        one.committed_at = time.monotonic() - COMMIT_AGE_S - 1
    assert "4 offsets behind" in stuck.ill(time.monotonic())
    assert idle.ill(time.monotonic()) == ""


def test_restoring_is_alive_and_not_ready() -> None:
    busy = progress()
    busy.ready, busy.restoring = False, (0, 1)
    assert answer(busy, "/healthz")[0] == 200
    status, _, body = answer(busy, "/readyz")
    assert (status, json.loads(body)["restoring"]) == (503, [0, 1])


def test_standby_says_that_it_follows_and_how_far_behind_and_needs_no_commit() -> None:
    standby = Progress("join", "0", ready=True, following=True, lag_steps=3)
    standby.committed_at = time.monotonic() - COMMIT_AGE_S - 1
    assert standby.ill(time.monotonic()) == ""
    status, _, body = answer(standby, "/readyz")
    assert status == 200
    assert json.loads(body).items() >= {"ok": True, "following": True, "lag_steps": 3}.items()


def test_metrics_carry_positions_clock_and_counters() -> None:
    text = answer(progress(), "/metrics")[2].decode()
    assert 'weir_position{partition="0",topic="labels"} 5.0' in text
    assert 'weir_clock_ms{partition="0"} 1234.0' in text
    assert 'weir_counter{name="labels.joined",partition="0"} 3.0' in text
    assert 'weir_clock_held{by="unread",partition="0",topic="labels"} 1.0' in text


def test_served_on_loopback() -> None:
    server = HealthServer(progress())
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/readyz", timeout=5) as response:
            assert json.load(response)["ok"] is True
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/other", timeout=5)
    finally:
        server.close()


def test_a_port_that_is_taken_is_named() -> None:
    server = HealthServer(progress())
    try:
        with pytest.raises(WeirError, match=rf"(?s)127\.0\.0\.1:{server.port}.*runtime\.health_port"):
            HealthServer(progress(), server.port)
    finally:
        server.close()
