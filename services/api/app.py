"""The routes: who may ask what, and which room answers. Blocking questions run in FastAPI's threads."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Header, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, ConfigDict, Field
from starlette.middleware.gzip import GZipMiddleware

from schemas.event import MAX_MS, encode
from schemas.lifecycle import Approval
from schemas.settings import Settings
from services.api import errors, ingest, page
from services.api.auth import Bearer
from services.api.choices import choices
from services.api.deliveries import deliveries
from services.api.history import History, Window
from services.api.incidents import incidents
from services.api.live import Behind, Tail
from services.api.middleware import Bounded, Counting
from services.api.pipeline import Pipeline
from services.api.probes import probes
from services.api.store import Recent, Store
from streams.measure.metrics import known_metric

MOST_BYTES = 8 << 20
SOON_S, SLOW_S = 1.0, 3.0

FromMs = Annotated[int, Query(ge=0, le=MAX_MS, description="only what lies after this time")]
Cost = Annotated[float, Query(ge=0, le=1e12, allow_inf_nan=False, description="in any one unit")]
Model = Annotated[str, Query(description="only this model; empty: all")]


class Decision(BaseModel):
    """What a person says about a rollout."""

    model_config = ConfigDict(extra="forbid")

    rollout_id: str = Field(min_length=1, max_length=128)
    model: str = Field(min_length=1, max_length=128)
    decision: Literal["approve", "reject", "abort"]
    stage: str = Field(default="", description="the stage it is meant for; empty: whichever is next")
    by: str = Field(default="", max_length=128)
    note: str = Field(default="", max_length=1_000)


def build(settings: Settings, stop: threading.Event) -> FastAPI:
    """Give the app of a namespace. Its tail and connections live from the app's start to its end."""
    store = Store(settings)
    tail = Tail(settings, stop)
    history = History(settings, store)
    pipeline = Pipeline(settings, history)
    counted: Counter[tuple[str, int]] = Counter()
    room: dict[str, ingest.Outgoing] = {}

    @contextlib.asynccontextmanager
    async def living(app: FastAPI) -> AsyncIterator[None]:
        room["outgoing"] = ingest.Outgoing(settings)
        tail.start()
        yield
        stop.set()
        room["outgoing"].close()
        tail.join()
        pipeline.close()
        store.close()

    app = FastAPI(
        title="Weir",
        summary="What models do in production: figures, drift, rollouts, alerts.",
        lifespan=living,
        docs_url=None,
        redoc_url=None,
    )
    errors.install(app)
    app.add_middleware(GZipMiddleware, minimum_size=1_000)
    app.add_middleware(Bounded, most_bytes=MOST_BYTES)
    app.add_middleware(Counting, counted=counted)
    app.include_router(page.router())
    app.include_router(probes(store, tail, counted))
    guarded = APIRouter(prefix="/v1", dependencies=[Depends(Bearer(settings.api.token.get_secret_value()))])
    guarded.include_router(_history(settings, history, pipeline))
    guarded.include_router(_thresholds(settings, store))
    guarded.include_router(_live(tail))
    guarded.include_router(ingest.router(lambda: room["outgoing"]))
    guarded.include_router(_decisions(history, lambda: room["outgoing"]))
    app.include_router(guarded)
    return app


