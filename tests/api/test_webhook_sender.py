"""One try at a receiver: its answer read to a bound, its address pinned, its certificate checked."""

from __future__ import annotations

import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from api.beside.webhook_sender import ANSWER_BYTES, Sender
from core.webhooks import signatures
from tests.api.receiver import Receiver, endless, receiver


def test_a_long_answer_is_read_to_its_bound(inbox: Receiver) -> None:
    """The receiver may send gigabytes: 64 kB are taken, and the connection is closed."""
    inbox.answers["/a"] = endless
    started = time.monotonic()
    outcome = Sender("127.0.0.1").send(inbox.url + "/a", [signatures.new_secret()], "evt_1", b"{}")
    assert (outcome.status_code, outcome.error) == (200, None)
    assert time.monotonic() - started < 2.0
    assert ANSWER_BYTES == 64 * 1024


def test_proxies_of_the_environment_are_not_asked(inbox: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert httpx.URL(inbox.url).host == "127.0.0.1"
    assert Sender("127.0.0.1").send(inbox.url + "/a", [signatures.new_secret()], "evt_1", b"{}").status_code == 204


def test_the_host_that_is_asked_for_stays_in_the_request(inbox: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address is pinned; name and port reach the receiver as the URL has them."""
    port = int(inbox.url.rsplit(":", 1)[1])
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("127.0.0.1", port))])
    outcome = Sender("hooks.lan").send(f"http://hooks.lan:{port}/a?b=c", [signatures.new_secret()], "evt_1", b"{}")
    assert outcome.status_code == 204
    [one] = inbox.at("/a?b=c")
    assert one.headers["host"] == f"hooks.lan:{port}"
    refused = Sender("").send("http://rebound.example/", [signatures.new_secret()], "evt_1", b"{}")
    assert refused.status_code is None
    assert "127.0.0.1 is no address of the internet" in (refused.error or "")
    assert len(inbox.received) == 1


def test_tls_asks_for_the_name_and_checks_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate of the URL's host is accepted at the pinned address, another's is not."""
    certificate, key = self_signed("hooks.lan", tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    asked: list[str | None] = []
    context.sni_callback = lambda _, name, __: asked.append(name)
    with receiver(context) as inbox:
        port = int(inbox.url.rsplit(":", 1)[1])
        monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("127.0.0.1", port))])
        sender = Sender("hooks.lan,other.lan")
        good = sender.send(f"https://hooks.lan:{port}/a", [signatures.new_secret()], "evt_1", b"{}")
        assert (good.status_code, good.error) == (204, None)
        wrong = sender.send(f"https://other.lan:{port}/a", [signatures.new_secret()], "evt_1", b"{}")
        assert wrong.status_code is None
        assert "certificate" in (wrong.error or "").lower()
    assert asked == ["hooks.lan", "other.lan"]
    assert len(inbox.received) == 1


def self_signed(name: str, folder: Path) -> tuple[Path, Path]:
    """(certificate, key) of a host that is its own authority."""
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
    files = (folder / "certificate.pem", folder / "key.pem")
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files
