"""``GET /outputs/{digest}/{seal}/{name}``: stored files, for anybody who has the address.

A token that comes along is ignored: the Python client sends its own to wherever an output lives.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import orjson

from proxy.core.delivery import (
    COMMON_HEADERS,
    HeaderList,
    NotModified,
    NotSatisfiable,
    SendFile,
    Span,
    etag_of,
    is_not_modified,
    missing_headers,
    not_modified,
    plan_delivery,
)
from proxy.core.errors import MethodNotAllowed, NotFound
from proxy.routes.exchange import Exchange
from proxy.services import Services
from storage.errors import Corrupt, StorageUnavailable
from storage.records import BlobRef

ONE_MESSAGE_BYTES = 2 * 1024**2
"""Up to this size a file is read at once; larger ones are streamed in bounded memory."""

SLICE_BYTES = 256 * 1024
"""What is read at once is sent in such messages, so that no more of it waits for a slow client."""

HOLD_S = 1.0
"""How long a file that was read at once is held for a client that does not take it; then the rest is streamed."""


class Outputs:
    """Handlers of the outputs route."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def get(self, exchange: Exchange) -> None:
        """GET and HEAD."""
        exchange.note.outcome = "output"
        if exchange.method == "HEAD":
            exchange.headers.pop("range", None)  # Range is defined for GET alone, RFC 9110 section 14.2
        params = exchange.params
        digest = self._services.addresses.verify(params["digest"], params["seal"], params["name"])
        if digest is None:
            await self._missing(exchange)
            return
        if is_not_modified(exchange.headers, etag_of(digest)):
            await exchange.start(304, _encoded(not_modified(digest).headers))
            await exchange.write(b"")
            return
        info = await self._services.storage.blobs.info(digest)
        if info is not None and await self._send_stored(exchange, info.ref, info.content_type, info.stored_at):
            return
        spooled = self._services.spool.get(digest)
        if spooled is None:
            await self._missing(exchange)
            return
        plan = plan_delivery(
            exchange.headers, digest, len(spooled.data), spooled.content_type, spooled.stored_at, params["name"]
        )
        if isinstance(plan, SendFile):
            await exchange.start(plan.status, _encoded(plan.headers))
            await self._write(exchange, spooled.data[plan.span.first : plan.span.last + 1])
        else:
            await self._send_empty(exchange, plan)

    async def _send_stored(self, exchange: Exchange, ref: BlobRef, content_type: str, stored_at: float) -> bool:
        """Send a blob of the store; ``False`` when it cannot be vouched for and nothing has been sent."""
        plan = plan_delivery(
            exchange.headers, ref.digest, ref.size_bytes, content_type, stored_at, exchange.params["name"]
        )
        if not isinstance(plan, SendFile):
            await self._send_empty(exchange, plan)
            return True
        if exchange.method == "HEAD":
            if not await self._services.storage.blobs.has(ref):
                return False
            await exchange.start(plan.status, _encoded(plan.headers))
            await exchange.write(b"")
            return True
        if plan.span.size_bytes <= ONE_MESSAGE_BYTES:
            data = await self._services.storage.blobs.read(ref, plan.span.first, plan.span.last)
            if data is None:
                return False
            await exchange.start(plan.status, _encoded(plan.headers))
            sent_bytes = await _write_while_taken(exchange, data)
            if sent_bytes == len(data):
                return True
            del data
            return await self._stream(exchange, ref, plan, Span(plan.span.first + sent_bytes, plan.span.last))
        return await self._stream(exchange, ref, plan, plan.span)

    async def _stream(self, exchange: Exchange, ref: BlobRef, plan: SendFile, span: Span) -> bool:
        try:
            async with aclosing(self._services.storage.blobs.stream(ref, span.first, span.last)) as chunks:
                async for chunk in chunks:
                    if not exchange.has_started:
                        await exchange.start(plan.status, _encoded(plan.headers))
                    await exchange.write(chunk, more=True)
        except (Corrupt, StorageUnavailable):
            if exchange.has_started:
                raise
            return False
        await exchange.write(b"")
        return True

    async def _send_empty(self, exchange: Exchange, plan: NotModified | NotSatisfiable) -> None:
        await exchange.start(304 if isinstance(plan, NotModified) else 416, _encoded(plan.headers))
        await exchange.write(b"")

    async def _write(self, exchange: Exchange, data: bytes) -> None:
        await exchange.write(b"" if exchange.method == "HEAD" else data)

    async def _missing(self, exchange: Exchange) -> None:
        error = NotFound("There is no such file.")
        headers = [(b"content-type", b"application/problem+json"), *_encoded(missing_headers())]
        await exchange.respond(404, headers, orjson.dumps(error.body()))

    async def options(self, exchange: Exchange) -> None:
        """A browser's preflight."""
        exchange.note.outcome = "output"
        headers: HeaderList = [
            *COMMON_HEADERS,
            ("Allow", "GET, HEAD, OPTIONS"),
            ("Access-Control-Allow-Methods", "GET, HEAD, OPTIONS"),
            ("Access-Control-Allow-Headers", "Range, If-None-Match, If-Range"),
            ("Access-Control-Max-Age", "86400"),
        ]
        await exchange.start(204, _encoded(headers))
        await exchange.write(b"")

    async def refuse(self, exchange: Exchange) -> None:
        """Any other method."""
        error = MethodNotAllowed(f"{exchange.method} is not allowed here")
        await exchange.respond_error(error, [(b"allow", b"GET, HEAD, OPTIONS"), *_encoded(COMMON_HEADERS)])


async def _write_while_taken(exchange: Exchange, data: bytes) -> int:
    """Send ``data`` to its end, or until the client takes nothing for ``HOLD_S``; how many bytes were sent."""
    if len(data) <= SLICE_BYTES:
        await exchange.write(data)
        return len(data)
    for start in range(0, len(data), SLICE_BYTES):
        end = start + SLICE_BYTES
        try:
            async with asyncio.timeout(HOLD_S):
                # It is given to the transport at the end of this, or not at all.
                await exchange.write(data[start:end], more=end < len(data))
        except TimeoutError:
            return start
    return len(data)


def _encoded(headers: HeaderList) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
