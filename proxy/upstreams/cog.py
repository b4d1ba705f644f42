"""The user's own Cog servers for one model, behind one name.

What runs is learned from the servers: their OpenAPI document, fetched anew whenever a health check shows another
start. It is remembered in the store, so that repeats are answered after a restart of the proxy even while every
server is down. While servers of two builds are up (a rolling update), the build that was started last is the one
described; runs that were described before go to servers of their own build.

A client's credential is never sent on: Cog knows none, and the proxy's own tokens guard this upstream.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import orjson
import structlog

from proxy.core.errors import InvalidJson, UpstreamUnavailable
from proxy.upstreams.accountless import WithoutAccounts
from proxy.upstreams.base import (
    Credential,
    Job,
    ModelDescription,
    ModelTarget,
    Outcome,
    OutputAccess,
    Progress,
    Readiness,
    UpstreamKind,
)
from proxy.upstreams.cog_client import CogClient, Spoken
from proxy.upstreams.cog_news import output_shape
from proxy.upstreams.cog_versions import Build, VersionBook, build_from_openapi
from proxy.upstreams.cog_wire import Away
from proxy.upstreams.dispatcher import Dispatcher
from proxy.upstreams.news_desk import NewsDesk, NewsSource
from proxy.upstreams.pool import Pool, Starting, Unseen
from proxy.upstreams.readiness import readiness_of
from proxy.upstreams.watch import Look, Watch
from storage.errors import StorageError
from storage.ports import KeyValue
from storage.records import JsonObject

FIRST_LOOK_S = 2.0
"""How long the first question after a start waits to hear from the servers, when an answer is remembered."""

DESCRIBE_S = 10.0
"""How long a question waits for a starting server, when nothing is known."""

_log = structlog.get_logger("hotplate.cog")


@dataclass(frozen=True, slots=True)
class CogSpec:
    """What the operator says of the servers.

    Attributes:
        urls: base URLs, all running the same model.
        slots: runs that each server takes at once.
        deadline_s: seconds after which a run is given up; also for how long one waits while no server is up.
        revision: tag of the weights; part of every version.
        version: 64 hex digits that the version shall be, instead of a hash.
        progress_url: where the servers reach this proxy's admin listener, to tell how runs go; ``None``: those on
            loopback find it by themselves, the others are not asked.
        tells_progress: whether servers are asked at all.
    """

    name: str
    urls: tuple[str, ...]
    slots: int = 1
    deadline_s: float = 600.0
    queue_limit: int = 1000
    revision: str = ""
    version: str | None = None
    progress_url: str | None = None
    tells_progress: bool = True


@dataclass(slots=True)
class _Site:
    """What is known of one server: its address, and its build as of the start at ``setup_at``."""

    url: str
    build: Build | None = None
    setup_at: str | None = None


class CogUpstream(WithoutAccounts):
    """An ``Upstream`` of running Cog servers.

    Args:
        memory: where schema and names outlast a restart; ``None`` = nowhere.
        desk: where servers tell how runs go; ``None`` = nowhere.
        now, clock: epoch seconds; monotonic seconds.

    Raises:
        ValueError: a URL is none.
    """

    kind: UpstreamKind = "cog"

    def __init__(
        self,
        spec: CogSpec,
        memory: KeyValue | None = None,
        *,
        desk: NewsDesk | None = None,
        client: CogClient | None = None,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = spec.name
        self.output_access = OutputAccess(origins=tuple(_origin(url) for url in spec.urls))
        self._spec = spec
        self._memory = memory
        self._client = client or CogClient()
        self._book = VersionBook(spec.name, pinned=spec.version, memory=memory)
        self._row = f"schema:{spec.name}"
        self._sites = {_label(url): _Site(url.rstrip("/")) for url in spec.urls}
        self._build: Build | None = None
        self._changed = asyncio.Event()
        self._opening = asyncio.Lock()
        self._is_open = False
        self._pool = Pool(spec.queue_limit)
        self._watch = Watch(self._pool, self._look, clock=clock, changed=self._on_look)
        self._dispatcher = Dispatcher(
            self._pool,
            self._watch,
            self._client,
            deadline_s=spec.deadline_s,
            patience_s=spec.deadline_s,
            source=NewsSource(desk, spec.progress_url, clock=clock)
            if desk is not None and spec.tells_progress
            else None,
            now=now,
            clock=clock,
        )
        for server_id in self._sites:
            self._pool.add(server_id, spec.slots, Unseen(), None, clock())

    # -- the Protocol ------------------------------------------------------------------------------

    async def describe(self, target: ModelTarget, credential: Credential | None) -> ModelDescription:
        """See ``Upstream.describe``."""
        return self._book.describe(target, await self._known_build())

    async def run(self, job: Job, report: Callable[[Progress], None]) -> Outcome:
        """See ``Upstream.run``."""
        latest = await self._known_build()
        build = self._book.build_of(job.version) or latest.id
        shape = output_shape(latest.openapi if build == latest.id else None)
        outcome = await self._dispatcher.run(job, build, report, shape)
        if outcome.status == "succeeded":
            await self._book.keep(job.target.model)
        return outcome

    async def readiness(self) -> Readiness:
        """See ``Upstream.readiness``."""
        await self._open()
        await self._wait_while(self._is_unseen, FIRST_LOOK_S)
        return readiness_of(self._pool)

    async def aclose(self) -> None:
        """Stop looking, let go of cancelled runs, close connections. The servers are left as they are."""
        await self._dispatcher.aclose()
        await self._watch.aclose()
        await self._client.aclose()

    # -- which build runs --------------------------------------------------------------------------

    async def _known_build(self) -> Build:
        await self._open()
        if self._build is not None and self._is_unseen():
            await self._wait_while(self._is_unseen, FIRST_LOOK_S)
        if self._build is None:
            self._watch.hurry()
            await self._wait_while(self._is_build_to_come, DESCRIBE_S)
        if self._build is None:
            raise UpstreamUnavailable(f"Nothing is known of the model yet: {self._pool.reasons() or 'it is starting'}.")
        return self._build

    def _is_unseen(self) -> bool:
        return any(isinstance(server.state, Unseen) for server in self._pool.servers())

    def _is_build_to_come(self) -> bool:
        is_starting = any(isinstance(server.state, Unseen | Starting) for server in self._pool.servers())
        return self._build is None and (is_starting or not self._watch.are_fresh())

    async def _wait_while(self, condition: Callable[[], bool], timeout_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while condition():
                    self._changed.clear()
                    await self._changed.wait()

    async def _open(self) -> None:
        """On first use: recall what was known, and begin to look at the servers."""
        if self._is_open:
            return
        async with self._opening:
            if self._is_open:
                return
            await self._book.load()
            row = await self._memory.get(self._row) if self._memory else None
            if row is not None:
                with suppress(orjson.JSONDecodeError, TypeError, KeyError, InvalidJson):
                    self._build = self._as_build(orjson.loads(row)["openapi"])
            for server_id, site in self._sites.items():
                self._watch.begin(server_id, site.url)
            self._is_open = True

    def _as_build(self, openapi: JsonObject | None) -> Build:
        if self._spec.version is not None:
            return Build(self._spec.version, openapi, self._spec.revision)
        return build_from_openapi(openapi, self._spec.revision)

    async def _look(self, server_id: str) -> Look:
        """A health check, and after a start the OpenAPI document as well."""
        site = self._sites[server_id]
        seen = await self._client.health(site.url)
        if isinstance(seen, Away):
            site.build = None
            return Look(seen, None)
        if site.build is None or site.setup_at != seen.setup_at:
            site.build = None
            spoken = await self._client.openapi(site.url)
            if isinstance(spoken, Spoken):
                try:
                    site.build, site.setup_at = self._as_build(spoken.openapi), seen.setup_at
                except InvalidJson as error:
                    return Look(Away(f"its OpenAPI document cannot be read: {error.detail}", "mute"), None)
                await self._learn()
            elif seen.status in ("READY", "BUSY"):
                return Look(spoken, None)
        return Look(seen, site.build.id if site.build else None)

    async def _learn(self) -> None:
        """The build started last is the one described from now on."""
        sites = [site for site in self._sites.values() if site.build is not None]
        latest = max(sites, key=lambda site: site.setup_at or "").build
        if latest is None or (self._build is not None and latest.openapi == self._build.openapi):
            return
        self._build = latest
        self._book.forget()
        _log.info("model_learned", upstream=self.name, build=latest.id[:12], has_schema=latest.openapi is not None)
        if self._memory is not None:
            try:
                await self._memory.put(self._row, orjson.dumps({"openapi": latest.openapi}))
            except StorageError as error:
                _log.warning("schema_not_kept", upstream=self.name, reason=str(error))

    def _on_look(self) -> None:
        self._changed.set()
        self._dispatcher.pump()


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"not an http or https URL: {url!r}")
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _label(url: str) -> str:
    """The URL's place without scheme and credentials: a server's name in logs and states."""
    parts = urlsplit(url)
    return f"{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
