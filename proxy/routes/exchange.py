"""One request and its answer, for handlers: thinner than Starlette's Request, because hits are counted in µs.

A handler is a coroutine function that takes an ``Exchange``. ``Endpoint`` makes a handler an ASGI application:
it chooses by method, and turns every error into the API's JSON shape.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, TypeAlias

import orjson
import structlog
from starlette.types import Receive, Scope, Send

from proxy.core.entitlement import parse_authorization
from proxy.core.errors import (
    BodyTooLarge,
    HotplateError,
    MethodNotAllowed,
    Overloaded,
    Unauthenticated,
    UnsupportedMedia,
    UpstreamRefused,
)
from proxy.logs import Note
from proxy.upstreams.base import Credential
from storage.records import JsonValue

_log = structlog.get_logger("hotplate.routes")

PRIVATE = (b"cache-control", b"private, no-store")
JSON_TYPE = (b"content-type", b"application/json; charset=utf-8")

HeaderPairs: TypeAlias = Iterable[tuple[bytes, bytes]]


class ClientGone(Exception):
    """The client closed the connection before its body was complete; nobody is left to answer."""


SMALL_BODY_BYTES = 16 * 1024
"""Up to this size a body takes no room: a usual create has a kilobyte or two."""


class Room:
    """How many bytes of bodies may be on their way in, over all requests: each is held until it is whole, and a client
    may take its time."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.used_bytes = 0

    def take(self, size_bytes: int) -> None:
        """Take room; whoever does gives it back.

        Raises:
            Overloaded: there is not so much.
        """
        if self.used_bytes + size_bytes > self._max_bytes:
            raise Overloaded("too many large requests are arriving", retry_after_s=1.0)
        self.used_bytes += size_bytes

    def give_back(self, size_bytes: int) -> None:
        self.used_bytes -= size_bytes


