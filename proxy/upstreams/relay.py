"""Passing requests on to an API unchanged, both bodies streamed.

Relayed answers are never stored, so what goes through is everything but what belongs to one connection, to one host or
to our own place in between.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import AsyncIterator, Iterable
from urllib.parse import unquote

import httpx

from proxy.core.errors import HotplateError, NotFound, UpstreamTimeout, UpstreamUnavailable
from proxy.upstreams.base import RelayRequest, RelayResponse
from proxy.upstreams.bodies import read_head
from proxy.upstreams.http import pass_on

READ_TIMEOUT_S = 120.0
"""Longest silence of the API: it may hold a create for 60 s, and an upload is acknowledged when it was stored."""

SMALL_BODY_BYTES = 65536
"""A body that ends within this goes with its length, a longer one in chunks unless its length was announced; not every
API reads chunked JSON."""

_REQUEST_DROPPED = frozenset(
    {"accept-encoding", "authorization", "content-length", "cookie", "expect", "forwarded", "host", "via", "x-real-ip"}
)
_RESPONSE_DROPPED = frozenset(
    {
        "alt-svc",
        "date",  # the listener's own
        "nel",
        "public-key-pins",
        "report-to",
        "server",
        "set-cookie",
        "set-cookie2",
        "strict-transport-security",
    }
)
_TARGET = re.compile(r"[!-~]{1,32768}")


class Relay:
    """Relays to the API at ``root``. Reading methods may use kept connections, all others get one of their own."""

    def __init__(
        self, root: str, reads: httpx.AsyncClient, writes: httpx.AsyncClient, connect_timeout_s: float
    ) -> None:
        self._root = root
        self._reads = reads
        self._writes = writes
        self._timeout = httpx.Timeout(READ_TIMEOUT_S, connect=connect_timeout_s, pool=None)

    async def send(self, request: RelayRequest, authorization: dict[str, str]) -> RelayResponse:
        """Pass ``request`` on with the given ``Authorization`` header, or without.

        Raises:
            NotFound: the path could leave the API's root.
            HotplateError: whatever reading the request's body raised.
            UpstreamUnavailable, UpstreamTimeout: no answer; an answer's body that is cut short raises them, too.
        """
        client = self._reads if request.method in ("GET", "HEAD", "OPTIONS") and not request.has_body else self._writes
        body = _Body(request.body)
        headers = [
            pair for pair in pass_on(request.headers, _REQUEST_DROPPED) if not pair[0].startswith("x-forwarded-")
        ]
        content = await body.content() if request.has_body else None
        if request.body_bytes is not None and content is not None and not isinstance(content, bytes):
            headers.append(("content-length", str(request.body_bytes)))
        outgoing = client.build_request(
            request.method,
            f"{self._root}{_target(request.path, request.query)}",
            headers=[*_as_bytes(headers), *_as_bytes(authorization.items())],
            content=content,
            timeout=self._timeout,
        )
        try:
            response = await client.send(outgoing, stream=True)
        except httpx.TransportError as error:
            raise body.failure or translate(error) from error
        return RelayResponse(
            status=response.status_code,
            headers=pass_on(_as_text(response.headers.raw), _RESPONSE_DROPPED),
            body=stream_body(response),
            aclose=response.aclose,
        )


class _Body:
    """A request body that keeps the error which reading it ended in: the transport only says that sending failed."""

    def __init__(self, source: AsyncIterator[bytes]) -> None:
        self._source = source
        self.failure: HotplateError | None = None

    async def content(self) -> bytes | AsyncIterator[bytes]:
        """All of it when it is small, else an iterator."""
        head, is_whole = await read_head(self._source, SMALL_BODY_BYTES)
        return head if is_whole else self._all(head)

    async def _all(self, head: bytes) -> AsyncIterator[bytes]:
        yield head
        try:
            async for chunk in self._source:
                yield chunk
        except HotplateError as error:
            self.failure = error
            raise


def _as_bytes(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Header lines for the wire. Each character stands for one byte, as everywhere on the way: some clients and some
    services write UTF-8 there, and httpx by itself takes ASCII alone and guesses at what it gets."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def _as_text(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]


async def read_whole(response: RelayResponse, max_bytes: int) -> bytes:
    """The whole body of an answer that is small, and the answer closed.

    Raises:
        UpstreamUnavailable: it has more than ``max_bytes``, or was cut short.
    """
    try:
        body, is_whole = await read_head(response.body, max_bytes)
    finally:
        await close(response)
    if not is_whole:
        raise UpstreamUnavailable("The model service's answer has no end.")
    return body


async def close(response: RelayResponse) -> None:
    """Give up what is left of an answer. Never raises."""
    with contextlib.suppress(Exception):
        closing = response.aclose() if response.aclose is not None else None
        if inspect.isawaitable(closing):
            await closing


def translate(error: httpx.TransportError) -> UpstreamTimeout | UpstreamUnavailable:
    """What a failed exchange is to the caller. The text names no URL and no header."""
    if isinstance(error, httpx.TimeoutException):
        return UpstreamTimeout("The model service did not answer in time.")
    return UpstreamUnavailable(f"The model service could not be reached or broke off ({type(error).__name__}).")


def _target(path: str, query: str) -> str:
    """Path and query for the wire.

    Raises:
        NotFound: dot segments, in whatever spelling, or characters that no path has.
    """
    is_odd = not path.startswith("/") or not _TARGET.fullmatch(path + query) or any(mark in path for mark in "?#\\")
    if is_odd or "#" in query or any(part in (".", "..") for part in re.split(r"[/\\]", unquote(path))):
        raise NotFound("The requested resource could not be found.")
    return f"{path}?{query}" if query else path


async def stream_body(response: httpx.Response) -> AsyncIterator[bytes]:
    """The body's bytes as they come; a failure is raised as the caller's error."""
    try:
        async for chunk in response.aiter_raw():
            yield chunk
    except httpx.TransportError as error:
        raise translate(error) from error
    finally:
        await response.aclose()
