"""The transport says truthfully whether a request can have been read."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from proxy.tls import LocalAuthority, server_context
from proxy.upstreams.http import AiohttpTransport, allow, client_tls, open_client, pass_on
from tests.fakes.raw_server import Reply, raw_server, reply

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[True, False])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    async with open_client(AiohttpTransport(reuses_connections=request.param)) as client:
        yield client


@pytest.mark.parametrize("answer", [Reply(), Reply(end="rst"), Reply(b"nonsense\r\n\r\n"), reply(body=b"a", length=2)])
async def test_whatever_ends_after_sending_is_no_connect_error(client: httpx.AsyncClient, answer: Reply) -> None:
    async with raw_server(answer) as server:
        with pytest.raises(httpx.TransportError) as failed:
            await client.post(f"http://127.0.0.1:{server.port}/", content=b"body")
        assert not isinstance(failed.value, httpx.ConnectError | httpx.ConnectTimeout)
        assert len(server.requests) == 1


async def test_refused_connection_is_a_connect_error(client: httpx.AsyncClient) -> None:
    async with raw_server() as server:
        port = server.port
    with pytest.raises(httpx.ConnectError):
        await client.post(f"http://127.0.0.1:{port}/")


async def test_unknown_name_is_a_connect_error(client: httpx.AsyncClient) -> None:
    with pytest.raises(httpx.ConnectError):
        await client.post("http://does-not-exist.invalid/")


async def test_certificate_that_is_not_trusted_is_a_connect_error(client: httpx.AsyncClient, tmp_path: Path) -> None:
    async with raw_server(tls=server_context(LocalAuthority(tmp_path).ensure())) as server:
        with pytest.raises(httpx.ConnectError):
            await client.post(f"https://127.0.0.1:{server.port}/")


async def test_tls_that_never_stands_is_a_connect_timeout(client: httpx.AsyncClient) -> None:
    async with raw_server(Reply(end="stall")) as server:
        with pytest.raises(httpx.ConnectTimeout):
            await client.post(f"https://127.0.0.1:{server.port}/", timeout=httpx.Timeout(9, connect=0.1))


async def test_silence_is_a_read_timeout(client: httpx.AsyncClient) -> None:
    async with raw_server(Reply(end="stall")) as server:
        with pytest.raises(httpx.ReadTimeout):
            await client.post(f"http://127.0.0.1:{server.port}/", timeout=0.1)


async def test_address_goes_on_the_wire_as_it_is(client: httpx.AsyncClient) -> None:
    async with raw_server() as server:
        await client.get(f"http://127.0.0.1:{server.port}/a%2Fb%41/%e2?x=%2B+%20&y")
        assert server.requests[0].startswith(b"GET /a%2Fb%41/%e2?x=%2B+%20&y HTTP/1.1\r\n")


async def test_only_what_was_given_and_our_name_is_sent(client: httpx.AsyncClient) -> None:
    async with raw_server() as server:
        await client.post(f"http://127.0.0.1:{server.port}/", content=b"x")
        names = {line.split(b":")[0].lower() for line in server.requests[0].split(b"\r\n")[1:] if b":" in line}
        assert names == {b"host", b"user-agent", b"accept", b"accept-encoding", b"connection", b"content-length"}
        assert b"accept-encoding: identity" in server.requests[0].lower()


async def test_no_cookie_comes_back(client: httpx.AsyncClient) -> None:
    async with raw_server(reply(headers=["Set-Cookie: a=b; Path=/"])) as server:
        for _ in range(2):
            await client.get(f"http://127.0.0.1:{server.port}/")
        assert b"cookie" not in server.requests[1].lower()
        assert len(client.cookies.jar) == 0


async def test_environment_names_no_proxy(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async with raw_server(reply(body=b"direct")) as server, raw_server() as canary:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{canary.port}")
        assert (await client.get(f"http://127.0.0.1:{server.port}/")).content == b"direct"
        assert canary.connections == 0


async def test_redirects_are_answers(client: httpx.AsyncClient) -> None:
    async with raw_server(reply("302 Found", ["Location: /elsewhere"])) as server:
        assert (await client.get(f"http://127.0.0.1:{server.port}/")).status_code == 302
        assert len(server.requests) == 1


async def test_raw_body_is_not_decoded(client: httpx.AsyncClient) -> None:
    packed = gzip.compress(b"plain")
    async with (
        raw_server(reply(headers=["Content-Encoding: gzip"], body=packed)) as server,
        client.stream("GET", f"http://127.0.0.1:{server.port}/") as response,
    ):
        assert b"".join([chunk async for chunk in response.aiter_raw()]) == packed


async def test_streamed_body_goes_in_chunks(client: httpx.AsyncClient) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.sleep(0)
        yield b"second"

    async with raw_server() as server:
        await client.post(f"http://127.0.0.1:{server.port}/", content=body())
        assert b"transfer-encoding: chunked" in server.requests[0].lower()
        assert server.requests[0].endswith(b"firstsecond")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
async def test_nothing_is_sent_twice_where_no_connection_is_reused(method: str) -> None:
    async with raw_server(Reply()) as server, open_client(AiohttpTransport(reuses_connections=False)) as client:
        with pytest.raises(httpx.TransportError):
            await client.request(method, f"http://127.0.0.1:{server.port}/")
        assert len(server.requests) == 1


async def test_own_connection_for_each_request_where_none_is_reused() -> None:
    kept = Reply(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "stall")
    for reuses_connections, connections in ((True, 1), (False, 3)):
        async with raw_server(kept) as server:
            async with open_client(AiohttpTransport(reuses_connections=reuses_connections)) as client:
                for _ in range(3):
                    await client.get(f"http://127.0.0.1:{server.port}/")
            assert server.connections == connections


def test_hop_by_hop_headers_and_those_that_connection_names_are_dropped() -> None:
    given = [
        ("Connection", "close, X-Odd"),
        ("X-Odd", "1"),
        ("TE", "trailers"),
        ("Accept", "a"),
        ("accept", "b"),
        ("N", "1"),
    ]
    assert pass_on(given, frozenset({"n"})) == [("accept", "a"), ("accept", "b")]


def test_allow_list_knows_names_and_prefixes() -> None:
    given = httpx.Headers({"Retry-After": "3", "RateLimit-Reset": "1", "Set-Cookie": "a=b", "rate": "1"})
    assert allow(given.items(), ("retry-after", "ratelimit-")) == [("retry-after", "3"), ("ratelimit-reset", "1")]


def test_tls_trusts_certifi_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "roots.pem").write_text("no certificate\n")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "roots.pem"))
    client_tls.cache_clear()
    assert len(client_tls().get_ca_certs()) > 50
