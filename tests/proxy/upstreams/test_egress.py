"""Egress, against servers on loopback.

``PUBLIC`` plays a public address; 127.0.0.1 carries a canary on the same port that nothing may ever touch.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.core.outputs import OutputAccess
from proxy.tls import LocalAuthority, server_context
from proxy.upstreams.addresses import is_public
from proxy.upstreams.egress import MAX_ACKNOWLEDGEMENT_BYTES, Egress, EgressFailed, EgressLimits, EgressRefused, Posted
from tests.fakes.raw_server import RawServer, Reply, raw_server, reply

pytestmark = pytest.mark.anyio

PUBLIC = "127.0.0.2"
NOWHERE = "127.0.0.3"
LISTED = OutputAccess(hosts=("files.test", "*.delivery.test"))
MAX_BYTES = 1000
USUAL = EgressLimits()


class Resolver:
    """Answers names from a table; a list of lists is answered one after another."""

    def __init__(self, **names: Sequence[str]) -> None:
        self.names = {name.replace("_", "."): addresses for name, addresses in names.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        if host not in self.names:
            raise OSError("no such name")
        return self.names[host]


class RebindingResolver(Resolver):
    """A public address first, loopback from then on."""

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return [PUBLIC] if len(self.asked) == 1 else ["127.0.0.1"]


def judge(address: str) -> bool:
    return address in (PUBLIC, NOWHERE) or is_public(address)


def make_egress(
    server: RawServer | None,
    resolver: Resolver | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    limits: EgressLimits = USUAL,
) -> Egress:
    """One that fetches over http from ``server``'s port, too."""
    rules = replace(limits, is_http_allowed=True, ports=frozenset({80, 443, server.port} if server else {80, 443}))
    return Egress(rules, resolve=resolver or Resolver(files_test=[PUBLIC]), judge=judge, tls=tls)


async def fetch(egress: Egress, url: str, access: OutputAccess = LISTED, *, require_listed: bool = True) -> bytes:
    try:
        async with egress.open(url, access, max_bytes=MAX_BYTES, require_listed=require_listed) as fetched:
            return b"".join([chunk async for chunk in fetched.chunks])
    finally:
        await egress.aclose()


async def refusal(egress: Egress, url: str, access: OutputAccess = LISTED, *, require_listed: bool = True) -> str:
    with pytest.raises(EgressRefused) as refused:
        await fetch(egress, url, access, require_listed=require_listed)
    return refused.value.rule


def public_server(*replies: Reply) -> AbstractAsyncContextManager[RawServer]:
    return raw_server(*replies, host=PUBLIC)


async def test_listed_host_is_fetched_from_the_address_that_was_checked() -> None:
    answer = reply(headers=["Content-Type: image/png", 'ETag: "x"', "Set-Cookie: a=b", "X-Odd: y"], body=b"pixels")
    async with public_server(answer) as server, raw_server(port=server.port) as canary:
        egress = make_egress(server)
        url = f"http://files.test:{server.port}/a%2Fb?c=d"
        async with egress.open(url, LISTED, max_bytes=MAX_BYTES) as fetched:
            assert b"".join([chunk async for chunk in fetched.chunks]) == b"pixels"
        assert fetched.status == 200
        assert fetched.url == url
        assert fetched.expected_bytes == 6
        assert fetched.is_length_known
        assert fetched.headers == {"content-type": "image/png", "etag": '"x"', "content-length": "6"}
        head = server.requests[0].decode().lower()
        assert head.startswith("get /a%2fb?c=d http/1.1\r\n")
        assert f"host: files.test:{server.port}\r\n" in head
        assert "accept-encoding: identity\r\n" in head
        assert canary.connections == 0
        await egress.aclose()


async def test_connection_serves_one_fetch() -> None:
    async with public_server(reply(body=b"ok", end="stall")) as server:
        egress = make_egress(server)
        for _ in range(2):
            async with egress.open(f"http://files.test:{server.port}/", LISTED, max_bytes=MAX_BYTES) as fetched:
                assert b"".join([chunk async for chunk in fetched.chunks]) == b"ok"
        assert server.connections == 2
        await egress.aclose()


