"""One proxy of several processes: edges that answer hits, and a core that runs; whoever is killed is back."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from loadtests.fake_model.process import ALICE, BOB, fake_model
from tests.flows.edges import answering, is_hit
from tests.flows.harness import (
    README_MODEL,
    SMALL,
    ProxyProcess,
    descendants,
    is_alive,
    local_config,
    running_proxy,
    start_proxy,
    wait_until_gone,
)
from tests.flows.test_replicate_upstream import PIXEL, Pair, config

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

BACK_S = 30.0
"""What a killed process may take to be back on a busy machine."""


def workers(count: int) -> str:
    return f"[workers]\ncount = {count}\n[limits]\ndrain_timeout_s = 2\n"


def known(proxy: ProxyProcess) -> dict[str, list[dict[str, Any]]]:
    """The processes of a proxy by role, as its status names them."""
    found: dict[str, list[dict[str, Any]]] = {"core": [], "edge": []}
    for worker in httpx.get(f"{proxy.admin_url}/_hotplate/status", trust_env=False, timeout=30).json()["workers"]:
        found[worker["role"]].append(worker)
    return found


def core_pid(proxy: ProxyProcess) -> int:
    return int(known(proxy)["core"][0]["pid"])


def edge_pids(proxy: ProxyProcess) -> list[int]:
    return [int(edge["pid"]) for edge in known(proxy)["edge"]]


def wait_until_whole(proxy: ProxyProcess, count: int, without: int = 0) -> None:
    """Until the core answers and all edges are on the line, none of them the process ``without``."""
    deadline = time.monotonic() + BACK_S
    while time.monotonic() < deadline:
        try:
            processes = known(proxy)
        except httpx.HTTPError:
            processes = {"core": [], "edge": []}
        pids = [worker["pid"] for workers in processes.values() for worker in workers]
        if len([edge for edge in processes["edge"] if edge["is_connected"]]) == count and without not in pids:
            return
        time.sleep(0.05)
    raise AssertionError(f"it is not whole again: {processes} {proxy.log()[-5:]}")


def requests_total(proxy: ProxyProcess, outcome: str) -> float:
    text = httpx.get(f"{proxy.admin_url}/metrics", trust_env=False).text
    line = next(
        line for line in text.splitlines() if line.startswith(f'hotplate_requests_total{{outcome="{outcome}"}}')
    )
    return float(line.rpartition(" ")[2])


def ledger(proxy: ProxyProcess, kind: str) -> dict[str, float]:
    """A line of the ledger's sums."""
    report = httpx.get(f"{proxy.admin_url}/_hotplate/stats", trust_env=False).json()
    line: dict[str, float] = report["all"]["kinds"][kind]
    return line


@pytest.fixture
def near() -> Iterator[Path]:
    """A folder whose path is short enough for the sockets of several processes to lie in it."""
    with tempfile.TemporaryDirectory(prefix="hp-") as name:
        yield Path(name)


def given(prompt: str) -> dict[str, Any]:
    return {"input": {"prompt": prompt, "seed": 1}}


def hits_of_every_edge(
    pair: Pair, document: dict[str, Any], count: int, token: str = ALICE
) -> dict[str, httpx.Response]:
    """A hit by each of ``count`` edges, by the letters of the process."""
    found: dict[str, httpx.Response] = {}
    deadline = time.monotonic() + BACK_S
    while len(found) < count and time.monotonic() < deadline:
        answer = pair.post(PIXEL, document, token=token)
        assert is_hit(answer), answer.headers
        found[answering(answer)] = answer
    assert len(found) == count, "every edge answers hits"
    return found


def test_two_workers_serve_one_cache_and_end_together(near: Path) -> None:
    with fake_model() as api, running_proxy(near / "data", config(api, workers(2))) as proxy:
        pair = Pair(api, proxy)
        miss = pair.post(PIXEL, given("first"))
        assert "; stored" in miss.headers["cache-status"]
        hit = pair.post(PIXEL, given("first"))
        assert is_hit(hit)
        assert hit.json()["output"] == miss.json()["output"]
        assert answering(hit) != answering(miss), "a hit is an edge's, a miss the core's"
        assert httpx.get(hit.json()["output"][0], trust_env=False).headers["content-type"] == "image/png"
        again = pair.get(f"/v1/predictions/{hit.json()['id']}").json()
        assert (again["id"], again["input"]) == (hit.json()["id"], {"prompt": "first", "seed": 1})
        wait_until_listed(pair, {miss.json()["id"], hit.json()["id"]})
        assert requests_total(proxy, "hit") == 1
        assert ledger(proxy, "hit")["count"] == ledger(proxy, "made_succeeded")["count"] == 1
        for token, status in ((BOB, 201), (None, 401), ("r8_never_accepted_by_anybody", 401)):
            other = pair.post(PIXEL, given("first"), token=token)
            assert (other.status_code, is_hit(other)) == (status, False)
        assert pair.api.counters()["runs"] == {"acme/pixel": 2}
        folders = list(proxy.data_dir.glob("workers.*"))
        assert [stat.S_IMODE(path.stat().st_mode) for path in folders] == [0o700]
        assert {stat.S_IMODE(path.stat().st_mode) for path in folders[0].iterdir()} == {0o600}
        children = descendants(proxy.pid)
        assert len(children) == 3
        assert proxy.stop() == 0
        assert wait_until_gone(children, 1.0) == set()
        assert list(proxy.data_dir.glob("workers.*")) == []
        assert [line for line in proxy.log() if line["event"] == "not_json"] == []


