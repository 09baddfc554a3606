"""Follows `promote` and makes the endpoint serve what its highest revision says; tells on `rollout-status` how it went.

`promote` is read from its beginning at every start, without a group. Up to its end only the highest revision matters;
from there on each higher one is loaded beside what answers, and takes its place when it is complete. What cannot be
loaded leaves everything as it was, is reported with the reason, and is tried again with growing patience.
"""

from __future__ import annotations

import threading
import time
from typing import Final

import msgspec
import structlog
from confluent_kafka import OFFSET_BEGINNING, KafkaError, Message, TopicPartition

from schemas.errors import WeirError
from schemas.event import decode, encode
from schemas.lifecycle import Promote, RolloutStatus
from schemas.settings import Settings
from schemas.topics import topic_name
from services.serve.endpoint import Endpoint
from services.serve.loading import key_of, serve_state
from services.serve.outbox import STATUS, Outbox
from streams.runtime.kafka import make_reader

RETRY_S: Final = (1.0, 30.0)
_POLL_S: Final = 0.2

_log = structlog.get_logger()


class Follower:
    """One thread. `server` names this process in what it reports."""

    def __init__(self, settings: Settings, endpoint: Endpoint, outbox: Outbox, server: str) -> None:
        self._settings, self._endpoint, self._outbox, self._server = settings, endpoint, outbox, server
        self._stop = threading.Event()
        self._kept = False
        """Whether what is desired comes from the file of the last run, not from Kafka."""
        self._highest: Promote | None = None
        self._position = -1
        self._retry_at, self._patience_s = 0.0, RETRY_S[0]
        self._reported: tuple[int, str] | None = None
        self._thread = threading.Thread(target=self._run, name="follow", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Serve what was served last, then follow."""
        self._thread.start()

    def stop(self) -> None:
        """End; returns when the thread has ended."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        kept = self._endpoint.kept()
        if kept is not None:
            self._kept = True
            self._endpoint.desired = kept
            self._converge()
        reader = make_reader(self._settings, "serve")
        try:
            reader.assign([TopicPartition(topic_name(self._settings.namespace, "promote"), 0, OFFSET_BEGINNING)])
            while not self._stop.is_set():
                for message in reader.consume(500, timeout=_POLL_S):
                    self._read(message)
                if self._position >= 0:
                    self._want(self._highest)
                # Last, because who sees this position relies on `desired` being what was read up to it.
                self._endpoint.position = self._position
                if not self._endpoint.converged and time.monotonic() >= self._retry_at:
                    self._converge()
        finally:
            reader.close()

    def _read(self, message: Message) -> None:
        error = message.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                self._position = message.offset() or 0
            elif error.code() not in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN):
                _log.warning("promote_not_read", reason=error.str())
            return
        if self._position >= 0:
            self._position = (message.offset() or 0) + 1
        if message.key() != self._endpoint.name.encode() or message.value() is None:
            return
        try:
            promote = decode(message.value() or b"", Promote)
        except msgspec.DecodeError as failed:
            _log.error("promote_not_understood", offset=message.offset(), reason=str(failed))
            return
        if promote.endpoint == self._endpoint.name and (
            self._highest is None or promote.revision > self._highest.revision
        ):
            self._highest = promote

    def _want(self, highest: Promote | None) -> None:
        """Take Kafka's word for what is desired. It outranks what the last run kept, even with a lower revision."""
        endpoint = self._endpoint
        if highest is None or highest == endpoint.desired:
            return
        desired = endpoint.desired
        if self._kept and desired is not None and desired.revision >= highest.revision:
            _log.warning("kept_state_outranked", kept=desired.revision, told=highest.revision)
        self._kept = False
        endpoint.desired = highest
        self._retry_at, self._patience_s = 0.0, RETRY_S[0]

    def _converge(self) -> None:
        endpoint, promote = self._endpoint, self._endpoint.desired
        if promote is None:
            return
        states = [one for one in (endpoint.served, endpoint.previous) if one is not None]
        loaded = {key_of(one.promote, two.deployment): two.model for one in states for two in one.deployed}
        began = time.monotonic()
        try:
            served = serve_state(self._settings, promote, loaded)
        except Exception as error:  # a broken artifact can break in any way; what answers must go on
            why = error.message if isinstance(error, WeirError) else f"{type(error).__name__}: {error}"
            self._failed(promote, why)
            return
        endpoint.swap(served)
        self._patience_s = RETRY_S[0]
        _log.info(
            "serving",
            revision=promote.revision,
            stage=promote.stage,
            deployments={one.deployment: one.weight for one in promote.deployments},
            loaded_s=round(time.monotonic() - began, 3),
        )
        self._report(promote, "")
        endpoint.reported = promote
        try:
            endpoint.keep(promote)
        except OSError as error:
            _log.error(
                "served_state_not_kept", reason=str(error), effect="a restart without Kafka answers as before it"
            )

    def _failed(self, promote: Promote, why: str) -> None:
        self._endpoint.error = why
        self._retry_at = time.monotonic() + self._patience_s
        self._patience_s = min(2 * self._patience_s, RETRY_S[1])
        self._report(promote, why)

    def _report(self, promote: Promote, error: str) -> None:
        """Put the status into the outbox behind the events of the state before it; not the same thing twice."""
        said = (promote.revision, error)
        if said == self._reported:
            return
        self._reported = said
        if error:
            _log.error("not_converged", revision=promote.revision, reason=error)
        virtual = self._settings.clock == "virtual"
        now_ms = time.time_ns() // 1_000_000
        status = RolloutStatus(
            endpoint=promote.endpoint,
            model=promote.model,
            revision=promote.revision,
            server=self._server,
            converged=not error,
            error=error,
            at_ms=max(promote.at_ms, self._endpoint.newest_at_ms) if virtual else now_ms,
        )
        self._outbox.put(STATUS, promote.endpoint.encode(), encode(status), status.at_ms)
