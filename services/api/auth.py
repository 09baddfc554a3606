"""One bearer token in front of everything under /v1. It is never read from a query string: those land in logs."""

from __future__ import annotations

import hmac
import ipaddress
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from schemas.errors import USAGE, WeirError
from schemas.settings import Settings
from services.api.errors import Refused

_scheme = HTTPBearer(auto_error=False, description="settings.api.token; `weir up` prints one")
Given = Annotated[HTTPAuthorizationCredentials | None, Depends(_scheme)]


class Bearer:
    """A FastAPI dependency that lets the token's holder pass."""

    def __init__(self, token: str) -> None:
        if not token:
            raise ValueError("expected a token")
        self._token = token.encode()

    def __call__(self, given: Given) -> None:
        """Raise `Refused` (401) without the right token."""
        if given is None:
            raise self._refused("no bearer token was sent", "Bearer")
        if not hmac.compare_digest(given.credentials.encode(), self._token):
            raise self._refused("the token is not the one of this server", 'Bearer error="invalid_token"')

    def _refused(self, what: str, challenge: str) -> Refused:
        fix = "send `Authorization: Bearer TOKEN`; the token is settings.api.token, and `weir up` prints it"
        return Refused(401, what, fix, headers={"WWW-Authenticate": challenge})


def check_binding(settings: Settings) -> None:
    """Raise `WeirError` for an address that others can reach when no token was set."""
    at = settings.api
    if at.token.get_secret_value() or is_loopback(at.host):
        return
    raise WeirError(
        f"api.host is {at.host}, which other machines reach, and api.token is empty",
        fix="set a token (WEIR_API__TOKEN), or api.host to 127.0.0.1",
        code=USAGE,
    )


def is_loopback(host: str) -> bool:
    """Say whether only this machine reaches a host.

    >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.7", "weir.local")]
    [True, True, True, False, False, False]
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