async def test_event_stream_may_be_silent_for_longer_than_a_file() -> None:
    usual = replace(USUAL, idle_timeout_s=0.1, total_timeout_s=0.2)
    async with public_server(reply(length=10, body=b"data", end="stall")) as server:
        egress, url = make_egress(server, limits=usual), f"http://files.test:{server.port}/"
        with pytest.raises(EgressFailed):
            await fetch(egress, url)
        patient = replace(USUAL, idle_timeout_s=0.6, total_timeout_s=5.0)
        began = asyncio.get_running_loop().time()
        async with egress.open(
            url, LISTED, max_bytes=MAX_BYTES, headers={"accept": "text/event-stream"}, limits=patient
        ) as fetched:
            with pytest.raises(EgressFailed):
                _ = [chunk async for chunk in fetched.chunks]
        assert asyncio.get_running_loop().time() - began > 0.5
        assert b"Accept: text/event-stream\r\n" in server.requests[1].replace(b"accept", b"Accept")
        assert b"*/*" not in server.requests[1]
        await egress.aclose()


@pytest.mark.parametrize("name", ["authorization", "cookie", "Host", "range"])
async def test_headers_that_could_carry_more_are_not_taken(name: str) -> None:
    async with public_server(reply()) as server:
        egress = make_egress(server)
        with pytest.raises(ValueError, match="header"):
            async with egress.open(f"http://files.test:{server.port}/", LISTED, max_bytes=1, headers={name: "x"}):
                pass
        assert server.connections == 0
        await egress.aclose()


async def test_no_cookie_credential_or_proxy_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with public_server(reply(headers=["Set-Cookie: a=b; Path=/"])) as server, raw_server() as canary:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{canary.port}")
        (tmp_path / "netrc").write_text("machine files.test login me password secret\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        egress = make_egress(server)
        for _ in range(2):
            async with egress.open(f"http://files.test:{server.port}/", LISTED, max_bytes=MAX_BYTES):
                pass
        await egress.aclose()
        asked = b"".join(server.requests).lower()
        assert len(server.requests) == 2
        assert b"cookie" not in asked
        assert b"authorization" not in asked
        assert canary.connections == 0


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::",
     "2001:0:7f00:1::", "fec0::1", "fe80::1", "fd00::1", "ff0e::1", "224.0.0.1", "100.64.0.1", "10.0.0.1",
     "169.254.169.254", "192.168.0.1"],
)  # fmt: skip
@pytest.mark.parametrize("form", ["name", "literal"])
async def test_address_that_is_not_public_is_never_dialled(address: str, form: str) -> None:
    async with raw_server() as canary:
        resolver = Resolver(files_test=[address])
        bracketed = f"[{address}]" if ":" in address else address
        host = "files.test" if form == "name" else bracketed
        egress = make_egress(canary, resolver)
        assert await refusal(egress, f"http://{host}:{canary.port}/", require_listed=False) == "address"
        assert canary.connections == 0


@pytest.mark.parametrize(
    "host",
    ["127.1", "2130706433", "0x7f.1", "0x7f000001", "0177.0.0.1", "0", "127.0.0.1.", "\uff11\uff12\uff17.0.0.1",
     "127\u30020\u30020\u30021", "[localhost]", "%31%32%37.0.0.1", "good.test\\@127.0.0.1", "good.test@127.0.0.1"],
)  # fmt: skip
async def test_odd_spelling_of_loopback_is_refused_unresolved(host: str) -> None:
    async with raw_server() as canary:
        resolver = Resolver()
        egress = make_egress(canary, resolver)
        rule = await refusal(egress, f"http://{host}:{canary.port}/", require_listed=False)
        assert rule in ("host", "url", "userinfo")
        assert resolver.asked == []
        assert canary.connections == 0


async def test_one_private_address_among_public_ones_refuses_the_name() -> None:
    async with public_server() as server, raw_server(port=server.port) as canary:
        resolver = Resolver(files_test=[PUBLIC, "127.0.0.1"])
        assert await refusal(make_egress(server, resolver), f"http://files.test:{server.port}/") == "address"
        assert server.connections == canary.connections == 0


