"""From an edge to the core: a request as it came, and the answer as it comes, both streamed.

HTTP/1.1 over the core's Unix socket, a connection for each request: to make one costs some 50 µs there, and a kept one
could be closed at the moment of sending, when nobody can tell whether a create was read.

The supervisor holds the listening socket, so it is there while the core is not. A request that comes then waits for the
core's return, within a bound, before anything of it is sent. Once something was sent and the core is gone, a request
that only reads is sent again; any other may have been carried out and is answered so.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable

import httptools

from proxy.core.errors import HotplateError, Overloaded, UpstreamUnavailable
from proxy.routes.exchange import ClientGone, Exchange

READ_BYTES = 128 * 1024
RETRY_S = 0.05

_OF_ONE_CONNECTION = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect"}
)
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS"})

TARGET = "hotplate.target"
"""Where the ASGI scope holds a request's path and query as the client spelt them."""


class _Lost(Exception):
    """The core has gone before it answered."""


class Passage:
    """Passes requests on to the core.

    Args:
        path: its Unix socket.
        wait_until_up: waits so many seconds until the core is there; says whether it is.
        max_waiters: requests that may wait for the core.
        wait_s: how long one waits.
    """

    def __init__(
        self, path: str, wait_until_up: Callable[[float], Awaitable[bool]], max_waiters: int, wait_s: float
    ) -> None:
        self._path = path
        self._wait_until_up = wait_until_up
        self._max_waiters = max_waiters
        self._wait_s = wait_s
        self._waiting = 0

    async def handle(self, exchange: Exchange) -> None:
        """Pass a request on whose body has not been read."""
        await self.pass_on(exchange, None)

    async def pass_on(self, exchange: Exchange, body: bytes | None) -> None:
        """Pass a request on; ``body`` when it was read already.

        Raises:
            Overloaded: the core is away for too long, or too many wait for it; nothing was sent.
            UpstreamUnavailable: it went away while it had the request.
            ClientGone: the client left.
        """
        exchange.note.is_passed_on = True
        try:
            await self._pass_on(exchange, body)
        except HotplateError:
            exchange.note.is_passed_on = False  # it is answered here
            raise

    async def _pass_on(self, exchange: Exchange, body: bytes | None) -> None:
        head, is_chunked = _head(exchange)
        has_no_body = body is None and not is_chunked and exchange.announced_bytes == 0
        may_repeat = exchange.method in _REPEATABLE and (has_no_body or body is not None)
        deadline = time.monotonic() + self._wait_s
        while True:
            core = await self._connect(deadline)
            try:
                await _through(exchange, core, head, body, is_chunked)
                return
            except _Lost:
                if exchange.has_started or not may_repeat or time.monotonic() >= deadline:
                    raise UpstreamUnavailable(
                        "The proxy was started anew while it worked on this request; it may have been carried out."
                    ) from None
                await asyncio.sleep(RETRY_S)
            finally:
                core.close()

    async def _connect(self, deadline: float) -> socket.socket:
        """A connection to a core that is there; waits for one."""
        if self._waiting >= self._max_waiters:
            raise Overloaded("too many requests wait", retry_after_s=1.0)
        self._waiting += 1
        try:
            while True:
                if await self._wait_until_up(max(deadline - time.monotonic(), 0.0)):
                    core = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                    core.setblocking(False)
                    try:
                        core.connect(self._path)  # at once, or never: also while its queue of connections is full
                        return core
                    except OSError:
                        core.close()
                if time.monotonic() >= deadline:
                    raise Overloaded("the proxy is starting anew", retry_after_s=1.0)
                await asyncio.sleep(RETRY_S)
        finally:
            self._waiting -= 1


