"""Every trap on the way out, by name and by literal, for everything that Hotplate asks because somebody named a URL.

Outputs, file inputs and webhooks go one way (``egress``). Here each of the three meets each trap, against a canary on
loopback that nothing may touch. ``PUBLIC`` plays the address of an honest host.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from proxy.core.errors import InputInvalid
from proxy.core.outputs import OutputAccess
from proxy.upstreams.addresses import is_public
from proxy.upstreams.egress import Egress, EgressFailed, EgressLimits, EgressRefused
from proxy.upstreams.webhook_addresses import check_webhook_url
from tests.fakes.raw_server import RawServer, Reply, raw_server, reply

pytestmark = pytest.mark.anyio

PUBLIC = "127.0.0.2"
MAX_BYTES = 1000

Use = Literal["output", "input", "webhook"]
USES: tuple[Use, ...] = ("output", "input", "webhook")

ADDRESSES = {
    "loopback": "127.0.0.1",
    "all of loopback": "127.8.8.8",
    "this host": "0.0.0.0",
    "this network": "0.1.2.3",
    "private 10": "10.0.0.1",
    "private 172.16": "172.16.0.1",
    "private 192.168": "192.168.0.1",
    "shared by carriers": "100.64.0.1",
    "link-local": "169.254.1.1",
    "cloud metadata": "169.254.169.254",
    "protocol assignments": "192.0.0.8",
    "benchmarks": "198.18.0.1",
    "documentation": "203.0.113.1",
    "6to4 relay": "192.88.99.1",
    "multicast": "224.0.0.1",
    "multicast of an organisation": "239.255.255.250",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "v6 loopback": "::1",
    "v6 unspecified": "::",
    "v6 mapped loopback": "::ffff:127.0.0.1",
    "v6 mapped private": "::ffff:10.0.0.1",
    "v6 translated": "::ffff:0:127.0.0.1",
    "v6 compatible": "::127.0.0.1",
    "NAT64 loopback": "64:ff9b::7f00:1",
    "NAT64 metadata": "64:ff9b::a9fe:a9fe",
    "local NAT64": "64:ff9b:1::7f00:1",
    "6to4 loopback": "2002:7f00:1::",
    "6to4 private": "2002:c0a8:1::1",
    "Teredo": "2001:0:7f00:1::",
    "ORCHID": "2001:20::1",
    "v6 documentation": "2001:db8::1",
    "v6 site-local": "fec0::1",
    "v6 link-local": "fe80::1",
    "v6 unique local": "fd00::1",
    "v6 multicast": "ff0e::1",
    "v6 discard": "100::1",
    "v6 metadata": "fd00:ec2::254",
}

SPELLINGS = {
    "short": "127.1",
    "three parts": "127.0.1",
    "one number": "2130706433",
    "one octal number": "017700000001",
    "one hex number": "0x7f000001",
    "hex part": "0x7f.1",
    "hex in capitals": "0X7F.0.0.1",
    "octal part": "0177.0.0.1",
    "leading zeros": "127.000.000.001",
    "zero": "0",
    "zero in hex": "0x0",
    "five parts": "127.0.0.0.1",
    "too large": "256.0.0.1",
    "trailing dot": "127.0.0.1.",
    "name with a trailing dot": "files.test.",
    "full-width digits": "\uff11\uff12\uff17.\uff10.\uff10.\uff11",
    "one full-width digit": "\uff1127.0.0.1",
    "ideographic stops": "127\u30020\u30020\u30021",
    "circled digits": "\u2460\u2461\u2466.0.0.1",
    "soft hyphen": "127.0.0.\u00ad1",
    "percent-encoded": "%31%32%37.0.0.1",
    "percent-encoded dot": "127%2e0.0.1",
    "user information": "files.test@127.0.0.1",
    "user and password": "files.test:80@127.0.0.1",
    "empty user": "@127.0.0.1",
    "backslash before the at": "files.test\\@127.0.0.1",
    "backslash before the name": "127.0.0.1\\.files.test",
    "brackets around a name": "[files.test]",
    "brackets around v4": "[127.0.0.1]",
    "brackets that do not close": "[::1",
    "zone": "[fe80::1%25lo]",
    "zone in the clear": "[fe80::1%lo]",
    "v6 without brackets": "::1",
    "tab": "127.0.0.1\t",
    "line end": "127.0.0.1\r\nHost: files.test",
    "NUL": "127.0.0.1\x00.files.test",
    "space": "127.0.0.1 .files.test",
    "second port": "127.0.0.1:80",
    "empty label": "files..test",
    "empty": "",
}

LISTED = OutputAccess(hosts=("files.test", "*.files.test"))
LIMITS = EgressLimits(is_http_allowed=True)


class Names:
    """Resolves ``files.test`` to what it is told, one answer after the other, the last one again and again."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = [list(answer) for answer in answers] or [[PUBLIC]]
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def judge(address: str) -> bool:
    return address == PUBLIC or is_public(address)


