"""Every request that Hotplate makes because somebody named a URL goes through ``Egress``: fetches and webhooks.

What it promises, for the first URL and for each redirect alike (webhooks follow none):

1. The URL is read by one strict grammar (``addresses.parse_location``).
2. https only, on ports 80 and 443 only, unless the operator named the URL's origin himself.
3. Outputs come from listed hosts or named origins only.
4. Names are resolved here, once. Every address found must be public, else none is used; an origin that the operator
   named may be private. Then exactly that address is dialled: aiohttp is given the address in place of the host, and
   its resolver does nothing but refuse. The name still stands in ``Host`` and in TLS (SNI and certificate).
5. A connection serves one request, so nothing that was allowed to one caller is reused for another.
6. No credential, no cookie, no proxy from the environment, and no header of a client's making. Bytes come as they are
   (``Accept-Encoding: identity``), up to a cap, within an idle and a total time. An event stream has other times than a
   file, and nothing else of its own.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from proxy.core.outputs import OutputAccess, is_listed
from proxy.upstreams.addresses import EgressRefused as EgressRefused
from proxy.upstreams.addresses import Location, is_literal, is_public, parse_location
from proxy.upstreams.http import USER_AGENT, allow, client_tls

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Gives the IP addresses of a name, for a port."""

MAX_ADDRESSES = 4
"""How many addresses of one name are tried until one accepts."""

MAX_ACKNOWLEDGEMENT_BYTES = 64 * 1024
MAX_ACKNOWLEDGEMENT_S = 1.0
"""How much of the answer to a webhook is taken in before the connection is closed. It says nothing of interest, but
some servers report a client that goes before they have said it."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_REQUEST_HEADERS = frozenset({"accept", "last-event-id"})
_STRONG_ETAG = re.compile(r'"[!#-~]{1,256}"')
_HEADERS = ("cache-control", "content-length", "content-type", "etag", "last-modified", "retry-after")


class EgressFailed(Exception):
    """The fetch was allowed and did not succeed: not reachable, too slow, or cut short."""


@dataclass(frozen=True, slots=True)
class EgressLimits:
    """What holds for all fetches.

    Attributes:
        is_http_allowed: whether plain http is allowed everywhere, not only to named origins.
        ports: ports that need no naming.
        max_redirects: how many are followed.
        connect_timeout_s: for resolving, and for each address until TLS stands.
        idle_timeout_s: longest silence of the other side.
        total_timeout_s: for everything, from resolving to the last byte.
    """

    is_http_allowed: bool = False
    ports: frozenset[int] = frozenset({80, 443})
    max_redirects: int = 3
    connect_timeout_s: float = 5.0
    idle_timeout_s: float = 20.0
    total_timeout_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer whose body is still to be read.

    Attributes:
        status: HTTP status; redirects were followed.
        url: where it came from in the end.
        headers: content-type, etag and few others, names in lower case.
        expected_bytes: ``Content-Length``.
        is_length_known: a body cut short is noticed. ``False`` where only the end of the connection ends the body:
            then whoever keeps the bytes must look at them to know that they are whole.
        chunks: the body as it came. Raises ``EgressRefused`` (rule ``"size"``) and ``EgressFailed``.
    """

    status: int
    url: str
    headers: dict[str, str]
    expected_bytes: int | None
    is_length_known: bool
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Posted:
    """The answer to a webhook: its status, and seconds of ``Retry-After`` where it has that form."""

    status: int
    retry_after_s: float | None = None


class _NoResolver(AbstractResolver):
    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> NoReturn:
        raise OSError("names are resolved before")

    async def close(self) -> None:
        pass


def is_strong_etag(text: str) -> bool:
    """Whether ``text`` is an ETag that promises the same bytes, in characters that any header may hold.

    Source: RFC 9110 section 8.8.3; a weak one (``W/"..."``) only promises something that means the same.
    """
    return bool(_STRONG_ETAG.fullmatch(text))


