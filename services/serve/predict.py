"""The hot path: a body becomes an answer and an event. No I/O, no thread, no wait; the shadows come after the answer.

Order of things in `answer`: decode, take the served state once, route, score, put the event into the outbox, and note
what shadows have to do. Whoever called sends the answer, and then wakes the shadows.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from schemas.inputs import Prediction
from schemas.settings import Settings
from services.serve.endpoint import Endpoint
from services.serve.figures import Figures
from services.serve.loading import Deployed
from services.serve.outbox import PREDICTIONS, Outbox
from services.serve.requests import BadRequest, PredictAnswer, PredictRequest, read_request
from services.train.model import BadFeatures

SHADOWS_WAITING: Final = 1_000

_encode = msgspec.json.Encoder().encode


class NotServing(Exception):
    """Nothing is loaded that could answer; the text says why."""


@dataclass(frozen=True, slots=True)
class _Shadow:
    deployed: Deployed
    request: PredictRequest
    request_id: str
    at_ms: int


class Predictor:
    """Answers requests of one endpoint. `now_ms` is the clock where the namespace has none of its own."""

    def __init__(
        self,
        settings: Settings,
        endpoint: Endpoint,
        outbox: Outbox,
        figures: Figures,
        *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.endpoint, self.figures = endpoint, figures
        self._outbox = outbox
        self._virtual = settings.clock == "virtual"
        self._now_ms = now_ms
        self._shadows: deque[_Shadow] = deque()
        self._shadows_due = asyncio.Event()
        # Unique without asking the system for entropy each time: 64 random bits of this process, and a counter.
        self._run = f"{random.SystemRandom().getrandbits(64):016x}"
        self._events = 0

    def answer(self, body: bytes) -> PredictAnswer:
        """Answer one body. Raises `BadRequest`, or `NotServing`."""
        began = time.perf_counter()
        request = read_request(body)
        at_ms = self._time_of(request)
        served = self.endpoint.served
        if served is None:
            raise NotServing(why_not_serving(self.endpoint))
        request_id = request.request_id or uuid7(self._now_ms(), random.getrandbits(74))
        deployed = served.deployed[served.router.route(request.subject or request_id)]
        try:
            answer = self._score(deployed, request, request_id, at_ms, served.promote.revision, began)
        except BadFeatures as error:
            raise BadRequest(422, str(error), request_id) from None
        for shadow in served.shadows:
            if len(self._shadows) < SHADOWS_WAITING:
                self._shadows.append(_Shadow(shadow, request, request_id, at_ms))
            else:
                self.figures.shadows_dropped.inc()
        self.figures.shadow_pending = len(self._shadows)
        return answer

    def wake_shadows(self) -> None:
        """Let the shadows of what has been answered begin."""
        if self._shadows:
            self._shadows_due.set()

    async def run_shadows(self) -> None:
        """Answer as a shadow, one at a time between other work, until cancelled."""
        while True:
            await self._shadows_due.wait()
            while self._shadows:
                self.shadow()
                await asyncio.sleep(0)
            self._shadows_due.clear()

    def shadow(self) -> None:
        """Answer the oldest request that waits for a shadow. What it cannot score is counted."""
        due = self._shadows[0]
        try:
            self._score(due.deployed, due.request, due.request_id, due.at_ms, 0, time.perf_counter())
        except BadFeatures:
            self.figures.shadows_failed.inc()
        finally:
            self._shadows.popleft()
            self.figures.shadow_pending = len(self._shadows)

    def _score(
        self,
        deployed: Deployed,
        request: PredictRequest,
        request_id: str,
        at_ms: int,
        revision: int,
        began: float,
    ) -> PredictAnswer:
        model, deployment = deployed.model, deployed.deployment
        score = model.scores([model.vector(request.features)])[0]
        if score != score:
            raise BadFeatures("these features give no finite score: at least one value is too large")
        threshold = model.threshold
        decided = 1 if score >= threshold else 0
        took_s = time.perf_counter() - began
        self._events += 1
        event = Prediction(
            request_id=request_id,
            at_ms=at_ms,
            model=model.model,
            version=model.version,
            deployment=deployment.deployment,
            role=deployment.role,
            app_version=request.app_version,
            score=score,
            prediction=decided,
            features=request.features,
            slices=request.slices,
            subject=request.subject,
            experiments=deployed.experiments,
            threshold=threshold,
            latency_ms=round(took_s * 1e3, 3),
            event_id=f"{self._run}-{self._events}",
        )
        self._outbox.put(PREDICTIONS, request_id.encode(), _encode(event), at_ms)
        self.figures.answers.labels(deployment.deployment, deployment.role).inc()
        if deployment.role == "primary":
            self.figures.latency.observe(took_s)
        if at_ms > self.endpoint.newest_at_ms:
            self.endpoint.newest_at_ms = at_ms
        return PredictAnswer(
            request_id=request_id,
            model=model.model,
            version=model.version,
            deployment=deployment.deployment,
            revision=revision,
            score=score,
            prediction=decided,
            threshold=threshold,
        )

    def _time_of(self, request: PredictRequest) -> int:
        if self._virtual:
            if request.at_ms is None:
                raise BadRequest(
                    422, "this namespace has a virtual clock: `at_ms` must say the request's time", _id(request)
                )
            return request.at_ms
        if request.at_ms is not None:
            raise BadRequest(
                422,
                "`at_ms` is accepted only where the namespace's clock is virtual; here the server's clock counts: "
                "leave it out",
                _id(request),
            )
        return self._now_ms()


def _id(request: PredictRequest) -> str:
    return request.request_id or ""


def why_not_serving(endpoint: Endpoint) -> str:
    """Say why nothing answers."""
    if endpoint.error:
        return f"endpoint {endpoint.name!r} serves nothing: {endpoint.error}"
    if endpoint.desired is not None:
        return f"endpoint {endpoint.name!r} is loading revision {endpoint.desired.revision}; try again in a moment"
    if endpoint.position < 0:
        return f"endpoint {endpoint.name!r} has not been able to read yet what it should serve: Kafka is silent"
    return f"endpoint {endpoint.name!r} was never given anything to serve: no `promote` record names it"


def uuid7(now_ms: int, random_bits: int) -> str:
    """Make a UUIDv7: ids that sort by time. `random_bits` has 74 bits.

    >>> uuid7(1_767_225_600_000, 0)
    '019b76da-a800-7000-8000-000000000000'
    """
    high = (now_ms & (2**48 - 1)) << 16 | 0x7000 | random_bits >> 62 & 0xFFF
    low = 0b10 << 62 | random_bits & (2**62 - 1)
    text = f"{high << 64 | low:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
