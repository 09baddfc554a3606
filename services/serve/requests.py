"""What the body of `POST /v1/predict` may say, and what comes back."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from schemas.event import Name, RequestId, TimeMs

MAX_BODY: Final = 256 << 10
"""Far below what a record may hold: numbers written out in full can be several times longer."""

Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Value = bool | Int64 | float | str | None

EXPECTED: Final = (
    '{"features": {name: number, string, true, false or null}, and optionally "request_id": 1 to 128 characters, '
    '"subject": string, "slices": {name: value}, "app_version": string, "at_ms": integer (virtual clock only)}'
)


class PredictRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """Features to score. `subject` is the pseudonymous user, and decides which deployment answers.

    `request_id` joins the answer with what follows it; one is made (UUIDv7) and returned when it is absent. `at_ms` is
    needed where the namespace's clock is virtual, and refused elsewhere.
    """

    features: dict[str, Value]
    request_id: RequestId | None = None
    subject: Annotated[str, Meta(max_length=256)] = ""
    slices: dict[str, Value] = {}
    app_version: Annotated[str, Meta(max_length=128)] = ""
    at_ms: TimeMs | None = None


class PredictAnswer(Struct, frozen=True, kw_only=True, gc=False):
    """The score is the probability of the positive class, `prediction` 1 when it reaches the threshold, else 0.

    `version` and `deployment` say who answered, `revision` in which desired state of the endpoint.
    """

    request_id: RequestId
    model: Name
    version: str
    deployment: str
    revision: int
    score: float
    prediction: int
    threshold: float


class ErrorAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong, in a sentence; what was expected; and the request's id where it could be read."""

    error: str
    expected: str = ""
    request_id: str = ""


class BadRequest(Exception):
    """A body that is no request; `status` is 400 (not JSON), 413 (too large) or 422 (JSON, but not this)."""

    def __init__(self, status: int, message: str, request_id: str = "") -> None:
        super().__init__(message)
        self.status, self.request_id = status, request_id


_decoder = msgspec.json.Decoder(PredictRequest)


def read_request(body: bytes) -> PredictRequest:
    """Decode a body. Raises `BadRequest`.

    >>> read_request(b'{"features": {"a": 1.5}}').features
    {'a': 1.5}
    >>> read_request(b'{"features": {"a": [1]}}')
    Traceback (most recent call last):
    services.serve.requests.BadRequest: Expected `bool | int | float | str | null`, got `array` - at `$.features.a`
    """
    try:
        return _decoder.decode(body)
    except UnicodeDecodeError as error:
        raise BadRequest(400, f"the body is not UTF-8: byte {error.start} is wrong") from None
    except RecursionError:
        raise BadRequest(400, "the body is nested too deeply") from None
    except msgspec.ValidationError as error:
        raise _not_a_request(body, str(error)) from None
    except (msgspec.DecodeError, ValueError) as error:
        hint = "; NaN and Infinity are not JSON, send null" if re.search(rb"\b(NaN|Infinity)\b", body) else ""
        raise BadRequest(400, f"the body is not JSON: {error}{hint}") from None


def _not_a_request(body: bytes, message: str) -> BadRequest:
    """Name the value that is wrong, which msgspec does not, and the request, so that its sender can find it."""
    try:
        said: Any = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return BadRequest(422, message)
    if not isinstance(said, dict):
        return BadRequest(422, message)
    for field in ("features", "slices"):
        values = said.get(field)
        for name, value in values.items() if isinstance(values, dict) else ():
            wrong = isinstance(value, list | dict) or (isinstance(value, int) and not -(2**63) <= value < 2**63)
            if wrong and f"$.{field}[...]" in message:
                message = message.replace(f"$.{field}[...]", f"$.{field}.{name[:64]}")
    found = said.get("request_id")
    return BadRequest(422, message, found if isinstance(found, str) and len(found) <= 128 else "")
