"""Child processes that end with this one, by whatever means it ends; see ``keeper.py`` for how.

Their output goes to a short memory, for error texts, and to the log at debug level. It is always read, so no pipe ever
fills; the memory holds the last lines only.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

KEEPER = Path(__file__).with_name("keeper.py")

KEPT_LINES = 200
MAX_LINE_CHARS = 2000

STOP_S = 10.0
"""How long a keeper may take beyond its grace: SIGKILL is quick, but a machine may be busy."""

INHERITED = (
    "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR",
    "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
)  # fmt: skip
INHERITED_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "HSA_", "ROCR_", "HIP_", "PIP_", "XDG_")
"""What a child may see of this process's environment. Tokens and Hotplate's own settings are not among it."""

_log = structlog.get_logger("hotplate.children")


def child_environment(**more: str) -> dict[str, str]:
    """The environment for a child: what is harmless of ours, and ``more``."""
    kept = {
        name: value for name, value in os.environ.items() if name in INHERITED or name.startswith(INHERITED_PREFIXES)
    }
    return {"PATH": os.environ.get("PATH", os.defpath), **kept, **more}


class KeptProcess:
    """A command under a keeper. ``pid`` is the keeper's; it leads the session and group of everything inside."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        label: str,
        grace_s: float,
        on_line: Callable[[str], None] | None,
    ) -> None:
        self._process = process
        self._grace_s = grace_s
        self._label = label
        self._on_line = on_line
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._ended = asyncio.create_task(self._follow())
        self.pid = process.pid

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *,
        label: str,
        grace_s: float,
        environment: Mapping[str, str],
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
        on_line: Callable[[str], None] | None = None,
    ) -> KeptProcess:
        """Start ``command``.

        Args:
            label: its name in the log.
            grace_s: seconds between SIGTERM and SIGKILL when it is ended.
            environment: its whole environment.
            pass_fds: descriptors that the keeper holds open for as long as anything of the command is left.
            on_line: called for each line of output.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", str(KEEPER), str(grace_s), *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(environment),
            cwd=cwd,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )  # fmt: skip
        return cls(process, label, grace_s, on_line)

    @property
    def has_ended(self) -> bool:
        return self._ended.done()

    def lines(self) -> list[str]:
        """The last lines of output."""
        return list(self._lines)

    async def wait(self) -> int:
        """Until everything has ended; the command's exit status."""
        return await asyncio.shield(self._ended)

    async def stop(self) -> None:
        """End it and wait until nothing is left. Cancelling the caller does not take the ending back."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._grace_s + STOP_S):
                await self.wait()
                return
        # Its keeper hangs (stopped by a signal, say); the guard ends the rest once it is gone.
        _log.error("keeper_killed", child=self._label, pid=self.pid)
        self._process.kill()

    async def _follow(self) -> int:
        assert self._process.stdout is not None
        rest = b""
        while chunk := await self._process.stdout.read(65536):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._take(line)
            if len(rest) > MAX_LINE_CHARS:
                self._take(rest)
                rest = b""
        if rest:
            self._take(rest)
        status = await self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
            with suppress(ConnectionError):
                await self._process.stdin.wait_closed()
        return status

    def _take(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip()[:MAX_LINE_CHARS]
        self._lines.append(text)
        _log.debug("output", child=self._label, line=text)
        if self._on_line is not None:
            self._on_line(text)
