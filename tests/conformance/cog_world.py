"""Real Cog servers of one dialect, and Hotplate over TLS in front of them.

Two tiny models (``cog/shapes``, ``cog/teller``) run as a user starts them by hand. They note each run, and each that is
cancelled, themselves: what Hotplate says of that is not asked.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
import trustme

from loadtests.fake_model.process import ALICE
from proxy.upstreams.environments import ensure_environment, python_of
from tests.conformance.receiver import Receiver, receiving
from tests.conformance.world import Side, bundle_of
from tests.flows.harness import SHARED_ENVS, ProxyProcess, running_proxy

Dialect = Literal["coglet", "fastapi"]

MODELS = Path(__file__).parent / "cog"
NAMES = ("shapes", "teller")
START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class CogWorld:
    """Hotplate in front of the servers, and the folder where their models note what happens."""

    notes: Path
    proxy: ProxyProcess
    receiver: Receiver
    ca_bundle: Path
    has_accounts: bool = False

    def base_url(self, side: Side) -> str:
        return self.proxy.public_url

    def dns(self, side: Side) -> dict[str, list[str | int]]:
        return {}

    def http(self, side: Side, token: str = ALICE) -> httpx.Client:
        context = ssl.create_default_context(cafile=str(self.ca_bundle))
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.Client(
            base_url=self.proxy.public_url, headers=headers, verify=context, timeout=60, trust_env=False
        )

    def a_version(self) -> str:
        with self.http("proxy") as http:
            model = http.get("/v1/models/acme/shapes").raise_for_status().json()
        return str(model["latest_version"]["id"])

    def runs(self) -> int:
        return self._count("runs")

    def cancels(self) -> int:
        return self._count("cancels")

    def _count(self, what: str) -> int:
        file = self.notes / what
        return len(file.read_bytes()) if file.is_file() else 0

    def expire(self) -> None:
        """Cog's outputs have no addresses that could die."""

    @contextmanager
    def throttled(self) -> Iterator[None]:
        """Cog has no rate limits."""
        yield


@contextmanager
def cog_world(folder: Path, dialect: Dialect) -> Iterator[CogWorld]:
    """Servers of ``dialect`` behind Hotplate, in ``folder``, until the block is left."""
    notes = folder / "notes"
    notes.mkdir()
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    authority.cert_pem.write_to_path(folder / "authority.pem")
    with (
        _serving(folder, dialect, notes) as servers,
        receiving(cert, key) as receiver,
        running_proxy(folder / "data", config(servers, receiver), tls=True) as proxy,
    ):
        bundle = bundle_of(folder / "bundle.pem", folder / "authority.pem", proxy.data_dir / "tls" / "ca.pem")
        yield CogWorld(notes, proxy, receiver, bundle)


def config(servers: dict[str, str], receiver: Receiver) -> str:
    """Hotplate's settings: one upstream for each model."""
    upstreams = [
        f'[[upstream]]\nkind = "cog"\nname = "{name}"\nmodels = ["acme/{name}"]\nurls = ["{url}"]\n'
        for name, url in servers.items()
    ]
    return "".join([*upstreams, f'[webhooks]\norigins = ["{receiver.plain_origin}"]\n'])


@contextmanager
def _serving(folder: Path, dialect: Dialect, notes: Path) -> Iterator[dict[str, str]]:
    """The addresses of one server for each model, all ready."""
    SHARED_ENVS.mkdir(parents=True, exist_ok=True)
    environment = asyncio.run(ensure_environment(MODELS / dialect / "requirements.lock", SHARED_ENVS))
    processes: list[subprocess.Popen[bytes]] = []
    servers: dict[str, str] = {}
    try:
        for name in NAMES:
            port = _free_port()
            processes.append(_start(python_of(environment), name, port, folder, notes))
            servers[name] = f"http://127.0.0.1:{port}"
        for name, url in servers.items():
            _wait_until_ready(name, url, folder)
        yield servers
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the server and its worker
            process.wait(20)


def _start(python: Path, name: str, port: int, folder: Path, notes: Path) -> subprocess.Popen[bytes]:
    scratch = folder / f"tmp-{name}"
    scratch.mkdir()
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [python, "-m", "cog.server.http", "--host", "127.0.0.1"],
            cwd=MODELS / name,
            env={
                # Cog starts its worker as plain `python`: the environment's must be the first.
                "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
                "PORT": str(port),
                "COG_PREDICT_TYPE_STUB": "predict.py:Predictor",
                "CONFORMANCE_NOTES": str(notes),
                "PYTHONDONTWRITEBYTECODE": "1",
                "TMPDIR": str(scratch),
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _wait_until_ready(name: str, url: str, folder: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health-check", trust_env=False, timeout=2).json()["status"] == "READY":
                return
        time.sleep(0.05)
    raise AssertionError(f"{name} did not start: {(folder / f'{name}.log').read_text(errors='replace')[-2000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
