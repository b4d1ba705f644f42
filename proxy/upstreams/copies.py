"""Starts and stops the copies of a local model, as ``fleet`` plans it, and tells what it does.

Each copy has one task, from its start to the end of its process. The pool knows a copy from its start on, as booting.
A copy that the pool has ejected is stopped as soon as no run is left at it; the plan then replaces it if it is needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from proxy.core.errors import UpstreamUnavailable
from proxy.upstreams.cog_client import CogClient
from proxy.upstreams.dispatcher import Dispatcher
from proxy.upstreams.environments import EnvironmentFailed, ensure_environment, python_of
from proxy.upstreams.fleet import Breaker, CopyView, plan_fleet
from proxy.upstreams.local_copy import BootFailed, CopyPlan, LocalCopy
from proxy.upstreams.local_model import LocalModel
from proxy.upstreams.local_spec import CopyEvent, CopyPhase, CopyState, LocalCogSpec
from proxy.upstreams.pool import Ejected, Pool, Serving, Starting
from proxy.upstreams.run_folder import RunFolder, sweep
from proxy.upstreams.watch import Watch

_log = structlog.get_logger("hotplate.copies")


@dataclass(slots=True, eq=False)
class _Entry:
    id: str
    build: str
    phase: CopyPhase = "installing"
    copy: LocalCopy | None = None
    task: asyncio.Task[None] | None = None


class _FilesChanged(Exception):
    """The model's files changed while a copy was reading them: nobody knows which build it is."""


