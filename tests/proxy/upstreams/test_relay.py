"""Requests that pass through an upstream unchanged."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Iterator, Sequence

import orjson
import pytest

from loadtests.fake_model.process import ALICE, FakeModel, fake_model
from proxy.core.errors import BodyTooLarge, NotFound, Unauthenticated, UpstreamTimeout, UpstreamUnavailable
from proxy.upstreams import relay
from proxy.upstreams.base import Credential, RelayRequest, RelayResponse
from proxy.upstreams.replicate import ReplicateSpec, ReplicateUpstream
from tests.fakes.raw_server import RawServer, Reply, raw_server, reply
from tests.fakes.stores import MemoryKeyValue

pytestmark = pytest.mark.anyio

CREDENTIAL = Credential(ALICE)


def ask(
    path: str,
    *,
    method: str = "GET",
    query: str = "",
    headers: Sequence[tuple[str, str]] = (),
    chunks: Sequence[bytes | Exception] | None = None,
    body_bytes: int | None = None,
) -> RelayRequest:
    async def body() -> AsyncIterator[bytes]:
        for chunk in chunks or ():
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    return RelayRequest(method, path, query, headers, body(), chunks is not None, body_bytes)


async def drain(response: RelayResponse) -> tuple[int, dict[str, str], bytes]:
    return response.status, dict(response.headers), b"".join([chunk async for chunk in response.body])


def upstream_of(base_url: str) -> ReplicateUpstream:
    return ReplicateUpstream(ReplicateSpec("r", base_url), MemoryKeyValue())


async def pass_through(server: RawServer, request: RelayRequest) -> tuple[int, dict[str, str], bytes]:
    upstream = upstream_of(f"http://127.0.0.1:{server.port}/v1")
    try:
        return await drain(await upstream.relay(request, CREDENTIAL))
    finally:
        await upstream.aclose()


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeModel]:
    with fake_model() as running:
        yield running


async def test_reads_and_searches_pass(fake: FakeModel) -> None:
    upstream = upstream_of(fake.base_url)
    status, headers, body = await drain(await upstream.relay(ask("/collections"), CREDENTIAL))
    assert (status, orjson.loads(body)["results"][0]["slug"]) == (200, "text-to-image")
    assert headers["content-length"] == str(len(body))
    assert "set-cookie" not in headers
    search = ask("/models", method="QUERY", headers=[("content-type", "text/plain")], chunks=[b"bru", b"sh"])
    _, _, body = await drain(await upstream.relay(search, CREDENTIAL))
    assert [each["name"] for each in orjson.loads(body)["results"]] == ["brush"]
    assert (await drain(await upstream.relay(ask("/nothing"), CREDENTIAL)))[0] == 404
    assert (await drain(await upstream.relay(ask("/account"), None)))[0] == 401
    assert fake.counters()["cookies"] == 0
    await upstream.aclose()


async def test_method_path_query_and_headers_go_as_they_came() -> None:
    headers = [
        ("User-Agent", "replicate-javascript/1.4.0"),
        ("Accept", "application/json"),
        ("Cancel-After", "5m"),
        ("X-New", "1"),
        ("Authorization", "Token other"),
        ("Cookie", "a=b"),
        ("Host", "proxy.test"),
        ("Content-Length", "99"),
        ("Transfer-Encoding", "chunked"),
        ("Accept-Encoding", "gzip"),
        ("Connection", "close, X-Hop"),
        ("X-Hop", "1"),
        ("X-Forwarded-For", "10.0.0.1"),
        ("Forwarded", "for=10.0.0.1"),
        ("X-Real-IP", "10.0.0.1"),
        ("Expect", "100-continue"),
    ]
    async with raw_server() as server:
        await pass_through(server, ask("/a%2Fb", method="DELETE", query="x=%41&y=+", headers=headers))
        lines = server.requests[0].decode().lower().split("\r\n")
        assert lines[0] == "delete /v1/a%2fb?x=%41&y=+ http/1.1"
        assert set(lines[1:]) == {
            f"host: 127.0.0.1:{server.port}",
            "user-agent: replicate-javascript/1.4.0",
            "accept: application/json",
            "cancel-after: 5m",
            "x-new: 1",
            f"authorization: bearer {ALICE}",
            "accept-encoding: identity",
            "connection: close",
            "content-length: 0",
            "",
        }


async def test_answer_s_headers_pass_without_those_of_connection_and_host() -> None:
    headers = [
        "Content-Type: text/event-stream",
        "RateLimit-Remaining: 5",
        "X-New: 1",
        "Set-Cookie: a=b",
        "Keep-Alive: timeout=5",
        "Connection: keep-alive, X-Hop",
        "X-Hop: 1",
        "Alt-Svc: h3",
        "Strict-Transport-Security: max-age=1",
        "Server: nginx",
    ]
    async with raw_server(reply("418 I am a teapot", headers, b"tea")) as server:
        status, passed, body = await pass_through(server, ask("/x"))
        assert (status, body) == (418, b"tea")
        assert passed == {
            "content-type": "text/event-stream",
            "ratelimit-remaining": "5",
            "x-new": "1",
            "content-length": "3",
        }


@pytest.mark.parametrize("sent", ["hüte".encode(), "日本".encode()])
async def test_headers_beyond_ascii_pass_in_both_directions(sent: bytes) -> None:
    """They ended in a 500: httpx encodes what it sends as ASCII, and what it had guessed at was no Latin-1."""
    async with raw_server(Reply(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Name: " + sent + b"\r\n\r\n")) as server:
        _, headers, _ = await pass_through(server, ask("/x", headers=[("user-agent", sent.decode("latin-1"))]))
        assert b"user-agent: " + sent + b"\r\n" in server.requests[0].lower()
        assert headers["x-name"].encode("latin-1") == sent


async def test_small_body_goes_with_its_length_and_a_large_one_in_chunks() -> None:
    async with raw_server() as server:
        await pass_through(server, ask("/x", method="POST", chunks=[b"sm", b"all"]))
        assert b"content-length: 5" in server.requests[0].lower()
        assert server.requests[0].endswith(b"\r\n\r\nsmall")
        large = [b"a" * 50_000, b"b" * 50_000, b"c" * 50_000]
        await pass_through(server, ask("/x", method="POST", chunks=large))
        assert b"content-length" not in server.requests[1].lower()
        assert server.requests[1].endswith(b"".join(large))


async def test_large_body_goes_with_its_length_where_it_was_announced() -> None:
    parts = [b"x" * 50_000] * 3
    async with raw_server(reply()) as server:
        await pass_through(server, ask("/files", method="POST", chunks=parts, body_bytes=150_000))
        head, _, body = server.requests[0].partition(b"\r\n\r\n")
        assert b"content-length: 150000" in head.lower()
        assert b"transfer-encoding" not in head.lower()
        assert body == b"".join(parts)


async def test_empty_body_is_sent_as_one() -> None:
    async with raw_server() as server:
        await pass_through(server, ask("/x", method="POST", chunks=[]))
        assert b"content-length: 0" in server.requests[0].lower()


@pytest.mark.parametrize("sent", [[], [b"a" * 100_000]])
async def test_error_in_the_request_s_body_comes_back_and_no_whole_request_arrives(sent: list[bytes]) -> None:
    async with raw_server() as server:
        with pytest.raises(BodyTooLarge):
            await pass_through(server, ask("/files", method="POST", chunks=[*sent, BodyTooLarge("too large")]))
        assert server.requests == []


async def test_encoded_answer_passes_as_it_is() -> None:
    packed = gzip.compress(b"plain")
    async with raw_server(reply(headers=["Content-Encoding: gzip"], body=packed)) as server:
        _, headers, body = await pass_through(server, ask("/x"))
        assert (headers["content-encoding"], headers["content-length"], body) == ("gzip", str(len(packed)), packed)


async def test_redirect_passes_and_is_not_followed() -> None:
    async with raw_server(reply("302 Found", ["Location: https://elsewhere.test/"])) as server:
        status, headers, _ = await pass_through(server, ask("/files/x/download"))
        assert (status, headers["location"]) == (302, "https://elsewhere.test/")
        assert len(server.requests) == 1


async def test_head_keeps_the_length() -> None:
    async with raw_server(reply(body=b"", length=500)) as server:
        _, headers, body = await pass_through(server, ask("/x", method="HEAD"))
        assert (headers["content-length"], body) == ("500", b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "QUERY"])
async def test_only_reading_requests_are_ever_repeated(method: str) -> None:
    async with raw_server(Reply()) as server:
        with pytest.raises(UpstreamUnavailable):
            await pass_through(server, ask("/x", method=method, chunks=[b"body"]))
        assert len(server.requests) == 1


async def test_answer_cut_short_is_an_error_in_its_body() -> None:
    async with raw_server(reply(body=b"half", length=8)) as server:
        upstream = upstream_of(f"http://127.0.0.1:{server.port}")
        response = await upstream.relay(ask("/x"), CREDENTIAL)
        with pytest.raises(UpstreamUnavailable):
            await drain(response)
        await upstream.aclose()


async def test_answer_may_be_left_unread() -> None:
    async with raw_server(reply(body=b"half", length=8, end="stall")) as server:
        upstream = upstream_of(f"http://127.0.0.1:{server.port}")
        response = await upstream.relay(ask("/x"), CREDENTIAL)
        assert response.aclose is not None
        closing = response.aclose()
        assert hasattr(closing, "__await__")
        await closing
        await upstream.aclose()


async def test_silence_and_absence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "READ_TIMEOUT_S", 0.1)
    async with raw_server(Reply(end="stall")) as server:
        with pytest.raises(UpstreamTimeout):
            await pass_through(server, ask("/x"))
    with pytest.raises(UpstreamUnavailable):
        await pass_through(server, ask("/x"))


@pytest.mark.parametrize(
    "path",
    [
        "", "x", "//../x", "/..", "/../admin", "/a/../b", "/./a", "/%2e%2e/admin", "/a/.%2E/b", "/..%2fadmin",
        "/a%5c..%5cb", "/a\\..\\b", "/a?b", "/a#b", "/a b", "/\u00e9", "/a\r\nX-Odd: 1", "/" + "a" * 40_000,
    ],
)  # fmt: skip
async def test_path_that_could_leave_the_root_is_not_found(path: str) -> None:
    async with raw_server() as server:
        with pytest.raises(NotFound):
            await pass_through(server, ask(path))
        assert server.connections == 0


async def test_query_with_odd_marks_is_not_found() -> None:
    async with raw_server() as server:
        for query in ("a=\r\n", "a=#b", "a= b"):
            with pytest.raises(NotFound):
                await pass_through(server, ask("/x", query=query))
        assert server.connections == 0


async def test_token_that_cannot_stand_in_a_header_is_refused() -> None:
    upstream = upstream_of("http://127.0.0.1:9")
    with pytest.raises(Unauthenticated):
        await upstream.relay(ask("/x"), Credential("a\r\nX: y"))
