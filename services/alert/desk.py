"""Alerts in, deliveries planned: every alert once, with the place it was read from, in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256

from schemas.errors import USAGE, WeirError
from schemas.lifecycle import Alert
from schemas.settings import AlertDelivery
from services.alert.guard import check_url
from services.alert.payload import render, signers, webhook_id
from services.alert.plan import Notice, receive, remind, reminder_ms, wants
from services.alert.store import Planned, Store

NowMs = Callable[[], int]
"""The wall clock: a namespace's virtual clock says nothing about when a receiver is to be called again."""

Place = tuple[str, int, str, int]
"""Kafka topic, partition, Kafka's id of the topic, and the offset after the last alert."""


def check(settings: AlertDelivery) -> None:
    """Check the settings. Raises `WeirError` (usage) for the first thing that is wrong."""
    names = [webhook.name for webhook in settings.webhooks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise WeirError(
            f"two webhooks are named {twice[0]!r}", fix="give each of alert.webhooks its own name", code=USAGE
        )
    if settings.repeat_ms < 0 or not 0 < settings.timeout_s <= 600:
        raise WeirError(
            f"alert.repeat_ms is {settings.repeat_ms} and alert.timeout_s {settings.timeout_s:g}",
            fix="give a repeat_ms of 0 (never by itself) or more, and a timeout_s above 0, at most 600",
            code=USAGE,
        )
    for webhook in settings.webhooks:
        check_url(webhook)
        signers(webhook)


class Desk:
    """Plans what the settings' webhooks are to be told. Delivery promise: at least once, with the same webhook-id."""

    def __init__(self, namespace: str, settings: AlertDelivery, store: Store, now_ms: NowMs) -> None:
        self._namespace, self._settings, self._store, self._now_ms = namespace, settings, store, now_ms
        urls = {webhook.name: sha256(webhook.url.encode()).hexdigest() for webhook in settings.webhooks}
        store.register(urls, now_ms())
        self._remind_at_ms = self._next_reminder()

    def take(self, alerts: Sequence[Alert], places: Sequence[Place] = ()) -> int:
        """Store what alerts lead to, and that they were read. Give the number of notices; duplicates give none."""
        store, now_ms, told = self._store, self._now_ms(), 0
        with store.writing():
            for alert in alerts:
                if not store.first_time(alert.id, now_ms):
                    continue
                episode, notice = receive(store.episode(alert.fingerprint), alert, now_ms, self._settings.repeat_ms)
                store.keep(episode)
                if notice is not None:
                    self._plan(notice, now_ms)
                    told += 1
            for place in places:
                store.move(*place)
        self._remind_at_ms = self._next_reminder()
        return told

    def remind(self) -> int:
        """Tell again what has been firing for long enough; give the number of notices."""
        now_ms = self._now_ms()
        if self._remind_at_ms is None or now_ms < self._remind_at_ms:
            return 0
        told = 0
        with self._store.writing():
            for episode in self._store.firing():
                later, notice = remind(episode, now_ms, self._settings.repeat_ms)
                if notice is not None:
                    self._store.keep(later)
                    self._plan(notice, now_ms, reminding=True)
                    told += 1
        self._remind_at_ms = self._next_reminder()
        return told

    def _plan(self, notice: Notice, now_ms: int, *, reminding: bool = False) -> None:
        body = render(self._namespace, notice)
        for webhook in self._settings.webhooks:
            if not wants(webhook.rules, notice.alert.rule):
                continue
            # A receiver that is away is not reminded of what it has not been told yet.
            if reminding and self._store.awaits(webhook.name, notice.alert.fingerprint):
                continue
            id = webhook_id(self._namespace, webhook.name, notice)
            self._store.add(Planned(id, webhook.name, notice.alert, notice.repeat, body), now_ms)

    def _next_reminder(self) -> int | None:
        moments = (reminder_ms(episode, self._settings.repeat_ms) for episode in self._store.firing())
        return min((moment for moment in moments if moment is not None), default=None)
