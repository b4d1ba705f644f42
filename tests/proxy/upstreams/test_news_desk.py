"""Hearings: who may tell, what is read of it, and what it can cost at most."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest
import structlog
from starlette.routing import Route, Router

from proxy.logs import RequestLog
from proxy.middleware.access_log import AccessLog
from proxy.routes.exchange import Endpoint
from proxy.routes.progress import ProgressPosts
from proxy.upstreams import news_desk
from proxy.upstreams.cog_news import News, OutputShape
from proxy.upstreams.news_desk import DEAF_S, MAX_READING, POSTS_PATH, Hearing, NewsDesk, NewsSource
from tests.fakes.clock import ManualClock

pytestmark = pytest.mark.anyio

HERE = "http://127.0.0.1:8485"
SHAPE = OutputShape()


def told(logs: str = "", **more: Any) -> bytes:
    return orjson.dumps({"logs": logs, "status": "processing", **more})


class Ear:
    """A hearing and what it passed on."""

    def __init__(self, desk: NewsDesk) -> None:
        self.heard: list[News] = []
        self.hearing = desk.open(HERE, SHAPE, ("logs",), self.heard.append)
        self.token = self.hearing.wish.url.removeprefix(HERE + POSTS_PATH)


# -- one hearing ---------------------------------------------------------------------------------------


async def test_first_news_is_told_at_once() -> None:
    ear = Ear(NewsDesk())
    ear.hearing.take(told("a"))
    await asyncio.sleep(0.01)
    assert ear.heard == [News("a")]


async def test_flood_is_read_a_few_times_and_nothing_of_it_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[bytes] = []
    read = news_desk.read_news
    monkeypatch.setattr(news_desk, "read_news", lambda body, shape: reads.append(body) or read(body, shape))
    ear = Ear(NewsDesk())
    for count in range(500):
        ear.hearing.take(told("x" * count))
        if count % 100 == 0:
            await asyncio.sleep(0)
    await asyncio.sleep(0.15)
    assert ear.heard[-1] == News("x" * 499)
    assert len(reads) <= 3
    ear.hearing.close()


async def test_news_that_repeats_or_comes_late_is_not_told_again() -> None:
    ear = Ear(NewsDesk())
    for logs in ("a", "ab", "ab", "a", ""):
        ear.hearing.take(told(logs))
        ear.hearing._read()
    assert [news.logs for news in ear.heard] == ["a", "ab"]


async def test_nonsense_is_ignored() -> None:
    ear = Ear(NewsDesk())
    for body in (b"", b"<html>", b"[]", b"null", b'{"logs": '):
        ear.hearing.take(body)
        ear.hearing._read()
    assert ear.heard == []


async def test_closing_reads_what_has_come_unless_nobody_needs_it() -> None:
    desk = NewsDesk()
    first, second = Ear(desk), Ear(desk)
    for ear in (first, second):
        ear.hearing.take(told("a"))
        ear.hearing.take(told("ab"))
    first.hearing.close()
    second.hearing.close(reads=False)
    assert first.heard == [News("ab")]
    assert second.heard == []
    assert len(desk) == 0
    first.hearing.take(told("abc"))
    await asyncio.sleep(0.01)
    assert first.heard == [News("ab")]


async def test_end_is_waited_for_and_read_at_once() -> None:
    ear = Ear(NewsDesk())
    ear.hearing.take(told("a"))
    ending = asyncio.create_task(ear.hearing.end(5))
    await asyncio.sleep(0.01)
    assert not ending.done()
    ear.hearing.take(told("ab", status="failed"))
    assert await asyncio.wait_for(ending, 0.09) == News("ab", has_ended=True)


async def test_end_that_does_not_come_is_not_waited_for_longer() -> None:
    ear = Ear(NewsDesk())
    ear.hearing.take(told("a"))
    assert await ear.hearing.end(0.01) == News("a")


async def test_run_that_tells_too_much_is_not_heard_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news_desk, "MAX_RUN_BYTES", 200)
    desk = NewsDesk()
    ear = Ear(desk)
    ear.hearing.take(told("a"))
    ear.hearing.take(told("b" * 200))
    assert ear.heard == [News("a")]
    assert len(desk) == 0


# -- who is asked --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "progress_url", "address"),
    [
        ("http://127.0.0.1:5000", None, HERE),
        ("http://localhost:5000", None, HERE),
        ("http://[::1]:5000", None, HERE),
        ("http://10.0.0.1:5000", None, None),
        ("http://gpu.example:5000", None, None),
        ("http://10.0.0.1:5000", "http://10.0.0.9:8485/", "http://10.0.0.9:8485"),
        ("http://127.0.0.1:5000", "http://10.0.0.9:8485", "http://10.0.0.9:8485"),
    ],
)
async def test_servers_elsewhere_are_asked_only_where_the_operator_said_how_they_reach_us(
    url: str, progress_url: str | None, address: str | None
) -> None:
    source = NewsSource(NewsDesk(HERE), progress_url, clock=ManualClock())
    hearing = source.open("s", url, SHAPE, lambda news: None, is_coglet=True)
    assert (hearing and hearing.wish.url.partition(POSTS_PATH)[0]) == address


async def test_proxy_without_an_admin_listener_asks_nobody() -> None:
    source = NewsSource(NewsDesk(None), None, clock=ManualClock())
    assert source.open("s", "http://127.0.0.1:5000", SHAPE, lambda news: None, is_coglet=True) is None


async def test_server_that_does_not_reach_us_is_left_alone_for_a_while() -> None:
    clock = ManualClock()
    source = NewsSource(NewsDesk(HERE), None, clock=clock)

    def ask(server_id: str) -> Hearing | None:
        return source.open(server_id, "http://127.0.0.1:5000", SHAPE, lambda news: None, is_coglet=False)

    with structlog.testing.capture_logs() as logs:
        source.missed("s")
    assert [line["event"] for line in logs] == ["server_tells_nothing"]
    assert ask("s") is None
    assert ask("other") is not None
    clock.advance(DEAF_S + 1)
    assert ask("s") is not None


# -- the route -----------------------------------------------------------------------------------------


class Site:
    """The desk behind its route, as the admin listener has it."""

    def __init__(self) -> None:
        self.desk = NewsDesk(HERE)
        self.lines: list[dict[str, Any]] = []
        log = RequestLog(None)
        log.write = lambda at, values: self.lines.append(values)  # type: ignore[method-assign]
        route = Route(POSTS_PATH + "{token}", Endpoint({"POST": ProgressPosts(self.desk).post}))
        self.app = AccessLog(Router([route]), None, log)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url=HERE)


@pytest.fixture
def site() -> Site:
    return Site()


async def test_posts_of_a_run_are_news_and_make_no_line_in_the_log(site: Site) -> None:
    ear = Ear(site.desk)
    async with site.client() as http:
        answer = await http.post(ear.hearing.wish.url, content=told("a"))
    await asyncio.sleep(0.01)
    assert answer.status_code == 204
    assert ear.heard == [News("a")]
    assert site.lines == []


async def test_forged_late_and_repeated_posts_change_nothing(site: Site) -> None:
    ear = Ear(site.desk)
    tokens = ["guess", ear.token[:-1], ear.token + "A", ear.token.swapcase(), "%2e%2e", ""]
    async with site.client() as http:
        answers = [await http.post(f"{POSTS_PATH}{token}", content=told("forged")) for token in tokens]
        ear.hearing.close()
        answers.append(await http.post(ear.hearing.wish.url, content=told("late")))
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.text for answer in answers[:5]}) == 1, "all are told the same"
    assert ear.heard == []


async def test_tokens_are_long_and_each_asking_has_its_own(site: Site) -> None:
    tokens = {Ear(site.desk).token for _ in range(50)}
    assert len(tokens) == 50
    assert all(len(token) == 43 for token in tokens)


async def test_body_of_a_post_that_nobody_waits_for_is_not_read(site: Site) -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield b"x" * 1000

    messages: list[Any] = []

    async def receive() -> Any:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(message: Any) -> None:
        messages.append(message)

    path = f"{POSTS_PATH}guess"
    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}
    await site.app(scope, receive, send)
    assert messages[0]["status"] == 404
    assert read == 0


async def test_body_has_a_bound(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.routes.progress.MAX_POST_BYTES", 1000)
    ear = Ear(site.desk)
    async with site.client() as http:
        answer = await http.post(ear.hearing.wish.url, content=told("x" * 2000))
    assert answer.status_code == 413
    assert ear.heard == []


async def test_only_so_many_posts_are_read_at_once(site: Site) -> None:
    ear = Ear(site.desk)
    gate = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        await gate.wait()
        yield told("slow")

    async with site.client() as http:
        reading = [asyncio.create_task(http.post(ear.hearing.wish.url, content=slow())) for _ in range(MAX_READING)]
        await asyncio.sleep(0.05)
        refused = await http.post(ear.hearing.wish.url, content=told("one too many"))
        assert refused.status_code == 503
        gate.set()
        assert {answer.status_code for answer in await asyncio.gather(*reading)} == {204}
        assert (await http.post(ear.hearing.wish.url, content=told("slow and more"))).status_code == 204


async def test_run_that_ends_while_its_post_is_read_hears_nothing_of_it(site: Site) -> None:
    ear = Ear(site.desk)

    async def slow() -> AsyncIterator[bytes]:
        ear.hearing.close()
        yield told("late")

    async with site.client() as http:
        assert (await http.post(ear.hearing.wish.url, content=slow())).status_code == 204
    assert ear.heard == []


async def test_only_posts_are_taken(site: Site) -> None:
    ear = Ear(site.desk)
    async with site.client() as http:
        for method in ("GET", "PUT", "DELETE"):
            assert (await http.request(method, ear.hearing.wish.url)).status_code == 405
