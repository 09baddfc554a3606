"""Which addresses a webhook may reach, decided where the connection is made.

A URL comes from settings, its address from DNS, and DNS may answer differently the second time: so a name is resolved
once, every address is checked, and the connection goes to the checked address (TLS still verifies the name). Without
`allow_private` only public addresses, `https` and port 443 will do. With it also loopback, private ranges, `http` and
other ports; link-local addresses (where clouds answer with credentials), multicast and the like never.

Redirects are not followed and no proxy is taken from the environment: both would go around this. Reads and writes of
one request share one deadline, so that a receiver that drips bytes cannot hold a courier.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from typing import Any

import httpcore2
import httpx2

from schemas.errors import ENVIRONMENT, USAGE, WeirError
from schemas.settings import Webhook

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Iterable[str]]

_TRANSLATED = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))  # NAT64: IPv4 inside
_HTTPS = 443


def refusal(address: Address, *, allow_private: bool) -> str:
    """Say why an address may not be connected to; empty: it may.

    >>> refusal(ipaddress.ip_address("::ffff:127.0.0.1"), allow_private=False)
    '127.0.0.1 is not a public address'
    >>> refusal(ipaddress.ip_address("169.254.169.254"), allow_private=True)
    '169.254.169.254 is link-local, multicast or reserved'
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        elif address.sixtofour or address.teredo or any(address in network for network in _TRANSLATED):
            return f"{address} hides an IPv4 address"
    reserved = address.is_reserved and not address.is_loopback
    if address.is_link_local or address.is_multicast or address.is_unspecified or reserved:
        return f"{address} is link-local, multicast or reserved"
    if not allow_private and not address.is_global:
        return f"{address} is not a public address"
    return ""


def check_url(webhook: Webhook) -> None:
    """Check what can be seen without DNS. Raises `WeirError` (usage); the URL, often a secret, is not shown."""
    said = f"the url of webhook {webhook.name!r}"
    try:
        url = httpx2.URL(webhook.url)
    except (httpx2.InvalidURL, ValueError) as error:
        raise WeirError(f"{said} cannot be read: {error}", fix="correct alert.webhooks", code=USAGE) from None
    if url.scheme not in ("http", "https") or not url.host:
        raise WeirError(f"{said} is not like https://host/path", fix="correct alert.webhooks", code=USAGE)
    if webhook.allow_private:
        return
    if url.scheme != "https" or (url.port or _HTTPS) != _HTTPS:
        raise WeirError(
            f"{said} has scheme {url.scheme} and port {url.port or _HTTPS}; expected https and 443",
            fix="use https, or set allow_private = true for a receiver of your own",
            code=USAGE,
        )


def transport(
    *, allow_private: bool, total_s: float, resolve: Resolve | None = None, verify: ssl.SSLContext | bool = True
) -> httpx2.HTTPTransport:
    """Give a transport that connects through the guard, anew for every request, within `total_s` seconds for each."""
    limits = httpx2.Limits(max_connections=4, max_keepalive_connections=0)
    guarded = httpx2.HTTPTransport(verify=verify, trust_env=False, limits=limits)
    pool = getattr(guarded, "_pool", None)
    if not isinstance(getattr(pool, "_network_backend", None), httpcore2.NetworkBackend):
        raise WeirError(
            f"httpx2 {httpx2.__version__} keeps its network backend elsewhere: webhooks would go out unguarded",
            fix="install the versions of constraints.txt",
            code=ENVIRONMENT,
        )
    pool._network_backend = Guard(allow_private=allow_private, total_s=total_s, resolve=resolve or look_up)  # type: ignore[union-attr]
    return guarded


def look_up(host: str, port: int) -> list[str]:
    """Resolve a name into addresses, in the system's order of preference."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Guard(httpcore2.SyncBackend):
    """Connects to checked addresses only. Raises `httpcore2.ConnectError` that says why not."""

    def __init__(self, *, allow_private: bool, total_s: float, resolve: Resolve = look_up) -> None:
        self._allow_private, self._total_s, self._resolve = allow_private, total_s, resolve

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        deadline = time.monotonic() + self._total_s
        try:
            addresses = [ipaddress.ip_address(text) for text in self._resolve(host, port)]
        except (OSError, ValueError) as error:
            raise httpcore2.ConnectError(f"{host} has no address: {error}") from None
        reasons = [why for address in addresses if (why := refusal(address, allow_private=self._allow_private))]
        if reasons or not addresses:
            why = "; ".join(reasons) or "no address"
            raise httpcore2.ConnectError(f"{host} is refused: {why}. A receiver of your own needs allow_private = true")
        options, failed = list(socket_options or ()), ""
        for address in addresses:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            try:
                stream = super().connect_tcp(str(address), port, left_s, local_address, options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failed = f"{address}: {error}"
            else:
                return _Bounded(stream, deadline)
        raise httpcore2.ConnectError(f"{host} cannot be reached: {failed or 'no time left'}")

    def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        raise httpcore2.ConnectError("a webhook is not sent to a socket of this machine")


class _Bounded(httpcore2.NetworkStream):
    """A stream whose reads and writes all end by one deadline."""

    def __init__(self, stream: httpcore2.NetworkStream, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline

    def _left(self, timeout: float | None) -> float:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise httpcore2.ReadTimeout("no whole answer in time")
        return left_s if timeout is None else min(left_s, timeout)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._left(timeout))

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        secured = self._stream.start_tls(ssl_context, server_hostname, self._left(timeout))
        return _Bounded(secured, self._deadline)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
