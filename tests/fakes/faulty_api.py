"""A Replicate-like API down at the level of bytes: what it does to a create is the test's choice.

Everything else that a proxy asks is answered well, over kept connections, and every answer sets a cookie.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

CreateFault = Literal["none", "fin", "rst", "silence", "half", "garbage", "half-head", "reset-in-body"]
"""What happens once the whole create was read; ``none``: it is answered."""


@dataclass(slots=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int


@dataclass(slots=True)
class FaultyApi:
    """What it was asked, and what it does to creates.

    Attributes:
        leaves_kept: a kept connection is closed, without an answer, when a second request came over it.
        refusal: status, headers and body with which creates are refused.
        looks: how many times a run is looked at before it has ended.
    """

    fault: CreateFault = "none"
    leaves_kept: bool = False
    looks: int = 0
    refusal: tuple[int, dict[str, str], str] | None = None
    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    _serial: int = 0
    _looked: dict[str, int] = field(default_factory=dict)

    @property
    def creates(self) -> list[Asked]:
        return [one for one in self.asked if one.method == "POST" and one.path.endswith("/predictions")]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number, served = self.connections, 0
        try:
            while True:
                one = await _read(reader, number)
                self.asked.append(one)
                served += 1
                if self.leaves_kept and served > 1:
                    return
                if one.method == "POST" and one.path.endswith("/predictions") and self.fault != "none":
                    await self._misbehave(writer)
                    return
                if self.refusal is not None and one in self.creates:
                    writer.write(_refuse(*self.refusal))
                else:
                    writer.write(_answer(*self._say(one), one))
                await writer.drain()
                if one.headers.get("connection", "").lower() == "close":
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _say(self, one: Asked) -> tuple[int, object]:
        if one.path.endswith("/account"):
            token = one.headers.get("authorization", "").encode()
            return 200, {"type": "user", "username": f"user-{zlib.crc32(token):08x}"}
        if one.method == "POST" and one.path.endswith("/predictions"):
            self._serial += 1
            return 201, self._prediction(f"run{self._serial:023}")
        if one.path.startswith("/v1/predictions/"):
            return 200, self._prediction(one.path.split("/")[3])
        return 404, {"detail": "Not found", "status": 404}

    def _prediction(self, run_id: str) -> dict[str, object]:
        looked = self._looked[run_id] = self._looked.get(run_id, -1) + 1
        has_ended = looked >= self.looks
        return {
            "id": run_id,
            "model": "acme/pixel",
            "version": "hidden",
            "status": "succeeded" if has_ended else "processing",
            "input": {},
            "output": "a text" if has_ended else None,
            "logs": "",
            "error": None,
            "metrics": {"predict_time": 0.1} if has_ended else {},
            "urls": {},
        }

    async def _misbehave(self, writer: asyncio.StreamWriter) -> None:
        body = json.dumps(self._prediction("run")).encode()
        head = b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        match self.fault:
            case "silence":
                await asyncio.sleep(60)
            case "half":
                writer.write(head + body[: len(body) // 2])
            case "reset-in-body":
                writer.write(head + body[: len(body) // 2])
                await writer.drain()
                await asyncio.sleep(0.05)
            case "garbage":
                writer.write(b"what a day\r\n\r\n")
            case "half-head":
                writer.write(head[:25])
        await writer.drain()
        if self.fault in ("rst", "reset-in-body"):
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


def _answer(status: int, document: object, one: Asked) -> bytes:
    body = json.dumps(document).encode()
    credential = one.headers.get("authorization", "nobody").rpartition(" ")[2]
    lines = [
        f"HTTP/1.1 {status} Said",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        f"Set-Cookie: session={credential}; Path=/",
        f"Set-Cookie: __cf_bm={credential}; Path=/; HttpOnly",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _refuse(status: int, headers: dict[str, str], body: str) -> bytes:
    lines = [f"HTTP/1.1 {status} No", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", body]).encode()


async def _read(reader: asyncio.StreamReader, connection: int) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    method, path, _ = first.split(" ")
    return Asked(method, path, headers, body, connection)


@asynccontextmanager
async def faulty_api(tls: ssl.SSLContext | None = None) -> AsyncIterator[FaultyApi]:
    """Run one on loopback."""
    api = FaultyApi()
    server = await asyncio.start_server(api.serve, "127.0.0.1", 0, ssl=tls)
    api.port = server.sockets[0].getsockname()[1]
    try:
        yield api
    finally:
        server.close()