async def test_name_that_is_rebound_after_the_check_is_dialled_as_checked() -> None:
    async with public_server(reply(body=b"ok")) as server, raw_server(port=server.port) as canary:
        resolver = RebindingResolver()
        assert await fetch(make_egress(server, resolver), f"http://files.test:{server.port}/") == b"ok"
        assert resolver.asked == ["files.test"]
        assert canary.connections == 0


async def test_next_address_is_tried_when_one_refuses() -> None:
    async with public_server(reply(body=b"ok")) as server:
        resolver = Resolver(files_test=[NOWHERE, PUBLIC])
        assert await fetch(make_egress(server, resolver), f"http://files.test:{server.port}/") == b"ok"


async def test_unreachable_and_unknown_hosts_fail() -> None:
    async with public_server() as server:
        resolver = Resolver(files_test=[NOWHERE], a_delivery_test=[])
        for host in ("files.test", "a.delivery.test", "b.delivery.test"):
            with pytest.raises(EgressFailed):
                await fetch(make_egress(server, resolver), f"http://{host}:{server.port}/")


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("http://files.test/", "scheme"),
        ("https://files.test:8443/", "port"),
        ("https://files.test:22/", "port"),
        ("https://other.test/", "unlisted"),
        ("https://delivery.test/", "unlisted"),
        ("https://evildelivery.test/", "unlisted"),
        ("https://files.test.evil.test/", "unlisted"),
        ("https://8.8.8.8/", "unlisted"),
    ],
)
async def test_scheme_port_and_host_are_checked_before_resolving(url: str, rule: str) -> None:
    resolver = Resolver()
    assert await refusal(Egress(resolve=resolver), url) == rule
    assert resolver.asked == []


async def test_origin_that_the_operator_named_may_be_private_plain_and_on_any_port() -> None:
    async with raw_server(reply(body=b"ok")) as server:
        url = f"http://127.0.0.1:{server.port}/"
        named = OutputAccess(origins=(("http", "127.0.0.1", server.port),))
        assert await fetch(Egress(), url, named) == b"ok"
        by_name = OutputAccess(origins=(("http", "files.internal", server.port),))
        resolver = Resolver(files_internal=["127.0.0.1"])
        assert await fetch(Egress(resolve=resolver), f"http://files.internal:{server.port}/", by_name) == b"ok"
        for other in (
            OutputAccess(origins=(("https", "127.0.0.1", server.port),)),
            OutputAccess(origins=(("http", "127.0.0.1", server.port + 1),)),
        ):
            assert await refusal(Egress(), url, other) == "scheme"


async def test_named_origin_frees_no_other_fetch_to_the_same_place() -> None:
    async with raw_server(reply(end="stall")) as server:
        egress = make_egress(server)
        url = f"http://127.0.0.1:{server.port}/"
        named = OutputAccess(origins=(("http", "127.0.0.1", server.port),))
        async with egress.open(url, named, max_bytes=MAX_BYTES) as fetched:
            assert [chunk async for chunk in fetched.chunks] == []
        assert await refusal(egress, url, require_listed=False) == "address"
        assert server.connections == 1


def moved(location: str) -> Reply:
    return reply("302 Found", [f"Location: {location}"])


@pytest.mark.parametrize(
    ("location", "rule"),
    [
        ("http://127.0.0.1:{port}/", "unlisted"),
        ("http://loop.delivery.test:{port}/", "address"),
        ("http://[::ffff:127.0.0.1]:{port}/", "unlisted"),
        ("http://127.1:{port}/", "host"),
        ("http://user@files.test:{port}/", "userinfo"),
        ("http://files.test:22/", "port"),
        ("//loop.delivery.test:{port}/x", "address"),
        ("ftp://files.test/", "url"),
        ("http://files.test:{port}\\@127.0.0.1/", "url"),
        ("http://[files.test]/", "url"),
    ],
)
async def test_each_redirect_is_checked_by_the_same_rules(location: str, rule: str) -> None:
    async with public_server() as server, raw_server(port=server.port) as canary:
        server.replies = [moved(location.format(port=server.port))]
        resolver = Resolver(files_test=[PUBLIC], loop_delivery_test=["127.0.0.1"])
        assert await refusal(make_egress(server, resolver), f"http://files.test:{server.port}/") == rule
        assert server.connections == 1
        assert canary.connections == 0


