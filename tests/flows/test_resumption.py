"""A killed proxy: what was on its way goes on in the next one."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from loadtests.fake_model.process import ALICE, FakeModel, fake_model
from tests.flows.harness import README_MODEL, SMALL, ProxyProcess, local_config, running_proxy, start_proxy

CREATE = f"/v1/models/{README_MODEL}/predictions"
PIXEL = "/v1/models/acme/pixel/predictions"
FAULTS = {"environment": {"HOTPLATE_DEMO_FAULTS": "1"}}
SHORT_DRAIN = "[limits]\ndrain_timeout_s = 0.5\n"


def post(proxy: ProxyProcess, path: str, given: dict[str, Any], **headers: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {ALICE}", **headers}
    return httpx.post(proxy.public_url + path, json={"input": given}, headers=headers, timeout=60, trust_env=False)


def get(proxy: ProxyProcess, prediction_id: str) -> dict[str, Any]:
    url = f"{proxy.public_url}/v1/predictions/{prediction_id}"
    answer: dict[str, Any] = httpx.get(url, headers={"Authorization": f"Bearer {ALICE}"}, trust_env=False).json()
    return answer


def ended(proxy: ProxyProcess, prediction_id: str, timeout_s: float = 30.0) -> dict[str, Any]:
    """The prediction once it has ended."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        prediction = get(proxy, prediction_id)
        if prediction["status"] not in ("starting", "processing"):
            return prediction
        time.sleep(0.05)
    raise AssertionError(f"it did not end: {prediction}")


def left_behind(proxy: ProxyProcess) -> dict[str, float]:
    text = httpx.get(f"{proxy.admin_url}/metrics", trust_env=False).text
    lines = [line for line in text.splitlines() if line.startswith("hotplate_runs_left_behind_total{")]
    return {line.split('how="')[1].split('"')[0]: float(line.rpartition(" ")[2]) for line in lines}


def config(api: FakeModel) -> str:
    return (
        f'[[upstream]]\nkind = "replicate"\nname = "replicate"\nbase_url = "{api.base_url}"\n'
        f'output_origins = ["{api.delivery_origin}"]\n[cache]\noutput_urls = "url"\n{SHORT_DRAIN}'
    )


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM], ids=lambda one: one.name)
def test_run_in_flight_upstream_is_adopted_by_the_next_proxy(tmp_path: Path, ending: signal.Signals) -> None:
    given = {"prompt": f"across {ending.name}", "seed": 1}
    with fake_model() as api:
        api.hold()
        with running_proxy(tmp_path / "data", config(api)) as proxy:
            first, second = (post(proxy, PIXEL, given).json() for _ in range(2))
            proxy.stop(ending)  # at once: what was answered is known to the next one
        with running_proxy(tmp_path / "data", config(api)) as again:
            assert get(again, first["id"])["status"] in ("starting", "processing")
            joined = post(again, PIXEL, given)
            assert "collapsed" in joined.headers["cache-status"]
            api.release()
            outputs = [ended(again, one["id"])["output"] for one in (first, second, joined.json())]
            assert outputs[0] == outputs[1] == outputs[2]
            assert httpx.get(outputs[0][0], trust_env=False).status_code == 200
            assert "; hit" in post(again, PIXEL, given).headers["cache-status"]
            assert left_behind(again) == {"adopted": 1, "repeated": 0, "lost": 0}
        assert api.counters()["runs"] == {"acme/pixel": 1}
        assert api.counters()["cancels"] == 0


@pytest.mark.slow
def test_cog_run_that_died_with_the_proxy_is_run_once_more_and_counted(tmp_path: Path) -> None:
    settings = local_config(**FAULTS) + SHORT_DRAIN
    proxy = start_proxy(tmp_path / "data", settings)
    prediction = post(proxy, CREATE, {"prompt": "fault:slow:1", **SMALL}).json()
    time.sleep(0.5)
    proxy.stop(signal.SIGKILL)
    with running_proxy(tmp_path / "data", settings) as again:
        assert ended(again, prediction["id"])["status"] == "succeeded"
        assert (again.runs(), left_behind(again)) == (1, {"adopted": 0, "repeated": 1, "lost": 0})


@pytest.mark.slow
def test_cog_run_that_is_lost_a_second_time_has_failed(tmp_path: Path) -> None:
    settings = local_config(**FAULTS) + SHORT_DRAIN
    proxy = start_proxy(tmp_path / "data", settings)
    prediction = post(proxy, CREATE, {"prompt": "fault:hang", **SMALL}).json()
    for _ in range(2):
        time.sleep(0.8)
        proxy.stop(signal.SIGKILL)
        proxy = start_proxy(tmp_path / "data", settings)
    try:
        found = get(proxy, prediction["id"])
        assert found["status"] == "failed"
        assert "restarted" in found["error"]
        assert left_behind(proxy)["lost"] == 1
    finally:
        proxy.stop()


@pytest.mark.slow
def test_deadline_cancels_one_prediction_and_the_run_nobody_else_wants(tmp_path: Path) -> None:
    with fake_model() as api, running_proxy(tmp_path / "data", config(api)) as proxy:
        api.hold()
        given = {"prompt": "not for ever", "seed": 1}
        answer = post(proxy, PIXEL, given, **{"Cancel-After": "5s", "Prefer": "wait=20"})
        assert answer.json()["status"] in ("canceled", "aborted")
        assert answer.json()["deadline"] is not None
        deadline = time.monotonic() + 5
        while not api.counters()["cancels"] and time.monotonic() < deadline:
            time.sleep(0.05)
        assert api.counters()["cancels"] == 1
        bad = post(proxy, PIXEL, given, **{"Cancel-After": "soon"})
        assert (bad.status_code, bad.json()["invalid_fields"][0]["field"]) == (422, "Cancel-After")
