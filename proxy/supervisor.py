"""``hotplate serve --workers N``: the parent of a core and N edges.

It binds every socket and hands them down, so that none is ever away: while an edge is started anew the others accept
from the same queue, and what edges pass on while the core is started anew waits in its queue. It decides nothing about
requests and holds no data.

Order of a start: the core, which claims the folder; then the edges. Order of a stop: readiness says no; the public
listener closes and the edges drain; then the core. A second signal cuts the waiting short. Whatever ends unexpectedly
is started again, at once the first time and ever later if it goes on ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import orjson
import structlog

from proxy.engine.courier import GRACE_S
from proxy.lifeline import Role, Start, command, hand_over
from proxy.serving import BACKLOG, Addresses, Stopping, log_serving, open_listeners
from proxy.settings import Settings, SettingsError
from storage.errors import StorageError, StorageRefused, StorageUnavailable

START_TIMEOUT_S = 120.0
"""A core with very many blobs measures them first."""

STOP_S = 10.0
"""What a process may take beyond its drain before it is killed."""

FORCE_S = 5.0
"""What they may take when nothing is to be waited for."""

BACKOFF_MAX_S = 5.0
STEADY_S = 10.0
"""A process that lived for so long is started again at once."""

MAX_SOCKET_PATH = 100
"""The kernel takes 107 characters, 103 on macOS."""

TEMPORARY_PREFIX = "hotplate."
"""How the folder for sockets is called where the data's path is too long for them."""

_FAILURES: dict[str, type[Exception]] = {
    failure.__name__: failure for failure in (SettingsError, StorageError, StorageRefused, StorageUnavailable)
}

_log = structlog.get_logger("hotplate.supervisor")


async def serve_workers(settings: Settings) -> None:
    """Run ``settings.workers.count`` edges and a core until a signal says stop; nothing of them is left then.

    Raises:
        SettingsError: an address or a certificate cannot be used.
        StorageError: the data folder cannot be used.
    """
    public_socket, admin_socket, addresses = open_listeners(settings)
    folder = _socket_folder(settings.data_dir)
    try:
        supervisor = Supervisor(settings, addresses, folder, public_socket, admin_socket)
        await supervisor.run()
    finally:
        for listener in (public_socket, admin_socket):
            listener.close()
        shutil.rmtree(folder, ignore_errors=True)
        _sweep(settings.data_dir)
        _log.info("stopped")


class Supervisor:
    """Starts, watches and ends the processes."""

    def __init__(
        self,
        settings: Settings,
        addresses: Addresses,
        folder: Path,
        public_socket: socket.socket,
        admin_socket: socket.socket,
    ) -> None:
        self._addresses = addresses
        self._public_socket = public_socket
        self._drain_timeout_s = settings.limits.drain_timeout_s
        core_path, channel_path = folder / "core", folder / "channel"
        self._inner = {"core": _bind_inner(core_path), "channel": _bind_inner(channel_path)}

        def start(role: Role, lane: int, sockets: dict[str, socket.socket]) -> Start:
            return Start(
                role=role,
                lane=lane,
                base_url=addresses.base_url,
                admin_url=addresses.admin_url,
                core_path=str(core_path),
                channel_path=str(channel_path),
                sockets={name: one.fileno() for name, one in sockets.items()},
                settings=hand_over(settings),
                source=settings.source,
            )

        self._core = Worker(start("core", 0, {**self._inner, "admin": admin_socket}), self._tell_core)
        self._edges = [
            Worker(start("edge", lane, {"public": public_socket}), self._tell_core)
            for lane in range(1, settings.workers.count + 1)
        ]

    async def run(self) -> None:
        """Start all, keep them, and stop them when told so.

        Raises:
            SettingsError, StorageError: the core or an edge cannot start at all.
        """
        stopping = Stopping()
        keeping: list[asyncio.Task[None]] = []
        with stopping.on_signals(lambda: self._core.say("reload")):
            stop = asyncio.create_task(stopping.wait())
            try:
                beginning = asyncio.create_task(self._begin())
                await asyncio.wait({stop, beginning}, return_when=asyncio.FIRST_COMPLETED)
                if not beginning.done():
                    beginning.cancel()
                    await asyncio.wait({beginning})
                    return
                await beginning
                keeping = [asyncio.create_task(worker.keep()) for worker in (self._core, *self._edges)]
                log_serving(self._addresses)
                await stop
                _log.info("stopping")
            finally:
                stop.cancel()
                await self._end(keeping, stopping)

    async def _begin(self) -> None:
        await self._core.start()
        await asyncio.gather(*(edge.start() for edge in self._edges))
        self._tell_core()

    async def _end(self, keeping: list[asyncio.Task[None]], stopping: Stopping) -> None:
        for task in keeping:
            task.cancel()
        if keeping:
            await asyncio.wait(keeping)
        self._public_socket.close()
        self._core.say("drain")
        forced = asyncio.create_task(self._force_when(stopping))
        try:
            await asyncio.gather(*(edge.end(self._drain_timeout_s + STOP_S) for edge in self._edges))
            await self._core.end(2 * self._drain_timeout_s + GRACE_S + STOP_S)
        finally:
            forced.cancel()
            for worker in (*self._edges, self._core):
                worker.kill()
            for inner in self._inner.values():
                inner.close()

    async def _force_when(self, stopping: Stopping) -> None:
        await stopping.wait_until_forced()
        for worker in (*self._edges, self._core):
            worker.say("force")
        await asyncio.sleep(FORCE_S)
        for worker in (*self._edges, self._core):  # one that is still starting hears nothing
            worker.kill()

    def _tell_core(self) -> None:
        self._core.say("workers", [worker.known() for worker in (self._core, *self._edges)])


