"""How an address is read and judged before anything is dialled for somebody else.

Pure. ``parse_location`` reads a URL by one strict grammar, and only what it found is used afterwards: there is no
second parser that could see another host. ``is_public`` judges one network address. Both refuse what they do not
know for good.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import quote

Origin = tuple[str, str, int]
"""Scheme, host (lower case, IPv6 without brackets) and port."""

MAX_URL_CHARS = 8192

_DEFAULT_PORTS = {"http": 80, "https": 443}
_URL = re.compile(r"(https?)://([^/?#]*)([^#]*)(?:#.*)?", re.IGNORECASE)
_BRACKETED = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::([0-9]{1,5}))?")
_NAMED = re.compile(r"([^:\[\]]+)(?::([0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMERIC = re.compile(r"0x[0-9a-f]*|[0-9]+")
_ASCII = "".join(map(chr, range(0x21, 0x7F)))


class EgressRefused(Exception):
    """A rule forbids this fetch; ``rule`` is a short fixed word for logs and metrics.

    The text names the host at most, never path or query: those may hold signatures.
    """

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"{rule}: {detail}")
        self.rule = rule
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Location:
    """A URL taken apart: ``target`` is path and query as they go on the wire."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def origin(self) -> Origin:
        return self.scheme, self.host, self.port

    @property
    def netloc(self) -> str:
        """Host and, where it is not the scheme's own, port: the value of the ``Host`` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.netloc}{self.target}"

    def at(self, address: str) -> str:
        """The same place with an IP address instead of the host: what is really dialled."""
        host = f"[{address}]" if ":" in address else address
        return f"{self.scheme}://{host}:{self.port}{self.target}"


def parse_location(url: str) -> Location:
    """Read an absolute http or https URL.

    Raises:
        EgressRefused: rule ``"url"`` (not such a URL; control characters, spaces, backslashes), ``"userinfo"``, or
            ``"host"`` (no host name; a number that only some resolvers read as an address: ``127.1``, ``0x7f.1``,
            ``2130706433``; letters or digits beyond ASCII).
    """
    if len(url) > MAX_URL_CHARS or any(mark <= " " or mark in "\\\x7f" for mark in url):
        raise EgressRefused("url", "too long, or with spaces, control characters or backslashes")
    found = _URL.fullmatch(url)
    if found is None:
        raise EgressRefused("url", "not an absolute http or https URL")
    scheme, authority, target = found[1].lower(), found[2], found[3]
    if "@" in authority:
        raise EgressRefused("userinfo", "a URL with user information")
    parts = _BRACKETED.fullmatch(authority) or _NAMED.fullmatch(authority)
    if parts is None:
        raise EgressRefused("host", "no readable host")
    host = _parse_v6(parts[1]) if authority.startswith("[") else _parse_host(parts[1].lower())
    port = int(parts[2]) if parts[2] else _DEFAULT_PORTS[scheme]
    if not 0 < port < 65536:
        raise EgressRefused("port", f"no port {port}")
    target = quote(target, safe=_ASCII)
    return Location(scheme, host, port, target if target.startswith("/") else f"/{target}")


def parse_origin(text: str) -> Origin:
    """Read an operator's ``"http://10.0.0.5:9000"``.

    Raises:
        ValueError: it is no origin, or more than one (a path, a query).
    """
    try:
        location = parse_location(text)
    except EgressRefused as error:
        raise ValueError(f"{text!r} is not an origin: {error.detail}") from error
    if location.target != "/":
        raise ValueError(f"{text!r} is not an origin: it has a path")
    return location.origin


def _parse_v6(text: str) -> str:
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        raise EgressRefused("host", "brackets around something that is no IPv6 address") from None


def _parse_host(host: str) -> str:
    labels = host.split(".")
    if _NUMERIC.fullmatch(labels[-1]):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise EgressRefused("host", "a number that is no plain IPv4 address") from None
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise EgressRefused("host", "no host name")
    return host


def is_literal(host: str) -> bool:
    """Whether a ``Location``'s host is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


_V4_REFUSED = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; neither private nor global to the ipaddress module
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local, cloud metadata
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/3",  # multicast, reserved, broadcast
    )
)
_V6_GLOBAL = ipaddress.IPv6Network("2000::/3")
"""The only block from which global unicast is given out: what is outside (``::/96``, ``64:ff9b:1::/48``, ``fc00::/7``,
``fe80::/10``, ``fec0::/10``, multicast) needs no entry of its own."""
_V6_REFUSED = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address in disguise
        "3ffe::/16",  # returned 6bone space
        "3fff::/20",  # documentation
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether ``address`` (as a resolver gives it) is globally routable unicast.

    An IPv4 address inside an IPv6 one (mapped, or NAT64's well-known prefix) is taken out and judged itself. The
    ``ipaddress`` module's own ``is_global`` is not asked: it is true for NAT64 and 6to4 forms of loopback, for
    ``::127.0.0.1``, for ``fec0::/10`` and for multicast.

    Source: the IANA special-purpose address registries; RFC 6052 for NAT64.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.scope_id is not None:
            return False
        inner = parsed.ipv4_mapped
        if inner is None and parsed in _NAT64:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFF_FFFF)
        if inner is None:
            return parsed in _V6_GLOBAL and not any(parsed in network for network in _V6_REFUSED)
        parsed = inner
    return not any(parsed in network for network in _V4_REFUSED)
