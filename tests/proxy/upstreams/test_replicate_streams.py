"""Opening streams: against the double of the API, and against scripted servers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from loadtests.fake_model.process import ALICE, FakeModel, fake_model
from proxy.core.errors import UpstreamTimeout, UpstreamUnavailable
from proxy.core.sse import Event, Parser
from proxy.upstreams.base import Credential, Job, ModelTarget, Progress
from proxy.upstreams.replicate import ReplicateSpec, ReplicateUpstream
from tests.fakes.raw_server import raw_server, reply
from tests.fakes.stores import MemoryKeyValue

pytestmark = pytest.mark.anyio

CREDENTIAL = Credential(ALICE)
TALE = b"event: output\nid: 7:0\ndata: once\n\nevent: done\nid: 7:1\ndata: {}\n\n"
STREAM = ["Content-Type: text/event-stream"]


@pytest.fixture(scope="module")
def process() -> Iterator[FakeModel]:
    with fake_model() as running:
        yield running


@pytest.fixture
def fake(process: FakeModel) -> FakeModel:
    process.reset()
    return process


def upstream_of(base_url: str, *origins: str) -> ReplicateUpstream:
    return ReplicateUpstream(ReplicateSpec("r", base_url, output_origins=origins), MemoryKeyValue())


async def told(upstream: ReplicateUpstream, url: str, last: str | None = None) -> list[Event]:
    response = await upstream.open_stream(url, CREDENTIAL, last)
    assert response.status == 200
    parser, events = Parser(), []
    async for chunk in response.body:
        events += parser.feed(chunk)
    await close(response)
    return events


async def close(response: Any) -> None:
    closing = response.aclose()
    if asyncio.iscoroutine(closing):
        await closing


async def stream_url(upstream: ReplicateUpstream, model: str, **given: Any) -> str:
    seen: list[Progress] = []
    job = Job("job", ModelTarget("acme", model), "hidden", {"prompt": "a fox", **given}, CREDENTIAL, 5.0)
    await upstream.run(job, seen.append)
    url = seen[0].stream_url
    assert url is not None
    return url


async def test_stream_beside_the_api_is_opened_without_a_credential(fake: FakeModel) -> None:
    upstream = upstream_of(fake.base_url, fake.stream_origin)
    url = await stream_url(upstream, "writer", max_tokens=3, seed=1)
    assert url.startswith(f"{fake.stream_origin}/v1/streams/")
    events = await told(upstream, url)
    assert [event.name for event in events if event.name != "logs"] == ["output"] * 3 + ["done"]
    assert await told(upstream, url, events[1].id) == events[2:]
    assert fake.counters()["stream_credentials"] == 0
    await upstream.aclose()


async def test_stream_at_the_api_s_own_origin_is_asked_as_the_api_is() -> None:
    async with raw_server(reply(headers=STREAM, body=TALE)) as server:
        upstream = upstream_of(f"http://127.0.0.1:{server.port}/v1")
        events = await told(upstream, f"http://127.0.0.1:{server.port}/v1/streams/x", "6:9")
        assert [event.data for event in events] == ["once", "{}"]
        head = server.requests[0].decode().lower()
        assert head.startswith("get /v1/streams/x http/1.1\r\n")
        assert f"authorization: bearer {ALICE}\r\n" in head
        assert "accept: text/event-stream\r\n" in head
        assert "last-event-id: 6:9\r\n" in head
        await upstream.aclose()


async def test_origin_named_for_outputs_gets_no_credential() -> None:
    async with raw_server(reply(headers=STREAM, body=TALE)) as server:
        upstream = upstream_of("http://127.0.0.1:9/v1", f"http://127.0.0.1:{server.port}")
        await told(upstream, f"http://127.0.0.1:{server.port}/v1/files/x", "6:9")
        head = server.requests[0].decode().lower()
        assert "authorization" not in head
        assert "accept: text/event-stream\r\n" in head
        assert "last-event-id: 6:9\r\n" in head
        await upstream.aclose()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/v1/files/x",  # private, and nobody named it
        "https://127.0.0.1/v1/files/x",
        "http://stream.test/v1/files/x",
        "file:///etc/passwd",
        "http://user@127.0.0.1:{port}/",
        "not a url",
    ],
)
async def test_stream_anywhere_else_must_be_public_and_https(url: str) -> None:
    async with raw_server(reply(headers=STREAM, body=TALE)) as server:
        upstream = upstream_of("http://127.0.0.1:9/v1")
        with pytest.raises(UpstreamUnavailable):
            await upstream.open_stream(url.format(port=server.port), CREDENTIAL, None)
        assert server.connections == 0
        await upstream.aclose()


@pytest.mark.parametrize("is_own_origin", [True, False])
@pytest.mark.parametrize("last", ["", "a\r\nb", "x" * 300, "é", " 7:0"])
async def test_id_that_no_header_can_hold_is_not_sent(last: str, is_own_origin: bool) -> None:
    async with raw_server(reply(headers=STREAM, body=TALE)) as server:
        own = f"http://127.0.0.1:{server.port}"
        upstream = upstream_of(f"{own}/v1") if is_own_origin else upstream_of("http://127.0.0.1:9/v1", own)
        with pytest.raises(UpstreamUnavailable):
            await upstream.open_stream(f"{own}/v1/files/x", CREDENTIAL, last)
        assert server.connections == 0
        await upstream.aclose()


@pytest.mark.parametrize("is_own_origin", [True, False])
async def test_stream_that_is_cut_is_told_from_one_that_ends(is_own_origin: bool) -> None:
    answer = reply(headers=STREAM, body=TALE[:30], length=len(TALE))
    async with raw_server(answer) as server:
        own = f"http://127.0.0.1:{server.port}"
        upstream = upstream_of(f"{own}/v1") if is_own_origin else upstream_of("http://127.0.0.1:9/v1", own)
        with pytest.raises((UpstreamUnavailable, UpstreamTimeout)):
            await told(upstream, f"{own}/v1/files/x")
        await upstream.aclose()


@pytest.mark.parametrize("is_own_origin", [True, False])
async def test_refusal_is_told_by_its_status(is_own_origin: bool) -> None:
    async with raw_server(reply("404 Not Found")) as server:
        own = f"http://127.0.0.1:{server.port}"
        upstream = upstream_of(f"{own}/v1") if is_own_origin else upstream_of("http://127.0.0.1:9/v1", own)
        response = await upstream.open_stream(f"{own}/v1/files/x", CREDENTIAL, None)
        assert response.status == 404
        await close(response)
        await upstream.aclose()


async def test_files_have_a_stream_of_files(fake: FakeModel) -> None:
    upstream = upstream_of(fake.base_url, fake.stream_origin)
    assert (await stream_url(upstream, "pixel")).startswith(f"{fake.stream_origin}/v1/files/")
    await upstream.aclose()