async def resolve_name(host: str, port: int) -> list[str]:
    """What the operating system says of a name."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class Egress:
    """Asks URLs that others named: gets files and streams, posts webhooks."""

    def __init__(
        self,
        limits: EgressLimits = EgressLimits(),
        *,
        resolve: Resolve = resolve_name,
        judge: Callable[[str], bool] = is_public,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Args: ``judge`` says whether an address may be dialled for a host that is no named origin."""
        self._limits = limits
        self._resolve = resolve
        self._judge = judge
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def open(
        self,
        url: str,
        access: OutputAccess,
        *,
        max_bytes: int,
        require_listed: bool = True,
        if_none_match: str | None = None,
        headers: Mapping[str, str] | None = None,
        limits: EgressLimits | None = None,
    ) -> AsyncIterator[Fetched]:
        """GET ``url``.

        Args:
            access: hosts and origins from which the fetch may come.
            max_bytes: cap of the body.
            require_listed: whether hosts that are not in ``access`` are refused.
            if_none_match: a strong ETag (see ``is_strong_etag``); an answer of 304 then has no body.
            headers: ``accept`` and ``last-event-id`` may be given.
            limits: times for this fetch, instead of the usual ones.

        Raises:
            ValueError: ``if_none_match`` is no strong ETag, or a header may not be given.
            EgressRefused: by one of the rules, here or at a redirect: ``"url"``, ``"userinfo"``, ``"host"``,
                ``"port"``, ``"scheme"``, ``"unlisted"``, ``"address"``, ``"downgrade"``, ``"redirects"``,
                ``"encoding"``, ``"size"``.
            EgressFailed: no answer.
        """
        if if_none_match is not None and not is_strong_etag(if_none_match):
            raise ValueError("not a strong ETag")
        given = dict(headers or {})
        if not _REQUEST_HEADERS.issuperset(given):
            raise ValueError("a header that is not for others to give")
        if if_none_match is not None:
            given["If-None-Match"] = if_none_match
        limits = limits or self._limits
        deadline = asyncio.get_running_loop().time() + limits.total_timeout_s
        location = parse_location(url)
        for _ in range(self._limits.max_redirects + 1):
            addresses = await self._addresses(location, access, require_listed, deadline)
            response = await self._ask("GET", location, addresses, deadline, given, limits=limits)
            try:
                moved_to = response.headers.get("Location")
                if response.status not in _REDIRECTS or moved_to is None:
                    yield self._fetched(location, response, max_bytes, deadline)
                    return
            finally:
                response.close()
            location = _redirected(location, moved_to)
        raise EgressRefused("redirects", f"more than {self._limits.max_redirects} of them")

    async def post(
        self, url: str, access: OutputAccess, *, body: bytes, headers: Mapping[str, str], timeout_s: float
    ) -> Posted:
        """POST ``body`` to ``url``, once; a redirect is an answer like any other.

        Args:
            access: origins that may be private or plain http.
            headers: of this request; ``Host`` and what describes Hotplate are added.
            timeout_s: for everything, from resolving to the answer's end.

        Raises:
            EgressRefused: by one of the rules, before anything was sent.
            EgressFailed: no answer; the other side may have got it all the same.
        """
        deadline = asyncio.get_running_loop().time() + min(timeout_s, self._limits.total_timeout_s)
        location = parse_location(url)
        addresses = await self._addresses(location, access, False, deadline)
        response = await self._ask("POST", location, addresses, deadline, headers, body)
        try:
            await _acknowledged(response, deadline)
            retry_after = response.headers.get("Retry-After", "")
            is_seconds = retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 10
            return Posted(response.status, float(retry_after) if is_seconds else None)
        finally:
            response.close()

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _addresses(
        self, location: Location, access: OutputAccess, require_listed: bool, deadline: float
    ) -> Sequence[str]:
        """The addresses that may be dialled for ``location``."""
        is_named = check_location(location, access, self._limits, require_listed=require_listed)
        if is_literal(location.host):
            addresses: Sequence[str] = [location.host]
        else:
            until = min(deadline, asyncio.get_running_loop().time() + self._limits.connect_timeout_s)
            try:
                async with asyncio.timeout_at(until):
                    addresses = await self._resolve(location.host, location.port)
            except (OSError, UnicodeError) as error:
                raise EgressFailed(f"{location.host} cannot be resolved") from error
        if not is_named and not all(self._judge(address) for address in addresses):
            raise EgressRefused("address", f"{location.host} is not at a public address")
        return list(dict.fromkeys(addresses))[:MAX_ADDRESSES]

    async def _ask(
        self,
        method: str,
        location: Location,
        addresses: Sequence[str],
        deadline: float,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        limits: EgressLimits | None = None,
    ) -> aiohttp.ClientResponse:
        """Ask the first of ``addresses`` that takes the connection."""
        if self._session is None:
            self._session = self._open_session()
        reason: Exception | None = None
        for address in addresses:
            try:
                async with asyncio.timeout_at(deadline):
                    return await self._session.request(
                        method,
                        URL(location.at(address), encoded=True),
                        headers={**(headers or {}), "Host": location.netloc},
                        data=body,
                        server_hostname=location.host if location.scheme == "https" else None,
                        allow_redirects=False,
                        timeout=_timeout(limits or self._limits),
                    )
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                reason = error
            except (aiohttp.ClientError, OSError) as error:
                raise EgressFailed(f"{location.host}: {type(error).__name__}") from error
        raise EgressFailed(f"{location.host} cannot be reached") from reason

    def _open_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, force_close=True, resolver=_NoResolver(), use_dns_cache=False, ssl=self._tls or client_tls()
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": USER_AGENT},
            timeout=_timeout(self._limits),
            auto_decompress=False,
            trust_env=False,
        )

    def _fetched(
        self, location: Location, response: aiohttp.ClientResponse, max_bytes: int, deadline: float
    ) -> Fetched:
        transfer = _joined(response, "Transfer-Encoding")
        if _joined(response, "Content-Encoding") not in ("", "identity") or transfer not in ("", "chunked"):
            raise EgressRefused("encoding", f"{location.host} sent an encoded body unasked")
        expected = response.content_length
        if expected is not None and expected > max_bytes:
            raise EgressRefused("size", f"{location.host} offers more than {max_bytes} bytes")
        return Fetched(
            status=response.status,
            url=location.url,
            headers=dict(allow(response.headers.items(), _HEADERS)),
            expected_bytes=expected,
            is_length_known=expected is not None or transfer == "chunked",
            chunks=_chunks(location.host, response, max_bytes, deadline),
        )


