"""A server that says exactly the bytes it is told, to play what no well-behaved server does."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

End = Literal["fin", "rst", "stall"]


@dataclass(frozen=True, slots=True)
class Reply:
    """Bytes to answer one request with, and how the connection ends afterwards (``"stall"``: not at all)."""

    data: bytes = b""
    end: End = "fin"


def reply(
    status: str = "200 OK", headers: Sequence[str] = (), body: bytes = b"", *, length: int | None = -1, end: End = "fin"
) -> Reply:
    """An HTTP reply; ``length`` is the ``Content-Length``: -1 the true one, ``None`` left out."""
    lines = [f"HTTP/1.1 {status}", *headers]
    if length is not None:
        lines.append(f"Content-Length: {len(body) if length < 0 else length}")
    return Reply("\r\n".join([*lines, "", ""]).encode() + body, end)


@dataclass(slots=True)
class RawServer:
    """What the server is to say, in order (the last one again and again), and what it was asked."""

    host: str
    port: int
    replies: list[Reply]
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                self.requests.append(await _read_request(reader))
                answer = self.replies[0] if len(self.replies) == 1 else self.replies.pop(0)
                writer.write(answer.data)
                await writer.drain()
                if answer.end == "rst":
                    writer.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                    )
                if answer.end != "stall":
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def _read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return head + await reader.readexactly(int(value))
        if name.lower() == b"transfer-encoding":
            return head + await _read_chunks(reader)
    return head


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")
    return body


@asynccontextmanager
async def raw_server(
    *replies: Reply, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[RawServer]:
    """Run a ``RawServer`` on loopback."""
    double = RawServer(host, port, list(replies) or [reply()])
    server = await asyncio.start_server(double.serve, host, port, ssl=tls)
    double.port = server.sockets[0].getsockname()[1]
    try:
        yield double
    finally:
        server.close()
