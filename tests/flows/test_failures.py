"""Models that fail: the client hears a useful error, nothing is cached, and the next request works again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.flows.harness import README_MODEL, SMALL, ProxyProcess, local_config, running_proxy

CREATE = f"/v1/models/{README_MODEL}/predictions"


@pytest.fixture
def http(proxy: ProxyProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=proxy.public_url, timeout=110, trust_env=False) as client:
        yield client


def draw(http: httpx.Client, prompt: str) -> tuple[dict[str, Any], str]:
    answer = http.post(CREATE, json={"input": {"prompt": prompt, **SMALL}}, headers={"Prefer": "wait"})
    assert answer.status_code == 201, answer.text
    return answer.json(), answer.headers["cache-status"]


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("fault:raise", "the model failed on purpose"),
        ("fault:crash", "lost during the run, twice"),
    ],
)
def test_failed_run_is_told_and_not_cached(proxy: ProxyProcess, http: httpx.Client, prompt: str, says: str) -> None:
    check_failure(proxy, http, prompt, says)


@pytest.mark.slow
def test_run_that_hangs_is_given_up_at_its_deadline_and_not_cached(tmp_path: Path) -> None:
    config = local_config(deadline_s=5.0, environment={"HOTPLATE_DEMO_FAULTS": "1"})
    with (
        running_proxy(tmp_path / "data", config) as proxy,
        httpx.Client(base_url=proxy.public_url, timeout=110, trust_env=False) as http,
    ):
        check_failure(proxy, http, "fault:hang", "deadline")


def check_failure(proxy: ProxyProcess, http: httpx.Client, prompt: str, says: str) -> None:
    runs = proxy.runs()
    for count in (1, 2):
        prediction, cache_status = draw(http, prompt)
        assert prediction["status"] == "failed"
        assert says in prediction["error"].lower()
        assert prediction["output"] is None
        assert "stored" not in cache_status
        assert "hit" not in cache_status
        assert proxy.runs() == runs + count
        again = http.get(prediction["urls"]["get"]).json()
        assert (again["status"], again["error"]) == ("failed", prediction["error"])
    prediction, _ = draw(http, f"works again after {prompt.removeprefix('fault:')}")
    assert prediction["status"] == "succeeded"


def test_model_that_cannot_start_fails_with_its_own_words(tmp_path: Path) -> None:
    config = local_config(environment={"HOTPLATE_DEMO_FAULTS": "setup"})
    with (
        running_proxy(tmp_path / "data", config) as proxy,
        httpx.Client(base_url=proxy.public_url, timeout=110, trust_env=False) as http,
    ):
        prediction, _ = draw(http, "never drawn")
        assert prediction["status"] == "failed"
        assert "setup" in prediction["error"].lower()
        # A hit needs no model; a lost one is told; the server goes on.
        assert httpx.get(f"{proxy.admin_url}/readyz", trust_env=False).status_code == 200


@pytest.mark.slow
def test_failed_prediction_is_remembered_over_a_restart(tmp_path: Path) -> None:
    config = local_config(environment={"HOTPLATE_DEMO_FAULTS": "1"})
    with (
        running_proxy(tmp_path / "data", config) as proxy,
        httpx.Client(base_url=proxy.public_url, timeout=110, trust_env=False) as http,
    ):
        prediction, _ = draw(http, "fault:raise")
    with running_proxy(tmp_path / "data", config) as proxy:
        url = f"{proxy.public_url}/v1/predictions/{prediction['id']}"
        again = httpx.get(url, trust_env=False).json()
    assert (again["status"], again["error"]) == ("failed", prediction["error"])