def _timeout(limits: EgressLimits) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=limits.connect_timeout_s, sock_read=limits.idle_timeout_s)


def check_location(location: Location, access: OutputAccess, limits: EgressLimits, *, require_listed: bool) -> bool:
    """Whether ``location`` is at an origin that the operator named; what can be told of it without resolving.

    Raises:
        EgressRefused: by rule ``"scheme"``, ``"port"`` or ``"unlisted"``.
    """
    if location.origin in access.origins:
        return True
    if location.scheme != "https" and not limits.is_http_allowed:
        raise EgressRefused("scheme", f"{location.host} is to be reached over https")
    if location.port not in limits.ports:
        raise EgressRefused("port", f"{location.netloc} is not a port for the web")
    if require_listed and not is_listed(location.host, access.hosts):
        raise EgressRefused("unlisted", f"{location.host} is not a host for outputs")
    return False


def _joined(response: aiohttp.ClientResponse, name: str) -> str:
    return ",".join(response.headers.getall(name, ())).strip().lower()


def _redirected(location: Location, moved_to: str) -> Location:
    """Where a redirect leads, read by the same grammar; never from https to http."""
    if "\\" in moved_to or any(mark <= " " for mark in moved_to):
        raise EgressRefused("url", f"{location.host} redirects to something unreadable")
    try:
        following = parse_location(urljoin(location.url, moved_to))
    except ValueError as error:
        raise EgressRefused("url", f"{location.host} redirects to something unreadable") from error
    if location.scheme == "https" and following.scheme != "https":
        raise EgressRefused("downgrade", f"{location.host} redirects to http")
    return following


async def _acknowledged(response: aiohttp.ClientResponse, deadline: float) -> None:
    """Let the other side finish its answer, within bounds. Its status is known already: nothing here is a failure."""
    until = min(deadline, asyncio.get_running_loop().time() + MAX_ACKNOWLEDGEMENT_S)
    received = 0
    with suppress(aiohttp.ClientError, OSError):
        async with asyncio.timeout_at(until):
            while received <= MAX_ACKNOWLEDGEMENT_BYTES and (chunk := await response.content.readany()):
                received += len(chunk)


async def _chunks(host: str, response: aiohttp.ClientResponse, max_bytes: int, deadline: float) -> AsyncIterator[bytes]:
    received = 0
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                chunk = await response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise EgressFailed(f"{host}: the body was cut short ({type(error).__name__})") from error
        if not chunk:
            break
        received += len(chunk)
        if received > max_bytes:
            raise EgressRefused("size", f"{host} sends more than {max_bytes} bytes")
        yield chunk
