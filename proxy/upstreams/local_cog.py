"""A Cog model on this machine, started when a run needs it and stopped when none does.

- Repeats and questions need no running copy: schema and version are read from the model's folder.
- Whatever happens to this process, no copy outlives it (``keeper``).
- A copy whose worker died, whose process ended, or that does not let go of a run is replaced; its run is asked again
  once.
- A model that cannot start fails the runs that wait for it, and those that come within the next seconds, with what it
  printed. After that the next run tries again.
- Edited files make another version; copies of the old build are stopped once they have no work.

Copies are Cog servers in child processes (``local_copy``); ``fleet`` decides how many there should be and ``copies``
sees to it. Runs come to them in the same way as to the user's own servers (``pool``, ``dispatcher``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from proxy.core.errors import UpstreamUnavailable
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
from proxy.upstreams.cog_client import CogClient
from proxy.upstreams.cog_news import output_shape
from proxy.upstreams.cog_versions import VersionBook
from proxy.upstreams.copies import Copies
from proxy.upstreams.dispatcher import Dispatcher
from proxy.upstreams.environments import EnvironmentFailed
from proxy.upstreams.local_model import LocalModel, ModelFolder
from proxy.upstreams.local_spec import CopyEvent, CopyState
from proxy.upstreams.local_spec import LocalCogSpec as LocalCogSpec
from proxy.upstreams.news_desk import NewsDesk, NewsSource
from proxy.upstreams.pool import Pool
from proxy.upstreams.readiness import readiness_of
from proxy.upstreams.run_folder import Scratch
from proxy.upstreams.watch import Look, Watch
from storage.ports import KeyValue

REREAD_S = 1.0
"""How long what the model's folder says is believed before it is looked at again."""


class LocalCog(WithoutAccounts):
    """An ``Upstream`` of copies that it starts itself.

    Args:
        environments_dir: where models' environments are kept.
        run_dir: where temporary files go.
        memory: where the model's names outlast a restart; ``None`` = nowhere.
        desk: where copies tell how runs go; ``None`` = nowhere.
        now, clock: epoch seconds; monotonic seconds.
        on_event: told of every step of every copy.
    """

    kind: UpstreamKind = "local"
    output_access = OutputAccess()  # Cog gives its files as data URLs

    def __init__(
        self,
        spec: LocalCogSpec,
        *,
        environments_dir: Path,
        run_dir: Path,
        memory: KeyValue | None = None,
        desk: NewsDesk | None = None,
        client: CogClient | None = None,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        on_event: Callable[[CopyEvent], None] = lambda event: None,
    ) -> None:
        self.name = spec.name
        self._clock = clock
        self._folder = ModelFolder(spec.model_dir, spec.revision)
        self._reading = asyncio.Lock()
        self._model: LocalModel | None = None
        self._read_at = float("-inf")
        self._book = VersionBook(spec.name, pinned=spec.version, memory=memory)
        self._is_loaded = False
        self._scratch = Scratch(run_dir)
        self._noting = asyncio.Lock()
        self._sweeps: set[asyncio.Future[None]] = set()
        self._client = client or CogClient()
        self._pool = Pool(spec.queue_limit)
        self._watch = Watch(self._pool, self._look, clock=clock, changed=lambda: self._dispatcher.pump())
        self._dispatcher = Dispatcher(
            self._pool,
            self._watch,
            self._client,
            deadline_s=spec.deadline_s,
            patience_s=float("inf"),  # a boot has its own deadline
            source=NewsSource(desk, None, clock=clock) if desk is not None and spec.tells_progress else None,
            now=now,
            clock=clock,
            on_change=lambda: self._copies.tend_soon(),
        )
        self._copies = Copies(
            spec,
            self._pool,
            self._watch,
            self._dispatcher,
            self._client,
            self._read_anew,
            environments_dir=environments_dir,
            run_dir=run_dir,
            now=now,
            clock=clock,
            on_event=on_event,
        )

    # -- the Protocol ------------------------------------------------------------------------------

    async def describe(self, target: ModelTarget, credential: Credential | None) -> ModelDescription:
        """See ``Upstream.describe``; starts nothing."""
        if not self._is_loaded:
            await self._book.load()
            self._is_loaded = True
        model = await self._read()
        return self._book.describe(target, model.build)

    async def run(self, job: Job, report: Callable[[Progress], None]) -> Outcome:
        """See ``Upstream.run``."""
        model = await self._read()
        async with self._noting:  # one after another, so that runs keep the order in which they came
            await asyncio.to_thread(self._scratch.note, job.id)
        try:
            build = self._book.build_of(job.version) or model.build.id
            shape = output_shape(model.build.openapi if build == model.build.id else None)
            outcome = await self._dispatcher.run(job, build, report, shape)
        finally:
            self._sweep(job.id)
        if outcome.status == "succeeded":
            await self._book.keep(job.target.model)
        return outcome

    async def readiness(self) -> Readiness:
        """See ``Upstream.readiness``; ``cold`` is well, a run would start a copy."""
        if any(True for _ in self._pool.servers()):
            labels = {copy.id: f"{copy.id} (pid {copy.pid})" for copy in self.copies() if copy.pid}
            return readiness_of(self._pool, labels)
        if self._copies.failure is not None:
            return Readiness("down", f"the last start failed: {self._copies.failure}")
        return Readiness("cold", "no copy runs; the next run starts one")

    async def aclose(self) -> None:
        """End every child and wait for it."""
        self._dispatcher.close()
        await self._copies.aclose()
        await self._dispatcher.aclose()
        await self._watch.aclose()
        await self._client.aclose()
        await asyncio.gather(*self._sweeps)
        await asyncio.to_thread(self._scratch.sweep)

    # -- beyond the Protocol -----------------------------------------------------------------------

    def copies(self) -> list[CopyState]:
        """Every copy, starting and stopping ones included."""
        return self._copies.states()

    async def prepare(self) -> None:
        """Make the model's environment without starting a copy, so that the first run need not wait for that.

        Raises:
            UpstreamUnavailable: it cannot be made, or there is no model.
        """
        try:
            await self._copies.environment(await self._read())
        except EnvironmentFailed as error:
            raise UpstreamUnavailable(str(error)) from error

    # -- the model's folder ------------------------------------------------------------------------

    async def _read(self) -> LocalModel:
        if self._model is not None and self._clock() - self._read_at < REREAD_S:
            return self._model
        asked_at = self._clock()
        async with self._reading:
            # Many requests may have waited for one reading; it answers them all.
            if self._model is not None and self._read_at >= asked_at:
                return self._model
            return await self._read_now()

    async def _read_anew(self) -> LocalModel:
        async with self._reading:
            return await self._read_now()

    async def _read_now(self) -> LocalModel:
        model = await asyncio.to_thread(self._folder.read)
        if self._model is None or model.build.id != self._model.build.id:
            self._book.forget()
            self._copies.want(model.build.id)
        self._model, self._read_at = model, self._clock()
        return model

    def _sweep(self, run_id: str) -> None:
        """Remove what coglet left of a run; nobody waits for that."""
        sweep = asyncio.ensure_future(asyncio.to_thread(self._scratch.remove, run_id))
        self._sweeps.add(sweep)
        sweep.add_done_callback(self._sweeps.discard)

    async def _look(self, server_id: str) -> Look:
        server = self._pool.server(server_id)
        return Look(await self._client.health(self._watch.url(server_id)), server.build if server else None)
