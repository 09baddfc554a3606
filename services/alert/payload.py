"""What is sent, and how it is signed: Standard Webhooks 1.0, JSON `{type, timestamp, data}` of less than 20 kB."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import xxhash
from standardwebhooks.webhooks import Webhook as Signer

from schemas.errors import USAGE, WeirError
from schemas.settings import Webhook
from services.alert.plan import Notice

LIMIT_BYTES = 20_000
MAX_EVIDENCE = 5
MAX_LINKS = 10
_PREFIX = "whsec_"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def webhook_id(namespace: str, endpoint: str, notice: Notice) -> str:
    """Give the idempotency key: the same for every attempt, and after every restart, of one notice to one endpoint."""
    return f"msg_{xxhash.xxh3_128_hexdigest(repr((namespace, endpoint, notice.alert.id, notice.repeat)).encode())}"


def render(namespace: str, notice: Notice) -> bytes:
    """Give the body. It is thin: evidence and links that would make it too large are left out, and it says so.

    `timestamp` is when it happened (`at_ms`), which in a namespace with a virtual clock is virtual.
    """
    alert = notice.alert
    links = dict(sorted((key[:128], value[:1024]) for key, value in alert.links.items())[:MAX_LINKS])
    data: dict[str, Any] = {
        "namespace": namespace,
        "id": alert.id,
        "fingerprint": alert.fingerprint,
        "rule": alert.rule,
        "status": alert.status,
        "severity": alert.severity,
        "model": alert.model[:128],
        "version": alert.version[:128],
        "slice": alert.slice[:256],
        "summary": alert.summary[:1024],
        "evidence": [msgspec.to_builtins(verdict) for verdict in alert.evidence[:MAX_EVIDENCE]],
        "links": links,
        "since_ms": notice.since_ms,
        "at_ms": alert.at_ms,
        "repeat": notice.repeat,
    }
    moment = (_EPOCH + timedelta(milliseconds=alert.at_ms)).isoformat(timespec="milliseconds")
    cut = len(alert.evidence) > MAX_EVIDENCE or len(alert.links) > MAX_LINKS or len(alert.summary) > 1024
    while True:
        if cut:
            data["truncated"] = True
        event = {"type": f"alert.{alert.status}", "timestamp": moment.replace("+00:00", "Z"), "data": data}
        body = msgspec.json.encode(event)
        if len(body) < LIMIT_BYTES or not (data["evidence"] or links):
            return body
        cut = True
        if data["evidence"]:
            data["evidence"].pop()
        else:
            links.popitem()


def signers(webhook: Webhook) -> list[Signer]:
    """Give a signer per secret: several, parted by spaces, overlap while a secret is being replaced.

    Raises `WeirError` that never shows a secret.
    """
    secrets = webhook.secret.get_secret_value().split()
    for secret in secrets or [""]:
        text = secret.removeprefix(_PREFIX).rstrip("=")
        try:
            size = len(base64.b64decode(text + "=" * (-len(text) % 4), validate=True))
        except ValueError:
            size = 0
        if not secret.startswith(_PREFIX) or not 24 <= size <= 64:
            raise WeirError(
                f"the secret of webhook {webhook.name!r} is not one of Standard Webhooks: "
                f"expected {_PREFIX} and 24 to 64 bytes in base64",
                fix='make one: python -c "import base64, os; '
                f"print('{_PREFIX}' + base64.b64encode(os.urandom(32)).decode())\"",
                code=USAGE,
            )
    return [Signer(secret) for secret in secrets]


def headers(secrets: list[Signer], id: str, body: bytes, now_ms: int) -> dict[str, str]:
    """Give the headers of one attempt made at `now_ms`, which must be the receiver's time within five minutes."""
    # The library signs the wall-clock fields of what it gets and takes them for UTC, so UTC it must be.
    moment = datetime.fromtimestamp(now_ms // 1000, UTC)
    text = body.decode()
    return {
        "content-type": "application/json",
        "user-agent": "weir",
        "accept-encoding": "identity",
        "webhook-id": id,
        "webhook-timestamp": str(now_ms // 1000),
        "webhook-signature": " ".join(signer.sign(id, moment, text) for signer in secrets),
    }
