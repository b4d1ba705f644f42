"""The line between the core and its edges, seen from an edge; ``channel`` says what goes over it.

While the line is down an edge cannot know what was revoked, so it must not vouch for anything: ``is_up`` says so. Each
connection begins with forgetting (``on_connect``) and the core's snapshot; only then is the line up. News that cannot
be taken in ends the connection, too: who has missed something begins anew.

What an edge tells is sent at once when little is told, and in batches when much is. It is kept while the core is away,
within a bound, and lost only with the edge itself.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog

from proxy.engine.channel import pack, read_frame
from storage.records import JsonValue

RETRY_S = 0.05
BATCH_S = 0.05
"""Pause between two batches."""

BATCH_ENTRIES = 100
MAX_PENDING = 100_000
"""Entries that wait while the core is away; beyond, they are dropped."""

_log = structlog.get_logger("hotplate.channel")


class NoAnswer(Exception):
    """The core did not answer a question, or not in time."""


class EdgeChannel:
    """An edge's end. Used from one event loop alone.

    Args:
        path: the core's Unix socket.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._subscribers: dict[str, Callable[[Any], None]] = {}
        self._starters: list[Callable[[], None]] = []
        self._writer: asyncio.StreamWriter | None = None
        self._up = asyncio.Event()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._questions = 0
        self._pending: list[tuple[str, JsonValue]] = []
        self._flush_at = 0.0
        self._flushing: asyncio.TimerHandle | asyncio.Handle | None = None

    @property
    def is_up(self) -> bool:
        """Whether everything that the core has said is known here."""
        return self._writer is not None

    @property
    def line(self) -> object | None:
        """The connection over which all that the core has said is known here; each is another object."""
        return self._writer

    async def wait_until_up(self, timeout_s: float) -> bool:
        """Wait for the core; whether it is there."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._up.wait()
        return self.is_up

    def subscribe(self, topic: str, subscriber: Callable[[Any], None]) -> None:
        """Call ``subscriber`` with each payload of ``topic``, and with the one in a snapshot."""
        self._subscribers[topic] = subscriber

    def on_connect(self, starter: Callable[[], None]) -> None:
        """Call ``starter`` before a snapshot is taken in: what was known before may have changed unheard."""
        self._starters.append(starter)

    def tell(self, topic: str, payload: JsonValue) -> None:
        """Tell the core, a moment later. Costs next to nothing and never fails."""
        if len(self._pending) >= MAX_PENDING:
            return
        self._pending.append((topic, payload))
        if self._flushing is None and self._writer is not None:
            loop = asyncio.get_running_loop()
            wait_s = self._flush_at + BATCH_S - loop.time()
            # Once this step of the event loop is over, so that all that one answer leaves behind goes in one batch.
            self._flushing = loop.call_soon(self._flush) if wait_s <= 0 else loop.call_later(wait_s, self._flush)
        elif len(self._pending) == BATCH_ENTRIES and self._flushing is not None:
            self._flushing.cancel()
            self._flushing = asyncio.get_running_loop().call_soon(self._flush)

    async def ask(self, topic: str, payload: JsonValue, timeout_s: float) -> Any:
        """The core's answer.

        Raises:
            NoAnswer: it has none, is away, or takes longer.
        """
        if self._writer is None:
            raise NoAnswer(topic)
        self._questions += 1
        number = self._questions
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(pack(["ask", number, topic, payload]))
            async with asyncio.timeout(timeout_s):
                return await future
        except (TimeoutError, OSError) as error:
            raise NoAnswer(topic) from error
        finally:
            self._asked.pop(number, None)

    async def run(self) -> None:
        """Keep the line, until cancelled."""
        try:
            while True:
                with suppress(OSError):
                    await self._connect()
                await asyncio.sleep(RETRY_S)
        finally:
            self._flush()
            if self._writer is not None:
                with suppress(OSError):
                    await self._writer.drain()
                self._writer.close()
            self._down()

    async def _connect(self) -> None:
        reader, writer = await asyncio.open_unix_connection(self._path)
        try:
            writer.write(pack(["hello", os.getpid()]))
            while (frame := await read_frame(reader)) is not None:
                try:
                    self._take(frame, writer)
                except Exception as error:
                    _log.error("core_not_understood", frame=str(frame[0]), reason=type(error).__name__)
                    break
        except asyncio.CancelledError:
            raise  # ``run`` sends what is left
        except BaseException:
            self._down()
            raise
        self._down()
        writer.transport.abort()

    def _take(self, frame: list[Any], writer: asyncio.StreamWriter) -> None:
        kind = frame[0]
        if kind == "event":
            self._hear(frame[1], frame[2])
        elif kind == "answer":
            future = self._asked.get(frame[1])
            if future is not None and not future.done():
                if len(frame) == 3:
                    future.set_result(frame[2])
                else:
                    future.set_exception(NoAnswer())
        elif kind == "settle":
            self._flush()
            writer.write(pack(["settled", frame[1]]))
        elif kind == "snapshot":
            for starter in self._starters:
                starter()
            for topic, payload in frame[1].items():
                self._hear(topic, payload)
            self._writer = writer
            self._up.set()
            self._flush()

    def _hear(self, topic: str, payload: Any) -> None:
        subscriber = self._subscribers.get(topic)
        if subscriber is not None:
            subscriber(payload)

    def _down(self) -> None:
        self._writer = None
        self._up.clear()
        for future in self._asked.values():
            if not future.done():
                future.set_exception(NoAnswer())

    def _flush(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        if not self._pending or self._writer is None:
            return
        told, self._pending = self._pending, []
        self._flush_at = asyncio.get_running_loop().time()
        with suppress(OSError):
            self._writer.write(pack(["told", told]))
