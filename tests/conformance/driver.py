"""A client's driver: a process of its own, kept alive, that is asked one case at a time.

What a driver reads and writes is told in ``drivers/README.md``.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conformance.environments import DRIVERS, Environment, ensure_environment

ANSWER_TIMEOUT_S = 75.0
"""Longer than any client waits in any case; shorter than a test may take."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client made of a case: exactly one of the three is there."""

    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    unsupported: str | None = None


class DriverFailed(Exception):
    """The driver itself did not answer; no word on the client's behaviour."""


class Driver:
    """One client's process. It is started when it is first asked, and again after it failed."""

    def __init__(self, client: str, ca_bundle: Path, scratch: Path) -> None:
        self.client = client
        self._environment: Environment | None = None
        self._variables = _variables(ca_bundle, scratch)
        self._log_file = scratch / f"{client}.log"
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()

    def ask(
        self, case: str, base_url: str, token: str, args: dict[str, Any], timeout_s: float = ANSWER_TIMEOUT_S
    ) -> Answer:
        """Let the client do a case.

        Raises:
            DriverFailed: no answer in time, or none at all.
        """
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        request = {"case": case, "base_url": base_url, "token": token, "args": args}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            self.stop()
            raise DriverFailed(f"{self.client} did not answer {case!r} within {timeout_s:g} s") from None
        if line is None:
            self.stop()
            raise DriverFailed(f"{self.client} ended during {case!r}: {self._last_words()}")
        document = json.loads(line)
        if "unsupported" in document:
            return Answer(unsupported=document["unsupported"])
        return Answer(result=document["result"]) if document["ok"] else Answer(error=document["error"])

    def stop(self) -> None:
        """End the process; nothing happens when none runs."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait(20)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process = None

    def _start(self) -> None:
        self.stop()
        self._environment = self._environment or ensure_environment(self.client)
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._environment.command,
                cwd=self._environment.folder,
                env=self._variables,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                bufsize=1,
            )
        self._lines = queue.Queue()
        threading.Thread(target=_read, args=(self._process, self._lines), daemon=True).start()

    def _last_words(self) -> str:
        return self._log_file.read_text(encoding="utf-8", errors="replace")[-2000:]


def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    """Pass lines on; ``None`` tells of the end."""
    assert process.stdout is not None
    try:
        for line in process.stdout:
            lines.put(line)
    except ValueError:  # closed by ``stop``
        pass
    finally:
        lines.put(None)


def _variables(ca_bundle: Path, scratch: Path) -> dict[str, str]:
    """A bare environment that trusts our authorities; the rest is documented settings of the clients."""
    bare = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    trust = dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"), str(ca_bundle))
    home = {"HOME": str(scratch), "TMPDIR": str(scratch), "HF_HOME": str(scratch / "hf")}
    quick = {"REPLICATE_POLL_INTERVAL": "0.1", "REPLICATE_POLLING_DELAY_SECONDS": "0.2"}
    alone = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_DISABLE_TELEMETRY": "1", "LANGSMITH_TRACING": "false"}
    return {**bare, **trust, **home, **quick, **alone, "PYTHONPATH": str(DRIVERS), "PYTHONDONTWRITEBYTECODE": "1"}
