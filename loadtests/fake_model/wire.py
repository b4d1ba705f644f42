"""Below HTTP: how requests are counted, how an answer is broken, and how a connection ends.

``TrackedProtocol`` remembers each connection's transport, so that a fault can write what no framework would write.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from loadtests.fake_model.faults import Fault, Listener, Place
from loadtests.fake_model.world import World

_TRANSPORTS: dict[Any, asyncio.Transport] = {}
_COUNTERS = {
    "create": "creates",
    "poll": "polls",
    "cancel": "cancels",
    "account": "accounts",
    "upload": "uploads",
    "file": "file_requests",
    "secret": "secrets",
    "output": "output_reads",
    "stream": "stream_opens",
    "other": "others",
}
_PLACES: dict[str, Place] = {"/v1/account": "account", "/v1/webhooks/default/secret": "secret"}
_CREDENTIALS = {"output": "output_credentials", "stream": "stream_credentials"}

OVERSIZE = "loadtests.fake_model.oversize"
"""In the scope of a request whose body was larger than any that is taken; what came of it is dropped."""

_FORM_BYTES = 1 << 20
"""What an upload's body may have beside its file."""


class TrackedProtocol(H11Protocol):
    """uvicorn's, with its transport within reach of the application."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        _TRANSPORTS[self.server, self.client] = transport

    def connection_lost(self, exc: Exception | None) -> None:
        _TRANSPORTS.pop((self.server, self.client), None)
        super().connection_lost(exc)


class FaultLayer:
    """Reads each request whole, counts it, and lets a waiting fault befall it."""

    def __init__(self, app: ASGIApp, world: World, listener: Listener) -> None:
        self._app = app
        self._world = world
        self._listener = listener

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/_"):
            await self._app(scope, receive, send)
            return
        body, is_whole = await _read(receive, self._world.options.max_file_bytes + _FORM_BYTES)
        if body is None:
            return
        if not is_whole:
            scope[OVERSIZE] = True
        place = self._place(scope)
        self._count(place, scope)
        fault = self._world.faults.take(place)

        async def replay() -> Message:
            nonlocal body
            if body is None:
                return await receive()
            message, body = {"type": "http.request", "body": body, "more_body": False}, None
            return message

        if fault is None:
            await self._app(scope, replay, _with_cookie(send))
        elif fault.kind in ("status", "throttle"):
            await _refuse(fault, send)
        elif fault.kind in ("cut", "hang"):
            part = _Parting(fault, _with_cookie(send), self._transport(scope), receive)
            await self._app(scope, replay, part.send)
        else:
            answered = _Recorder()
            if fault.is_handled:
                await self._app(scope, replay, answered.send)
            await _break(fault, answered, self._transport(scope), receive)

    def _transport(self, scope: Scope) -> asyncio.Transport:
        return _TRANSPORTS[tuple(scope["server"]), tuple(scope["client"])]

    def _place(self, scope: Scope) -> Place:
        if self._listener != "api":
            return "output" if self._listener == "delivery" else "stream"
        path, method = scope["path"].rstrip("/"), scope["method"]
        if method == "POST" and path.endswith("/predictions"):
            return "create"
        if method == "POST" and path.endswith("/cancel"):
            return "cancel"
        if method == "GET" and path.startswith("/v1/predictions/"):
            return "poll"
        if path == "/v1/files" or path.startswith("/v1/files/"):
            return "upload" if (method, path) == ("POST", "/v1/files") else "file"
        return _PLACES.get(path, "other")

    def _count(self, place: Place, scope: Scope) -> None:
        names = {name for name, _ in scope["headers"]}
        self._world.counts[_COUNTERS[place]] += 1
        self._world.counts["cookies"] += b"cookie" in names
        self._world.counts["deletes"] += scope["method"] == "DELETE"
        if place in _CREDENTIALS:
            self._world.counts[_CREDENTIALS[place]] += b"authorization" in names


class _Recorder:
    """An answer that is kept back."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message["headers"])
        else:
            self.body += message.get("body", b"")


class _Parting:
    """An answer that ends, or falls silent, in the middle."""

    def __init__(self, fault: Fault, send: Send, transport: asyncio.Transport, receive: Receive) -> None:
        self._fault = fault
        self._left = fault.after
        self._send = send
        self._transport = transport
        self._receive = receive

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._send(message)
            if not self._left:
                await self._part()
        elif self._left:
            self._left -= 1
            await self._send({**message, "more_body": True})
            if not self._left:
                await self._part()

    async def _part(self) -> None:
        if self._fault.kind == "cut":
            self._transport.close()
        await _wait_until_gone(self._receive)


async def _wait_until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read(receive: Receive, most: int) -> tuple[bytes | None, bool]:
    """The whole body, and ``True``; nothing and ``False`` for more than ``most`` bytes, which are read all the same so
    that the client hears the answer; ``None`` when the client left before its end."""
    body, is_whole = bytearray(), True
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None, True
        body += message.get("body", b"")
        if len(body) > most:
            body, is_whole = bytearray(), False
        if not message.get("more_body", False):
            return (bytes(body) if is_whole else b""), is_whole


def _with_cookie(send: Send) -> Send:
    """As the real service's front does; nobody should bring it back."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"set-cookie", b"__cf_bm=crumb; Path=/")]
        await send(message)

    return sending


async def _refuse(fault: Fault, send: Send) -> None:
    status, headers = fault.status, [(b"content-type", b"application/json; charset=utf-8")]
    title = b"Insufficient credit" if status == 402 else b"Server error"
    body = b'{"title":"%s","detail":"Something went wrong","status":%d}' % (title, status)
    if fault.kind == "throttle":
        status = 429
        headers += [(b"retry-after", b"%d" % fault.retry_after_s), (b"ratelimit-remaining", b"0")]
        body = b'{"detail":"Request was throttled. Your rate limit resets in ~%ds.","status":429}' % fault.retry_after_s
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _break(fault: Fault, answered: _Recorder, transport: asyncio.Transport, receive: Receive) -> None:
    """Write the broken answer past the framework, end the connection, and wait until it knows."""
    data = _broken(fault, answered)
    if data is not None:
        transport.write(data)
    if fault.kind == "drop-rst":
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    elif fault.kind != "stall":
        transport.close()
    await _wait_until_gone(receive)


def _broken(fault: Fault, answered: _Recorder) -> bytes | None:
    whole = answered.body
    half = whole[: len(whole) // 2]
    match fault.kind:
        case "malformed":
            return _write(answered, half, len(half))
        case "truncated":
            return _write(answered, half, len(whole))
        case "wrong-length":
            return _write(answered, whole, len(half))
        case "close-delimited":
            return _write(answered, half, None)
        case "encoded":
            packed = gzip.compress(whole)
            return _write(answered, packed, len(packed), b"Content-Encoding: gzip\r\n")
        case _:
            return None


def _write(answered: _Recorder, body: bytes, length: int | None, more: bytes = b"") -> bytes:
    lines = [b"HTTP/1.1 %d Broken\r\nConnection: close\r\n" % answered.status, more]
    lines += [b"%s: %s\r\n" % pair for pair in answered.headers if pair[0].lower() != b"content-length"]
    if length is not None:
        lines.append(b"Content-Length: %d\r\n" % length)
    return b"".join([*lines, b"\r\n", body])
