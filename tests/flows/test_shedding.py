"""More than the proxy lets wait: told at once that their predictions start, and no run more for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.app import build_application
from proxy.logs import RequestLog
from proxy.settings import LimitSettings, Settings
from proxy.upstream_settings import CogUpstreamSettings, ReplicateUpstreamSettings, UpstreamSettings
from tests.fakes.cog_server import FakeCog, cog_servers, until
from tests.fakes.faulty_api import faulty_api

pytestmark = pytest.mark.anyio

PIXEL = "/v1/models/acme/pixel/predictions"
ALICE = {"authorization": "Bearer r8_alice_alice_alice"}


@asynccontextmanager
async def proxy_before(
    data_dir: Path, upstream: UpstreamSettings, max_waiters: int = 10_000
) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(data_dir=data_dir, upstream=(upstream,), limits=LimitSettings(max_waiters=max_waiters))
    built = await build_application(settings, "http://127.0.0.1:8484", RequestLog(None))
    try:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(built.public), base_url="http://127.0.0.1:8484", timeout=30
        ) as client:
            yield client
    finally:
        await built.aclose(0.0)


async def create(client: httpx.AsyncClient, prompt: str, **headers: str) -> tuple[httpx.Response, float]:
    began = time.monotonic()
    answer = await client.post(PIXEL, json={"input": {"prompt": prompt}}, headers={**ALICE, **headers})
    return answer, time.monotonic() - began


async def settled(client: httpx.AsyncClient, prediction_id: str) -> dict[str, Any]:
    for _ in range(500):
        prediction: dict[str, Any] = (await client.get(f"/v1/predictions/{prediction_id}", headers=ALICE)).json()
        if prediction["status"] not in ("starting", "processing"):
            return prediction
        await asyncio.sleep(0.02)
    raise AssertionError("it did not end")


@pytest.mark.parametrize("same", [True, False])
async def test_more_waiters_than_allowed_are_told_at_once_that_theirs_start(tmp_path: Path, same: bool) -> None:
    """A 429 or 503 would be sent again by some clients, several times; who is told ``starting`` polls."""
    async with faulty_api() as api:
        api.looks = 10**9
        upstream = ReplicateUpstreamSettings(kind="replicate", name="api", base_url=f"http://127.0.0.1:{api.port}/v1")
        async with proxy_before(tmp_path, upstream, max_waiters=3) as client:
            prompts = ["the same"] * 12 if same else [f"number {number}" for number in range(12)]
            waiting = [asyncio.create_task(create(client, prompt, prefer="wait=3")) for prompt in prompts[:3]]
            await asyncio.sleep(0.7)
            shed = await asyncio.gather(*(create(client, prompt, prefer="wait=3") for prompt in prompts[3:]))
            assert {(answer.status_code, answer.json()["status"]) for answer, _ in shed} == {(202, "starting")}
            assert max(seconds for _, seconds in shed) < 1.5
            assert [task.done() for task in waiting] == [False] * 3
            waits = [one.headers.get("prefer") for one in api.creates]
            assert waits == (["wait=3"] if same else ["wait=3"] * 3 + [None] * 9)
            api.looks = 0
            for answer, _ in shed:
                assert (await settled(client, answer.json()["id"]))["status"] == "succeeded"
            held = await asyncio.gather(*waiting)
            assert {answer.json()["status"] for answer, _ in held} == {"succeeded"}
            assert len(api.creates) == (1 if same else 12)
            if same:
                looks = sum(one.path.startswith("/v1/predictions/run") for one in api.asked)
                assert looks < 10, "one follower looks for all twelve"


async def test_line_before_cog_servers_is_answered_starting_and_beyond_its_end_503(tmp_path: Path) -> None:
    server = FakeCog()
    async with cog_servers(server):
        upstream = CogUpstreamSettings(
            kind="cog", name="mine", urls=(server.url,), models=("acme/pixel",), queue_limit=4
        )
        async with proxy_before(tmp_path, upstream) as client:
            first, _ = await create(client, "hold")
            await until(lambda: server.running == 1)
            waiting = [await create(client, f"number {number}") for number in range(4)]
            assert {(answer.status_code, answer.json()["status"]) for answer, _ in waiting} == {(201, "starting")}
            full, seconds = await create(client, "one more", prefer="wait")
            assert (full.status_code, full.headers["retry-after"], full.json()["status"]) == (503, "5", 503)
            assert full.headers["content-type"] == "application/problem+json"
            assert seconds < 1.0
            joined, _ = await create(client, "number 2", prefer="wait=1")
            assert (joined.status_code, joined.json()["status"]) == (202, "starting")  # who shares a run takes no place
            server.release("hold")
            for answer in (first, *(answer for answer, _ in waiting), joined):
                assert (await settled(client, answer.json()["id"]))["status"] == "succeeded"
    assert server.prompts == ["hold", *(f"number {number}" for number in range(4))]


async def test_refusals_of_the_api_come_back_word_for_word(tmp_path: Path) -> None:
    async with faulty_api() as api:
        body = '{"detail": "Request was throttled. Your rate limit resets in ~30s.",  "status": 429}'
        api.refusal = (429, {"Retry-After": "30", "RateLimit-Remaining": "0"}, body)
        upstream = ReplicateUpstreamSettings(kind="replicate", name="api", base_url=f"http://127.0.0.1:{api.port}/v1")
        async with proxy_before(tmp_path, upstream) as client:
            for status in (400, 402, 404, 409, 422, 429, 500, 503):
                api.refusal = (status, *api.refusal[1:])
                answer, _ = await create(client, f"refused with {status}", prefer="wait")
                assert (answer.status_code, answer.text) == (status, body)
                assert (answer.headers["retry-after"], answer.headers["ratelimit-remaining"]) == ("30", "0")
            assert len(api.creates) == 8