async def ask(use: Use, url: str, names: Names, port: int, limits: EgressLimits = LIMITS) -> bytes:
    """What ``use`` does with ``url``: the bytes it got, or of a webhook the status."""
    egress = Egress(replace(limits, ports=frozenset({port})), resolve=names, judge=judge)
    try:
        if use == "webhook":
            posted = await egress.post(url, OutputAccess(), body=b"{}", headers={"webhook-id": "x"}, timeout_s=5.0)
            return str(posted.status).encode()
        access = LISTED if use == "output" else OutputAccess()
        async with egress.open(url, access, max_bytes=MAX_BYTES, require_listed=use == "output") as fetched:
            return b"".join([chunk async for chunk in fetched.chunks])
    finally:
        await egress.aclose()


async def refusal(use: Use, url: str, names: Names, port: int) -> str:
    with pytest.raises(EgressRefused) as refused:
        await ask(use, url, names, port)
    return refused.value.rule


@asynccontextmanager
async def canary() -> AsyncIterator[RawServer]:
    async with raw_server() as server:
        yield server
        assert server.connections == 0


@asynccontextmanager
async def honest(*replies: Reply) -> AsyncIterator[RawServer]:
    """A server at ``PUBLIC``, and a canary on the same port of loopback."""
    async with AsyncExitStack() as stack:
        trap = None
        while trap is None:
            server = await stack.enter_async_context(raw_server(*replies, host=PUBLIC))
            with suppress(OSError):  # somebody else has that port on loopback: another one
                trap = await stack.enter_async_context(raw_server(port=server.port))
        yield server
        assert trap.connections == 0


# -- addresses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("trap", ADDRESSES)
async def test_name_that_resolves_to_a_trap_is_refused(trap: str) -> None:
    async with canary() as server:
        for use in USES:
            names = Names([ADDRESSES[trap]])
            assert await refusal(use, f"http://files.test:{server.port}/", names, server.port) == "address"


@pytest.mark.parametrize("trap", ADDRESSES)
async def test_trap_in_place_of_a_name_is_refused(trap: str) -> None:
    address = ADDRESSES[trap]
    host = f"[{address}]" if ":" in address else address
    async with canary() as server:
        for use in USES:
            names = Names()
            rule = await refusal(use, f"http://{host}:{server.port}/", names, server.port)
            assert rule == ("unlisted" if use == "output" else "address")
            assert names.asked == []
    with pytest.raises(InputInvalid):
        check_webhook_url(f"https://{host}/", OutputAccess())


@pytest.mark.parametrize("trap", SPELLINGS)
async def test_spelling_that_parsers_could_read_differently_is_refused(trap: str) -> None:
    async with canary() as server:
        for use in USES:
            names = Names(["127.0.0.1"])
            rule = await refusal(use, f"http://{SPELLINGS[trap]}:{server.port}/", names, server.port)
            assert rule in ("url", "host", "userinfo")
            assert names.asked == []
    with pytest.raises(InputInvalid):
        check_webhook_url(f"https://{SPELLINGS[trap]}/", OutputAccess())


@pytest.mark.parametrize("trap", ["127.0.0.1", "::1", "10.0.0.1", "169.254.169.254", "64:ff9b::7f00:1"])
async def test_one_trap_among_public_addresses_refuses_the_name(trap: str) -> None:
    async with honest() as server:
        for mixed in ([trap, PUBLIC, "8.8.8.8"], [PUBLIC, trap, "8.8.8.8"], [PUBLIC, "8.8.8.8", trap]):
            for use in USES:
                assert await refusal(use, f"http://files.test:{server.port}/", Names(mixed), server.port) == "address"
        assert server.connections == 0


@pytest.mark.parametrize("use", USES)
async def test_name_that_is_rebound_after_the_check_is_dialled_as_checked(use: Use) -> None:
    async with honest(reply(body=b"ok")) as server:
        names = Names([PUBLIC], ["127.0.0.1"])
        assert await ask(use, f"http://files.test:{server.port}/", names, server.port) in (b"ok", b"200")
        assert names.asked == ["files.test"]
        assert await refusal(use, f"http://files.test:{server.port}/", names, server.port) == "address"
        assert server.connections == 1


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("https://files.test:22/", "port"),
        ("https://files.test:8443/", "port"),
        ("https://files.test:0/", "port"),
        ("https://files.test:65536/", "port"),
        ("https://files.test:\u0664\u0664\u0663/", "host"),
        ("https://files.test:443:80/", "host"),
        ("http://files.test/", "scheme"),
        ("gopher://files.test/", "url"),
        ("file:///etc/passwd", "url"),
        ("//files.test/", "url"),
        ("https:files.test/", "url"),
        ("https:/files.test/", "url"),
    ],
)
async def test_scheme_and_port_are_checked_before_anybody_is_asked(url: str, rule: str) -> None:
    for use in USES:
        names = Names()
        with pytest.raises(EgressRefused) as refused:
            await ask(use, url, names, 443, EgressLimits())
        assert refused.value.rule == rule
        assert names.asked == []