def _history(settings: Settings, history: History, pipeline: Pipeline) -> APIRouter:
    routes = APIRouter(tags=["history"])
    soon, slow = Recent(SOON_S), Recent(SLOW_S)

    @routes.get("/overview")
    def overview() -> dict[str, Any]:
        """The namespace, its time, its models and what fires."""

        def fetch() -> dict[str, Any]:
            alerts = history.alerts()
            return {
                "namespace": settings.namespace,
                "clock": settings.clock,
                "now_ms": history.now_ms(),
                "pane_ms": settings.join.pane_ms,
                "models": history.models(),
                "firing": [alert for alert in _current(alerts) if alert.get("status", "firing") == "firing"],
                "totals": history.totals(),
            }

        return slow.of("overview", fetch)

    @routes.get("/models")
    def models() -> list[dict[str, Any]]:
        """Every model with its versions, metrics, slices, references and policies."""
        return slow.of("models", history.models)

    @routes.get("/models/{model}/quality")
    def quality(
        model: str,
        metric: Annotated[str, Query()] = "accuracy",
        slice: Annotated[str, Query(description="dimension=value; empty: the whole")] = "",
        window: Annotated[Window, Query()] = "rolling",
        from_ms: FromMs = 0,
    ) -> dict[str, Any]:
        """A metric's series by version, each point with interval, n and maturity."""
        known_metric(metric)
        key = ("quality", model, metric, slice, window, from_ms)
        return soon.of(key, lambda: history.quality(model, metric, slice_=slice, window=window, from_ms=from_ms))

    @routes.get("/models/{model}/drift")
    def drift(model: str) -> dict[str, Any]:
        """What detectors say of each stream (quality, score, features), with the last panes of each."""
        return soon.of(("drift", model), lambda: history.drift(model))

    @routes.get("/models/{model}/delay")
    def delay(
        model: str, from_ms: FromMs = 0, name: Annotated[str, Query(description="label name")] = ""
    ) -> dict[str, Any]:
        """How long labels take, and how many have come."""
        return slow.of(("delay", model, from_ms, name), lambda: history.delay(model, from_ms=from_ms, name=name))

    @routes.get("/models/{model}/rollout")
    def rollout(model: str) -> dict[str, Any]:
        """The desired state of serving and what led to it: retrains, candidates, gates, approvals."""
        return soon.of(("rollout", model), lambda: history.rollout(model))

    @routes.get("/models/{model}/slices")
    def slices(model: str, metric: Annotated[str, Query()] = "accuracy") -> dict[str, Any]:
        """Slices, those first that are worse than the whole by most, at least: where to look, no alarm."""
        known_metric(metric)
        return soon.of(("slices", model, metric), lambda: history.slices(model, metric))

    @routes.get("/models/{model}/reviews")
    def reviews(model: str) -> dict[str, Any]:
        """Decisions whose ground was corrected: the figure then and now, and whether each would stand."""
        return {"model": model, "reviews": soon.of(("reviews", model), lambda: history.reviews(model))}

    @routes.get("/alerts")
    def alerts(model: Model = "") -> dict[str, Any]:
        """The newest alerts, what fires now, one incident a model with its parts ranked, how deliveries went."""

        def fetch() -> dict[str, Any]:
            found = history.alerts(model)
            current = _current(found)
            fires = [one for one in current if one.get("status", "firing") == "firing"]
            return {
                "alerts": found,
                "current": current,
                "incidents": incidents(fires),
                "deliveries": deliveries(settings),
            }

        return soon.of(("alerts", model), fetch)

    @routes.get("/pipeline")
    def pipe() -> dict[str, Any]:
        """Lag by process and topic, dead letters, the residual."""
        return slow.of("pipeline", pipeline.now)

    return routes


def _thresholds(settings: Settings, store: Store) -> APIRouter:
    routes = APIRouter(tags=["history"])
    slow = Recent(SLOW_S)

    @routes.get("/models/{model}/thresholds")
    def thresholds(
        model: str,
        cost_fp: Cost = 1.0,
        cost_fn: Cost = 1.0,
        slice: Annotated[str, Query(description="dimension=value; empty: the whole")] = "",
        from_ms: FromMs = 0,
        to_ms: Annotated[int, Query(ge=0, le=MAX_MS, description="the window's end; 0: the newest pane's")] = 0,
        points: Annotated[int, Query(ge=3, le=2_000, description="at most so many thresholds a version")] = 101,
    ) -> dict[str, Any]:
        """Precision, recall and mean cost at every score threshold, by version, and the threshold of least cost.

        The best threshold of a window looks better than it is: judge it on another window.
        """
        asked = {"cost_fp": cost_fp, "cost_fn": cost_fn, "from_ms": from_ms, "to_ms": to_ms, "points": points}
        key = ("thresholds", model, slice, *asked.values())
        return slow.of(key, lambda: choices(settings, store, model, slice_=slice, **asked))  # type: ignore[arg-type]

    return routes


def _current(alerts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give the newest alert of each fingerprint; `alerts` come the newest first."""
    found: dict[str, dict[str, Any]] = {}
    for alert in alerts:
        found.setdefault(alert["fingerprint"], alert)
    return list(found.values())


def _live(tail: Tail) -> APIRouter:
    routes = APIRouter(tags=["live"])

    @routes.get("/live", response_class=EventSourceResponse)
    async def live(
        model: Model = "", last_event_id: Annotated[str | None, Header()] = None
    ) -> AsyncIterator[ServerSentEvent]:
        """Every event as it happens; the event's name is its topic, or `tick` (alive) or `reset` (fetch afresh).

        With `Last-Event-ID` it goes on after that event; without, it begins half a minute back.
        """
        since = last_event_id or None
        while True:
            try:
                async for heard in tail.listen(since, model):
                    if heard is None:
                        yield ServerSentEvent(event="tick", data={"ready": tail.ready, "problem": tail.problem})
                    else:
                        mark, told = heard
                        yield ServerSentEvent(event=told.topic, raw_data=told.text, id=mark)
                return
            except Behind as error:
                since = None
                yield ServerSentEvent(event="reset", data={"why": str(error)})

    return routes


def _decisions(history: History, outgoing: Any) -> APIRouter:
    routes = APIRouter(tags=["events"])

    @routes.post("/approvals", status_code=202)
    async def approvals(decision: Decision) -> ingest.Accepted:
        """Approve, reject or abort a rollout. What `decide` makes of it comes as `promote` or an alert."""
        at_ms = await _in_thread(history.now_ms)
        event = Approval(**decision.model_dump(), at_ms=at_ms)
        await outgoing().send("approvals", [(event.model.encode(), encode(event), at_ms)])
        return ingest.Accepted(accepted=1)

    return routes


async def _in_thread(call: Any) -> Any:
    from starlette.concurrency import run_in_threadpool

    return await run_in_threadpool(call)