class Worker:
    """One process, again and again.

    Args:
        start: what it is told.
        changed: called when another process has taken its place.
    """

    def __init__(self, start: Start, changed: Callable[[], None]) -> None:
        self._start = start
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._since = 0.0
        self._began_at = 0.0
        self._restarts = 0

    def known(self) -> dict[str, Any]:
        """For ``/_hotplate/status``."""
        pid = self._process.pid if self._process is not None else 0
        return {"role": self._start.role, "pid": pid, "since": self._since, "restarts": self._restarts}

    async def start(self) -> None:
        """Start it and wait until it is ready.

        Raises:
            SettingsError, StorageError: what it says it failed of, or that it ended without a word.
        """
        self._since, self._began_at = time.time(), time.monotonic()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "proxy.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=tuple(self._start.sockets.values()),
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(self._start.line())
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                line = await self._process.stdout.readline()
        except TimeoutError:
            line = b""
        if line != command(["ready"]):
            self.kill()
            await self._process.wait()
            _fail(self._start.role, line)

    async def keep(self) -> None:
        """Start it again whenever it ends, until cancelled."""
        pause_s = 0.0
        while True:
            assert self._process is not None
            status = await self._process.wait()
            lived_s = time.monotonic() - self._began_at
            pause_s = 0.0 if lived_s >= STEADY_S else min(max(2 * pause_s, 0.1), BACKOFF_MAX_S)
            _log.error("worker_ended", role=self._start.role, pid=self._process.pid, status=status)
            await asyncio.sleep(pause_s)
            self._restarts += 1
            self._start = replace(self._start, is_again=True)
            try:
                await self.start()
            except (SettingsError, StorageError, OSError) as error:
                _log.error("worker_not_started", role=self._start.role, detail=str(error))
                continue
            _log.info("worker_started", role=self._start.role, pid=self._process.pid)
            self._changed()

    def say(self, *words: Any) -> None:
        """A command; nothing happens when it is not there to hear it."""
        if self._process is not None and self._process.returncode is None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.write(command(list(words)))

    async def end(self, timeout_s: float) -> None:
        """Have it stop, and kill it if that takes longer than ``timeout_s``."""
        self.say("stop")
        if self._process is None:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._process.wait()
        except TimeoutError:
            _log.error("worker_killed", role=self._start.role, pid=self._process.pid)
            self.kill()
            await self._process.wait()

    def kill(self) -> None:
        """End it now."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()


def _fail(role: Role, line: bytes) -> NoReturn:
    """Raise what a child reported in place of being ready."""
    try:
        word, kind, text = orjson.loads(line)
    except ValueError:
        raise SettingsError(f"the {role} process ended before it was ready; the log says why") from None
    assert word == "failed"
    raise _FAILURES.get(kind, SettingsError)(text)


def _socket_folder(data_dir: Path) -> Path:
    """A fresh folder for this proxy's own sockets, closed to others; beside the data where the path is short enough.

    Else it is a temporary one, and a link beside the data says where, for whoever sweeps after a kill.
    """
    _sweep(data_dir)
    folder = tempfile.mkdtemp(prefix=f"workers.{os.getpid()}.", dir=data_dir)
    if len(folder) + len("/channel") > MAX_SOCKET_PATH:
        os.rmdir(folder)
        link, folder = folder, tempfile.mkdtemp(prefix=TEMPORARY_PREFIX)
        os.symlink(folder, link)
    return Path(folder)


def _sweep(data_dir: Path) -> None:
    """Remove the folders of proxies that are no more, and links to such."""
    for left in data_dir.glob("workers.*"):
        pid = left.name.split(".")[1]
        folder = left.resolve() if left.is_symlink() else left
        if pid.isdigit() and _is_alive(int(pid)) and folder.exists():
            continue
        if left.is_symlink():
            left.unlink(missing_ok=True)
            if not folder.name.startswith(TEMPORARY_PREFIX):
                continue  # we made no such link
        shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _bind_inner(path: Path) -> socket.socket:
    """A listening Unix socket for this user alone."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener
