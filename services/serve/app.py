"""The HTTP edge of serving: predictions on the hot path, beside them the endpoint's state, health and metrics.

`POST /v1/predict` is a plain ASGI endpoint: the body goes to msgspec as it is, and nothing of FastAPI's dependency
solving or pydantic is paid per request. Its part of the OpenAPI document is derived from the same structs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec
import structlog
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from fastapi import FastAPI, Request, Response
from prometheus_client.exposition import generate_latest
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from schemas.settings import Settings
from schemas.topics import topic_name
from services.serve.endpoint import Endpoint
from services.serve.figures import Figures
from services.serve.outbox import Outbox
from services.serve.predict import NotServing, Predictor, why_not_serving
from services.serve.requests import (
    EXPECTED,
    MAX_BODY,
    BadRequest,
    ErrorAnswer,
    PredictAnswer,
    PredictRequest,
)

PREDICT: Final = "/v1/predict"
_JSON: Final = (b"content-type", b"application/json")
_encode = msgspec.json.Encoder().encode
_log = structlog.get_logger()

Healthy = Callable[[], str]
"""Says what is wrong with the process; empty when nothing is."""


class PredictEndpoint:
    """`POST /v1/predict` as an ASGI application."""

    def __init__(self, predictor: Predictor, figures: Figures) -> None:
        self._predictor, self._figures = predictor, figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, answer, then let the shadows begin."""
        status, request_id = 200, ""
        try:
            answer = self._predictor.answer(await _body(receive))
            request_id, body = answer.request_id, _encode(answer)
        except BadRequest as error:
            status, request_id = error.status, error.request_id
            body = _encode(ErrorAnswer(error=str(error), expected=EXPECTED, request_id=request_id))
        except NotServing as error:
            status, body = 503, _encode(ErrorAnswer(error=str(error)))
        except _Gone:
            return
        except Exception as error:
            _log.exception("prediction_failed")
            status = 500
            body = _encode(ErrorAnswer(error=f"the model could not answer: {type(error).__name__}; see the log"))
        headers = [_JSON, (b"content-length", b"%d" % len(body))]
        if request_id.isascii() and request_id.isprintable():
            headers.append((b"x-request-id", request_id.encode()))
        if status == 503:
            headers.append((b"retry-after", b"1"))
        if status != 200:
            self._figures.errors.labels(str(status)).inc()
        try:
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        finally:
            self._predictor.wake_shadows()


class _Gone(Exception):
    """The client left before its request was complete."""


async def _body(receive: Receive) -> bytes:
    """Read a request's body. Raises `BadRequest` when it is too large."""
    message = await receive()
    body: bytes = message.get("body", b"")
    while message["type"] == "http.request" and message.get("more_body", False) and len(body) <= MAX_BODY:
        message = await receive()
        body += message.get("body", b"")
    if message["type"] == "http.disconnect":
        raise _Gone
    if len(body) > MAX_BODY:
        raise BadRequest(413, f"the body has more than {MAX_BODY} bytes")
    return body


def make_app(
    settings: Settings,
    endpoint: Endpoint,
    predictor: Predictor,
    outbox: Outbox,
    figures: Figures,
    *,
    admin: AdminClient,
    healthy: Healthy,
) -> FastAPI:
    """Put the application together. It starts nothing."""
    app = FastAPI(title="Weir serving", version="1", docs_url=None, redoc_url=None)
    app.router.routes.insert(0, Route(PREDICT, PredictEndpoint(predictor, figures), methods=["POST"]))
    promote = TopicPartition(topic_name(settings.namespace, "promote"), 0)

    async def caught_up() -> bool:
        """Ask Kafka whether `promote` was read to its end. Where the clock is virtual somebody waits for the answer to
        be true; elsewhere what was read last is news enough, and Kafka may be away.
        """
        if settings.clock != "virtual":
            return True
        try:
            asked = admin.list_offsets({promote: OffsetSpec.latest()}, request_timeout=2)[promote]
            end: int = (await asyncio.wrap_future(asked)).offset
        except KafkaException:
            return False
        return endpoint.position >= end

    @app.get("/v1/endpoint")
    async def state() -> dict[str, Any]:
        """What the endpoint should serve and what it does serve, and what is still on its way to Kafka."""
        read = await caught_up()
        desired, served = endpoint.desired, endpoint.served
        return {
            "endpoint": endpoint.name,
            "desired_revision": desired.revision if desired else 0,
            "revision": served.promote.revision if served else 0,
            "converged": endpoint.converged and read,
            "error": endpoint.error,
            "model": served.promote.model if served else "",
            "rollout_id": served.promote.rollout_id if served else "",
            "stage": served.promote.stage if served else "",
            "deployments": [msgspec.to_builtins(one.deployment) for one in served.deployed] if served else [],
            "desired": [msgspec.to_builtins(one) for one in desired.deployments] if desired else [],
            "outbox": {
                "pending": outbox.pending,
                "bytes": outbox.bytes_on_disk,
                "behind": outbox.behind,
                "dropped": outbox.dropped,
                "refused": outbox.refused,
            },
            "shadow": {"pending": figures.shadow_pending},
        }

    @app.get("/healthz")
    async def health(response: Response) -> dict[str, Any]:
        """Whether the process works; if not, it should be started again."""
        ill = healthy()
        response.status_code = 503 if ill else 200
        return {"ok": not ill, "reason": ill}

    @app.get("/readyz")
    async def ready(response: Response) -> dict[str, Any]:
        """Whether it can answer predictions. Kafka being away, or a revision that cannot be loaded, does not matter."""
        reasons = [why_not_serving(endpoint)] if endpoint.served is None else []
        response.status_code = 503 if reasons else 200
        return {"ok": not reasons, "reasons": reasons}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counters and gauges in Prometheus' text format."""
        return Response(generate_latest(figures.registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        known = f"POST {PREDICT}, GET /v1/endpoint, /healthz, /readyz, /metrics, /openapi.json"
        text = f"{request.method} {request.url.path}: {error.detail}"
        return Response(
            _encode(ErrorAnswer(error=text, expected=known)),
            error.status_code,
            headers=error.headers,
            media_type="application/json",
        )

    _document(app)
    return app


def _document(app: FastAPI) -> None:
    """Add the hot path to the OpenAPI document: its route is none of FastAPI's."""
    generic = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = generic()
            (asked, told, failed), components = msgspec.json.schema_components(
                (PredictRequest, PredictAnswer, ErrorAnswer), ref_template="#/components/schemas/{name}"
            )
            found.setdefault("components", {}).setdefault("schemas", {}).update(components)
            answers = {"200": ("the answer", told)} | {
                str(status): (text, failed)
                for status, text in {
                    400: "the body is not JSON",
                    413: f"the body has more than {MAX_BODY} bytes",
                    422: "the body is JSON, but not what was expected",
                    503: "nothing is loaded that could answer",
                }.items()
            }
            found["paths"][PREDICT] = {
                "post": {
                    "summary": "Predict",
                    "description": PredictRequest.__doc__,
                    "operationId": "predict",
                    "requestBody": {"required": True, "content": {"application/json": {"schema": asked}}},
                    "responses": {
                        status: {"description": text, "content": {"application/json": {"schema": schema}}}
                        for status, (text, schema) in answers.items()
                    },
                }
            }
            app.openapi_schema = found
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
