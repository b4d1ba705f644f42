"""Three real Cog servers behind one name; one is killed in mid-run."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.upstreams.environments import ensure_environment, python_of
from tests.flows.harness import ROOT, SHARED_ENVS, SMALL, running_proxy, wait_until_gone

pytestmark = [pytest.mark.slow, pytest.mark.anyio, pytest.mark.timeout(600)]

MODEL_DIR = ROOT / "deploy" / "demo-model"
CREATE = "/v1/models/acme/sketch/predictions"


class CogServer:
    """One Cog server, as a user starts it by hand."""

    def __init__(self, python: Path, port: int, folder: Path, model_dir: Path = MODEL_DIR) -> None:
        self.port = port
        self._python = python
        self._folder = folder
        self._model_dir = model_dir
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [self._python, "-m", "cog.server.http", "--host", "127.0.0.1"],
            cwd=self._model_dir,
            env={
                **os.environ,
                "PATH": f"{self._python.parent}{os.pathsep}{os.environ['PATH']}",
                "PORT": str(self.port),
                "COG_PREDICT_TYPE_STUB": "predict.py:Predictor",
                "HOTPLATE_DEMO_FAULTS": "1",
                "PYTHONDONTWRITEBYTECODE": "1",
                "TMPDIR": str(self._folder),
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def health(self) -> str:
        try:
            answer = httpx.get(f"http://127.0.0.1:{self.port}/health-check", trust_env=False, timeout=2)
        except httpx.HTTPError:
            return "down"
        return str(answer.json()["status"])

    def wait_for(self, *states: str) -> None:
        for _ in range(600):
            if self.health() in states:
                return
            time.sleep(0.05)
        raise AssertionError(f"the server on port {self.port} is {self.health()}, not {states}")

    def kill(self) -> None:
        """End it and its worker at once."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(20)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[CogServer]]:
    environment = asyncio.run(ensure_environment(MODEL_DIR / "requirements.lock", SHARED_ENVS, lambda line: None))
    started = []
    for number in range(3):
        (tmp_path / f"tmp-{number}").mkdir()
        started.append(CogServer(python_of(environment), free_port(), tmp_path / f"tmp-{number}"))
    try:
        for server in started:
            server.wait_for("READY")
        yield started
    finally:
        for server in started:
            server.kill()


async def test_one_of_three_servers_is_killed_in_mid_run(tmp_path: Path, servers: list[CogServer]) -> None:
    urls = [f"http://127.0.0.1:{server.port}" for server in servers]
    config = f'[[upstream]]\nkind = "cog"\nname = "gpus"\nmodels = ["acme/sketch"]\nurls = {urls!r}\ndeadline_s = 60\n'
    with running_proxy(tmp_path / "data", config) as proxy:
        async with httpx.AsyncClient(base_url=proxy.public_url, timeout=110, trust_env=False) as http:

            async def draw(number: int) -> tuple[int, dict[str, Any]]:
                given = {"prompt": "fault:slow:2", "negative_prompt": f"number {number}", **SMALL}
                answer = await http.post(CREATE, json={"input": given}, headers={"Prefer": "wait"})
                return answer.status_code, answer.json()

            drawing = []
            for number in range(6):
                drawing.append(asyncio.create_task(draw(number)))
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.4)
            assert [server.health() for server in servers] == ["BUSY"] * 3
            servers[1].kill()
            answers = await asyncio.gather(*drawing)
            assert {status for status, _ in answers} == {201}, "no client sees a 409 or any other error"
            assert {prediction["status"] for _, prediction in answers} == {"succeeded"}
            # Order kept: the three that waited were taken up as they came, the broken one before them.
            ended = [prediction["started_at"] for _, prediction in answers]
            assert ended[3:] == sorted(ended[3:])
            states = await upstream_states(proxy.admin_url)
            assert sum("ejected" in state for state in states.values()) == 1, states
            servers[1].start()
            await asyncio.to_thread(servers[1].wait_for, "READY")
            for _ in range(400):
                states = await upstream_states(proxy.admin_url)
                if not any("ejected" in state for state in states.values()):
                    break
                await asyncio.sleep(0.1)
            assert not any("ejected" in state for state in states.values()), "it is let in again"
            again = await asyncio.gather(*(draw(number) for number in range(10, 13)))
            assert {prediction["status"] for _, prediction in again} == {"succeeded"}
            assert proxy.runs() == 9


async def upstream_states(admin_url: str) -> dict[str, str]:
    async with httpx.AsyncClient(trust_env=False) as http:
        status = (await http.get(f"{admin_url}/_hotplate/status")).json()
    servers: dict[str, str] = status["upstreams"][0]["servers"]
    return servers


async def test_user_s_servers_outlive_the_proxy(tmp_path: Path, servers: list[CogServer]) -> None:
    config = f'[[upstream]]\nkind = "cog"\nname = "gpus"\nurls = ["http://127.0.0.1:{servers[0].port}"]\n'
    with running_proxy(tmp_path / "data", config) as proxy:
        assert await asyncio.to_thread(proxy.stop) == 0
    assert wait_until_gone({servers[0].process.pid}, 0.5) == {servers[0].process.pid}
    assert servers[0].health() == "READY"
