"""Where a webhook may go. A tenant writes the URL and we make the request, so nothing inside may be reached by it.

The form of a URL is settled when it is given; its name is resolved at each delivery, once, every address is
judged, and the connection goes to a judged address (a second look-up could answer with another).
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from urllib.parse import urlsplit

from core.errors import AttuneError

MAX_URL = 2048
PORTS = {"http": 80, "https": 443}
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.IGNORECASE)
Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class Target:
    """A receiver as its URL names it. `host`: without the brackets of an IPv6 address."""

    scheme: str
    host: str
    port: int
    path: str  # with the query

    @property
    def literal(self) -> Address | None:
        return _address(self.host)


class Allowed:
    """An operator's list: names, addresses and networks that may be reached though they are inside, at any port."""

    def __init__(self, text: str) -> None:
        """`text`: comma separated. Raises ValueError for a network that is none."""
        entries = [entry.strip().lower() for entry in text.split(",") if entry.strip()]
        self._networks: list[IPv4Network | IPv6Network] = []
        self._names: set[str] = set()
        for entry in entries:
            if "/" in entry or _address(entry) is not None:
                self._networks.append(ipaddress.ip_network(entry, strict=False))
            else:
                self._names.add(entry.rstrip("."))

    def has_name(self, host: str) -> bool:
        return host in self._names

    def may_have(self, host: str) -> bool:
        """False: this name cannot be listed, wherever it leads."""
        return bool(self._networks) or self.has_name(host)

    def has(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def parse(url: str, allowed: Allowed) -> Target:
    """The URL's parts. Raises the 400 of one that cannot be, or by its form alone may not be, a receiver."""
    if len(url) > MAX_URL:
        raise _refused(f"it is longer than {MAX_URL} characters")
    if not url.isascii() or not url.isprintable() or re.search(r"[\s\\]", url):
        raise _refused("it holds spaces, backslashes or characters beyond ASCII (write a host as punycode, xn--…)")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _refused(f"it cannot be read ({error})") from error
    if parts.scheme not in PORTS:
        raise _refused("it has to begin with https:// or http://")
    if "@" in parts.netloc:
        raise _refused("it holds a user name or password; the signature is what proves the sender")
    if parts.fragment or url.endswith("#"):
        raise _refused("it has a fragment (#…), which is never sent")
    host = (parts.hostname or "").rstrip(".")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    target = Target(parts.scheme, host, PORTS[parts.scheme] if port is None else port, path)
    _check_host(target, allowed)
    return target


def _check_host(target: Target, allowed: Allowed) -> None:
    literal = target.literal
    if literal is not None:
        judge(target, [literal], allowed)
        return
    labels = target.host.split(".")
    if not target.host or len(target.host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise _refused("it has no valid host name")
    # 2130706433, 0x7f.1 and 0177.0.0.1 are 127.0.0.1 to the resolver: no name ends in a number
    if re.fullmatch(r"\d+|0x[0-9a-f]*", labels[-1]):
        raise _refused("its host is a number; write an address as four decimal numbers")
    if allowed.may_have(target.host):
        return  # known when it is resolved
    if labels[-1] == "localhost":
        raise _inside(target.host)
    _check_port(target)


def _check_port(target: Target) -> None:
    if target.port not in PORTS.values():
        raise _refused(f"its port is {target.port}; 80 and 443 are allowed")


def resolve(target: Target, allowed: Allowed) -> list[str]:
    """The addresses to connect to. Raises AttuneError when there are none, or when one of them is inside."""
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        message = f"The host '{target.host}' cannot be resolved ({error})."
        raise AttuneError(message, code="webhook_host_unknown", param="url") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    judge(target, [ipaddress.ip_address(address) for address in addresses], allowed)
    return addresses


def judge(target: Target, addresses: list[Address], allowed: Allowed) -> None:
    """Raises the 400 unless every address is the internet's, or listed. One bad address condemns the name."""
    if allowed.has_name(target.host) or all(allowed.has(address) for address in addresses):
        return
    for address in addresses:
        if not allowed.has(address) and not is_public(address):
            raise _inside(str(address))
    _check_port(target)


def is_public(address: Address) -> bool:
    """Is it one host of the internet? What carries an IPv4 address inside is judged by that one too."""
    if isinstance(address, IPv6Address):
        inner = _carried(address)
        if inner is not None:
            return is_public(inner)
        if address.is_site_local or address.scope_id is not None:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _carried(address: IPv6Address) -> IPv4Address | None:
    return address.sixtofour or address.ipv4_mapped


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _refused(why: str) -> AttuneError:
    return AttuneError(f"This URL cannot receive webhooks: {why}.", code="invalid_webhook_url", param="url")


def _inside(what: str) -> AttuneError:
    return AttuneError(
        f"This URL cannot receive webhooks: {what} is no address of the internet. "
        "An operator may allow it by ATTUNE_WEBHOOK_ALLOW.",
        code="webhook_address_refused",
        param="url",
    )
