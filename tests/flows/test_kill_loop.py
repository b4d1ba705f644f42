"""The proxy is killed again and again at odd moments, and comes up again each time with all that it acknowledged."""

from __future__ import annotations

import random
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.flows.harness import (
    README_MODEL,
    SMALL,
    ProxyProcess,
    descendants,
    local_config,
    start_proxy,
    wait_until_gone,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROUNDS = 12
CREATE = f"/v1/models/{README_MODEL}/predictions"


class Asker(threading.Thread):
    """A client that asks for one picture after another until the proxy is gone, and writes down what was stored."""

    def __init__(self, url: str, name: str, acknowledged: dict[str, str]) -> None:
        super().__init__()
        self._url = url
        self._name = name
        self._acknowledged = acknowledged

    def run(self) -> None:
        for step in range(1000):
            prompt = f"{self._name}, step {step}"
            try:
                answer = ask(self._url, prompt)
            except httpx.HTTPError:
                return
            if "; stored" in answer.headers.get("cache-status", ""):
                self._acknowledged[prompt] = answer.json()["output"][0]


def ask(url: str, prompt: str) -> httpx.Response:
    given = {"input": {"prompt": prompt, "seed": 1, **SMALL}}
    return httpx.post(url + CREATE, json=given, headers={"Prefer": "wait"}, timeout=30, trust_env=False)


def repeats(proxy: ProxyProcess) -> float:
    """How many runs that a kill had cut off the proxy has run once more."""
    text = httpx.get(f"{proxy.admin_url}/metrics", trust_env=False).text
    lines = [line for line in text.splitlines() if line.startswith('hotplate_runs_left_behind_total{how="repeated"')]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def test_nothing_acknowledged_is_lost_and_nothing_is_left_behind(tmp_path: Path) -> None:
    dice = random.Random(20261123)
    acknowledged: dict[str, str] = {}
    children: set[int] = set()
    for number in range(ROUNDS):
        proxy = start_proxy(tmp_path / "data", local_config(max_copies=2))
        askers = [Asker(proxy.public_url, f"round {number}, client {client}", acknowledged) for client in range(3)]
        for asker in askers:
            asker.start()
        time.sleep(dice.uniform(0.1, 2.5))
        children |= descendants(proxy.pid)
        proxy.stop(signal.SIGKILL)
        for asker in askers:
            asker.join()
    assert wait_until_gone(children) == set()
    assert len(acknowledged) > ROUNDS
    last = start_proxy(tmp_path / "data", local_config())
    try:
        for prompt, output in acknowledged.items():
            answer = ask(last.public_url, prompt)
            assert "; hit" in answer.headers["cache-status"], prompt
            assert answer.json()["output"][0] == output
        assert last.runs() <= repeats(last), "only what the last kill cut off is run once more"
    finally:
        last.stop()
    left = [path for name in ("tmp", "run") for path in (last.data_dir / name).rglob("*") if path.is_file()]
    assert left == []