def wait_until_listed(pair: Pair, ids: set[str]) -> None:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        listed = {one["id"] for one in pair.get("/v1/predictions").json()["results"]}
        if ids <= listed:
            return
        time.sleep(0.05)
    raise AssertionError(f"{ids - listed} are on no list")


# -- four workers ----------------------------------------------------------------------------------------

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    data_dir = tmp_path_factory.mktemp("workers") / "data"
    with fake_model() as api, running_proxy(data_dir, config(api, workers(4))) as proxy:
        yield Pair(api, proxy)


@pytest.fixture
def pair(four: Pair) -> Pair:
    four.api.reset()
    wait_until_whole(four.proxy, 4)
    return four


@slow
def test_hits_come_from_every_edge_and_have_ids_of_their_own(pair: Pair) -> None:
    pair.post(PIXEL, given("everywhere"))
    found = hits_of_every_edge(pair, given("everywhere"), 4)
    assert len({answer.json()["id"] for answer in found.values()}) == 4
    assert len(set(edge_pids(pair.proxy))) == 4
    assert pair.api.counters()["creates"] == 1


@slow
@pytest.mark.anyio
async def test_two_hundred_identical_creates_over_four_workers_make_one_run(pair: Pair) -> None:
    headers = {"Authorization": f"Bearer {ALICE}", "Prefer": "wait"}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=60, limits=limits, trust_env=False) as http:
        url = pair.proxy.public_url + PIXEL
        answers = await asyncio.gather(
            *(http.post(url, json=given("all at once"), headers=headers) for _ in range(200))
        )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 200
    assert len({str(answer.json()["output"]) for answer in answers}) == 1
    assert pair.api.counters()["creates"] == 1


@slow
def test_killed_edge_is_back_and_others_answer_meanwhile(pair: Pair) -> None:
    pair.post(PIXEL, given("edge killed"))
    victim = edge_pids(pair.proxy)[0]
    os.kill(victim, signal.SIGKILL)
    for _ in range(20):
        assert is_hit(pair.post(PIXEL, given("edge killed")))
    wait_until_whole(pair.proxy, 4, without=victim)
    assert sum(edge["restarts"] for edge in known(pair.proxy)["edge"]) >= 1
    hits_of_every_edge(pair, given("edge killed"), 4)
    assert pair.api.counters()["creates"] == 1


@slow
def test_killed_core_takes_its_run_up_and_who_comes_meanwhile_is_answered(pair: Pair) -> None:
    pair.post(PIXEL, given("before the kill"))
    pair.api.hold()
    begun = pair.post(PIXEL, given("across the kill"), Prefer="respond-async")
    assert begun.json()["status"] == "starting"
    edges, victim = edge_pids(pair.proxy), core_pid(pair.proxy)
    waiting: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: waiting.append(pair.post(PIXEL, given("waits for it"))))
    asking.start()
    time.sleep(0.5)
    os.kill(victim, signal.SIGKILL)
    time.sleep(0.05)
    polled: list[httpx.Response] = []
    polling = threading.Thread(target=lambda: polled.append(pair.get(f"/v1/predictions/{begun.json()['id']}")))
    polling.start()
    created = pair.post(PIXEL, given("while it is away"), Prefer="respond-async")
    repeated = pair.post(PIXEL, given("before the kill"))
    assert created.status_code == 201
    assert is_hit(repeated), "held until the core is back, and then a hit as before"
    pair.api.release()
    for thread in (asking, polling):
        thread.join()
    # It was sent before the kill: nobody may send it again, and its client is told.
    assert waiting[0].status_code == 502
    assert "started anew" in waiting[0].json()["detail"]
    assert polled[0].json()["status"] in ("starting", "processing", "succeeded")
    for prediction in (begun.json(), created.json()):
        assert ended(pair, prediction["id"])["status"] == "succeeded"
    wait_until_whole(pair.proxy, 4, without=victim)
    assert edge_pids(pair.proxy) == edges, "the edges stayed"
    assert pair.api.counters()["creates"] == 4
    assert is_hit(pair.post(PIXEL, given("across the kill")))


