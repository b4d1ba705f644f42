"""The line between the core and its edges, seen from the core.

One process, the core, decides and runs. Other processes, the edges, answer what they can vouch for alone; for that they
must hear at once what has changed. Each edge keeps one connection to the core on a Unix socket. On it go

::

    core → edge    snapshot: the last value of every topic that lasts; then events, in the order in which they were said
    edge → core    what its answers left behind, in batches
    edge → core    questions, and the answers back
    core → edge    ``settle``: tell what you have not told yet; ``settled`` comes back after it

A payload is JSON and means what its topic says; ``topics`` holds those of the proxy itself. The snapshot is taken and
the edge entered in one step of the event loop, so nothing falls between the two. An edge that does not read is cut off:
it comes back, knows that it has missed something, and begins with a snapshot.

In a proxy of one process nobody is on the line, and what is published here goes nowhere.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import orjson
import structlog

from storage.records import JsonValue

MAX_FRAME_BYTES = 64 * 1024**2
MAX_UNREAD_BYTES = 16 * 1024**2
"""What may wait for an edge that does not read."""

SETTLE_S = 0.25
"""Longest that somebody waits for what edges have not told yet; an edge that hangs is not to hold up lists."""

_LENGTH_BYTES = 4

_log = structlog.get_logger("hotplate.channel")


def pack(frame: list[Any]) -> bytes:
    """A frame for the wire: its length in four bytes, then JSON."""
    body = orjson.dumps(frame)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


async def read_frame(reader: asyncio.StreamReader) -> list[Any] | None:
    """The next frame, ``None`` when there is none any more: the other side is gone, or speaks something else."""
    try:
        length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
        if length > MAX_FRAME_BYTES:
            return None
        frame = orjson.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, OSError, ValueError):
        return None
    return frame if isinstance(frame, list) and frame else None


class CoreChannel:
    """The core's end. Used from one event loop alone."""

    def __init__(self) -> None:
        self._edges: dict[asyncio.StreamWriter, int] = {}
        self._lasting: dict[str, Callable[[], JsonValue]] = {}
        self._hearers: dict[str, Callable[[Any], None]] = {}
        self._answerers: dict[str, Callable[[Any], Awaitable[JsonValue]]] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self._settling: dict[int, tuple[set[asyncio.StreamWriter], asyncio.Future[None]]] = {}
        self._settled = 0
        self._server: asyncio.Server | None = None

    @property
    def pids(self) -> list[int]:
        """Processes of the edges that are on the line."""
        return sorted(self._edges.values())

    # -- what the rest of the core uses ------------------------------------------------------------------

    def publish(self, topic: str, payload: JsonValue, *, lasts: bool = False) -> None:
        """Tell every edge; returns at once. With ``lasts`` an edge that comes later hears it, too."""
        if lasts:
            self._lasting[topic] = lambda: payload
        if not self._edges:
            return
        frame = pack(["event", topic, payload])
        for writer in tuple(self._edges):
            writer.write(frame)
            if writer.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
                _log.warning("edge_cut_off", pid=self._edges[writer])
                self._edges.pop(writer)
                writer.transport.abort()

    def snapshot(self, topic: str, make: Callable[[], JsonValue]) -> None:
        """An edge that comes hears ``make()`` of this topic first."""
        self._lasting[topic] = make

    def hear(self, topic: str, hearer: Callable[[Any], None]) -> None:
        """Call ``hearer`` with each payload that an edge tells of ``topic``."""
        self._hearers[topic] = hearer

    def answer(self, topic: str, answerer: Callable[[Any], Awaitable[JsonValue]]) -> None:
        """Have questions of ``topic`` answered; one whose answerer raises stays without an answer."""
        self._answerers[topic] = answerer

    async def settle(self) -> None:
        """Wait until all that the edges' answers have left behind so far is here, for ``SETTLE_S`` at most.

        For those who show it: whoever was answered by an edge finds that on a list at once.
        """
        if not self._edges:
            return
        self._settled += 1
        number = self._settled
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._settling[number] = (set(self._edges), settled)
        frame = pack(["settle", number])
        for writer in self._edges:
            writer.write(frame)
        try:
            await asyncio.wait({settled}, timeout=SETTLE_S)
        finally:
            del self._settling[number]

    def _has_settled(self, writer: asyncio.StreamWriter, number: int) -> None:
        waiting, settled = self._settling.get(number, (set(), None))
        waiting.discard(writer)
        if settled is not None and not waiting and not settled.done():
            settled.set_result(None)

    # -- connections -------------------------------------------------------------------------------------

    async def serve(self, listener: socket.socket) -> None:
        """Begin to take edges in."""
        self._server = await asyncio.start_unix_server(self._welcome, sock=listener)

    async def aclose(self) -> None:
        """Let all edges go."""
        if self._server is not None:
            self._server.close()
        for writer in tuple(self._edges):
            writer.transport.abort()
        for task in tuple(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            hello = await read_frame(reader)
            if hello is None or hello[0] != "hello":
                return
            writer.write(pack(["snapshot", {topic: make() for topic, make in self._lasting.items()}]))
            self._edges[writer] = int(hello[1])
            while (frame := await read_frame(reader)) is not None:
                self._take(frame, writer)
        finally:
            self._edges.pop(writer, None)
            for number in tuple(self._settling):
                self._has_settled(writer, number)
            writer.transport.abort()

    def _take(self, frame: list[Any], writer: asyncio.StreamWriter) -> None:
        if frame[0] == "told":
            for topic, payload in frame[1]:
                self._hear(topic, payload)
        elif frame[0] == "settled":
            self._has_settled(writer, frame[1])
        elif frame[0] == "ask":
            _, number, topic, payload = frame
            task = asyncio.create_task(self._answer(writer, number, topic, payload))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    def _hear(self, topic: str, payload: Any) -> None:
        hearer = self._hearers.get(topic)
        if hearer is None:
            return
        try:
            hearer(payload)
        except Exception as error:  # one bad entry is not to cost the others
            _log.error("edge_not_understood", topic=topic, reason=type(error).__name__)

    async def _answer(self, writer: asyncio.StreamWriter, number: int, topic: str, payload: Any) -> None:
        try:
            answer: list[Any] = ["answer", number, await self._answerers[topic](payload)]
        except Exception as error:
            _log.warning("edge_not_answered", topic=topic, reason=type(error).__name__)
            answer = ["answer", number]
        with suppress(OSError):
            writer.write(pack(answer))
