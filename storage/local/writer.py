"""The one thread that writes.

Every change of the disk goes through it, so that the event loop never waits for a sync or for SQLite's write
lock, and so that the order of changes is the order of the calls. A call that was taken is carried out whole: a
caller who is cancelled stops waiting, the write goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

from storage.errors import StorageUnavailable

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Writer:
    """Runs functions one after another in a thread of its own."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="storage-writer")
        self._last: Future[None] | None = None

    async def run(self, fn: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run ``fn(*args)`` after everything taken before it, and return what it returns.

        A cancelled caller neither stops nor removes it from the queue.

        Raises:
            StorageUnavailable: the writer was closed.
            Exception: whatever ``fn`` raises.
        """
        return await asyncio.shield(asyncio.wrap_future(self._take(fn, *args)))

    def submit(self, fn: Callable[[*Ts], object], *args: *Ts) -> None:
        """Run ``fn(*args)`` in its turn without waiting; what it returns or raises is dropped.

        Nothing happens once the writer is closed.
        """
        if self._last is None:
            self._take(fn, *args)

    async def aclose(self, last: Callable[[], None] = lambda: None) -> None:
        """Refuse new calls, carry out those taken, then ``last``, and end the thread. Safe to call again."""
        if self._last is None:
            self._last = self._pool.submit(last)
            self._pool.shutdown(wait=False)
        await asyncio.shield(asyncio.wrap_future(self._last))

    def _take(self, fn: Callable[[*Ts], T], *args: *Ts) -> Future[T]:
        if self._last is not None:
            raise StorageUnavailable("the store is closed")
        return self._pool.submit(fn, *args)
