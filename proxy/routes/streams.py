"""``GET /files/{token}`` and ``GET /streams/{token}``: predictions as event streams, for anybody who has the address.

Both paths give the same; which of them a prediction shows says whether its outputs are files. A credential that comes
along is ignored: the Python client sends its own, the JavaScript client and browsers send none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import orjson

from proxy.core.errors import HotplateError, MethodNotAllowed, NotFound
from proxy.core.sse import CONTENT_TYPE
from proxy.routes.exchange import ClientGone, Exchange, Handler, unless_gone
from proxy.services import Services

SEND_TIMEOUT_S = 60.0
"""How long a reader may take nothing before its place is free again."""

_COMMON = [
    (b"x-content-type-options", b"nosniff"),
    (b"access-control-allow-origin", b"*"),
    (b"cross-origin-resource-policy", b"cross-origin"),
    (b"cache-control", b"no-store"),
]
_STREAM = [
    *_COMMON,
    (b"content-type", f"{CONTENT_TYPE}; charset=utf-8".encode()),
    (b"x-accel-buffering", b"no"),  # nginx and its like hold an answer back until they have much of it
]
_METHODS = b"GET, HEAD, OPTIONS"


class Streams:
    """Handlers of streams."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def or_else(self, handler: Handler) -> Handler:
        """The handler of a path that streams share with something else: what is no stream goes to ``handler``."""

        async def handle(exchange: Exchange) -> None:
            if self._services.stream_book.verify(exchange.params["id"]) is None:
                await handler(exchange)
            else:
                await self.handle(exchange)

        return handle

    async def handle(self, exchange: Exchange) -> None:
        """GET, HEAD, OPTIONS; every other method is refused."""
        exchange.note.outcome = "stream"
        if exchange.method == "OPTIONS":
            await self._preflight(exchange)
        elif exchange.method in ("GET", "HEAD"):
            try:
                await self._get(exchange)
            except HotplateError as error:
                if exchange.has_started:
                    raise
                await exchange.respond_error(error, _COMMON[:3])
        else:
            refusal = MethodNotAllowed(f"{exchange.method} is not allowed here")
            await exchange.respond_error(refusal, [(b"allow", _METHODS), *_COMMON[:3]])

    async def _get(self, exchange: Exchange) -> None:
        engine, last_event_id = self._services.streams, exchange.headers.get("last-event-id")
        name = self._services.stream_book.verify(exchange.params["id"])
        telling = await engine.find(name) if name is not None else None
        if telling is None:
            await self._missing(exchange)
        elif engine.is_spent(telling, last_event_id):
            # The one answer after which a browser's EventSource does not come again.
            await exchange.start(204, _COMMON)
            await exchange.write(b"")
        elif exchange.method == "HEAD":
            await exchange.start(200, _STREAM)
            await exchange.write(b"")
        else:
            async with engine.listening(telling, last_event_id) as chunks:
                await exchange.start(200, _STREAM)
                await unless_gone(exchange, _send(exchange, chunks))

    async def _missing(self, exchange: Exchange) -> None:
        body = orjson.dumps(NotFound("There is no such stream.").body())
        await exchange.respond(404, [(b"content-type", b"application/problem+json"), *_COMMON], body)

    async def _preflight(self, exchange: Exchange) -> None:
        headers = [
            *_COMMON,
            (b"allow", _METHODS),
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", b"Accept, Authorization, Cache-Control, Last-Event-ID"),
            (b"access-control-max-age", b"86400"),
        ]
        await exchange.start(204, headers)
        await exchange.write(b"")


async def _send(exchange: Exchange, chunks: AsyncIterator[bytes]) -> None:
    try:
        async for chunk in chunks:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await exchange.write(chunk, more=True)
    except TimeoutError as error:
        raise ClientGone from error
    await exchange.write(b"")
