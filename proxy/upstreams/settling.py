"""Letting go of runs that nobody wants any more.

Such a run still holds its server's slot. It is cancelled there in the background, and the slot is free again when the
server has answered. A server that does not let go in ``LET_GO_S`` is ejected, and looked at until it is well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from proxy.upstreams.cog_client import CogClient
from proxy.upstreams.cog_wire import Answer, Lost, Unreached
from proxy.upstreams.pool import Pool
from proxy.upstreams.watch import Watch

LET_GO_S = 5.0


class Settling:
    """The runs that are being let go of.

    Args:
        changed: called when a slot is free again.
    """

    def __init__(
        self, pool: Pool, watch: Watch, client: CogClient, *, clock: Callable[[], float], changed: Callable[[], None]
    ) -> None:
        self._pool = pool
        self._watch = watch
        self._client = client
        self._clock = clock
        self._changed = changed
        self._tasks: set[asyncio.Task[None]] = set()

    def cancel(self, run_id: str, server_id: str, post: asyncio.Task[Answer]) -> None:
        """Take over a run whose request ``post`` is open, and the slot that it holds."""
        self._begin(self._cancel(run_id, server_id, self._watch.url(server_id), post))

    def drop(self, post: asyncio.Task[Answer]) -> None:
        """Close the connection to a server that is gone."""
        self._begin(_drop(post))

    async def aclose(self) -> None:
        """Wait for what is under way, for a bounded time."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=LET_GO_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _cancel(self, run_id: str, server_id: str, url: str, post: asyncio.Task[Answer]) -> None:
        try:
            await self._client.cancel(url, run_id)
            await asyncio.wait({post}, timeout=LET_GO_S)
            if not post.done():
                self._watch.eject(server_id, "it did not let go of a cancelled run")
            elif isinstance(answer := post.result(), Lost | Unreached):
                self._watch.eject(server_id, answer.reason)
        finally:
            self._pool.vacate(server_id, self._clock())
            self._changed()
            await _drop(post)


async def _drop(post: asyncio.Task[Answer]) -> None:
    post.cancel()
    await asyncio.wait({post})