def ended(pair: Pair, prediction_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + BACK_S
    while time.monotonic() < deadline:
        prediction: dict[str, Any] = pair.get(f"/v1/predictions/{prediction_id}").json()
        if prediction["status"] not in ("starting", "processing"):
            return prediction
        time.sleep(0.05)
    raise AssertionError(f"it did not end: {prediction}")


@slow
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL], ids=lambda one: one.name)
def test_no_process_is_left_behind(near: Path, ending: signal.Signals) -> None:
    with fake_model() as api:
        proxy = start_proxy(near / "data", config(api, workers(2)))
        pair = Pair(api, proxy)
        api.hold()
        begun = pair.post(PIXEL, given(f"under way at {ending.name}"), Prefer="respond-async").json()
        children = descendants(proxy.pid)
        assert len(children) == 3
        began_at = time.monotonic()
        status = proxy.stop(ending)
        assert status == (-signal.SIGKILL if ending is signal.SIGKILL else 0)
        if ending is signal.SIGKILL:
            assert wait_until_gone(children, 2.0) == set()
        assert time.monotonic() - began_at < 15
        assert wait_until_gone(children, 0.5) == set()
        api.release()
        with running_proxy(near / "data", config(api, workers(2))) as again:
            assert ended(Pair(api, again), begun["id"])["status"] == "succeeded"
        assert list((near / "data").glob("workers.*")) == []
        assert api.counters()["creates"] == 1


@slow
def test_waiting_request_is_answered_while_all_stop_and_a_second_signal_cuts_it_short(tmp_path: Path) -> None:
    more = "[workers]\ncount = 2\n[limits]\ndrain_timeout_s = 60\n"
    with fake_model() as api:
        for is_impatient in (False, True):
            proxy = start_proxy(tmp_path / "data", config(api, more))
            pair, answers = Pair(api, proxy), []
            api.hold()

            def ask(pair: Pair = pair, answers: list[object] = answers, mark: bool = is_impatient) -> None:
                answers.append(pair.post(PIXEL, given(f"waits {mark}")).json()["status"])

            asking = threading.Thread(target=ask)
            asking.start()
            time.sleep(0.5)
            proxy.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            assert is_alive(proxy.pid)
            children = descendants(proxy.pid)
            if is_impatient:
                assert proxy.stop() == 0
            else:
                api.release()
                assert proxy.process.wait(30) == 0
            asking.join(30)
            assert answers == [503 if is_impatient else "succeeded"]
            assert wait_until_gone(children, 1.0) == set()


@slow
def test_edges_speak_tls_and_know_a_local_model_by_the_core_s_word(tmp_path: Path) -> None:
    with running_proxy(tmp_path / "data", local_config() + workers(2), tls=True) as proxy:
        authority = ssl.create_default_context(cafile=proxy.data_dir / "tls" / "ca.pem")
        with httpx.Client(base_url=proxy.public_url, verify=authority, timeout=110, trust_env=False) as http:

            def create() -> httpx.Response:
                document = {"input": {"prompt": "by two processes", **SMALL}}
                return http.post(f"/v1/models/{README_MODEL}/predictions", json=document, headers={"Prefer": "wait"})

            miss, hit = create(), create()
            assert "stored" in miss.headers["cache-status"]
            assert is_hit(hit)
            assert answering(hit) != answering(miss)
            assert hit.json()["output"] == miss.json()["output"]
            assert http.get(hit.json()["output"][0]).headers["content-type"] == "image/webp"
            children = descendants(core_pid(proxy))
            assert len(children) >= 2, "a keeper and a Cog server at least"
            victim = core_pid(proxy)
            os.kill(victim, signal.SIGKILL)
            assert wait_until_gone(children) == set()
            wait_until_whole(proxy, 2, without=victim)
            assert is_hit(create())


@slow
def test_second_proxy_on_the_folder_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with fake_model() as api, running_proxy(tmp_path / "data", config(api, workers(2))) as proxy:
        with pytest.raises(AssertionError, match="another proxy"):
            start_proxy(tmp_path / "data", config(api, workers(2)))
        pair = Pair(api, proxy)
        assert pair.post(PIXEL, given("goes on")).status_code == 201
        assert is_hit(pair.post(PIXEL, given("goes on")))


@slow
def test_core_that_cannot_start_says_why_in_one_line(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir(mode=0o700)
    (data_dir / "secret.key").write_bytes(b"no secret")
    with fake_model() as api, pytest.raises(AssertionError, match=r"secret\.key"):
        start_proxy(data_dir, config(api, workers(2)))