class Copies:
    """The copies of one model.

    Args:
        read_model: what the model's folder says now.
        environments_dir, run_dir: where environments are kept and temporary files go.
        now, clock: epoch seconds; monotonic seconds.
        on_event: told of every step.
    """

    def __init__(
        self,
        spec: LocalCogSpec,
        pool: Pool,
        watch: Watch,
        dispatcher: Dispatcher,
        client: CogClient,
        read_model: Callable[[], Awaitable[LocalModel]],
        *,
        environments_dir: Path,
        run_dir: Path,
        now: Callable[[], float],
        clock: Callable[[], float],
        on_event: Callable[[CopyEvent], None],
    ) -> None:
        self._spec = spec
        self._pool = pool
        self._watch = watch
        self._dispatcher = dispatcher
        self._client = client
        self._read_model = read_model
        self._environments_dir = environments_dir
        self._run_root = run_dir
        self._run_folder: RunFolder | None = None
        self._opening = asyncio.Lock()
        self._now = now
        self._clock = clock
        self._on_event = on_event
        self._entries: dict[str, _Entry] = {}
        self._stopping: set[asyncio.Task[None]] = set()
        self._serials = 0
        self._build: str | None = None
        self._breaker = Breaker()
        self._last_boot_s = 0.0
        self._timer: asyncio.Handle | None = None
        self._is_closed = False

    def want(self, build: str) -> None:
        """From now on copies of ``build`` are wanted, and no others."""
        if build != self._build:
            self._build = build
            self._breaker = Breaker()  # edited files may start where the old ones did not
            self.tend_soon()

    def tend_soon(self, after_s: float = 0.0) -> None:
        """Plan again soon; any number of calls in a row lead to one planning."""
        if self._is_closed:
            return
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(after_s, self._tend) if after_s > 0 else loop.call_soon(self._tend)

    def states(self) -> list[CopyState]:
        """Every copy."""
        return [self._state(entry) for entry in self._entries.values()]

    def _state(self, entry: _Entry) -> CopyState:
        server = self._pool.server(entry.id)
        is_busy = entry.phase == "ready" and server is not None and server.running > 0
        port, pid = (entry.copy.port, entry.copy.pid) if entry.copy else (0, 0)
        return CopyState(entry.id, port, pid, "busy" if is_busy else entry.phase)

    @property
    def failure(self) -> str | None:
        """Why the latest start failed, until one succeeds."""
        return self._breaker.reason

    async def environment(self, model: LocalModel, copy_id: str = "") -> Path:
        """The interpreter for the model, made ready if need be.

        Raises:
            EnvironmentFailed: it cannot be.
        """
        if self._spec.python is not None:
            return self._spec.python
        if model.lock_file is None:
            raise EnvironmentFailed("the model has no requirements.lock (requirements with hashes) to make one from")

        def report(line: str) -> None:
            self._tell(copy_id, "installing", line)

        return python_of(await ensure_environment(model.lock_file, self._environments_dir, report))

    async def aclose(self) -> None:
        """Stop every copy and wait until nothing of them is left."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        for entry in list(self._entries.values()):
            self._stop(entry, "the proxy ends")
        while self._stopping:
            await asyncio.wait(self._stopping)
        if self._run_folder is not None:
            await asyncio.to_thread(self._run_folder.close)
        # A start right after a kill finds copies that are still ending, and leaves their files alone.
        await asyncio.to_thread(sweep, self._run_root)

    # -- planning ----------------------------------------------------------------------------------

    def _tend(self) -> None:
        self._timer = None
        now = self._clock()
        for server in list(self._pool.servers()):
            if isinstance(server.state, Ejected) and server.running == 0:
                self._stop(self._entries[server.id], server.state.reason)
        waiting = self._pool.waiting()
        plan = plan_fleet(
            [self._view(entry, now) for entry in self._entries.values()],
            waiting=len(waiting),
            head_waited_s=now - waiting[0].joined_at if waiting else 0.0,
            max_copies=self._spec.max_copies,
            idle_timeout_s=self._spec.idle_timeout_s,
            last_boot_s=self._last_boot_s,
            may_start=not self._breaker.is_open(now) and not self._is_closed,
        )
        for copy_id in plan.stops:
            self._stop(self._entries[copy_id], "it is not needed any more")
        for _ in range(plan.starts):
            self._start()
        is_hopeless = self._breaker.is_open(now) and all(entry.phase == "stopping" for entry in self._entries.values())
        if waiting and is_hopeless:
            self._dispatcher.fail_waiting(f"The model did not start: {self._breaker.reason}")
        if plan.again_s is not None and self._timer is None:
            self.tend_soon(max(plan.again_s, 0.01))

    def _view(self, entry: _Entry, now: float) -> CopyView:
        is_outdated = self._build is not None and entry.build != self._build
        server = self._pool.server(entry.id)
        if entry.phase == "stopping" or server is None:
            return CopyView(entry.id, "going", is_outdated)
        if entry.phase != "ready":
            return CopyView(entry.id, "coming", is_outdated)
        if server.running or isinstance(server.state, Ejected):
            return CopyView(entry.id, "working", is_outdated)
        return CopyView(entry.id, "idle", is_outdated, now - server.idle_since)

    # -- one copy ----------------------------------------------------------------------------------

    def _start(self) -> None:
        self._serials += 1
        entry = _Entry(f"copy-{self._serials}", self._build or "")
        self._entries[entry.id] = entry
        self._pool.add(entry.id, 1, Starting(), entry.build, self._clock())
        entry.task = asyncio.create_task(self._live(entry))
        self._dispatcher.pump()

    def _stop(self, entry: _Entry, reason: str) -> None:
        if entry.phase == "stopping":
            return
        self._enter(entry, "stopping", reason)
        self._pool.remove(entry.id, self._clock())
        self._watch.end(entry.id, reason)
        task = asyncio.create_task(self._end(entry))
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    async def _end(self, entry: _Entry) -> None:
        if entry.task is not None:
            entry.task.cancel()
            await asyncio.wait({entry.task})
        if entry.copy is not None:
            await entry.copy.stop()
        del self._entries[entry.id]
        self._tell(entry.id, "stopped", "")
        self._dispatcher.pump()

    async def _live(self, entry: _Entry) -> None:
        try:
            await self._boot(entry)
        except _FilesChanged:
            self._stop(entry, "its files changed while it started")
            self._dispatcher.pump()
            return
        except (BootFailed, EnvironmentFailed, UpstreamUnavailable, OSError) as error:
            reason = str(error)
            _log.warning("copy_failed", copy=entry.id, reason=reason)
            self._breaker.fail(reason, self._clock())
            self._enter(entry, "failed", reason)
            self._stop(entry, reason)
            self._dispatcher.pump()
            return
        assert entry.copy is not None
        status = await entry.copy.wait()
        self._watch.eject(entry.id, f"its process ended with status {status}")

    async def _boot(self, entry: _Entry) -> None:
        """From nothing to serving.

        Raises:
            BootFailed, EnvironmentFailed, UpstreamUnavailable, OSError: it cannot be started.
            _FilesChanged: it must not be used.
        """
        model = await self._read_model()
        self._set_build(entry, model)
        self._enter(entry, "installing", "")
        python = await self.environment(model, entry.id)
        if self._spec.simulated_download_s > 0:
            self._enter(entry, "downloading", f"simulated weight download, {self._spec.simulated_download_s:g} s")
            await asyncio.sleep(self._spec.simulated_download_s)
        self._enter(entry, "starting", "")
        began_at = self._clock()
        run_folder = await self._open_run_folder()
        plan = CopyPlan(
            label=f"{self._spec.name}-{entry.id}",
            model_dir=self._spec.model_dir,
            predictor=model.predictor,
            python=python,
            run_dir=run_folder.path,
            run_lock=run_folder.held,
            environment=dict(self._spec.environment),
        )

        def on_spawn(copy: LocalCopy) -> None:
            entry.copy = copy

        copy = await LocalCopy.start(plan, self._client, self._spec.boot_deadline_s, on_spawn)
        # The files may have changed while it was reading them; what it loaded is known only if they did not.
        self._set_build(entry, await self._read_model())
        self._breaker.succeed()
        self._last_boot_s = self._clock() - began_at
        self._enter(entry, "ready", f"in {self._last_boot_s:.1f} s")
        self._watch.begin(entry.id, copy.url)
        self._pool.update(entry.id, Serving(), self._clock())
        self._dispatcher.pump()

    async def _open_run_folder(self) -> RunFolder:
        async with self._opening:
            if self._run_folder is None:
                self._run_folder = await asyncio.to_thread(RunFolder.open, self._run_root)
            return self._run_folder

    def _set_build(self, entry: _Entry, model: LocalModel) -> None:
        if entry.copy is not None and entry.build != model.build.id:
            raise _FilesChanged
        entry.build = model.build.id

    def _enter(self, entry: _Entry, phase: CopyPhase, detail: str) -> None:
        if entry.phase == "stopping":
            return
        entry.phase = phase
        if phase in ("installing", "downloading", "starting"):
            cause = Starting("download" if phase == "downloading" else "boot")
            self._pool.update(entry.id, cause, self._clock(), build=entry.build)
        self._tell(entry.id, phase, detail)

    def _tell(self, copy_id: str, phase: CopyPhase, detail: str) -> None:
        log = _log.debug if phase == "installing" else _log.info
        log("copy", upstream=self._spec.name, copy=copy_id, phase=phase, detail=detail[:200])
        self._on_event(CopyEvent(self._now(), copy_id, phase, detail))
