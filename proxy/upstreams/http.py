"""HTTP to model services: httpx's interface over aiohttp's connections.

aiohttp spends several times less of the event loop per request than httpx's own pool does once requests overlap.
The transport is our own rather than ``httpx-aiohttp``'s, because that one

- reports a connection reset *after* the request was sent as ``ConnectTimeout``, and whether a create may be repeated
  hangs on exactly that difference;
- keeps aiohttp's limit of 100 connections where httpx is told "no limit", and a cookie jar that stores;
- lets aiohttp rewrite percent-encoding, and some of aiohttp's errors through.

``AiohttpTransport(reuses_connections=False)`` opens a connection for each request and sends each once, whatever its
method. Requests that must not happen twice go there: a kept connection may be closed by the other side at the moment of
sending, and then nobody can tell whether the request was read.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import aiohttp
import certifi
import httpx
from yarl import URL

USER_AGENT = "hotplate"
MAX_HEADER_BYTES = 65536

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers of one connection, never passed on. Source: RFC 9110 section 7.6.1."""


@cache
def client_tls() -> ssl.SSLContext:
    """The context for all outgoing TLS: certifi's roots alone, whatever the environment says."""
    return ssl.create_default_context(cafile=certifi.where())


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Sends httpx requests over aiohttp: no limit of connections, no cookies, no redirects, no proxies.

    Raises from ``handle_async_request``, before a byte was sent: ``httpx.ConnectError`` (resolving, refused, TLS) and
    ``httpx.ConnectTimeout``. Any other ``httpx.TransportError`` may have been read by the other side.
    """

    def __init__(self, *, reuses_connections: bool, tls: ssl.SSLContext | None = None) -> None:
        self._reuses_connections = reuses_connections
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    def _open_session(self) -> aiohttp.ClientSession:
        """Made on first use: aiohttp wants a running loop."""
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, force_close=not self._reuses_connections, ssl=self._tls or client_tls()
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        )
        # By itself aiohttp sends GET, PUT, DELETE and their like again when the connection ends without an answer.
        # That is for kept connections that were closed meanwhile; where none is kept, what was sent was sent.
        session._retry_connection = self._reuses_connections
        return session

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._session is None:
            self._session = self._open_session()
        timeouts = request.extensions.get("timeout", {})
        headers = [(name, value) for name, value in request.headers.items() if name != "transfer-encoding"]
        if not self._reuses_connections:
            headers = [*((name, value) for name, value in headers if name != "connection"), ("connection", "close")]
        with _mapped_errors():
            response = await self._session.request(
                request.method,
                URL(str(request.url), encoded=True),
                headers=headers,
                data=_body(request),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=None, connect=timeouts.get("connect"), sock_read=timeouts.get("read")
                ),
                max_line_size=MAX_HEADER_BYTES,
                max_field_size=MAX_HEADER_BYTES,
            )
        return httpx.Response(response.status, headers=response.raw_headers, stream=_Stream(response), request=request)

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


def _body(request: httpx.Request) -> Any:
    try:
        return request.content or None
    except httpx.RequestNotRead:
        return request.stream


class _Stream(httpx.AsyncByteStream):
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _mapped_errors():
            while chunk := await self._response.content.readany():
                yield chunk

    async def aclose(self) -> None:
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


@contextmanager
def _mapped_errors() -> Iterator[None]:
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise httpx.ConnectTimeout(str(error)) from error
    except aiohttp.ClientConnectorError as error:
        raise httpx.ConnectError(str(error)) from error
    except TimeoutError as error:
        raise httpx.ReadTimeout(str(error)) from error
    except aiohttp.InvalidURL as error:
        raise httpx.UnsupportedProtocol(str(error)) from error
    except (aiohttp.ClientResponseError, aiohttp.ClientPayloadError) as error:
        raise httpx.RemoteProtocolError(type(error).__name__) from error
    except (aiohttp.ClientError, OSError) as error:
        raise httpx.ReadError(type(error).__name__) from error


def open_client(transport: httpx.AsyncBaseTransport) -> httpx.AsyncClient:
    """An httpx client over ``transport`` that keeps no cookies, follows no redirects and reads no environment."""
    return httpx.AsyncClient(
        transport=transport,
        trust_env=False,
        follow_redirects=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        headers={"user-agent": USER_AGENT, "accept-encoding": "identity"},
    )


def pass_on(headers: Iterable[tuple[str, str]], without: frozenset[str]) -> list[tuple[str, str]]:
    """``headers`` less hop-by-hop ones, those that ``Connection`` names, and ``without`` (lower case)."""
    given = [(name.lower(), value) for name, value in headers]
    nominated = {word.strip().lower() for name, value in given if name == "connection" for word in value.split(",")}
    dropped = HOP_BY_HOP | nominated | without
    return [(name, value) for name, value in given if name not in dropped]


TOLD_HEADERS = ("content-type", "retry-after", "ratelimit-")
"""What goes on to the client with an answer that was read whole here, above all with a refusal."""


def allow(headers: Iterable[tuple[str, str]], names: Sequence[str]) -> list[tuple[str, str]]:
    """Those of ``headers`` whose name is in ``names`` (lower case) or begins with one that ends in ``-``."""
    prefixes = tuple(name for name in names if name.endswith("-"))
    given = ((name.lower(), value) for name, value in headers)
    return [(name, value) for name, value in given if name in names or (prefixes and name.startswith(prefixes))]
