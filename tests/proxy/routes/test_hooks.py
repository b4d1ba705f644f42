"""Posts of an upstream at the public listener: who is read, for how long, and what is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.routing import Route, Router

from proxy.core.hooks import HOOKS_PATH
from proxy.core.secrets import Secrets
from proxy.logs import RequestLog
from proxy.middleware.access_log import AccessLog
from proxy.routes import hooks
from proxy.routes.exchange import Endpoint
from proxy.routes.hooks import HookPosts
from proxy.upstreams.hook_desk import MAX_POST_BYTES, HookDesk
from tests.fakes.clock import ManualClock
from tests.proxy.upstreams.test_hook_desk import find_secret, post

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def desk(clock: ManualClock) -> HookDesk:
    return HookDesk("http://proxy.test", Secrets.derive(b"s" * 32), now=clock, clock=clock)


@pytest.fixture
async def client(desk: HookDesk) -> AsyncIterator[httpx.AsyncClient]:
    app = Router([Route(HOOKS_PATH + "{token}", Endpoint({"POST": HookPosts(desk).post}))])
    transport = httpx.ASGITransport(AccessLog(app, None, RequestLog(None)))
    async with httpx.AsyncClient(transport=transport, base_url="http://proxy.test") as client:
        yield client


async def test_genuine_post_is_taken_and_said_to_be(
    client: httpx.AsyncClient, desk: HookDesk, clock: ManualClock
) -> None:
    line = desk.open("replicate", "job", find_secret)
    headers, body = post(at=clock())
    for _ in range(2):  # a repetition is answered alike, or it would be sent for ever
        answer = await client.post(line.url, headers=headers, content=body)
        assert (answer.status_code, answer.content) == (204, b"")
    assert desk.counters()["taken_total"] == 1


async def test_others_are_refused(client: httpx.AsyncClient, desk: HookDesk, clock: ManualClock) -> None:
    line = desk.open("replicate", "job", find_secret)
    headers, body = post(at=clock())
    for url, given, content, status in (
        (line.url, {}, body, 401),
        (line.url, headers, body + b"x", 401),
        (line.url, headers, bytes(MAX_POST_BYTES + 1), 413),
        (line.url, {**headers, "content-encoding": "gzip"}, body, 415),
        (line.url + "x", headers, body, 404),
    ):
        assert (await client.post(url, headers=given, content=content)).status_code == status
    assert not line.is_told


async def test_post_that_trickles_in_is_given_up(
    client: httpx.AsyncClient, desk: HookDesk, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "POST_TIMEOUT_S", 0.05)

    async def trickle() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"{"
            await asyncio.sleep(0.01)

    line = desk.open("replicate", "job", find_secret)
    answer = await client.post(line.url, headers=post(at=clock())[0], content=trickle())
    assert (answer.status_code, answer.json()["detail"]) == (400, "the post took too long")
