"""Posts that tell how runs go: what is believed, what it makes the follower do, and what it may cost."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import orjson
import pytest

from proxy.core.errors import NotFound, Overloaded, Unauthenticated, UpstreamRefused
from proxy.core.hooks import HOOKS_PATH
from proxy.core.secrets import Secrets
from proxy.core.webhooks import sign
from proxy.upstreams import following, hook_desk
from proxy.upstreams.hook_desk import DOUBTED_S, MAX_READING, SEEN_S, HookDesk, HookLine
from proxy.upstreams.replicate import ReplicateSpec, ReplicateUpstream
from tests.fakes.clock import ManualClock
from tests.fakes.stores import MemoryKeyValue
from tests.proxy.upstreams.test_replicate import ID, Script, make_job, prediction, until

pytestmark = pytest.mark.anyio

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SECRETS = Secrets.derive(b"s" * 32)


async def find_secret(has_misfit: bool = False) -> str | None:
    return SECRET


async def find_none(has_misfit: bool = False) -> str | None:
    return None


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def desk(clock: ManualClock) -> HookDesk:
    return HookDesk("https://images.example.com", SECRETS, now=clock, clock=clock)


def post(status: str = "processing", message_id: str = "msg_1", at: float = 0.0, **more: Any) -> Any:
    body = orjson.dumps(prediction(status, **more))
    return sign(message_id, at, body, [SECRET]), body


async def send(desk: HookDesk, line: HookLine, posted: tuple[dict[str, str], bytes]) -> None:
    with desk.reading(line.url.removeprefix(f"https://images.example.com{HOOKS_PATH}")) as found:
        assert found is line
        await desk.take(line, *posted)


async def test_genuine_post_wakes_who_waits_and_looks_become_rare(desk: HookDesk, clock: ManualClock) -> None:
    line = desk.open("replicate", "job", find_secret)
    assert not line.is_told
    waiting = asyncio.create_task(line.wait(30.0))
    await asyncio.sleep(0)
    await send(desk, line, post(at=clock()))
    assert await asyncio.wait_for(waiting, 1.0)
    assert line.is_told
    assert desk.counters()["taken_total"] == 1


async def test_end_that_was_told_is_looked_for_as_often_as_without_until_it_is_seen(
    desk: HookDesk, clock: ManualClock
) -> None:
    line = desk.open("replicate", "job", find_secret)
    await send(desk, line, post("succeeded", at=clock()))
    assert line.has_ended
    assert not line.is_told


async def test_forged_old_foreign_and_repeated_posts_change_nothing(desk: HookDesk, clock: ManualClock) -> None:
    line = desk.open("replicate", "job", find_secret)
    line.upstream_id = ID
    headers, body = post(at=clock())
    forged = sign("msg_1", clock(), body, ["whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"])
    for posted in (
        ({}, body),
        (forged, body),
        (headers, body + b" "),
        post(at=clock() - 400),
        post(at=clock(), message_id="msg_2", id="another"),
    ):
        with pytest.raises(Unauthenticated):
            await send(desk, line, posted)
    assert not await line.wait(0.0)
    await send(desk, line, (headers, body))
    assert await line.wait(0.0)
    for _ in range(3):
        clock.advance(90)
        await send(desk, line, (headers, body))
    assert not await line.wait(0.0)
    assert desk.counters() == {"taken_total": 1, "refused_total": 5, "repeated_total": 3, "missed_total": 0}


async def test_ids_are_remembered_for_longer_than_a_post_is_young_and_not_for_ever(
    desk: HookDesk, clock: ManualClock
) -> None:
    line = desk.open("replicate", "job", find_secret)
    await send(desk, line, post(at=clock()))
    clock.advance(SEEN_S - 1)
    await send(desk, line, post(at=clock()))
    assert desk.counters()["repeated_total"] == 1
    clock.advance(2)
    await send(desk, line, post(at=clock()))
    assert desk.counters()["taken_total"] == 2


async def test_posts_are_not_believed_where_the_secret_cannot_be_had(desk: HookDesk, clock: ManualClock) -> None:
    line = desk.open("replicate", "job", find_none)
    with pytest.raises(Unauthenticated):
        await send(desk, line, post(at=clock()))
    assert not line.is_told


async def test_post_to_no_open_address_is_not_found(desk: HookDesk) -> None:
    line = desk.open("replicate", "job", find_secret)
    line.close(has_seen_end=False)
    for token in ("", "x", line.url.rpartition("/")[2]):
        with pytest.raises(NotFound), desk.reading(token):
            pytest.fail("it is not to be read")
    assert len(desk) == 0


async def test_what_is_read_is_bounded(desk: HookDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook_desk, "MAX_POSTS", MAX_READING + 1)
    line = desk.open("replicate", "job", find_secret)
    token = line.url.rpartition("/")[2]
    readings = [desk.reading(token) for _ in range(MAX_READING)]
    for reading in readings:
        reading.__enter__()
    with pytest.raises(Overloaded), desk.reading(token):
        pytest.fail("too many at once")
    for reading in readings:
        reading.__exit__(None, None, None)
    with pytest.raises(NotFound), desk.reading(token):
        pytest.fail("this address has had enough")


async def test_lost_post_makes_the_upstream_doubted_for_a_while(
    desk: HookDesk, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hook_desk, "LATE_S", 0.01)
    lost, other = desk.open("replicate", "job", find_secret), desk.open("replicate", "job2", find_secret)
    await send(desk, other, post(at=clock()))
    assert other.is_told
    lost.close(has_seen_end=True)
    await until(lambda: desk.is_doubted("replicate"))
    assert not other.is_told
    assert desk.counters()["missed_total"] == 1
    clock.advance(DOUBTED_S + 1)
    assert other.is_told


async def test_post_that_comes_just_after_the_look_is_not_lost(desk: HookDesk, clock: ManualClock) -> None:
    line = desk.open("replicate", "job", find_secret)
    line.close(has_seen_end=True)
    await send(desk, line, post("succeeded", at=clock()))
    line._close_late()
    assert not desk.is_doubted("replicate")
    assert len(desk) == 0


class Api(Script):
    """An API that also tells its signing secret, and takes webhooks or not."""

    def __init__(self, *looks: object, secret: object = None, **more: Any) -> None:
        super().__init__(*looks, **more)
        self.secret = secret or {"key": SECRET}
        self.asked = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/webhooks/default/secret"):
            self.asked += 1
            return self.secret if isinstance(self.secret, httpx.Response) else httpx.Response(200, json=self.secret)
        return await super().__call__(request)

    @property
    def created(self) -> list[Any]:
        return [orjson.loads(each.content) for each in self.requests if each.method == "POST"]


def told_upstream(api: Api, desk: HookDesk) -> ReplicateUpstream:
    transport = httpx.MockTransport(api)
    spec = ReplicateSpec("replicate", "http://api.test")
    return ReplicateUpstream(spec, MemoryKeyValue(), reads=transport, writes=transport, desk=desk)


async def test_run_is_followed_by_posts_and_hardly_looked_at() -> None:
    desk = HookDesk("https://images.example.com", SECRETS)
    api = Api(prediction("processing"))
    upstream = told_upstream(api, desk)
    running = asyncio.create_task(upstream.run(make_job(), lambda _: None))
    await until(lambda: len(desk) == 1 and bool(api.requests))
    (line,) = desk._open.values()
    assert api.created == [
        {
            "input": {"prompt": "a red fox"},
            "webhook": line.url,
            "webhook_events_filter": ["start", "output", "completed"],
        }
    ]
    await send(desk, line, post(at=time.time()))
    await until(lambda: api.count("GET") == 1)
    await asyncio.sleep(1.2)  # without webhooks there are three looks in this time
    assert api.count("GET") == 1
    api.looks = [prediction("succeeded", output="whole")]
    began = time.monotonic()
    await send(desk, line, post("succeeded", "msg_2", at=time.time(), output="what a post says is no result"))
    assert (await running).output == "whole"
    assert time.monotonic() - began < 0.5
    assert (api.count("GET"), api.asked, len(desk)) == (2, 1, 0)
    await upstream.aclose()


async def test_run_whose_logs_are_watched_is_looked_at_as_often_as_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "CAP_S", 0.05)
    desk = HookDesk("https://images.example.com", SECRETS)
    api = Api(prediction("processing"))
    upstream = told_upstream(api, desk)
    job = make_job()
    watched = type(job)(job.id, job.target, job.version, job.input, job.credential, is_watched=lambda: True)
    running = asyncio.create_task(upstream.run(watched, lambda _: None))
    await until(lambda: len(desk) == 1 and bool(api.requests))
    (line,) = desk._open.values()
    await send(desk, line, post(at=time.time()))
    await until(lambda: api.count("GET") == 3)
    running.cancel()
    await asyncio.wait({running})
    await upstream.aclose()


@pytest.mark.parametrize("secret", [httpx.Response(404), httpx.Response(200, json={"key": "odd"}), {"detail": "no"}])
async def test_account_without_a_readable_secret_is_looked_at(secret: object) -> None:
    desk = HookDesk("https://images.example.com", SECRETS)
    api = Api(prediction("succeeded"), secret=secret)
    upstream = told_upstream(api, desk)
    for _ in range(2):
        assert (await upstream.run(make_job(), lambda _: None)).status == "succeeded"
    assert ["webhook" in body for body in api.created] == [True, False]
    assert api.asked == 1
    await upstream.aclose()


async def test_secret_that_was_replaced_is_read_again_but_not_for_every_forgery(clock: ManualClock) -> None:
    desk = HookDesk("https://images.example.com", SECRETS, now=clock, clock=clock)
    api = Api(prediction("processing"), secret={"key": "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"})
    transport = httpx.MockTransport(api)
    spec = ReplicateSpec("replicate", "http://api.test")
    upstream = ReplicateUpstream(spec, MemoryKeyValue(), reads=transport, writes=transport, desk=desk, clock=clock)
    running = asyncio.create_task(upstream.run(make_job(), lambda _: None))
    await until(lambda: len(desk) == 1 and api.asked == 1)
    (line,) = desk._open.values()
    api.secret = {"key": SECRET}
    for _ in range(3):  # just read: whoever forges does not make us ask
        with pytest.raises(Unauthenticated):
            await send(desk, line, post(at=clock()))
    assert api.asked == 1
    clock.advance(61)
    await send(desk, line, post(at=clock()))
    assert (api.asked, desk.counters()["taken_total"]) == (2, 1)
    running.cancel()
    await asyncio.wait({running})
    await upstream.aclose()


async def test_address_that_the_api_refuses_is_not_its_client_s_trouble() -> None:
    desk = HookDesk("https://images.example.com", SECRETS)
    refusal = httpx.Response(422, json={"invalid_fields": [{"field": "webhook", "description": "must be HTTPS"}]})
    api = Api(prediction("succeeded"), create=(refusal, prediction(), prediction()))
    upstream = told_upstream(api, desk)
    for _ in range(2):
        assert (await upstream.run(make_job(), lambda _: None)).status == "succeeded"
    assert ["webhook" in body for body in api.created] == [True, False, False]
    await upstream.aclose()


async def test_refused_input_is_still_its_client_s_trouble_and_is_sent_once() -> None:
    desk = HookDesk("https://images.example.com", SECRETS)
    api = Api(create=httpx.Response(422, json={"detail": "- input.width: too large\n"}))
    upstream = told_upstream(api, desk)
    with pytest.raises(UpstreamRefused):
        await upstream.run(make_job(), lambda _: None)
    assert (len(api.created), len(desk)) == (1, 0)
    await upstream.aclose()


async def test_run_that_is_taken_up_after_a_restart_has_the_same_address() -> None:
    before, after = (HookDesk("https://images.example.com", SECRETS) for _ in range(2))
    address = before.open("replicate", "job", find_secret).url
    api = Api(prediction("processing"))
    upstream = told_upstream(api, after)
    running = asyncio.create_task(upstream.adopt(make_job(), ID, lambda _: None))
    await until(lambda: len(after) == 1)
    (line,) = after._open.values()
    assert line.url == address
    api.looks = [prediction("succeeded")]
    await send(after, line, post("succeeded", at=time.time()))
    assert (await running).status == "succeeded"
    await upstream.aclose()
