"""The body is thin whatever the alert is, and the signature is the standard's."""

from __future__ import annotations

import json
import os
import time
from base64 import b64encode

import pytest
from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from schemas.errors import WeirError
from schemas.settings import Webhook
from schemas.verdict import Verdict
from services.alert.payload import LIMIT_BYTES, headers, render, signers, webhook_id
from services.alert.plan import Notice
from tests.services.alert.receiver import SECRET, alert


def webhook(secret: str) -> Webhook:
    return Webhook(name="ops", url="https://example.org/", secret=SecretStr(secret))


def test_the_body_says_what_happened() -> None:
    evidence = Verdict(outcome="fail", gate="psi", statistic=0.31, threshold=0.2, n=900, sentence="PSI rose")
    event = json.loads(render("prod", Notice(alert("a1", evidence=[evidence], slice="country=DE"), 5, 2)))
    assert (event["type"], event["timestamp"]) == ("alert.firing", "2023-11-14T22:13:20.123Z")
    data = event["data"]
    assert (data["id"], data["namespace"], data["since_ms"], data["repeat"]) == ("a1", "prod", 5, 2)
    assert data["evidence"][0] == {"outcome": "fail", "gate": "psi", "statistic": 0.31, "threshold": 0.2} | {
        "n": 900,
        "sentence": "PSI rose",
    }
    assert "truncated" not in data


@pytest.mark.parametrize("filler", ["x", "ä", "\x01", "🙂", '"'])
def test_it_stays_under_20_kb(filler: str) -> None:
    long = filler * 5_000
    huge = alert(
        filler * 120,
        filler * 120,
        rule=filler * 120,
        model=long,
        version=long,
        slice=long,
        summary=long,
        evidence=[Verdict(outcome="fail", sentence=long)] * 20,
        links={f"{number}{long}": long for number in range(20)},
    )
    body = render("prod", Notice(huge, 0, 0))
    assert len(body) < LIMIT_BYTES
    data = json.loads(body)["data"]
    assert data["truncated"]
    assert data["summary"].startswith(filler)


def test_an_id_is_of_one_notice_to_one_endpoint() -> None:
    first, again = Notice(alert("a"), 0, 0), Notice(alert("a"), 0, 1)
    ids = [webhook_id(*place, notice) for place in (("n", "x"), ("n", "y"), ("o", "x")) for notice in (first, again)]
    assert len(set(ids)) == 6
    assert webhook_id("n", "x", Notice(alert("a", summary="else"), 9, 0)) == ids[0]


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York"])
def test_the_signature_is_right_in_every_time_zone(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        body = render("prod", Notice(alert("a"), 0, 0))
        signed = headers(signers(webhook(SECRET)), "msg_1", body, time.time_ns() // 1_000_000)
        assert Verifier(SECRET).verify(body, signed)["type"] == "alert.firing"
        with pytest.raises(WebhookVerificationError):
            Verifier(SECRET).verify(body + b" ", signed)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_two_secrets_overlap_while_one_is_replaced() -> None:
    newer = "whsec_" + b64encode(os.urandom(24)).decode()
    signed = headers(signers(webhook(f"{SECRET} {newer}")), "msg_1", b"{}", time.time_ns() // 1_000_000)
    for secret in (SECRET, newer):
        Verifier(secret).verify(b"{}", signed)


@pytest.mark.parametrize("secret", ["", "hunter2", "whsec_", "whsec_c2hvcnQ=", "whsec_é", "whsec_" + "A" * 200])
def test_a_weak_secret_is_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(WeirError, match="'ops'") as refused:
        signers(webhook(secret))
    if len(secret) > 6:
        assert secret not in str(refused.value)
