"""The proxy is ended at odd moments: no process, temporary file or lock of its own stays behind."""

from __future__ import annotations

import signal
import ssl
import tempfile
import time
from pathlib import Path

import httpx
import pytest

from proxy.upstreams.run_folder import COGLET_SCRATCH
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

CREATE = f"/v1/models/{README_MODEL}/predictions"
CONFIG = local_config(environment={"HOTPLATE_DEMO_FAULTS": "1"}) + "\n[limits]\ndrain_timeout_s = 1\n"


def create(proxy: ProxyProcess, prompt: str, *, wait: bool = False) -> httpx.Response:
    given = {"input": {"prompt": prompt, "seed": 1, **SMALL}}
    headers = {"Prefer": "wait"} if wait else {}
    return httpx.post(proxy.public_url + CREATE, json=given, headers=headers, timeout=200, trust_env=False)


def scratch() -> set[str]:
    """What Cog and pip have in the machine's temporary folder."""
    runs = {path.name for path in COGLET_SCRATCH.glob("*")}
    return runs | {path.name for path in Path(tempfile.gettempdir()).glob("pip-*")}


def wait_for(proxy: ProxyProcess, phase: str) -> None:
    for _ in range(3000):
        if any(line.get("event") == "copy" and line.get("phase") == phase for line in proxy.log()):
            return
        time.sleep(0.01)
    raise AssertionError(f"no copy was ever {phase}: {proxy.log()}")


def private_files(data_dir: Path) -> list[Path]:
    places = [data_dir / "tmp", data_dir / "run"]
    found = [path for place in places for path in place.rglob("*") if path.is_file()]
    return found + [path for path in (data_dir / "envs").glob("*.tmp")]


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL], ids=lambda one: one.name)
@pytest.mark.parametrize("moment", ["boot", "run", "environment"])
def test_end_at_an_odd_moment_leaves_nothing(tmp_path: Path, ending: signal.Signals, moment: str) -> None:
    data_dir = tmp_path / "data"
    if moment == "environment":
        (data_dir / "envs").mkdir(mode=0o700, parents=True)  # its own, so that there is one to be made
        data_dir.chmod(0o700)
    before = scratch()
    proxy = start_proxy(data_dir, CONFIG, environment={"HOTPLATE_LOG__LEVEL": "debug"})
    if moment == "run":
        assert create(proxy, "warm up", wait=True).json()["status"] == "succeeded"
    assert create(proxy, "fault:hang").status_code == 201
    wait_for(proxy, {"environment": "installing", "boot": "starting", "run": "ready"}[moment])
    time.sleep({"environment": 3.0, "boot": 0.2, "run": 0.7}[moment])
    children = descendants(proxy.pid)
    assert children, "there was something to leave behind"
    proxy.stop(ending)
    assert wait_until_gone(children) == set()
    if ending is signal.SIGKILL:
        again = start_proxy(data_dir, CONFIG)
        if moment != "environment":
            assert create(again, "used once", wait=True).json()["status"] == "succeeded"
        assert again.stop() == 0
    assert private_files(data_dir) == []
    assert scratch() - before == set()


def test_folders_are_closed_to_other_users(tmp_path: Path) -> None:
    data_dir = tmp_path / "deep" / "data"
    data_dir.parent.mkdir()
    proxy = start_proxy(data_dir, CONFIG, tls=True)
    try:
        assert create_over_tls(proxy).json()["status"] == "succeeded"
        folders = [data_dir, *(path for path in data_dir.iterdir() if path.is_dir() and not path.is_symlink())]
        assert [path.name for path in folders if path.stat().st_mode & 0o077] == []
    finally:
        proxy.stop()


def create_over_tls(proxy: ProxyProcess) -> httpx.Response:
    given = {"input": {"prompt": "closed", "seed": 1, **SMALL}}
    bundle = str(proxy.data_dir / "tls" / "ca-bundle.pem")
    return httpx.post(
        proxy.public_url + CREATE,
        json=given,
        headers={"Prefer": "wait"},
        timeout=200,
        trust_env=False,
        verify=ssl.create_default_context(cafile=bundle),
    )
