"""`/healthz`, `/readyz` and `/metrics`: open to everyone who can reach the port, and telling no secret."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from schemas.errors import WeirError
from services.api.live import Tail
from services.api.store import Recent, Store

LOOK_S = 1.0


def probes(store: Store, tail: Tail, counted: Counter[tuple[str, int]]) -> APIRouter:
    """Give the routes."""
    routes = APIRouter(tags=["probes"])
    registry = CollectorRegistry()
    registry.register(_Numbers(tail, counted))
    recent = Recent(LOOK_S)

    @routes.get("/healthz")
    async def healthz() -> dict[str, bool]:
        """Whether the process lives; it depends on nothing."""
        return {"ok": True}

    @routes.get("/readyz")
    def readyz() -> JSONResponse:
        """Whether Kafka is followed and ClickHouse answers, and what is missing."""
        reasons = [tail.problem] if tail.problem else []
        try:
            recent.of("ready", lambda: store.rows("SELECT count() AS n FROM landed_steps WHERE 0"))
        except WeirError as error:
            reasons.append(f"{error.message}; fix: {error.fix}")
        return JSONResponse({"ok": not reasons, "reasons": reasons}, status_code=503 if reasons else 200)

    @routes.get("/metrics")
    async def metrics() -> Response:
        """Prometheus' text format."""
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes


class _Numbers(Collector):
    def __init__(self, tail: Tail, counted: Counter[tuple[str, int]]) -> None:
        self._tail, self._counted = tail, counted
        self._began = time.time()

    def collect(self) -> Any:
        requests = CounterMetricFamily("weir_api_requests", "answers by route and status", labels=["route", "status"])
        for (route, code), count in self._counted.items():
            requests.add_metric([route, str(code)], count)
        status = self._tail.status()
        yield requests
        yield GaugeMetricFamily("weir_api_ready", "1 when Kafka is followed", value=int(status["ready"]))
        yield GaugeMetricFamily("weir_api_listeners", "open streams", value=status["listeners"])
        yield GaugeMetricFamily("weir_api_kept_events", "events kept for listeners", value=status["kept"])
        yield GaugeMetricFamily("weir_api_start_time_seconds", "when the process started", value=self._began)
        position = GaugeMetricFamily("weir_api_position", "next offset to read", labels=["topic", "partition"])
        for (topic, place), offset in zip(self._tail.places, self._tail.positions, strict=True):
            position.add_metric([topic, str(place[1])], offset)
        yield position
