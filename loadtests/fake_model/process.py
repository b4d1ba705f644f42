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

    @property
    def base_url(self) -> str:
        """Root of the API."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def delivery_origin(self) -> str:
        """Where output files come from."""
        return f"http://127.0.0.1:{self.delivery_port}"

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

    def reset(self) -> None:
        """No faults, an open gate, counters at zero; predictions and outputs stay."""
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
