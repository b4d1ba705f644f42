"""The proxy is ended at odd moments: no process, temporary file or lock of its own stays behind."""

from __future__ import annotations

import contextlib
import signal
import ssl
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.upstreams.environments import MARKER
from proxy.upstreams.run_folder import COGLET_SCRATCH
from tests.flows.harness import (
    README_MODEL,
    SMALL,
    ProxyProcess,
    descendants,
    local_config,
    running_proxy,
    start_proxy,
    wait_until_gone,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CREATE = f"/v1/models/{README_MODEL}/predictions"
CONFIG = local_config(deadline_s=4.0, environment={"HOTPLATE_DEMO_FAULTS": "1"}) + "\n[limits]\ndrain_timeout_s = 1\n"
"""With a deadline, since the proxy that follows runs once more what hung when the former one ended."""


def create(proxy: ProxyProcess, prompt: str, *, wait: bool = False) -> httpx.Response:
    given = {"input": {"prompt": prompt, "seed": 1, **SMALL}}
    headers = {"Prefer": "wait"} if wait else {}
    return httpx.post(proxy.public_url + CREATE, json=given, headers=headers, timeout=200, trust_env=False)


def runs_scratch() -> set[str]:
    """What Cog has in a folder that no setting moves."""
    return {path.name for path in COGLET_SCRATCH.glob("*")}


def wait_until_removed(names: set[str]) -> set[str]:
    """Those that stay. Runs of other proxies on this machine are among them, and remove theirs when they end."""
    for _ in range(200):
        if not names & runs_scratch():
            break
        time.sleep(0.1)
    return names & runs_scratch()


def wait_for(proxy: ProxyProcess, phase: str) -> None:
    for _ in range(3000):
        if any(line.get("event") == "copy" and line.get("phase") == phase for line in proxy.log()):
            return
        time.sleep(0.01)
    raise AssertionError(f"no copy was ever {phase}: {proxy.log()}")


def left_in(data_dir: Path) -> list[Path]:
    """Temporary files and locks, and environments that are not complete."""
    places = [data_dir / "tmp", *(data_dir / "run").glob("*")]
    found = [path for place in places for path in place.rglob("*")]
    environments = [path for path in (data_dir / "envs").iterdir() if path.suffix != ".lock"]
    return found + [path for path in environments if not (path / MARKER).is_file()]


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL], ids=lambda one: one.name)
@pytest.mark.parametrize("moment", ["boot", "run", "environment"])
def test_end_at_an_odd_moment_leaves_nothing(tmp_path: Path, ending: signal.Signals, moment: str) -> None:
    data_dir, temp = tmp_path / "data", tmp_path / "temp"
    temp.mkdir()
    environment = {"HOTPLATE_LOG__LEVEL": "debug", "TMPDIR": str(temp)}
    before = runs_scratch()
    with contextlib.ExitStack() as running:
        # An environment of its own where one is to be made.
        start = start_with_own_environments if moment == "environment" else start_proxy
        proxy = start(data_dir, CONFIG, environment=environment)
        running.callback(stop, proxy)
        if moment == "run":
            assert create(proxy, "warm up", wait=True).json()["status"] == "succeeded"
        assert create(proxy, "fault:hang").status_code == 201
        wait_for(proxy, {"environment": "installing", "boot": "starting", "run": "ready"}[moment])
        time.sleep({"environment": 3.0, "boot": 0.2, "run": 0.7}[moment])
        children = descendants(proxy.pid)
        assert children, "there was something to leave behind"
        proxy.stop(ending)
        if ending is signal.SIGKILL:
            # At once: what the other's children still have open must be swept as well, a little later.
            again = start_proxy(data_dir, CONFIG, environment=environment)
            running.callback(stop, again)
            assert create(again, "used once", wait=True).json()["status"] == "succeeded"
            assert again.stop() == 0
    assert wait_until_gone(children) == set()
    assert left_in(data_dir) == []
    assert list(temp.iterdir()) == []
    assert wait_until_removed(runs_scratch() - before) == set()


def start_with_own_environments(data_dir: Path, config: str, **options: Any) -> ProxyProcess:
    """A proxy that has to make the model's environment; also after a restart, unless that was done."""
    (data_dir / "envs").mkdir(mode=0o700, parents=True)
    data_dir.chmod(0o700)
    return start_proxy(data_dir, config, **options)


def stop(proxy: ProxyProcess) -> None:
    if proxy.process.poll() is None:
        proxy.stop()


def test_folders_are_closed_to_other_users(tmp_path: Path) -> None:
    data_dir = tmp_path / "deep" / "data"
    data_dir.parent.mkdir()
    with running_proxy(data_dir, CONFIG, tls=True) as proxy:
        assert create_over_tls(proxy).json()["status"] == "succeeded"
        # What the model's process makes in the folder that is its own is as it makes it.
        run = data_dir / "run"
        ours = [data_dir, run, *(path for path in run.rglob("*") if not is_of_model(data_dir, path))]
        assert len(list(run.glob("*/*"))) >= 2
        assert [path for path in ours if not path.is_symlink() and path.stat().st_mode & 0o077] == []


def is_of_model(data_dir: Path, path: Path) -> bool:
    """``run/<upstream>/<process>/<copy>/...``: inside a copy's own folder."""
    return len(path.relative_to(data_dir).parts) > 4


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
