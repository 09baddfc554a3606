"""Deliveries out: one courier per endpoint, so that a slow receiver delays nobody else's alerts."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

import httpx2
import structlog

from schemas.settings import Webhook
from services.alert.desk import NowMs
from services.alert.guard import Resolve, transport
from services.alert.payload import headers, signers
from services.alert.plan import Answer, settle
from services.alert.store import Delivery, Store

EXCERPT_BYTES = 1024

_log = structlog.get_logger()


class Courier:
    """Sends what is due to one endpoint. A kill between the attempt and its entry in the store sends it once more."""

    def __init__(
        self, webhook: Webhook, store: Store, *, timeout_s: float, now_ms: NowMs, resolve: Resolve | None = None
    ) -> None:
        self.name = webhook.name
        self._url, self._signers = webhook.url, signers(webhook)
        self._store, self._now_ms, self._timeout_s = store, now_ms, timeout_s
        guarded = transport(allow_private=webhook.allow_private, total_s=timeout_s, resolve=resolve)
        self._client = httpx2.Client(
            transport=guarded, timeout=timeout_s, follow_redirects=False, trust_env=False, headers={}
        )

    def next_due_ms(self) -> int | None:
        """Give when the next attempt is due; None: nothing waits."""
        delivery = self._store.next_delivery(self.name)
        return delivery.next_attempt_ms if delivery else None

    def deliver(self) -> Answer | None:
        """Make the attempt that is due and store what came of it. None: nothing is due."""
        delivery, now_ms = self._store.next_delivery(self.name), self._now_ms()
        if delivery is None or delivery.next_attempt_ms > now_ms:
            return None
        answer = self._attempt(delivery, now_ms)
        ended_ms = self._now_ms()
        fate = settle(delivery.attempts + 1, answer, ended_ms)
        self._store.settled(delivery, self.name, answer, fate, ended_ms)
        about = {"endpoint": self.name, "webhook_id": delivery.webhook_id, "attempt": delivery.attempts + 1}
        if fate.state == "delivered":
            _log.info("delivered", status=answer.status, took_ms=answer.took_ms, **about)
        elif fate.disable:
            _log.error(
                "endpoint_disabled",
                reason=str(answer),
                effect="nothing is sent to it any more",
                fix="change its url in alert.webhooks, or give it another name",
                **about,
            )
        elif fate.state == "dead":
            _log.error("delivery_dead", reason=str(answer), effect="it is not tried again", **about)
        else:
            _log.warning("not_delivered", reason=str(answer), again_in_ms=fate.next_attempt_ms - ended_ms, **about)
        return answer

    def _attempt(self, delivery: Delivery, now_ms: int) -> Answer:
        began = time.monotonic()
        signed = headers(self._signers, delivery.webhook_id, delivery.body, now_ms)
        try:
            with self._client.stream("POST", self._url, content=delivery.body, headers=signed) as response:
                return Answer(
                    response.status_code,
                    _said(response),
                    response.headers.get("retry-after", ""),
                    round(1000 * (time.monotonic() - began)),
                )
        except httpx2.HTTPError as error:
            why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            return Answer(None, why[:EXCERPT_BYTES], took_ms=round(1000 * (time.monotonic() - began)))

    def close(self) -> None:
        """Close the client; the store stays open."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _said(response: httpx2.Response) -> str:
    """Give the beginning of an answer. The status is known by now, so a body that breaks off changes nothing."""
    if response.is_redirect:
        return "is a redirect, which is not followed: set the url to where it leads"
    said = b""
    try:
        for chunk in response.iter_raw(EXCERPT_BYTES):
            said += chunk
            if len(said) >= EXCERPT_BYTES:
                break
    except httpx2.HTTPError:
        pass
    return said[:EXCERPT_BYTES].decode(errors="replace")
