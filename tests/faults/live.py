"""The feed of a round with a broker's clock: events of now, whose deadlines pass within seconds.

Timers, idle ticks, confirmed moments and the waiting out of a jump (the broker away for longer than the grace period)
only exist there. A policy takes effect a minute after its record at the earliest, so the policies are announced when a
campaign begins, and this round comes later.
"""

from __future__ import annotations

import heapq
import itertools
import json
import time
from random import Random
from typing import Any

from schemas.control import PolicySet
from schemas.event import encode
from schemas.policy import Attribution, JoinPolicy
from schemas.settings import Join, Settings
from services.kafka import Sender
from streams.join.naive import partition_of
from streams.runtime.topics import ensure_topics
from tests.faults.feed import Feed
from tests.faults.plan import PARTITIONS
from tests.streams.join.histories import POISON, Arrival

LIVE_FROM = 150
"""A campaign of so many kills has such a round."""
LIVE_KILLS = 50
NOTICE_S = 62.0
JOIN = Join(skew_ms=60_000, early_label_ms=4_000, grace_ms=5_000, max_event_bytes=12_000, pane_ms=10_000)
HORIZON_MS, LATENESS_MS = 3_000, 2_000
AFTER_S = (HORIZON_MS + LATENESS_MS + JOIN.early_label_ms + JOIN.grace_ms) / 1000 + 2
"""When everything has ended that was begun, the last parked label included."""
JUMP_S = JOIN.grace_ms / 1000 + 2
"""How long the broker is away, so that its clock jumps by more than the grace period."""
EACH_BURST = 4


def announce(settings: Settings) -> None:
    """Make the topics, and say the policies, which take effect in a minute."""
    ensure_topics(settings)
    from_ms = int(time.time() * 1000) + 61_000
    click = Attribution(signal="click", label=1, weight=0.5, within_ms=2_000)
    policies = (
        JoinPolicy(
            model="m1",
            effective_from_ms=from_ms,
            horizon_ms=HORIZON_MS,
            lateness_ms=LATENESS_MS,
            on_timeout="negative",
            provisional_after_ms=1_000,
            p_fake_negative=0.25,
            precedence=["human"],
        ),
        JoinPolicy(
            model="m2",
            effective_from_ms=from_ms,
            horizon_ms=HORIZON_MS,
            lateness_ms=LATENESS_MS,
            attribution=[click],
            carry="features",
        ),
    )
    with Sender(settings, "policies") as sender:
        for policy, partition in itertools.product(policies, range(settings.partitions)):
            sender.send("control", encode(PolicySet(policy=policy)), partition=partition)


class Live(Feed):
    """Sends predictions of now, and what follows them some seconds later, until `pause_s` is 0."""

    def __init__(self, settings: Settings, dice: Random) -> None:
        super().__init__(settings)
        self._dice = dice
        self._later: list[tuple[float, int, Arrival]] = []
        self._number = itertools.count()
        self.sent["control"] += 2 * settings.partitions  # the policies

    def _feed(self, sender: Sender) -> None:
        while self.pause_s and not self._stop.is_set():
            for _ in range(self._dice.randint(1, EACH_BURST)):
                self._begin(f"r{next(self._number)}")
            self._send_due(sender, time.monotonic())
            self._stop.wait(self.pause_s)
        ended = time.monotonic()
        while self._later and not self._stop.is_set():
            self._send_due(sender, time.monotonic())
            self._stop.wait(0.05)
        self._flush(sender)
        self._stop.wait(max(0.0, ended + AFTER_S - time.monotonic()))
        self._drained("everything")
        self._answered()

    def _send_due(self, sender: Sender, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            self._send(sender, heapq.heappop(self._later)[2])

    def _begin(self, request_id: str) -> None:
        """Draw what happens to one request, and when."""
        dice, now_ms = self._dice, int(time.time() * 1000)
        body: dict[str, Any] = {"request_id": request_id, "at_ms": now_ms - dice.randrange(300)}
        model = dice.choice(("m1", "m1", "m2", "no-policy"))
        fields = {"model": model, "score": dice.choice((0, 0.25, 1)), "features": {"x": dice.random()}}
        early = dice.random() < 0.2
        self._put("predictions", request_id, {**body, **fields}, 0.6 if early else 0)
        for _ in range(dice.choice((0, 1, 1, 2))):
            delay_s = 0 if early else dice.choice((0, 0.2, 1, 2, 2.9, 4, 4.9))
            at_ms = now_ms + int(delay_s * 1000)
            label = {"op": "retract"} if dice.random() < 0.15 else {"label": dice.choice((0, 1, "spam"))}
            source = dice.choice(("", "human"))
            self._put("labels", request_id, {**body, "at_ms": at_ms, **label, "source": source}, delay_s)
        if dice.random() < 0.4:
            delay_s = dice.choice((0.1, 1, 2.5))
            signal = {"at_ms": now_ms + int(delay_s * 1000), "signal": "click"}
            self._put("signals", request_id, {**body, **signal}, delay_s)
        if dice.random() < 0.05:
            self._put("labels", f"nobody-{request_id}", {**body, "request_id": f"nobody-{request_id}", "label": 1}, 0)
        if dice.random() < 0.05:
            poison = Arrival(0, "labels", dice.randrange(PARTITIONS), b"poison", dice.choice(POISON))
            heapq.heappush(self._later, (time.monotonic(), next(self._number), poison))

    def _put(self, topic: str, request_id: str, body: dict[str, Any], delay_s: float) -> None:
        dice = self._dice
        partition = partition_of(request_id, self._settings.partitions)
        for _ in range(2 if dice.random() < 0.1 else 1):
            astray = dice.random() < 0.05
            place = dice.randrange(self._settings.partitions) if astray else partition
            one = Arrival(0, topic, place, request_id.encode(), json.dumps(body).encode())
            heapq.heappush(self._later, (time.monotonic() + delay_s, next(self._number), one))
            delay_s += dice.choice((0, 0.3))