class Exchange:
    """A request with what a handler needs to read it and to answer once."""

    __slots__ = ("_has_body_ended", "_receive", "_send", "has_started", "headers", "method", "note", "scope")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.headers: dict[str, str] = {}
        for raw_name, raw_value in scope["headers"]:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            # A header may come in several lines, and they mean one list: RFC 9110 section 5.3.
            self.headers[name] = f"{self.headers[name]}, {value}" if name in self.headers else value
        self.note: Note = scope["hotplate.note"]
        self.has_started = False
        self._has_body_ended = False
        self._receive = receive
        self._send = send

    @property
    def params(self) -> Mapping[str, str]:
        """What the route's pattern matched."""
        params: Mapping[str, str] = self.scope["path_params"]
        return params

    @property
    def query(self) -> str:
        """The raw query string, without ``?``."""
        query: bytes = self.scope["query_string"]
        return query.decode("latin-1")

    @property
    def raw_path(self) -> str:
        """The path below the API's root as the client spelt it, percent-encoded."""
        raw: bytes = self.scope.get("raw_path") or self.scope["path"].encode()
        return raw.split(b"?")[0].decode("latin-1")

    @property
    def announced_bytes(self) -> int:
        """``Content-Length``; 0 where there is none."""
        announced = self.headers.get("content-length", "0")
        return int(announced) if announced.isascii() and announced.isdigit() else 0

    @property
    def receive(self) -> Receive:
        return self._receive

    def credential(self) -> Credential | None:
        """The caller's token, without its scheme.

        Raises:
            Unauthenticated: the header is there but is no credential.
        """
        token = parse_authorization(self.headers.get("authorization"))
        return Credential(token) if token is not None else None

    async def body(self, max_bytes: int) -> bytes:
        """The whole body.

        Raises:
            BodyTooLarge: it is longer than ``max_bytes``; no more than that was read.
            UnsupportedMedia: it is compressed.
            Overloaded: too much is arriving from others.
            ClientGone: the client left.
        """
        if self.headers.get("content-encoding", "identity").lower() != "identity":
            raise UnsupportedMedia("the body must not be compressed")
        if self.announced_bytes > max_bytes:
            raise BodyTooLarge(f"the body may have at most {max_bytes} bytes")
        chunks: list[bytes] = []
        size = taken = 0
        room: Room | None = self.scope.get("hotplate.room")
        try:
            while True:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > max_bytes:
                    raise BodyTooLarge(f"the body may have at most {max_bytes} bytes")
                if room is not None and size > SMALL_BODY_BYTES:
                    room.take(size - taken)
                    taken = size
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
        finally:
            if taken and room is not None:
                room.give_back(taken)

    async def chunks(self) -> AsyncIterator[bytes]:
        """What is left of the body, as it arrives.

        Raises:
            ClientGone: the client left.
        """
        while not self._has_body_ended:  # asked beyond the end, the server would wait until the client leaves
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            self._has_body_ended = not message.get("more_body", False)
            if chunk := message.get("body", b""):
                yield chunk

    async def start(self, status: int, headers: HeaderPairs) -> None:
        """Send status and headers; the body follows with ``write``."""
        self.has_started = True
        await self._send({"type": "http.response.start", "status": status, "headers": list(headers)})

    async def write(self, body: bytes, more: bool = False) -> None:
        """Send a part of the body; the last one with ``more=False``."""
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def respond(self, status: int, headers: HeaderPairs, body: bytes) -> None:
        """Send a whole answer; its length is added here."""
        await self.start(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self.write(b"" if self.method == "HEAD" else body)

    async def respond_json(self, status: int, document: JsonValue, headers: HeaderPairs = ()) -> None:
        """Send a JSON document that no shared cache may keep."""
        await self.respond(status, [JSON_TYPE, PRIVATE, *headers], orjson.dumps(document))

    async def respond_error(self, error: HotplateError, headers: HeaderPairs = ()) -> None:
        """Send an error in the API's shape; an upstream's own error goes on as it came."""
        self.note.error = error.code
        if isinstance(error, UpstreamRefused):
            passed = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in error.headers]
            await self.respond(error.status, [PRIVATE, *headers, *passed], error.content)
            return
        extra = list(headers)
        if error.retry_after_s is not None:
            extra.append((b"retry-after", b"%d" % max(1, round(error.retry_after_s))))
        if isinstance(error, Unauthenticated):
            extra.append((b"www-authenticate", b"Bearer"))
        await self.respond(
            error.status, [(b"content-type", b"application/problem+json"), PRIVATE, *extra], orjson.dumps(error.body())
        )


async def unless_gone(exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
    """Do ``work``, but give it up once the client has left: nobody would notice that by sending alone.

    To be used when the request's body is of no interest any more.
    """
    working, leaving = asyncio.create_task(work), asyncio.create_task(_leave(exchange))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.wait({working, leaving})


async def _leave(exchange: Exchange) -> None:
    while (await exchange.receive())["type"] != "http.disconnect":
        pass


Handler: TypeAlias = Callable[[Exchange], Awaitable[None]]


class Endpoint:
    """Handlers by method as one ASGI application."""

    def __init__(self, handlers: Mapping[str, Handler], fallback: Handler | None = None) -> None:
        """``fallback`` takes every other method; without it they are answered 405."""
        self._handlers = dict(handlers)
        self._fallback = fallback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        handler = self._handlers.get(exchange.method, self._fallback)
        try:
            if handler is None:
                raise MethodNotAllowed(f"{exchange.method} is not allowed here")
            await handler(exchange)
        except HotplateError as error:
            await self._answer(exchange, error)
        except ClientGone:
            exchange.note.error = "client_gone"
        except Exception:
            # The first part of the path alone: what follows may open a stream or a file to whoever reads it.
            _log.exception("handler_broke", path="/" + scope["path"].split("/")[1])
            await self._answer(exchange, HotplateError("the proxy failed; its log says why"))

    async def _answer(self, exchange: Exchange, error: HotplateError) -> None:
        if exchange.has_started:
            # Too late for another status: an answer that ends early tells the client that it is not whole.
            raise error
        allow = [(b"allow", ", ".join(self._handlers).encode())] if isinstance(error, MethodNotAllowed) else []
        await exchange.respond_error(error, allow)
