"""Keeps an eye on a pool's servers: one task for each looks at it and tells the pool what it found.

Seldom while a server works, often while it starts, ever more seldom while it is ejected; at once when somebody asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from proxy.upstreams.cog_wire import Away, Health
from proxy.upstreams.pool import Ejected, Occupied, Pool, judge, next_look_s

FRESH_S = 1.0
"""How long a look is believed before a run is sent, and how often at most newcomers cause one."""

EJECTED_S = 0.5
"""From an ejection to the next look: cog 0.16 answers for some 100 ms more after its worker has died."""

_log = structlog.get_logger("hotplate.servers")


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at a server found; ``build`` where it could be told."""

    seen: Health | Away
    build: str | None


@dataclass(slots=True)
class _Link:
    url: str
    lost: asyncio.Future[str]
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    task: asyncio.Task[None] | None = None
    looked_at: float = float("-inf")
    next_at: float = float("-inf")
    looks: int = 0
    misses: int = 0
    setup_at: str | None = None
    is_coglet: bool = False


class Watch:
    """The looks at one pool's servers.

    Args:
        looker: looks at a server by its id.
        clock: monotonic seconds.
        changed: called after each look and each ejection.
    """

    def __init__(
        self,
        pool: Pool,
        looker: Callable[[str], Awaitable[Look]],
        *,
        clock: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._looker = looker
        self._clock = clock
        self._changed = changed
        self._links: dict[str, _Link] = {}

    def begin(self, server_id: str, url: str) -> None:
        """Look after a server of the pool from now on."""
        link = _Link(url, asyncio.get_running_loop().create_future())
        self._links[server_id] = link
        link.task = asyncio.create_task(self._keep_looking(server_id, link))

    def end(self, server_id: str, reason: str) -> None:
        """Stop it; whoever still runs there is told that the server is lost."""
        link = self._links.pop(server_id, None)
        if link is not None:
            if link.task is not None:
                link.task.cancel()
            _lose(link, reason)

    def is_kept(self, server_id: str) -> bool:
        """Whether this server is looked after."""
        return server_id in self._links

    def url(self, server_id: str) -> str:
        """Base URL of a server that is looked after."""
        return self._links[server_id].url

    def is_coglet(self, server_id: str) -> bool:
        """Whether a server that is looked after speaks coglet's dialect, by its last health check."""
        return self._links[server_id].is_coglet

    def lost(self, server_id: str) -> asyncio.Future[str]:
        """Done, with a reason, once runs at this server will never be answered."""
        return self._links[server_id].lost

    def is_fresh(self, server_id: str) -> bool:
        """Whether the last look may be believed."""
        link = self._links.get(server_id)
        return link is not None and self._clock() - link.looked_at < FRESH_S

    def are_fresh(self) -> bool:
        """Whether the last look at every server may be believed."""
        return all(self.is_fresh(server_id) for server_id in self._links)

    def hurry(self) -> None:
        """Look soon at servers that are not up, unless that has just been done."""
        for server in self._pool.servers():
            if not server.is_up and server.id in self._links and not self.is_fresh(server.id):
                self._hasten(self._links[server.id], 0.0)

    def eject(self, server_id: str, reason: str) -> None:
        """No more runs for this server until a look finds it well."""
        link = self._links.get(server_id)
        server = self._pool.server(server_id)
        if link is None or server is None or isinstance(server.state, Ejected):
            return
        _log.warning("server_ejected", server=server_id, reason=reason)
        # A server that just died may look well for a moment more: so not at once, and newcomers do not hasten it.
        link.looked_at = self._clock()
        self._pool.update(server_id, Ejected(reason), link.looked_at)
        link.looks = 0
        self._hasten(link, EJECTED_S)
        self._changed()

    def mark_occupied(self, server_id: str) -> None:
        """Somebody else fills it, although it looks ready."""
        link = self._links.get(server_id)
        if link is not None and self._pool.server(server_id) is not None:
            self._pool.update(server_id, Occupied(), self._clock())
            link.looks = 0
            self._hasten(link, next_look_s(Occupied(), 0))
            self._changed()

    async def look(self, server_id: str, *, for_a_run: bool = False) -> None:
        """Look now. ``for_a_run``: on behalf of a run that holds a slot there, but has not been sent yet."""
        link = self._links.get(server_id)
        if link is None:
            return
        async with link.lock:
            if self._links.get(server_id) is not link:
                return
            look = await self._ask(server_id)
            server = self._pool.server(server_id)
            if server is None or self._links.get(server_id) is not link:
                return
            before = server.state
            after = judge(
                look.seen, before, others_running=server.running - (1 if for_a_run else 0), misses=link.misses
            )
            link.misses = link.misses + 1 if isinstance(look.seen, Away) else 0
            link.looks = link.looks + 1 if type(after) is type(before) else 0
            link.looked_at = self._clock()
            self._pool.update(server_id, after, link.looked_at, build=look.build)
            link.next_at = link.looked_at + next_look_s(after, link.looks, link.misses)
            if isinstance(look.seen, Health):
                link.is_coglet = look.seen.is_coglet
                _note_start(link, look.seen)
            elif isinstance(after, Ejected) and look.seen.kind != "mute":
                _lose(link, after.reason)
            if server.is_up and link.lost.done():
                link.lost = asyncio.get_running_loop().create_future()
            if type(after) is not type(before):
                link.wake.set()  # the next look is due at another time now
                reason = {"reason": after.reason} if isinstance(after, Ejected) else {}
                _log.info("server_state", server=server_id, state=type(after).__name__.lower(), **reason)
        self._changed()

    async def _ask(self, server_id: str) -> Look:
        try:
            return await self._looker(server_id)
        except Exception:
            # Whatever a server says, its task must live on: without it the server would keep its state for ever.
            _log.exception("look_failed", server=server_id)
            return Look(Away("it cannot be looked at", "mute"), None)

    def _hasten(self, link: _Link, delay_s: float) -> None:
        link.next_at = min(link.next_at, self._clock() + delay_s)
        link.wake.set()

    async def _keep_looking(self, server_id: str, link: _Link) -> None:
        while self._links.get(server_id) is link:
            delay_s = link.next_at - self._clock()
            if delay_s <= 0:
                await self.look(server_id)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await link.wake.wait()
            link.wake.clear()

    async def aclose(self) -> None:
        """Stop looking."""
        tasks = [link.task for link in self._links.values() if link.task is not None]
        for server_id in list(self._links):
            self.end(server_id, "the proxy ends")
        await asyncio.gather(*tasks, return_exceptions=True)


def _lose(link: _Link, reason: str) -> None:
    if not link.lost.done():
        link.lost.set_result(reason)


def _note_start(link: _Link, seen: Health) -> None:
    """A start since the last look means that whatever ran there is gone."""
    if seen.setup_at is not None and seen.setup_at != link.setup_at:
        if link.setup_at is not None:
            _lose(link, "its server was started anew")
        link.setup_at = seen.setup_at
