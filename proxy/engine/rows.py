"""Small rows that are written behind the answers, one after another, in the order in which they were said."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from storage.errors import StorageError
from storage.ports import KeyValue

_log = structlog.get_logger("hotplate.rows")


class RowWriter:
    """Writes to ``rows``. A write that fails is told to the log and to whoever waits for it, and delays nothing."""

    def __init__(self, rows: KeyValue) -> None:
        self._rows = rows
        self._last: asyncio.Task[bool] | None = None

    def put(self, name: str, value: bytes, ttl_s: float) -> asyncio.Task[bool]:
        """Write a row behind; the task says in the end whether it is there."""
        return self._queue(lambda: self._rows.put(name, value, ttl_s))

    def remove(self, name: str) -> asyncio.Task[bool]:
        """Remove a row behind."""
        return self._queue(lambda: self._rows.remove(name))

    async def get(self, name: str) -> bytes | None:
        """The row as it was written last; what is still queued is not there yet."""
        return await self._rows.get(name)

    async def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        """See ``KeyValue.scan``."""
        return await self._rows.scan(prefix)

    async def drain(self) -> None:
        """Wait until everything said so far is written."""
        while self._last is not None and not self._last.done():
            await asyncio.wait([self._last])

    def _queue(self, write: Callable[[], Awaitable[None]]) -> asyncio.Task[bool]:
        self._last = asyncio.create_task(_after(self._last, write))
        return self._last


async def _after(previous: asyncio.Task[bool] | None, write: Callable[[], Awaitable[None]]) -> bool:
    if previous is not None and not previous.done():
        await asyncio.wait([previous])
    try:
        await write()
    except StorageError as error:
        _log.warning("row_not_written", reason=type(error).__name__)
        return False
    return True