async def test_three_redirects_are_followed_and_a_fourth_is_not() -> None:
    async with public_server(moved("/1"), moved("2?x=y"), moved("/3"), reply(body=b"end")) as server:
        assert await fetch(make_egress(server), f"http://files.test:{server.port}/a/b") == b"end"
        targets = [request.split(b" ")[1] for request in server.requests]
        assert targets == [b"/a/b", b"/1", b"/2?x=y", b"/3"]
    async with public_server(moved("/again")) as server:
        assert await refusal(make_egress(server), f"http://files.test:{server.port}/") == "redirects"
        assert server.connections == 4


async def test_redirect_without_a_location_is_an_answer() -> None:
    async with public_server(reply("304 Not Modified", length=None)) as server:
        egress = make_egress(server)
        async with egress.open(f"http://files.test:{server.port}/", LISTED, max_bytes=MAX_BYTES) as fetched:
            assert fetched.status == 304
        await egress.aclose()


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "identity\r\nContent-Encoding: gzip"])
async def test_encoded_body_is_refused(encoding: str) -> None:
    async with public_server(reply(headers=[f"Content-Encoding: {encoding}"], body=b"x")) as server:
        assert await refusal(make_egress(server), f"http://files.test:{server.port}/") == "encoding"


async def test_size_is_capped_by_header_and_by_bytes() -> None:
    offered = reply(body=b"", length=MAX_BYTES + 1)
    chunk = f"{MAX_BYTES + 1:x}\r\n".encode() + b"x" * (MAX_BYTES + 1) + b"\r\n0\r\n\r\n"
    chunked = reply(headers=["Transfer-Encoding: chunked"], body=chunk, length=None)
    for answer in (offered, chunked, reply(body=b"x" * (MAX_BYTES + 1), length=None)):
        async with public_server(answer) as server:
            assert await refusal(make_egress(server), f"http://files.test:{server.port}/") == "size"


async def test_cap_itself_is_allowed() -> None:
    async with public_server(reply(body=b"x" * MAX_BYTES)) as server:
        assert len(await fetch(make_egress(server), f"http://files.test:{server.port}/")) == MAX_BYTES


@pytest.mark.parametrize(
    "answer",
    [
        reply(body=b"half", length=8),
        reply(body=b"half", length=8, end="rst"),
        reply(headers=["Transfer-Encoding: chunked"], body=b"4\r\nhalf\r\n", length=None),
        reply(headers=["Transfer-Encoding: chunked"], body=b"8\r\nhalf", length=None),
        reply(headers=["Transfer-Encoding: chunked"], body=b"zz\r\nhalf", length=None),
        reply(headers=["Transfer-Encoding: chunked"], body=b"4\r\nhalf\r\n0\r\n\r\n", length=9),
        Reply(b""),
        Reply(b"", "rst"),
        Reply(b"SSH-2.0-OpenSSH_9\r\n"),
    ],
)
async def test_body_cut_short_or_nonsense_fails(answer: Reply) -> None:
    async with public_server(answer) as server:
        with pytest.raises(EgressFailed):
            await fetch(make_egress(server), f"http://files.test:{server.port}/")


@pytest.mark.parametrize(
    ("answer", "is_known"),
    [
        (reply(body=b"whole"), True),
        (reply(headers=["Transfer-Encoding: chunked"], body=b"5\r\nwhole\r\n0\r\n\r\n", length=None), True),
        (reply(body=b"whole", length=None), False),
        (Reply(b"HTTP/1.0 200 OK\r\n\r\nwhole"), False),
    ],
)
async def test_body_that_only_the_connection_ends_is_marked(answer: Reply, is_known: bool) -> None:
    async with public_server(answer) as server:
        egress = make_egress(server)
        async with egress.open(f"http://files.test:{server.port}/", LISTED, max_bytes=MAX_BYTES) as fetched:
            assert fetched.is_length_known is is_known
            assert b"".join([chunk async for chunk in fetched.chunks]) == b"whole"
        await egress.aclose()


