"""A proxy that its API tells by webhooks how runs go: hardly any looks, and nobody else can tell it anything."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loadtests.fake_model.process import FakeModel, fake_model
from tests.flows.harness import running_proxy, start_proxy
from tests.flows.test_replicate_upstream import PIXEL, Pair, config

TOLD = 'webhooks = "on"\n'


def told(api: FakeModel) -> str:
    return config(api).replace("[cache]", f"{TOLD}[cache]")


def addresses(api: FakeModel) -> str:
    """The address in the last create that the API got."""
    url: str = api.counters()["last_create"]["body"]["webhook"]
    return url


@pytest.fixture(scope="module")
def api() -> Iterator[FakeModel]:
    with fake_model("--webhook-attempts", "1") as api:
        yield api


def metric(pair: Pair, name: str) -> float:
    text = httpx.get(f"{pair.proxy.admin_url}/metrics", trust_env=False).text
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


@pytest.fixture(scope="module")
def running(api: FakeModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with running_proxy(tmp_path_factory.mktemp("told") / "data", told(api)) as proxy:
        yield Pair(api, proxy)


@pytest.fixture
def pair(running: Pair) -> Pair:
    running.api.reset()
    return running


def ended(pair: Pair, prediction_id: str, timeout_s: float = 10.0) -> str:
    """Seconds of asking seldom, as a client that is told itself would."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        status: str = pair.get(f"/v1/predictions/{prediction_id}").json()["status"]
        if status not in ("starting", "processing"):
            return status
        time.sleep(0.1)
    raise AssertionError("it did not end")


@pytest.mark.slow
def test_run_is_told_and_hardly_looked_at(pair: Pair) -> None:
    pair.api.hold()
    taken = metric(pair, "hotplate_upstream_webhooks_taken_total")
    created = pair.post(PIXEL, {"input": {"prompt": "told", "seed": 1}}, Prefer="wait=1").json()
    time.sleep(6.0)  # longer than a client's question counts as watching
    polls = pair.api.counters()["polls"]
    time.sleep(4.0)
    assert pair.api.counters()["polls"] == polls, "no look while nothing happens"
    pair.api.release()
    began = time.monotonic()
    assert ended(pair, created["id"]) == "succeeded"
    assert time.monotonic() - began < 2.0
    assert metric(pair, "hotplate_upstream_webhooks_taken_total") >= taken + 2


def test_forged_and_misdirected_posts_are_refused_and_cause_nothing(pair: Pair) -> None:
    pair.api.hold()
    created = pair.post(PIXEL, {"input": {"prompt": "forged", "seed": 1}}, Prefer="wait=1").json()
    address = addresses(pair.api)
    polls = pair.api.counters()["polls"]
    forged = {"webhook-id": "msg_1", "webhook-timestamp": str(int(time.time())), "webhook-signature": "v1,AAAA"}
    body = b'{"id": "x", "status": "succeeded", "output": "forged"}'
    for url, headers, status in (
        (address, forged, 401),
        (address, {}, 401),
        (address[:-1], forged, 404),
        (address.rpartition("/")[0] + "/", forged, 404),
        (address + "/x", forged, 404),
    ):
        answer = httpx.post(url, content=body, headers=headers, trust_env=False)
        assert (answer.status_code, answer.json()["status"]) == (status, status)
    assert httpx.get(address, trust_env=False).status_code == 404
    assert httpx.post(address, content=bytes(9 * 1024**2), headers=forged, trust_env=False).status_code == 413
    assert pair.get(f"/v1/predictions/{created['id']}").json()["status"] in ("starting", "processing")
    assert pair.api.counters()["polls"] <= polls + 4
    pair.api.release()
    assert ended(pair, created["id"]) == "succeeded"
    assert "forged" not in str(pair.get(f"/v1/predictions/{created['id']}").json()["output"])


def test_client_s_own_webhook_is_not_told_upstream(pair: Pair) -> None:
    given = {"input": {"prompt": "mine", "seed": 1}, "webhook": "https://client.example.com/hook"}
    assert pair.post(PIXEL, given).json()["status"] == "succeeded"
    assert addresses(pair.api).startswith(f"{pair.proxy.public_url}/_hotplate/hooks/")


@pytest.mark.slow
def test_run_is_told_to_the_next_process(api: FakeModel, tmp_path: Path) -> None:
    """The address is derived from the run, so what was asked for before a crash arrives after it."""
    api.reset()
    api.hold()
    first = start_proxy(tmp_path / "data", told(api))
    port = first.public_url.rpartition(":")[2]
    created = Pair(api, first).post(PIXEL, {"input": {"prompt": "over a crash", "seed": 1}}, Prefer="wait=1").json()
    first.stop(signal.SIGKILL)
    with running_proxy(tmp_path / "data", told(api), port=int(port)) as proxy:
        pair = Pair(api, proxy)
        assert proxy.public_url == first.public_url
        api.release()
        assert ended(pair, created["id"]) == "succeeded"
        deadline = time.monotonic() + 5
        while metric(pair, "hotplate_upstream_webhooks_taken_total") < 1 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert metric(pair, "hotplate_upstream_webhooks_taken_total") >= 1
        assert api.counters()["creates"] == 1
