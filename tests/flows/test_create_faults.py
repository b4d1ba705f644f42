"""Connections that break under a create: the model runs once or not at all, and its client hears what went wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.app import build_application
from proxy.logs import RequestLog
from proxy.settings import Settings
from proxy.tls import LocalAuthority, server_context
from proxy.upstream_settings import CogUpstreamSettings, ReplicateUpstreamSettings
from proxy.upstreams import replicate_client
from tests.fakes.cog_server import FakeCog, cog_servers
from tests.fakes.faulty_api import CreateFault, faulty_api

pytestmark = pytest.mark.anyio

PIXEL = "/v1/models/acme/pixel/predictions"
ALICE, BOB = "r8_alice_alice_alice", "r8_bob_bob_bob_bob_b"


@asynccontextmanager
async def proxy_before(data_dir: Path, *upstreams: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a whole proxy in this process."""
    settings = Settings(data_dir=data_dir, upstream=upstreams)
    built = await build_application(settings, "http://127.0.0.1:8484", RequestLog(None))
    transport = httpx.ASGITransport(built.public, raise_app_exceptions=False)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8484", timeout=30) as client:
            yield client
    finally:
        await built.aclose(0.0)


def api_at(port: int, scheme: str = "http") -> ReplicateUpstreamSettings:
    return ReplicateUpstreamSettings(kind="replicate", name="api", base_url=f"{scheme}://127.0.0.1:{port}/v1")


async def create(client: httpx.AsyncClient, prompt: str = "a red fox", token: str = ALICE) -> httpx.Response:
    headers = {"authorization": f"Bearer {token}", "prefer": "wait"}
    return await client.post(PIXEL, json={"input": {"prompt": prompt, "seed": 1}}, headers=headers)


