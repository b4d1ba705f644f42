"""Start, restart and every kind of end: nothing is lost, and nothing is left behind."""

from __future__ import annotations

import base64
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

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

CREATE = f"/v1/models/{README_MODEL}/predictions"
FAULTS = {"environment": {"HOTPLATE_DEMO_FAULTS": "1"}}


def draw(proxy: ProxyProcess, prompt: str) -> httpx.Response:
    given = {"input": {"prompt": prompt, **SMALL}}
    url = proxy.public_url + CREATE
    return httpx.post(url, json=given, headers={"Prefer": "wait"}, timeout=110, trust_env=False)


def picture(prediction: dict[str, Any]) -> bytes:
    return base64.b64decode(prediction["output"][0].partition(",")[2])


def lasting_address(answer: httpx.Response) -> str:
    return answer.headers["link"].partition("<")[2].partition(">")[0]


@pytest.mark.parametrize(
    ("moment", "ending"),
    [
        pytest.param("idle", signal.SIGINT, id="idle-SIGINT"),
        pytest.param("idle", signal.SIGTERM, id="idle-SIGTERM", marks=pytest.mark.slow),
        pytest.param("idle", signal.SIGKILL, id="idle-SIGKILL", marks=pytest.mark.slow),
        pytest.param("mid-run", signal.SIGINT, id="mid-run-SIGINT", marks=pytest.mark.slow),
        pytest.param("mid-run", signal.SIGTERM, id="mid-run-SIGTERM"),
        pytest.param("mid-run", signal.SIGKILL, id="mid-run-SIGKILL"),
    ],
)
def test_nothing_is_left_behind(tmp_path: Path, moment: str, ending: signal.Signals) -> None:
    config = local_config(**FAULTS) + "\n[limits]\ndrain_timeout_s = 1\n"
    proxy = start_proxy(tmp_path / "data", config)
    try:
        assert draw(proxy, "before the end").json()["status"] == "succeeded"
        if moment == "mid-run":
            given = {"input": {"prompt": "fault:hang", **SMALL}}
            assert httpx.post(proxy.public_url + CREATE, json=given, trust_env=False).status_code == 201
            time.sleep(0.3)
        children = descendants(proxy.pid)
        assert len(children) >= 2, "a keeper and a Cog server at least"
    finally:
        status = proxy.stop(ending)
    assert status == (-signal.SIGKILL if ending is signal.SIGKILL else 0)
    assert wait_until_gone(children) == set()
    if ending is signal.SIGKILL:
        with running_proxy(tmp_path / "data", config) as again:
            assert "; hit" in draw(again, "before the end").headers["cache-status"]
    left = [path for name in ("tmp", "run") for path in (proxy.data_dir / name).rglob("*") if path.is_file()]
    assert left == []


def test_result_id_and_address_outlive_a_kill(tmp_path: Path) -> None:
    with running_proxy(tmp_path / "data", local_config()) as proxy:
        miss = draw(proxy, "to be kept")
        hit = draw(proxy, "to be kept")
        assert "stored" in miss.headers["cache-status"]
        assert "; hit" in hit.headers["cache-status"]
        proxy.stop(signal.SIGKILL)
    config = local_config() + "\n[cache]\noutput_urls = 'data'\n"
    with running_proxy(tmp_path / "data", config) as again:
        for answer in (miss, hit):
            prediction = answer.json()
            found = httpx.get(f"{again.public_url}/v1/predictions/{prediction['id']}", trust_env=False)
            assert found.json()["status"] == "succeeded"
            assert picture(found.json()) == picture(prediction)
            path = httpx.URL(lasting_address(answer)).raw_path.decode()
            output = httpx.get(again.public_url + path, trust_env=False)
            assert output.content == picture(prediction)
            assert output.headers["content-type"] == "image/webp"
        assert again.runs() == 0


def test_second_proxy_on_one_folder_is_refused_with_one_clear_line(tmp_path: Path) -> None:
    with running_proxy(tmp_path / "data", local_config()), pytest.raises(AssertionError) as refused:
        start_proxy(tmp_path / "data", local_config())
    assert "another" in str(refused.value)


def test_sigterm_lets_a_waiting_request_finish(tmp_path: Path) -> None:
    import threading

    proxy = start_proxy(tmp_path / "data", local_config(**FAULTS))
    draw(proxy, "warm up")
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(draw(proxy, "fault:slow:1")))
    asking.start()
    time.sleep(0.3)
    assert proxy.stop() == 0
    asking.join()
    assert answers[0].json()["status"] == "succeeded"


def test_admin_listener_answers(tmp_path: Path) -> None:
    config = local_config() + "\n[admin]\ntoken = 'an-admin-token-of-ours'\n"
    with running_proxy(tmp_path / "data", config) as proxy:
        get = lambda path, **headers: httpx.get(proxy.admin_url + path, headers=headers, trust_env=False)  # noqa: E731
        assert get("/livez").json() == {"status": "ok"}
        assert get("/readyz").json() == {"status": "ok"}
        assert get("/metrics").status_code == 401
        known = {"Authorization": "Bearer an-admin-token-of-ours"}
        assert "hotplate_requests_total" in get("/metrics", **known).text
        status = get("/_hotplate/status", **known).json()
        assert [one["state"] for one in status["upstreams"]] == ["cold"]
        assert get("/nowhere", **known).json()["status"] == 404
        assert httpx.get(proxy.public_url + "/metrics", trust_env=False).status_code == 404
