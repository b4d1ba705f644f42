"""A whole Hotplate in a process of its own, as an operator starts it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parent.parent.parent
SHARED_ENVS = ROOT / ".hotplate" / "envs"
"""Environments of models are built once and shared by all tests; git ignores the folder."""

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0

WORKERS = os.environ.get("TEST_WORKERS")
"""How many workers a proxy gets whose test does not say: the flows are to look the same with several."""

README_MODEL = "black-forest-labs/flux-schnell"

SMALL = {"width": 64, "height": 64, "num_inference_steps": 1}
"""The cheapest picture: tests on two cores have many to draw."""


@dataclass
class ProxyProcess:
    """One started proxy.

    Attributes:
        data_dir: survives a restart.
        public_url, admin_url: where it listens.
        log_file: what it writes to standard error.
    """

    process: subprocess.Popen[bytes]
    data_dir: Path
    log_file: Path
    public_url: str = ""
    admin_url: str = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit status."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        return self.process.wait(STOP_TIMEOUT_S)

    def log(self) -> list[dict[str, Any]]:
        """Its log lines so far; what is no JSON stands under ``text``."""
        lines: list[dict[str, Any]] = []
        for line in self.log_file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                lines.append({"event": "not_json", "text": line})
        return lines

    def runs(self) -> float:
        """How many runs of models it has made since its start, by its own metrics."""
        text = httpx.get(f"{self.admin_url}/metrics", trust_env=False).text
        lines = [line for line in text.splitlines() if line.startswith("hotplate_upstream_runs_total{")]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def _wait_until_serving(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            for line in self.log():
                if line.get("event") == "serving":
                    self.public_url, self.admin_url = line["public"], line["admin"]
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        self.stop(signal.SIGKILL)
        raise AssertionError(f"the proxy did not start: {self.log()}")


def local_config(**upstream: Any) -> str:
    """A configuration whose one model is the demo model, under the names that the tests use."""
    own: dict[str, Any] = {"kind": "local", "name": "demo", "models": ["hotplate/demo", README_MODEL], "max_copies": 1}
    lines = ["[[upstream]]", *(f"{name} = {_toml(value)}" for name, value in (own | upstream).items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """A value as TOML; but for tables JSON's form is TOML's."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(inner)}" for name, inner in value.items()) + "}"
    return json.dumps(value)


def start_proxy(
    data_dir: Path, config: str, *, tls: bool = False, environment: dict[str, str] | None = None, port: int = 0
) -> ProxyProcess:
    """Start ``hotplate serve`` on free loopback ports, or on ``port``, and wait until it serves."""
    data_dir.mkdir(mode=0o700, exist_ok=True)
    SHARED_ENVS.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (data_dir / "envs").symlink_to(SHARED_ENVS)
    config_file = data_dir.parent / f"{data_dir.name}.toml"
    config_file.write_text(config, encoding="utf-8")
    ports = ["--port", str(port), "--admin-port", "0"]
    command = [sys.executable, "-m", "proxy", "serve", "--config", str(config_file), *ports]
    log_file = data_dir.parent / f"{data_dir.name}-{secrets.token_hex(4)}.log"
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("HOTPLATE_", "REPLICATE_"))}
    own = {"HOTPLATE_DATA_DIR": str(data_dir), "HOTPLATE_LOG__FORMAT": "json"}
    if WORKERS is not None and "[workers]" not in config:
        own["HOTPLATE_WORKERS__COUNT"] = WORKERS
    with log_file.open("wb") as stderr:
        process = subprocess.Popen(
            [*command, *(["--tls"] if tls else [])],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env={**bare, **own, **(environment or {})},
        )
    proxy = ProxyProcess(process, data_dir, log_file)
    proxy._wait_until_serving()
    return proxy


@contextlib.contextmanager
def running_proxy(data_dir: Path, config: str, **options: Any) -> Iterator[ProxyProcess]:
    """``start_proxy`` for the length of a ``with`` block."""
    proxy = start_proxy(data_dir, config, **options)
    try:
        yield proxy
    finally:
        if proxy.process.poll() is None:
            proxy.stop()


def descendants(pid: int) -> set[int]:
    """All live processes below ``pid``, by /proc."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found: set[int] = set()
    frontier = {pid}
    while frontier:
        frontier = {child for child, parent in parents.items() if parent in frontier} - found
        found |= frontier
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(pids: set[int], timeout_s: float = 20.0) -> set[int]:
    """Wait for processes to end; those that did not."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        alive = {pid for pid in pids if is_alive(pid)}
        if not alive:
            return set()
        time.sleep(0.05)
    return {pid for pid in pids if is_alive(pid)}