async def _through(exchange: Exchange, core: socket.socket, head: bytes, body: bytes | None, is_chunked: bool) -> None:
    """Send and answer at once: the core may answer before it has read a body, and the client may leave.

    The socket is used bare: a transport that fails to write throws away what has come to be read, and that is the very
    answer of a core that does not want the body.

    Raises:
        ClientGone: the client left.
        _Lost: the core did.
    """
    sending = asyncio.create_task(_send(exchange, core, head, body, is_chunked))
    answering = asyncio.create_task(_answer(exchange, core))
    try:
        await asyncio.wait({sending, answering}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done() and isinstance(sending.exception(), ClientGone):
            raise ClientGone
        await answering
    finally:
        for task in (sending, answering):
            task.cancel()
        await asyncio.wait({sending, answering})
        for task in (sending, answering):
            if not task.cancelled():
                task.exception()  # seen: whatever counts was raised above


async def _send(exchange: Exchange, core: socket.socket, head: bytes, body: bytes | None, is_chunked: bool) -> None:
    """Send a request, then watch for the client's leaving; ends in ``ClientGone`` or with the connection."""
    loop = asyncio.get_running_loop()
    if body is not None:
        await loop.sock_sendall(core, head + (_chunks(body) if is_chunked else body))
    else:
        await loop.sock_sendall(core, head)
        async for part in exchange.chunks():
            await loop.sock_sendall(core, _chunk(part) if is_chunked else part)
        if is_chunked:
            await loop.sock_sendall(core, _chunk(b""))
    while (await exchange.receive())["type"] != "http.disconnect":
        pass
    raise ClientGone


async def _answer(exchange: Exchange, core: socket.socket) -> None:
    """Send the core's answer to the client as it comes.

    Raises:
        _Lost: the core has gone before it was complete.
    """
    answer = _Answer(is_bodiless=exchange.method == "HEAD")
    parser = httptools.HttpResponseParser(answer)
    loop = asyncio.get_running_loop()
    while not answer.is_complete:
        try:
            data = await loop.sock_recv(core, READ_BYTES)
        except OSError:
            data = b""
        if not data:
            raise _Lost
        try:
            parser.feed_data(data)
        except httptools.HttpParserError:
            raise _Lost from None
        if answer.is_head_complete and not exchange.has_started:
            await exchange.start(parser.get_status_code(), answer.headers)
        chunks, answer.chunks = answer.chunks, []
        if chunks:
            await exchange.write(b"".join(chunks), more=True)
    await exchange.write(b"")


class _Answer:
    """What the parser has found so far."""

    def __init__(self, *, is_bodiless: bool) -> None:
        self._is_bodiless = is_bodiless
        self.headers: list[tuple[bytes, bytes]] = []
        self.chunks: list[bytes] = []
        self.is_head_complete = False
        self.is_complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.is_head_complete and (lower := name.lower()) not in _OF_ONE_CONNECTION:
            self.headers.append((lower, value))

    def on_headers_complete(self) -> None:
        self.is_head_complete = True
        self.is_complete = self._is_bodiless

    def on_body(self, body: bytes) -> None:
        self.chunks.append(body)

    def on_message_complete(self) -> None:
        self.is_complete = True


def _head(exchange: Exchange) -> tuple[bytes, bool]:
    """The request's head for the core, and whether the body goes in chunks: as it came."""
    lines = [b"%s %s HTTP/1.1\r\n" % (exchange.method.encode(), exchange.scope[TARGET])]
    is_chunked = False
    for name, value in exchange.scope["headers"]:
        if name == b"transfer-encoding":
            is_chunked = True
        elif name not in _OF_ONE_CONNECTION:
            lines += [name, b": ", value, b"\r\n"]
    lines.append(b"transfer-encoding: chunked\r\n" if is_chunked else b"")
    lines.append(b"connection: close\r\n\r\n")
    return b"".join(lines), is_chunked


def _chunks(body: bytes) -> bytes:
    """A whole body in chunks."""
    return (_chunk(body) if body else b"") + _chunk(b"")


def _chunk(data: bytes) -> bytes:
    """A chunk of a chunked body; the empty one ends it."""
    return b"%x\r\n%s\r\n" % (len(data), data)