# -- redirects -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", ["output", "input"])
@pytest.mark.parametrize(
    "location",
    [
        *(f"http://{ADDRESSES[trap]}:{{port}}/" for trap in ("loopback", "cloud metadata", "private 10")),
        *(f"http://[{ADDRESSES[trap]}]:{{port}}/" for trap in ("v6 loopback", "v6 mapped loopback", "NAT64 loopback")),
        "http://127.1:{port}/", "http://2130706433:{port}/", "http://0x7f.1:{port}/", "http://0:{port}/",
        "http://files.test@127.0.0.1:{port}/", "http://files.test:{port}\\@127.0.0.1/", "//127.0.0.1:{port}/",
        "http://\uff11\uff12\uff17.0.0.1:{port}/", "/\\127.0.0.1:{port}/", "http://[files.test]:{port}/",
        "http://rebound.files.test:{port}/", "http://files.test:22/", "ftp://files.test/", "http:127.0.0.1:{port}",
    ],
)  # fmt: skip
async def test_each_hop_is_checked_by_the_same_rules(location: str, use: Use) -> None:
    async with honest() as server:
        for hops in (1, 2, 3):
            moves = ["/again"] * (hops - 1) + [location.format(port=server.port)]
            server.replies = [reply("302 Found", [f"Location: {move}"]) for move in moves]
            server.connections, names = 0, Names(*[[PUBLIC]] * hops, ["127.0.0.1"])
            await refusal(use, f"http://files.test:{server.port}/", names, server.port)
            assert server.connections == hops


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_webhook_follows_no_redirect(status: int) -> None:
    async with honest() as server:
        server.replies = [reply(f"{status} Moved", [f"Location: http://127.0.0.1:{server.port}/"])]
        url = f"http://files.test:{server.port}/"
        assert await ask("webhook", url, Names(), server.port) == str(status).encode()
        assert server.connections == 1


# -- what comes along, and what comes back -------------------------------------------------------------


@pytest.mark.parametrize("use", USES)
async def test_proxies_and_passwords_of_the_environment_are_ignored(
    use: Use, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with honest(reply(headers=["Set-Cookie: a=b; Path=/"], body=b"ok")) as server, canary() as trap:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{trap.port}")
        passwords = "machine files.test login me password secret\nmachine 127.0.0.2 login me password secret\n"
        for name in ("netrc", ".netrc"):
            (tmp_path / name).write_text(passwords)
            (tmp_path / name).chmod(0o600)
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        monkeypatch.setenv("HOME", str(tmp_path))
        for _ in range(2):
            await ask(use, f"http://files.test:{server.port}/", Names(), server.port)
        assert len(server.requests) == 2
        for request in server.requests:
            lines = request.lower().split(b"\r\n\r\n")[0].split(b"\r\n")[1:]
            names = {line.partition(b":")[0] for line in lines}
            assert names.isdisjoint({b"authorization", b"proxy-authorization", b"cookie"})
            assert b"accept-encoding: identity" in lines
            assert f"host: files.test:{server.port}".encode() in lines


@pytest.mark.parametrize("use", ["output", "input"])
@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "deflate", "identity, gzip", "GZIP", "x"])
@pytest.mark.parametrize("header", ["Content-Encoding", "Transfer-Encoding"])
async def test_bytes_in_another_encoding_are_refused(header: str, encoding: str, use: Use) -> None:
    async with honest(reply(headers=[f"{header}: {encoding}"], body=b"x")) as server:
        with pytest.raises((EgressRefused, EgressFailed)):
            await ask(use, f"http://files.test:{server.port}/", Names(), server.port)


@pytest.mark.parametrize("use", ["output", "input"])
async def test_endless_body_ends_at_the_cap(use: Use) -> None:
    endless = reply(
        headers=["Transfer-Encoding: chunked"], body=b"400\r\n" + b"x" * 1024 + b"\r\n", length=None, end="stall"
    )
    async with honest(endless) as server, asyncio.timeout(5):
        assert await refusal(use, f"http://files.test:{server.port}/", Names(), server.port) == "size"


@pytest.mark.parametrize("use", USES)
async def test_slow_drip_ends_at_the_total_time(use: Use) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n" + b"x" * 900:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.02)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(drip, PUBLIC, 0)
    port = server.sockets[0].getsockname()[1]
    began = asyncio.get_running_loop().time()
    with pytest.raises(EgressFailed):
        await ask(use, f"http://files.test:{port}/", Names(), port, replace(LIMITS, total_timeout_s=0.3))
    assert asyncio.get_running_loop().time() - began < 2.0
    server.close()