def assert_is_problem(answer: httpx.Response, status: int) -> None:
    """The API's error shape, and nothing of what is behind."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    problem = answer.json()
    assert (problem["status"], type(problem["title"]), type(problem["detail"])) == (status, str, str)
    assert "127.0.0.1" not in answer.text
    assert ALICE not in answer.text


@pytest.fixture(autouse=True)
def short_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicate_client, "CREATE_MARGIN_S", -4.5)  # half a second, of the five that a create waits


FAULTS: list[tuple[CreateFault, int]] = [
    ("fin", 502),
    ("rst", 502),
    ("half", 502),
    ("half-head", 502),
    ("reset-in-body", 502),
    ("garbage", 502),
    ("silence", 504),
]


@pytest.mark.parametrize(("fault", "status"), FAULTS)
async def test_create_that_was_read_is_sent_once_whatever_breaks(
    tmp_path: Path, fault: CreateFault, status: int
) -> None:
    async with faulty_api() as api, proxy_before(tmp_path, api_at(api.port)) as client:
        api.fault = fault
        assert_is_problem(await create(client), status)
        assert len(api.creates) == 1
        api.fault = "none"
        assert (await create(client)).json()["output"] == "a text"
        assert len(api.creates) == 2, "an error is not kept"


@pytest.mark.parametrize("fault", ["fin", "rst"])
async def test_all_who_share_a_run_hear_of_its_loss_and_none_sends_it_again(tmp_path: Path, fault: CreateFault) -> None:
    async with faulty_api() as api, proxy_before(tmp_path, api_at(api.port)) as client:
        api.fault = fault
        answers = await asyncio.gather(*(create(client) for _ in range(8)))
        assert {answer.status_code for answer in answers} == {502}
        assert len(api.creates) == 1


async def test_kept_connection_that_has_gone_stale_carries_no_create(tmp_path: Path) -> None:
    """The API closes each kept connection under its second request, after its body was read."""
    async with faulty_api() as api, proxy_before(tmp_path, api_at(api.port)) as client:
        api.leaves_kept = True
        for count in range(1, 5):
            answer = await create(client, prompt=f"number {count}")
            assert (answer.status_code, answer.json()["status"]) == (201, "succeeded")
            assert len(api.creates) == count
        by_connection = [one.connection for one in api.asked]
        for one in api.creates:
            assert by_connection.count(one.connection) == 1, "a create has a connection of its own"


async def test_nobody_listening_is_told_and_nothing_is_sent(tmp_path: Path) -> None:
    async with faulty_api() as api:
        port = api.port
    async with proxy_before(tmp_path, api_at(port)) as client:
        assert_is_problem(await create(client), 502)
    assert api.asked == []


async def test_certificate_that_is_not_trusted_gets_no_byte_of_a_create(tmp_path: Path) -> None:
    authority = server_context(LocalAuthority(tmp_path / "other").ensure())
    async with faulty_api(authority) as api, proxy_before(tmp_path / "data", api_at(api.port, "https")) as client:
        assert_is_problem(await create(client), 502)
        assert api.asked == []


async def test_listener_that_speaks_no_tls_gets_no_byte_of_a_create(tmp_path: Path) -> None:
    async with faulty_api() as api, proxy_before(tmp_path, api_at(api.port, "https")) as client:
        assert_is_problem(await create(client), 504)
        assert api.asked == []


async def test_relayed_create_is_sent_once_as_well(tmp_path: Path) -> None:
    """One with fields that only the API itself can do for its client goes past the cache."""
    async with faulty_api() as api, proxy_before(tmp_path, api_at(api.port)) as client:
        api.fault = "fin"
        given = {"input": {"prompt": "a red fox"}, "stream_protocol": "odd"}
        answer = await client.post(PIXEL, json=given, headers={"authorization": f"Bearer {ALICE}"})
        assert_is_problem(answer, 502)
        assert len(api.creates) == 1


async def test_cookies_of_one_caller_are_kept_from_every_other(tmp_path: Path) -> None:
    async with faulty_api() as api, proxy_before(tmp_path, api_at(api.port)) as client:
        api.looks = 1
        for turn in range(3):
            for token in (ALICE, BOB):
                headers = {"authorization": f"Bearer {token}"}
                mine = await create(client, prompt=f"turn {turn}", token=token)
                relayed = await client.get("/v1/account", headers=headers)
                polled = await client.get(f"/v1/predictions/{mine.json()['id']}", headers=headers)
                foreign = await client.get("/v1/predictions/run00000000000000000000001", headers=headers)
                for answer in (mine, relayed, polled, foreign):
                    assert "set-cookie" not in answer.headers
                client.cookies.clear()
        assert len(api.creates) == 6
        kinds = {(one.method, one.path.split("/")[2]) for one in api.asked}
        assert {("POST", "models"), ("GET", "predictions"), ("GET", "account")} <= kinds
        assert [one.path for one in api.asked if "cookie" in one.headers] == []
        shared = {one.connection for one in api.asked if ALICE in one.headers["authorization"]} & {
            one.connection for one in api.asked if BOB in one.headers["authorization"]
        }
        assert shared, "reads of both callers went over the same kept connections, where cookies could have met"


async def test_run_that_no_byte_reached_is_made_elsewhere_and_counted_once(tmp_path: Path) -> None:
    dead, alive = FakeCog(), FakeCog()
    async with cog_servers(dead, alive):
        upstream = CogUpstreamSettings(kind="cog", name="mine", urls=(dead.url, alive.url), models=("acme/pixel",))
        async with proxy_before(tmp_path, upstream) as client:
            assert (await create(client, "first")).json()["status"] == "succeeded"
            dead.kill()
            for number in range(4):
                answer = await client.post(PIXEL, json={"input": {"prompt": f"{number}"}}, headers={"prefer": "wait"})
                assert answer.json()["status"] == "succeeded"
    assert len(dead.taken) + len(alive.taken) == 5


@pytest.mark.parametrize("prompt", ["reset", "short"])
async def test_run_lost_under_a_cog_server_is_made_once_elsewhere_and_no_more(tmp_path: Path, prompt: str) -> None:
    """It had been read, so its second run is a known price; both servers lose it, and then it has failed."""
    first, second = FakeCog(), FakeCog()
    async with cog_servers(first, second):
        upstream = CogUpstreamSettings(kind="cog", name="mine", urls=(first.url, second.url), models=("acme/pixel",))
        async with proxy_before(tmp_path, upstream) as client:
            answer = await client.post(PIXEL, json={"input": {"prompt": prompt}}, headers={"prefer": "wait"})
            assert (answer.status_code, answer.json()["status"]) == (201, "failed")
            assert "twice" in answer.json()["error"]
    assert (len(first.taken), len(second.taken)) == (1, 1)