@pytest.mark.parametrize("limits", [EgressLimits(idle_timeout_s=0.05), EgressLimits(total_timeout_s=0.05)])
@pytest.mark.parametrize("answer", [Reply(b"", "stall"), reply(body=b"half", length=8, end="stall")])
async def test_silence_ends_in_a_failure(limits: EgressLimits, answer: Reply) -> None:
    async with public_server(answer) as server, asyncio.timeout(10):
        with pytest.raises(EgressFailed):
            await fetch(make_egress(server, limits=limits), f"http://files.test:{server.port}/")


async def test_slow_resolver_ends_in_a_failure() -> None:
    class Stuck(Resolver):
        async def __call__(self, host: str, port: int) -> Sequence[str]:
            await asyncio.Event().wait()
            return []

    with pytest.raises(EgressFailed):
        await fetch(make_egress(None, Stuck(), limits=EgressLimits(connect_timeout_s=0.05)), "http://files.test/")


def tls_pair(folder: Path, *names: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a certificate for ``names``, and a client's that trusts it."""
    files = LocalAuthority(folder, names).ensure()
    return server_context(files), ssl.create_default_context(cafile=files.ca_file)


async def test_tls_goes_to_the_checked_address_under_the_right_name(tmp_path: Path) -> None:
    server_tls, client_tls = tls_pair(tmp_path, "files.test")
    names: list[str | None] = []
    server_tls.sni_callback = lambda _socket, name, _context: names.append(name)
    async with raw_server(reply(body=b"ok"), host=PUBLIC, tls=server_tls) as server:
        egress = make_egress(server, tls=client_tls)
        assert await fetch(egress, f"https://files.test:{server.port}/") == b"ok"
        assert names == ["files.test"]


async def test_certificate_for_another_name_fails(tmp_path: Path) -> None:
    server_tls, client_tls = tls_pair(tmp_path, "elsewhere.test")
    async with raw_server(reply(body=b"ok"), host=PUBLIC, tls=server_tls) as server:
        with pytest.raises(EgressFailed):
            await fetch(make_egress(server, tls=client_tls), f"https://files.test:{server.port}/")
        assert server.requests == []


async def test_redirect_from_https_to_http_is_refused_even_to_a_named_origin(tmp_path: Path) -> None:
    server_tls, client_tls = tls_pair(tmp_path, "files.test")
    async with (
        raw_server() as plain,
        raw_server(moved(f"http://127.0.0.1:{plain.port}/"), host=PUBLIC, tls=server_tls) as server,
    ):
        access = OutputAccess(hosts=LISTED.hosts, origins=(("http", "127.0.0.1", plain.port),))
        egress = make_egress(server, tls=client_tls)
        assert await refusal(egress, f"https://files.test:{server.port}/", access) == "downgrade"
        assert plain.connections == 0


async def test_etag_is_the_one_header_that_a_caller_can_add() -> None:
    async with public_server(reply(status="304 Not Modified", headers=['ETag: "x"'])) as server:
        egress = make_egress(server)
        url = f"http://files.test:{server.port}/"
        async with egress.open(url, LISTED, max_bytes=MAX_BYTES, if_none_match='"x"') as fetched:
            assert (fetched.status, [chunk async for chunk in fetched.chunks]) == (304, [])
        assert b'if-none-match: "x"\r\n' in server.requests[0].lower()
        await egress.aclose()


@pytest.mark.parametrize("etag", ["x", 'W/"x"', "*", '""', '"x"\r\nCookie: a=b', '"x", "y"', '"x y"'])
async def test_what_is_no_strong_etag_is_sent_to_nobody(etag: str) -> None:
    egress = make_egress(None)
    with pytest.raises(ValueError, match="strong ETag"):
        async with egress.open("https://files.test/", LISTED, max_bytes=MAX_BYTES, if_none_match=etag):
            pass


# -- webhooks


NEWS = {"Content-Type": "application/json", "webhook-id": "msg_1"}


async def post(
    egress: Egress, url: str, access: OutputAccess = LISTED, *, body: bytes = b"{}", timeout_s: float = 5.0
) -> Posted:
    try:
        return await egress.post(url, access, body=body, headers=NEWS, timeout_s=timeout_s)
    finally:
        await egress.aclose()


async def test_webhook_is_posted_to_the_address_that_was_checked() -> None:
    async with (
        public_server(reply("201 Created", ["Set-Cookie: a=b"])) as server,
        raw_server(port=server.port) as canary,
    ):
        resolver = RebindingResolver()
        egress = make_egress(server, resolver)
        url = f"http://hooks.test:{server.port}/in%2F?key=abc"
        assert await post(egress, url, OutputAccess(), body=b'{"id":"x"}') == Posted(201)
        (request,) = server.requests
        head, _, body = request.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        assert lines[0] == b"post /in%2f?key=abc http/1.1"
        assert f"host: hooks.test:{server.port}".encode() in lines
        assert b"content-type: application/json" in lines
        assert b"content-length: 10" in lines
        assert b"webhook-id: msg_1" in lines
        assert body == b'{"id":"x"}'
        assert not any(line.startswith((b"cookie", b"authorization")) for line in lines)
        assert resolver.asked == ["hooks.test"]
        assert canary.connections == 0


async def test_webhook_follows_no_redirect() -> None:
    async with public_server() as server, raw_server(port=server.port) as canary:
        server.replies = [reply("307 Temporary Redirect", [f"Location: http://127.0.0.1:{server.port}/"])]
        assert await post(make_egress(server), f"http://files.test:{server.port}/") == Posted(307)
        assert server.connections == 1
        assert canary.connections == 0


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1", "169.254.169.254", "10.0.0.1", "fd00::1"])
async def test_webhook_never_dials_an_address_that_is_not_public(address: str) -> None:
    async with raw_server() as canary:
        resolver = Resolver(hooks_test=[PUBLIC, address])
        with pytest.raises(EgressRefused) as refused:
            await post(make_egress(canary, resolver), f"http://hooks.test:{canary.port}/")
        assert refused.value.rule == "address"
        assert canary.connections == 0


@pytest.mark.parametrize(("url", "rule"), [("http://hooks.test/", "scheme"), ("https://hooks.test:8443/", "port")])
async def test_webhook_is_https_on_its_port_unless_the_operator_named_the_origin(url: str, rule: str) -> None:
    resolver = Resolver()
    with pytest.raises(EgressRefused) as refused:
        await post(Egress(resolve=resolver), url)
    assert refused.value.rule == rule
    assert resolver.asked == []
    async with raw_server(reply("204 No Content", length=None)) as server:
        named = OutputAccess(origins=(("http", "127.0.0.1", server.port),))
        assert await post(Egress(), f"http://127.0.0.1:{server.port}/", named) == Posted(204)


@pytest.mark.parametrize("answer", [Reply(b"", "stall"), Reply(b""), Reply(b"", "rst"), Reply(b"SSH-2.0-x\r\n")])
async def test_webhook_without_an_answer_in_time_fails_and_is_sent_once(answer: Reply) -> None:
    async with public_server(answer) as server, asyncio.timeout(10):
        with pytest.raises(EgressFailed):
            await post(make_egress(server), f"http://files.test:{server.port}/", timeout_s=0.2)
        assert len(server.requests) == 1


async def test_status_counts_however_the_answer_goes_on() -> None:
    endless = reply(headers=["Transfer-Encoding: chunked"], body=b"4\r\nhalf\r\n", length=None, end="stall")
    large = reply(body=b"x" * (4 * MAX_ACKNOWLEDGEMENT_BYTES))
    packed = reply(headers=["Content-Encoding: gzip"], body=b"not gzip")
    for answer in (endless, large, packed, reply(body=b"half", length=8)):
        async with public_server(answer) as server, asyncio.timeout(10):
            assert await post(make_egress(server), f"http://files.test:{server.port}/", timeout_s=0.5) == Posted(200)


@pytest.mark.parametrize(
    ("value", "seconds"), [("120", 120.0), ("Wed, 21 Oct 2015 07:28:00 GMT", None), ("-1", None), ("9" * 40, None)]
)
async def test_seconds_that_a_receiver_asks_for_are_told(value: str, seconds: float | None) -> None:
    async with public_server(reply("503 Unavailable", [f"Retry-After: {value}"])) as server:
        assert await post(make_egress(server), f"http://files.test:{server.port}/") == Posted(503, seconds)
