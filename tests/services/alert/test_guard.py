"""What may be reached: tried through a real client, because the guard sits in a private place of its library."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from schemas.errors import WeirError
from schemas.settings import Webhook
from services.alert.guard import check_url, look_up, refusal, transport
from tests.services.alert.receiver import SECRET, Reply, receiving

PRIVATE = ("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "::1", "fd00::1", "::ffff:10.0.0.1")
NEVER = (
    *("0.0.0.0", "169.254.169.254", "224.0.0.1", "255.255.255.255", "::", "fe80::1", "ff02::1", "::127.0.0.1"),
    *("64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:53aa:64c:0:7f00:0:1", "::ffff:169.254.169.254"),
)
PUBLIC = ("8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8")


def test_addresses() -> None:
    for text in PRIVATE:
        assert refusal(ip_address(text), allow_private=False), text
        assert not refusal(ip_address(text), allow_private=True), text
    for text in NEVER:
        assert refusal(ip_address(text), allow_private=True), text
    for text in PUBLIC:
        assert not refusal(ip_address(text), allow_private=False), text


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f000001", "2130706433", "127.1", "[::ffff:127.0.0.1]"])
def test_loopback_is_refused_by_any_name(host: str) -> None:
    with receiving() as receiver:
        client = httpx2.Client(transport=transport(allow_private=False, total_s=5), trust_env=False)
        with client, pytest.raises(httpx2.ConnectError, match=r"refused|no address"):
            client.post(f"http://{host}:{receiver.port}/", content=b"{}")
        assert receiver.posts == []


def test_the_checked_address_is_the_one_that_is_reached() -> None:
    answers = iter([["127.0.0.1"], ["203.0.113.9", "127.0.0.1"]])

    def rebinding(host: str, port: int) -> list[str]:
        assert host == "hooks.example.org"
        return next(answers)

    with receiving() as receiver:
        guarded = transport(allow_private=True, total_s=5, resolve=rebinding)
        with httpx2.Client(transport=guarded, trust_env=False) as client:
            url = f"http://hooks.example.org:{receiver.port}/"
            signed = {"webhook-id": "1", "webhook-timestamp": "1", "webhook-signature": "v1,"}
            assert client.post(url, content=b"{}", headers=signed).status_code == 204
            assert receiver.posts[0].headers["host"] == f"hooks.example.org:{receiver.port}"
        receiver.forged.clear()
        guarded = transport(allow_private=False, total_s=5, resolve=rebinding)
        client = httpx2.Client(transport=guarded, trust_env=False)
        with client, pytest.raises(httpx2.ConnectError, match=r"127\.0\.0\.1 is not a public address"):
            client.post(url, content=b"{}")  # one address that is refused refuses all
        assert len(receiver.posts) == 1


def test_a_name_without_an_address() -> None:
    client = httpx2.Client(transport=transport(allow_private=True, total_s=5), trust_env=False)
    with client, pytest.raises(httpx2.ConnectError, match="no address"):
        client.post(f"https://{'a' * 70}.invalid/")
    assert look_up("127.0.0.1", 80) == ["127.0.0.1"]


def test_the_environment_names_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving(otherwise=Reply()) as receiver, receiving() as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        guarded = transport(allow_private=True, total_s=5)
        with httpx2.Client(transport=guarded, trust_env=False) as client:
            client.post(f"http://127.0.0.1:{receiver.port}/", content=b"{}")
        assert (len(receiver.posts), len(proxy.posts)) == (1, 0)
        receiver.forged.clear()


def test_dripping_is_cut_off_by_one_deadline() -> None:
    with dripping() as port, httpx2.Client(transport=transport(allow_private=True, total_s=0.5), timeout=0.3) as client:
        began = time.monotonic()
        with pytest.raises(httpx2.TimeoutException):
            client.post(f"http://127.0.0.1:{port}/", content=b"{}")
        assert time.monotonic() - began < 3


def test_tls_verifies_the_name_and_not_the_address(tmp_path: Path) -> None:
    with tls_server(tmp_path, "hooks.example.org") as (port, certificate):
        trusted = ssl.create_default_context(cafile=certificate)

        def post(host: str, verify: ssl.SSLContext | bool) -> int:
            guarded = transport(allow_private=True, total_s=5, resolve=lambda *_: ["127.0.0.1"], verify=verify)
            with httpx2.Client(transport=guarded, trust_env=False) as client:
                return client.post(f"https://{host}:{port}/", content=b"{}").status_code

        assert post("hooks.example.org", trusted) == 204
        with pytest.raises(httpx2.ConnectError, match="Hostname mismatch"):
            post("other.example.org", trusted)
        with pytest.raises(httpx2.ConnectError, match="self-signed"):
            post("hooks.example.org", True)


@contextmanager
def tls_server(directory: Path, name: str) -> Iterator[tuple[int, Path]]:
    """Serve 204 under a certificate of this name; give the port and the certificate's file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = directory / "server.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            return

    class Server(ThreadingHTTPServer):
        def finish_request(self, request: Any, client_address: Any) -> None:
            # A handshake that the client breaks off is what is tested.
            with contextlib.suppress(OSError), context.wrap_socket(request, server_side=True) as secured:
                super().finish_request(secured, client_address)

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield int(server.server_address[1]), path
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextmanager
def dripping() -> Iterator[int]:
    """Serve one connection a byte of an endless header every 50 ms."""
    server = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        connection, _ = server.accept()
        with connection:
            try:
                connection.sendall(b"HTTP/1.1 200 OK\r\nx: ")
                while True:
                    connection.sendall(b"x")
                    time.sleep(0.05)
            except OSError:
                return

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        thread.join(5)
        server.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://example.org/", "scheme http"),
        ("https://example.org:8443/", "port 8443"),
        ("ftp://example.org/", "https://host/path"),
        ("https:///path", "https://host/path"),
        ("example.org", "https://host/path"),
        ("https://[::1", "cannot be read"),
    ],
)
def test_a_url_that_cannot_be(url: str, said: str) -> None:
    with pytest.raises(WeirError, match=said):
        check_url(Webhook(name="ops", url=url, secret=SecretStr(SECRET)))


def test_urls_that_can() -> None:
    for url in ("https://example.org/x?token=1", "https://example.org:443/"):
        check_url(Webhook(name="ops", url=url, secret=SecretStr(SECRET)))
    check_url(Webhook(name="ops", url="http://10.0.0.1:9000/", secret=SecretStr(SECRET), allow_private=True))
