"""The list of a caller's predictions: those made here among the upstream's own, newest first.

The upstream is the one that gets everything which is not handled here; predictions made through Hotplate at other
upstreams are there as own entries. Reading the upstream's page is also what proves the credential.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import orjson

from proxy.core.cursors import Cursor, parse_time_us, write_cursor
from proxy.core.entitlement import Visitor
from proxy.core.errors import UpstreamRefused, UpstreamUnavailable
from proxy.core.listing import Ascent, Boundary, Descent, Listed, Own, Theirs, UpstreamPage
from proxy.core.predictions import for_list, render_prediction
from proxy.core.rewriting import Links, elements
from proxy.engine.credentials import Gatekeeper
from proxy.engine.history import History
from proxy.engine.views import Views
from proxy.upstreams.base import Credential, RelayRequest, Upstream
from proxy.upstreams.bodies import nothing
from proxy.upstreams.http import TOLD_HEADERS, allow
from proxy.upstreams.relay import read_whole
from storage.digest import Scope
from storage.records import JsonObject

PAGE_SIZE = 100
"""As Replicate's own pages."""

MAX_PAGE_BYTES = 64 * 1024**2
"""A page of the upstream's with inputs as ``data:`` URLs is large; beyond this it is no page."""

LARGE_BYTES = 256 * 1024
"""A page above this is searched for links in a thread."""

_TOGETHER = 10
"""Own entries that are rendered before somebody else has a turn."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks for a list, and where: ``places`` are the upstreams at which he is somebody, ``relay`` the one whose own
    list belongs to it, if he is somebody there."""

    credential: Credential | None
    places: Sequence[tuple[Upstream, Visitor]]
    relay: Upstream | None


class Listing:
    """Gathers pages."""

    def __init__(self, history: History, views: Views, gatekeeper: Gatekeeper, base_url: str) -> None:
        self._history = history
        self._views = views
        self._gatekeeper = gatekeeper
        self._base_url = base_url

    async def page(self, asker: Asker, cursor: Cursor, size: int = PAGE_SIZE) -> bytes:
        """One page as JSON bytes.

        Raises:
            UpstreamRefused, UpstreamUnavailable, UpstreamTimeout: the upstream's list cannot be read.
            Overloaded: an upstream cannot be asked about the credential now.
        """
        # The upstream first: a run that began meanwhile is then known as ours.
        page = await self._read(asker, cursor.boundary.query)
        own, ours = await self._own(asker)
        entries = [entry for entry in own if cursor.filters.covers(entry.created_us)]
        walk = (Descent if cursor.way == "down" else Ascent)(cursor.boundary, entries, size)
        walk.feed(_marked(page, ours))
        while walk.wanted is not None:
            walk.feed(_marked(await self._read(asker, walk.wanted), ours))
        items = await self._render(walk.items, own)
        start, end = cursor.boundary, walk.end
        above, below = (start, end) if cursor.way == "down" else (end, start)
        links: JsonObject = {
            "previous": self._link(cursor, above, "up") if above is not None and not above.is_top else None,
            "next": self._link(cursor, below, "down") if below is not None else None,
        }
        return b'%b,"results":[%b]}' % (orjson.dumps(links)[:-1], b",".join(items))

    def _link(self, cursor: Cursor, boundary: Boundary, way: str) -> str:
        onward = Cursor(boundary, cursor.filters, "up" if way == "up" else "down")
        return f"{self._base_url}/v1/predictions?cursor={write_cursor(onward)}"

    async def _own(self, asker: Asker) -> tuple[dict[Own, tuple[Scope, Visitor]], frozenset[str]]:
        """All own entries with their owner, newest first, and the upstream's ids of runs that they stand for."""
        found: dict[Own, tuple[Scope, Visitor]] = {}
        ours: set[str] = set()
        for upstream, visitor in asker.places:
            lists = [(owner, await self._history.entries(owner)) for owner in visitor.owners]
            # A credential is told to an upstream only where it was used before.
            is_empty = not any(entries for _, entries in lists)
            if is_empty or (upstream is not asker.relay and not await self._is_known(asker, upstream)):
                continue
            for owner, entries in lists:
                found.update((Own(entry.created_us, entry.id), (owner, visitor)) for entry in entries)
                if upstream is asker.relay:
                    ours.update(entry.upstream_id for entry in entries if entry.upstream_id is not None)
        return {one: found[one] for one in sorted(found, reverse=True)}, frozenset(ours)

    async def _is_known(self, asker: Asker, upstream: Upstream) -> bool:
        try:
            await self._gatekeeper.require(upstream, asker.credential)
        except UpstreamRefused:
            return False
        return True

    async def _render(self, items: Sequence[Listed], own: dict[Own, tuple[Scope, Visitor]]) -> list[bytes]:
        rendered: list[bytes] = []
        for index, item in enumerate(items):
            if isinstance(item, Theirs):
                rendered.append(item.body)
                continue
            if index % _TOGETHER == _TOGETHER - 1:
                await asyncio.sleep(0)
            owner, visitor = own[item]
            prediction = await self._views.find(item.id, owner, visitor.entitled, in_list=True)
            if prediction is not None:
                rendered.append(render_prediction(for_list(prediction), self._base_url))
        return rendered

    # -- the upstream's list -----------------------------------------------------------------------------

    async def _read(self, asker: Asker, query: str) -> UpstreamPage:
        upstream = asker.relay
        if upstream is None:
            return UpstreamPage(query)
        request = RelayRequest("GET", "/predictions", query, [("accept", "application/json")], nothing(), False)
        as_of = self._gatekeeper.refusals
        response = await upstream.relay(request, asker.credential)
        body = await read_whole(response, MAX_PAGE_BYTES)
        if response.status != 200:
            if response.status in (401, 403):
                self._gatekeeper.refuse(upstream, asker.credential)
            raise UpstreamRefused(response.status, allow(response.headers, TOLD_HEADERS), body)
        self._gatekeeper.accept(upstream, asker.credential, as_of)
        links = Links(self._base_url, upstream.api_roots)
        try:
            if len(body) > LARGE_BYTES:
                return await asyncio.to_thread(_parse, query, links, body)
            return _parse(query, links, body)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UpstreamUnavailable("The model service's list of predictions cannot be read.") from error


def _marked(page: UpstreamPage, ours: frozenset[str]) -> UpstreamPage:
    """``page`` with what own entries stand for marked as ours."""
    return replace(page, items=tuple(item._replace(is_ours=item.id in ours) for item in page.items))


def _parse(query: str, links: Links, body: bytes) -> UpstreamPage:
    """A page from the upstream's answer, its links pointing here.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is none.
    """
    document = orjson.loads(body)
    bodies = elements(links.localised(body), "results")
    items: list[Theirs] = []
    created_us = 0
    for result, own_bytes in zip(document["results"], bodies, strict=True):
        # Without a time of its own it stays where it stands.
        created_us = parse_time_us(result.get("created_at")) or created_us
        items.append(Theirs(created_us, str(result["id"]), body=own_bytes))
    onward, back = (_query_of(document.get(name)) for name in ("next", "previous"))
    return UpstreamPage(query, tuple(items), None if onward == query else onward, None if back == query else back)


def _query_of(link: object) -> str | None:
    """The query of a link to a page of the same list, absolute or relative; its host does not matter."""
    if not isinstance(link, str):
        return None
    parts = urlsplit(link)
    is_ours = parts.path == "" or parts.path.rstrip("/").endswith("/predictions")
    return parts.query if is_ours else None
