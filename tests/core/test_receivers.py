"""No webhook reaches an address inside, however it is written or whatever a name answers."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from core.errors import AttuneError
from core.webhooks import receivers
from core.webhooks.receivers import Allowed

NONE = Allowed("")

INSIDE = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "100.64.0.1", "169.254.169.254", "172.16.0.1", "192.168.1.1",
    "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "[::]", "[::1]", "[fd00::1]", "[fe80::1]",
    "[fec0::1]", "[ff02::1]", "[::ffff:127.0.0.1]", "[::ffff:a00:1]", "[::7f00:1]", "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]", "[2002:a00:1::1]", "[2001:db8::1]", "localhost", "LOCALHOST.", "a.localhost",
]  # fmt: skip


@pytest.mark.parametrize("host", INSIDE)
def test_inside_hosts_are_refused(host: str) -> None:
    with pytest.raises(AttuneError) as refused:
        receivers.parse(f"http://{host}/hook", NONE)
    assert (refused.value.code, refused.value.param, refused.value.status) == ("webhook_address_refused", "url", 400)


MALFORMED = [
    "", "hook", "//example.com/x", "file:///etc/passwd", "gopher://example.com/", "ftp://example.com/",
    "http://", "http:///x", "http://user@example.com/", "http://user:pass@example.com/", "http://example.com:22/",
    "http://example.com:6379/", "https://example.com:0/", "http://example.com:99999/", "http://example.com:x/",
    "http://2130706433/", "http://0177.0.0.1/", "http://0x7f.1/", "http://0x7f000001/", "http://127.1/", "http://1/",
    "http://127.0.0.1.1/", "http://exämple.com/", "http://ⓔxample.com/", "http://example.com/ x",
    "http://ex ample.com/", "http://example.com\\@127.0.0.1/", "http://example.com/\r\nX: y", "http://example.com/\x00",
    "http://-a.com/", "http://a..b/", "http://example.com/#x",
    "http://[::1/", "http://[fe80::1%25eth0]/", "http://a_" + "b" * 63 + ".c/",
    "http://example.com/" + "x" * 2048,
]  # fmt: skip


@pytest.mark.parametrize("url", MALFORMED)
def test_what_is_no_receiver_is_refused_by_its_form(url: str) -> None:
    with pytest.raises(AttuneError) as refused:
        receivers.parse(url, NONE)
    assert refused.value.code in ("invalid_webhook_url", "webhook_address_refused")


PUBLIC = ["https://example.com/h?a=b", "http://xn--exmple-cua.com", "https://8.8.8.8/", "https://[2606:4700::1111]/x"]


@pytest.mark.parametrize("url", PUBLIC)
def test_the_internet_is_accepted(url: str) -> None:
    target = receivers.parse(url, NONE)
    assert target.port == (443 if url.startswith("https") else 80)
    assert target.path.startswith("/")


def answer_with(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """The resolver's answers, one after the other; returns the names that were asked for."""
    asked: list[str] = []
    left = list(answers)

    def look_up(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in left.pop(0)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


def test_a_name_is_resolved_once_and_every_address_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    target = receivers.parse("https://rebinding.example/", NONE)
    asked = answer_with(monkeypatch, ["8.8.8.8", "8.8.4.4"], ["8.8.8.8", "10.0.0.1"], ["127.0.0.1"])
    assert receivers.resolve(target, NONE) == ["8.8.8.8", "8.8.4.4"]
    assert asked == ["rebinding.example"]
    for address in ("10.0.0.1", "127.0.0.1"):
        with pytest.raises(AttuneError, match=address):
            receivers.resolve(target, NONE)


def test_an_operator_opens_names_addresses_and_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = Allowed(" hooks.lan, 10.0.0.0/8,127.0.0.1 ,")
    assert receivers.parse("http://127.0.0.1:9000/", allowed).port == 9000
    assert receivers.parse("http://10.2.3.4:8080/", allowed).port == 8080
    with pytest.raises(AttuneError):
        receivers.parse("http://192.168.0.1/", allowed)
    named = receivers.parse("http://hooks.lan:9000/", allowed)
    other = receivers.parse("http://other.lan:9000/", allowed)  # may lie in a listed network
    public = receivers.parse("http://example.com:22/", allowed)
    answer_with(monkeypatch, ["192.168.0.1"], ["10.9.9.9"], ["192.168.0.1"], ["10.9.9.9", "192.168.0.1"], ["8.8.8.8"])
    assert receivers.resolve(named, allowed) == ["192.168.0.1"]
    assert receivers.resolve(other, allowed) == ["10.9.9.9"]
    for target in (other, other, public):
        with pytest.raises(AttuneError):
            receivers.resolve(target, allowed)
    with pytest.raises(ValueError, match="does not appear"):
        Allowed("10.0.0.0/99")


def test_addresses_that_carry_another_are_judged_by_it() -> None:
    assert receivers.is_public(ipaddress.ip_address("::ffff:8.8.8.8"))
    assert receivers.is_public(ipaddress.ip_address("2002:808:808::1"))
    assert not receivers.is_public(ipaddress.ip_address("2002:c0a8:1::1"))
