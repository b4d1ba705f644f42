"""The operator's hands on a running proxy: the commands as they are typed, counted at the API's side."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from loadtests.fake_model.process import ALICE, FakeModel, fake_model
from proxy import cli
from proxy.settings import SettingsError
from tests.flows.harness import ROOT, ProxyProcess, running_proxy, start_proxy
from tests.flows.test_replicate_upstream import PIXEL, Pair, config

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def hotplate(proxy: ProxyProcess, *arguments: str, expect: int = 0, stdin: str = "") -> str:
    """A command in this process, where it starts at once; what it printed, on both streams."""
    done = CliRunner().invoke(cli.app, [*arguments, "--config", _file(proxy)], input=stdin, env=_environment(proxy))
    if isinstance(done.exception, SettingsError):  # ``main`` makes that a line and exit code 2
        assert expect == 2, done.exception
        return str(done.exception)
    assert done.exit_code == expect, done.output
    return done.output


def typed(proxy: ProxyProcess, *arguments: str, expect: int = 0) -> str:
    """The same as an operator does it."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("HOTPLATE_", "REPLICATE_"))}
    done = subprocess.run(
        [sys.executable, "-m", "proxy", *arguments, "--config", _file(proxy)],
        cwd=ROOT,
        env={**bare, **_environment(proxy)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def _file(proxy: ProxyProcess) -> str:
    return str(proxy.data_dir.parent / f"{proxy.data_dir.name}.toml")


def _environment(proxy: ProxyProcess) -> dict[str, str]:
    port = proxy.admin_url.rpartition(":")[2]
    return {"HOTPLATE_ADMIN__PORT": port, "REPLICATE_API_TOKEN": ALICE, "COLUMNS": "200"}


def asked(proxy: ProxyProcess, *arguments: str) -> Any:
    return json.loads(hotplate(proxy, *arguments, "--json"))


@pytest.fixture(scope="module")
def api() -> Iterator[FakeModel]:
    with fake_model() as model:
        yield model


@pytest.fixture
def pair(api: FakeModel, tmp_path: Path) -> Iterator[Pair]:
    api.reset()
    with running_proxy(tmp_path / "data", config(api)) as proxy:
        yield Pair(api, proxy)


def status(pair: Pair, prompt: str, **headers: str) -> str:
    answer = pair.post(PIXEL, {"input": {"prompt": prompt, "seed": 1}}, **headers)
    assert answer.status_code == 201, answer.text
    return answer.headers["cache-status"]


@pytest.mark.slow
def test_kill_switch_acts_at_once_and_outlives_a_restart(pair: Pair) -> None:
    status(pair, "kept")
    assert "The cache is used" in hotplate(pair.proxy, "bypass", "status")
    assert "bypassed" in typed(pair.proxy, "bypass", "on")
    assert status(pair, "kept") == "Hotplate; fwd=bypass; detail=off"
    ready = httpx.get(f"{pair.proxy.admin_url}/readyz", trust_env=False)
    assert (ready.status_code, ready.json()) == (200, {"status": "ok", "bypass": "on"})
    assert "hotplate_bypass 1.0" in httpx.get(f"{pair.proxy.admin_url}/metrics", trust_env=False).text
    assert pair.proxy.stop() == 0
    again = start_proxy(pair.proxy.data_dir, config(pair.api))
    try:
        (warning,) = [line for line in again.log() if line["event"] == "cache_is_bypassed"]
        assert warning["level"] == "warning"
        assert status(Pair(pair.api, again), "kept") == "Hotplate; fwd=bypass; detail=off"
        assert asked(again, "bypass", "off")["on"] is False
        assert "; hit" in status(Pair(pair.api, again), "kept")
    finally:
        again.stop()


@pytest.mark.slow
def test_reload_swaps_policies_by_command_and_by_signal_or_not_at_all(pair: Pair) -> None:
    file = pair.proxy.data_dir.parent / "data.toml"
    status(pair, "one")
    assert "; hit" in status(pair, "one")
    file.write_text(config(pair.api, '[[policy]]\nmodels = ["acme/*"]\nmode = "off"\n[limits]\nmax_waiters = 9\n'))
    said = hotplate(pair.proxy, "reload")
    assert "1 policy holds now, changed" in said
    assert "limits.max_waiters" in said
    assert "detail=off" in status(pair, "one")
    assert [one["mode"] for one in httpx.get(f"{pair.proxy.admin_url}/_hotplate/policies").json()["policies"]] == [
        "off"
    ]
    file.write_text(config(pair.api, '[[policy]]\nmode = "sometimes"\n'))
    (line,) = typed(pair.proxy, "reload", expect=1).splitlines()
    assert "policy.0.mode" in line
    pair.proxy.process.send_signal(signal.SIGHUP)
    events = wait_for(pair.proxy, "policies_not_reloaded")
    assert "policy.0.mode" in events[0]["detail"]
    assert "detail=off" in status(pair, "one"), "a bad file leaves the old ones"
    file.write_text(config(pair.api))
    pair.proxy.process.send_signal(signal.SIGHUP)
    wait_for(pair.proxy, "policies_reloaded", count=2)
    assert "; hit" in status(pair, "one")


def wait_for(proxy: ProxyProcess, event: str, count: int = 1) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = [line for line in proxy.log() if line.get("event") == event]
        if len(found) >= count:
            return found
        time.sleep(0.02)
    raise AssertionError(f"no {event}: {proxy.log()}")


def test_purge_takes_results_away_by_every_name(pair: Pair) -> None:
    made = pair.post(PIXEL, {"input": {"prompt": "by id", "seed": 1}}).json()
    status(pair, "tagged", **{"Hotplate-Tags": "spring, sale"})
    status(pair, "spaced", **{"Hotplate-Namespace": "blue"})
    assert asked(pair.proxy, "purge", "--tag", "sale")["removed"] == 1
    assert asked(pair.proxy, "purge", "--namespace", "blue")["removed"] == 1
    assert "1 result removed." in hotplate(pair.proxy, "purge", "--id", made["id"])
    shown = pair.get(f"/v1/predictions/{made['id']}").json()
    assert shown["data_removed"] is True
    assert shown["output"] is None
    for prompt in ("by id", "tagged"):
        assert "fwd=miss" in status(pair, prompt)
        assert "; hit" in status(pair, prompt)
    assert asked(pair.proxy, "purge", "--model", "acme/*")["removed"] == 2
    assert "Aborted" in hotplate(pair.proxy, "purge", "--all", expect=1, stdin="n\n")
    assert "fwd=miss" in status(pair, "tagged")
    assert asked(pair.proxy, "purge", "--all", "--yes")["removed"] == 1
    assert "say one of" in hotplate(pair.proxy, "purge", expect=2)
    assert "64 lower-case hex" in hotplate(pair.proxy, "purge", "--key", "12", expect=2)


@pytest.mark.slow
def test_explain_says_why_by_request_by_difference_and_by_id(api: FakeModel, tmp_path: Path) -> None:
    api.reset()
    with running_proxy(tmp_path / "data", config(api, '[admin]\ntoken = "the-operators-own-token"\n')) as proxy:
        for method, path in ADMIN:
            answer = httpx.request(method, f"{proxy.admin_url}/_hotplate/{path}", json={"on": True}, trust_env=False)
            assert answer.status_code == 401, path
        explain(Pair(api, proxy), tmp_path)


ADMIN = [
    ("GET", "bypass"),
    ("POST", "bypass"),
    ("POST", "reload"),
    ("GET", "policies"),
    ("POST", "purge"),
    ("GET", "observed"),
    ("POST", "explain"),
    ("POST", "explain/diff"),
    ("GET", "explain/" + "a" * 26),
]


def explain(pair: Pair, tmp_path: Path) -> None:
    one, other, live = tmp_path / "one.json", tmp_path / "other.json", tmp_path / "live.json"
    one.write_text(json.dumps({"model": "acme/pixel", "input": {"prompt": "why", "seed": 1}}))
    other.write_text(json.dumps({"model": "acme/pixel", "input": {"prompt": "why not", "seed": 1}}))
    live.write_text(json.dumps({"deployment": "acme/live", "input": {"prompt": "why", "seed": 1}}))
    assert asked(pair.proxy, "explain", str(one))["would"] == "miss"
    made = pair.post(PIXEL, {"input": {"prompt": "why", "seed": 1}}).json()
    told = asked(pair.proxy, "explain", str(one))
    assert told["would"] == "hit"
    assert told["policy"]["because"].endswith("the defaults hold")
    refreshing = asked(pair.proxy, "explain", str(one), "--header", "Cache-Control: no-cache")
    assert refreshing["would"] == "miss"
    assert asked(pair.proxy, "explain", str(live))["deployment"] == "acme/live"
    assert "same key" in hotplate(pair.proxy, "explain", "--diff", str(one), str(one))
    (difference,) = asked(pair.proxy, "explain", "--diff", str(one), str(other))["differences"]
    assert difference == {"what": "input.prompt", "a": "why", "b": "why not"}
    hit = pair.post(PIXEL, {"input": {"prompt": "why", "seed": 1}}).json()
    past = asked(pair.proxy, "explain", "--id", hit["id"])
    assert (past["answered"], past["key"]) == ("hit", told["key"])
    assert asked(pair.proxy, "explain", "--id", made["id"])["answered"].startswith("miss")
    for arguments in ([str(one)], ["--diff", str(one), str(other)], ["--id", hit["id"]]):
        table = hotplate(pair.proxy, "explain", *arguments)
        assert ALICE not in table
        assert "why" in table
    assert "--header" in hotplate(pair.proxy, "explain", str(one), "--header", "Authorization: x", expect=2)
    assert "no policy has" in hotplate(pair.proxy, "explain", str(one), "--profile", "none", expect=2)
    assert pair.api.counters()["creates"] == 1


@pytest.mark.slow
def test_observe_passes_everything_on_and_says_what_would_have_been(api: FakeModel, tmp_path: Path) -> None:
    api.reset()
    policy = '[[policy]]\nmode = "observe"\nprice_per_second = 2.0\n'
    with running_proxy(tmp_path / "data", config(api, policy)) as proxy:
        pair = Pair(api, proxy)
        given = {"input": {"prompt": "watch", "seed": 4}}
        first = pair.post(PIXEL, given)
        assert first.headers["cache-status"].startswith(
            'Hotplate; fwd=bypass; fwd-status=201; detail="observe would-miss'
        )
        assert first.json()["output"], "the upstream's own answer"
        second = pair.post(PIXEL, given)
        assert 'detail="observe would-hit-doubtful"' in second.headers["cache-status"], "the version is not told"
        assert api.counters()["creates"] == 2, "every request is passed on"
        straight = httpx.get(
            f"{api.base_url}/predictions/{second.json()['id']}",
            headers={"Authorization": f"Bearer {ALICE}"},
            trust_env=False,
        )
        assert straight.status_code == 200, "the id is the upstream's own"
        version = pair.get("/v1/models/painters/brush").json()["latest_version"]["id"]
        pinned = {"version": version, "input": {"prompt": "watch", "seed": 4}}
        polled = pair.post("/v1/predictions", pinned, Prefer="respond-async").json()
        wait_until_ended(pair, polled["id"])
        again = pair.post("/v1/predictions", pinned)
        assert 'detail="observe would-hit"' in again.headers["cache-status"], again.headers["cache-status"]
        told = asked(proxy, "observe")
        assert told["verdicts"]["would-hit"] == 1
        assert told["verdicts"]["would-hit-doubtful"] == 1
        assert told["would_save"]["ends_seen"] == 2
        assert told["would_save"]["money"] == pytest.approx(2.0 * told["would_save"]["seconds"])
        assert told["would_save"]["seconds"] > 0
        kinds = asked(proxy, "stats")["all"]["kinds"]
        assert kinds["would_hit"]["seconds"] == pytest.approx(told["would_save"]["seconds"])
        assert kinds["relayed"]["count"] == 4
        hotplate(proxy, "bypass", "on")
        bypassed = pair.post(PIXEL, given)
        assert bypassed.headers["cache-status"].endswith("detail=off")
        assert bypassed.json()["output"], "clients of a pass-through see no difference"
        assert asked(proxy, "observe")["requests"] == told["requests"]
        table = hotplate(proxy, "observe")
        assert "acme/pixel" in table
        assert "hidden-version" in table
        text = httpx.get(f"{proxy.admin_url}/metrics", trust_env=False).text
        assert 'hotplate_observed_total{verdict="would-hit"} 1.0' in text
        assert proxy.runs() == 0, "none of the runs is the proxy's own"


def wait_until_ended(pair: Pair, prediction_id: str) -> None:
    deadline = time.monotonic() + 10
    while pair.get(f"/v1/predictions/{prediction_id}").json()["status"] in ("starting", "processing"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
