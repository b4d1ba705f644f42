"""The double as a process of its own, for tests and load tests."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from loadtests.fake_model.world import DEFAULT_ACCOUNTS

ALICE, BOB = DEFAULT_ACCOUNTS
"""Tokens of the two default accounts."""

_REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class FakeModel:
    """A running double, and how to steer it. Its methods wait; they are for set-up and assertions."""

    port: int
    delivery_port: int
    pid: int
    stream_port: int = 0
    tls_port: int = 0
    tls_delivery_port: int = 0
    tls_stream_port: int = 0

    @property
    def base_url(self) -> str:
        """Root of the API."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def delivery_origin(self) -> str:
        """Where output files come from."""
        return f"http://127.0.0.1:{self.delivery_port}"

    @property
    def stream_origin(self) -> str:
        """Where streams come from."""
        return f"http://127.0.0.1:{self.stream_port}"

    @property
    def tls_base_url(self) -> str:
        """Root of the API on the TLS site."""
        return f"https://127.0.0.1:{self.tls_port}/v1"

    @property
    def tls_delivery_origin(self) -> str:
        return f"https://127.0.0.1:{self.tls_delivery_port}"

    @property
    def tls_stream_origin(self) -> str:
        return f"https://127.0.0.1:{self.tls_stream_port}"

    def counters(self) -> dict[str, Any]:
        """Everything counted since the start or the last ``reset``."""
        counters: dict[str, Any] = self._ask("GET", "_counters").json()
        return counters

    def fault(self, kind: str, on: str = "any", **more: Any) -> None:
        """Let a fault wait for its request; see ``faults.Fault``."""
        self._ask("POST", "_fault", {"kind": kind, "on": on, **more})

    def hold(self) -> None:
        """Let runs wait, ``processing``, until ``release``."""
        self._ask("POST", "_gate", {"closed": True})

    def release(self) -> None:
        self._ask("POST", "_gate", {"closed": False})

    def set_options(self, **options: Any) -> None:
        """Change options by their names in ``world.Options``, until ``reset``; numbers, switches and ``poor`` only."""
        self._ask("POST", "_options", options)

    def expire(self, *, files: bool = False) -> None:
        """End the life of all outputs and data made so far, and of the uploaded files if told so."""
        self._ask("POST", "_expire", {"files": files})

    def publish_version(self, model: str) -> str:
        """Give a model a new version, which makes other outputs; the version."""
        version: str = self._ask("POST", "_release", {"model": model}).json()["version"]
        return version

    def revoke(self, token: str) -> None:
        """End a token's life: it gets 401 from now on, until ``reset``."""
        self._ask("POST", "_revoked", {"token": token})

    def clear_faults(self) -> None:
        """No fault waits any more."""
        self._ask("DELETE", "_fault")

    def reset(self) -> None:
        """No faults, no revoked token, an open gate, the options of the start, counters at zero; predictions, files,
        outputs stay."""
        self._ask("DELETE", "_revoked")
        self._ask("DELETE", "_options")
        self._ask("DELETE", "_fault")
        self._ask("DELETE", "_counters")
        self.release()

    def _ask(self, method: str, path: str, document: object = None) -> httpx.Response:
        with httpx.Client(trust_env=False, verify=False) as client:  # plain http: no roots to load
            answer = client.request(method, f"http://127.0.0.1:{self.port}/{path}", json=document)
        return answer.raise_for_status()


@contextmanager
def fake_model(*arguments: str) -> Iterator[FakeModel]:
    """Run the double with command line ``arguments`` until the block is left; it ends with this process, too."""
    command = [sys.executable, "-m", "loadtests.fake_model", "--tied-to-stdin", *arguments]
    with subprocess.Popen(
        command, cwd=_REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            yield FakeModel(**json.loads(line))
        finally:
            process.terminate()
