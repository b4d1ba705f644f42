"""One copy of a local model: a Cog server on a port of loopback, under a keeper, with a temporary folder of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from proxy.upstreams.cog_client import CogClient
from proxy.upstreams.cog_wire import Away, Health, tail
from proxy.upstreams.processes import KeptProcess, child_environment

GRACE_S = 2.0
"""A copy is stopped when it has no work, or must not go on with it."""

PORT_TRIES = 5
FIRST_POLL_S = 0.05
LAST_POLL_S = 0.25

_PORT_TAKEN = "Address already in use"


class BootFailed(Exception):
    """The copy did not come up; the text says why and ends with what it printed."""


class _PortTaken(Exception):
    pass


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """What to start.

    Attributes:
        predictor: as in ``cog.yaml``.
        python: interpreter of the model's environment.
        run_dir: where its temporary folder is made.
        run_lock: descriptor of the lock on that; held until nothing of the copy is left, so no sweep comes before.
        environment: further variables for the model.
    """

    label: str
    model_dir: Path
    predictor: str
    python: Path
    run_dir: Path
    run_lock: int
    environment: Mapping[str, str]


class LocalCopy:
    """A running copy. ``pid`` is its keeper's, the leader of a session and group with everything in it."""

    def __init__(self, port: int, process: KeptProcess, folder: Path, client: CogClient) -> None:
        self.port = port
        self.pid = process.pid
        self.url = f"http://127.0.0.1:{port}"
        self._process = process
        self._folder = folder
        self._client = client
        self._started_at = time.time()

    @classmethod
    async def start(
        cls, plan: CopyPlan, client: CogClient, boot_deadline_s: float, on_spawn: Callable[[LocalCopy], None]
    ) -> LocalCopy:
        """Start a copy and wait until it is ready; ``on_spawn`` gets it as soon as it has a process.

        Raises:
            BootFailed: it is not, and has been ended.
        """
        for _ in range(PORT_TRIES):
            copy = await cls._spawn(plan, client)
            on_spawn(copy)
            try:
                async with asyncio.timeout(boot_deadline_s):
                    await copy._until_ready()
                return copy
            except _PortTaken:
                await copy.stop()
            except TimeoutError:
                await copy.stop()
                raise BootFailed(copy._told(f"it was not ready within {boot_deadline_s:g} s")) from None
            except BaseException:
                await copy.stop()
                raise
        raise BootFailed("no free port was found")

    @classmethod
    async def _spawn(cls, plan: CopyPlan, client: CogClient) -> LocalCopy:
        port = _free_port()
        folder = Path(tempfile.mkdtemp(prefix=f"{plan.label}-", dir=plan.run_dir))
        # The worker is started as plain `python`: another one first in PATH leaves the server STARTING for ever.
        # Nothing is written into the model's folder, which may be read-only.
        environment = child_environment() | dict(plan.environment)
        environment |= {
            "PATH": f"{plan.python.parent}{os.pathsep}{environment['PATH']}",
            "PORT": str(port),
            "COG_PREDICT_TYPE_STUB": plan.predictor,
            "LOG_FORMAT": "console",
            "NO_COLOR": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(folder),
        }
        process = await KeptProcess.start(
            [str(plan.python), "-m", "cog.server.http", "--host", "127.0.0.1"],
            label=plan.label,
            grace_s=GRACE_S,
            environment=environment,
            cwd=plan.model_dir,
            pass_fds=(plan.run_lock,),
        )
        return cls(port, process, folder, client)

    async def _until_ready(self) -> None:
        pause_s = FIRST_POLL_S
        while True:
            seen = await self._look()
            if self._process.has_ended:
                status = await self._process.wait()
                if any(_PORT_TAKEN in line for line in self._process.lines()):
                    raise _PortTaken
                raise BootFailed(self._told(f"its server ended with status {status}"))
            if not isinstance(seen, Away) and self._is_ours(seen):
                if seen.status in ("READY", "BUSY"):
                    return
                if seen.status in ("SETUP_FAILED", "DEFUNCT", "UNHEALTHY"):
                    raise BootFailed(self._told(f"its setup failed: {tail(seen.setup_logs)}"))
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.2, LAST_POLL_S)

    async def _look(self) -> Health | Away:
        """A health check; one that nobody answers does not hide that the process has ended."""
        look, end = asyncio.create_task(self._client.health(self.url)), asyncio.create_task(self._process.wait())
        try:
            await asyncio.wait({look, end}, return_when=asyncio.FIRST_COMPLETED)
            return look.result() if look.done() else Away("its process ended", "refused")
        finally:
            look.cancel()
            end.cancel()

    def _is_ours(self, seen: Health) -> bool:
        """Not another server that took the port between our choice and our start; that one started before ours."""
        try:
            return datetime.fromisoformat(seen.setup_at or "").timestamp() > self._started_at - 1.0
        except ValueError:
            return True

    def _told(self, what: str) -> str:
        printed = tail("\n".join(self._process.lines()))
        return f"{what}\n{printed}" if printed else what

    async def wait(self) -> int:
        """Until it has ended by itself; its exit status."""
        return await self._process.wait()

    async def stop(self) -> None:
        """End it, and remove its temporary files."""
        await self._process.stop()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
