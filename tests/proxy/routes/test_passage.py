"""What goes from an edge to the core and back, byte for byte; and what happens when the core is not there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from proxy.core.errors import Overloaded, UpstreamUnavailable
from proxy.logs import Note
from proxy.routes.exchange import ClientGone, Exchange
from proxy.routes.passage import TARGET, Passage
from tests.fakes.cog_server import until

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

Script = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


class Core:
    """A Unix socket that keeps what it is sent and answers as its script says."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.requests: list[bytes] = []
        self.connections = 0
        self.answer = OK
        self.script: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] | None = None
        self.up = asyncio.Event()
        self.up.set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def aclose(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(ConnectionError):
            if self.script is not None:
                await self.script(reader, writer)
            else:
                head = await reader.readuntil(b"\r\n\r\n")
                body = b""
                if b"chunked" in head:
                    while not body.endswith(b"0\r\n\r\n"):
                        body += await reader.read(65536)
                elif b"content-length: " in head:
                    body = await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]))
                self.requests.append(head + body)
                writer.write(self.answer)
                await writer.drain()
        writer.close()

    async def wait_until_up(self, timeout_s: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.up.wait(), timeout_s)
        return self.up.is_set()


class Client:
    """One request, and what its client gets."""

    def __init__(
        self, method: str = "GET", target: bytes = b"/v1/x", headers: Sequence[tuple[bytes, bytes]] = (), *body: bytes
    ) -> None:
        self.sent: list[dict[str, Any]] = []
        self.gone = asyncio.Event()
        self._body = list(body)
        scope = {
            "type": "http",
            "method": method,
            "path": "/x",
            "headers": list(headers),
            "hotplate.note": Note(),
            TARGET: target,
        }
        self.exchange = Exchange(scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        if self._body:
            return {"type": "http.request", "body": self._body.pop(0), "more_body": bool(self._body)}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def answer(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])


@pytest.fixture
async def core(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Core]:
    core = Core(tmp_path / "core")
    await core.start()
    yield core
    await core.aclose()


def passage(core: Core, *, max_waiters: int = 10, wait_s: float = 5.0) -> Passage:
    return Passage(core.path, core.wait_until_up, max_waiters, wait_s)


async def test_request_goes_on_as_it_came_but_for_what_belongs_to_one_connection(core: Core) -> None:
    headers = [
        (b"host", b"images.example.com"),
        (b"authorization", b"Bearer secret"),
        (b"x-odd", b"caf\xc3\xa9 \xff"),
        (b"x-twice", b"1"),
        (b"x-twice", b"2"),
        (b"connection", b"keep-alive, x-odd"),
        (b"expect", b"100-continue"),
        (b"content-length", b"5"),
    ]
    client = Client("POST", b"/v1/v1/a%2Fb?q=%20&q", headers, b"he", b"llo")
    await passage(core).handle(client.exchange)
    assert core.requests == [
        b"POST /v1/v1/a%2Fb?q=%20&q HTTP/1.1\r\nhost: images.example.com\r\nauthorization: Bearer secret\r\n"
        b"x-odd: caf\xc3\xa9 \xff\r\nx-twice: 1\r\nx-twice: 2\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello"
    ]
    assert (client.status, client.answer) == (200, b"ok")


async def test_chunked_body_stays_chunked_whether_it_was_read_before_or_not(core: Core) -> None:
    headers = [(b"host", b"h"), (b"transfer-encoding", b"chunked")]
    await passage(core).handle(Client("POST", b"/v1/files", headers, b"abc", b"", b"defgh").exchange)
    await passage(core).pass_on(Client("POST", b"/v1/files", headers).exchange, b"abcdefgh")
    await passage(core).pass_on(Client("POST", b"/v1/files", headers).exchange, b"")
    bodies = [request.partition(b"\r\n\r\n")[2] for request in core.requests]
    assert bodies == [
        b"3\r\nabc\r\n5\r\ndefgh\r\n0\r\n\r\n",
        b"8\r\nabcdefgh\r\n0\r\n\r\n",
        b"0\r\n\r\n",
    ]
    assert all(b"transfer-encoding: chunked\r\n" in request for request in core.requests)


async def test_answer_comes_back_as_it_is(core: Core) -> None:
    core.answer = (
        b"HTTP/1.1 429 Too Many\r\nX-One: a\r\nSet-Cookie: x\r\nx-one: b\xe9\r\nConnection: close\r\n"
        b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    client = Client()
    await passage(core).handle(client.exchange)
    assert client.sent[0]["headers"] == [(b"x-one", b"a"), (b"set-cookie", b"x"), (b"x-one", b"b\xe9")]
    assert (client.status, client.answer) == (429, b"abcde")
    assert client.exchange.note.is_passed_on


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\netag: x\r\n\r\n"),
        ("POST", b"HTTP/1.1 204 No Content\r\n\r\n"),
    ],
)
async def test_answer_without_a_body_ends_with_its_head(core: Core, method: str, answer: bytes) -> None:
    core.answer = answer
    client = Client(method, b"/v1/x", [(b"host", b"h")], b"")
    async with asyncio.timeout(2):
        await passage(core).handle(client.exchange)
    assert client.answer == b""


async def test_pieces_of_a_stream_are_passed_on_as_they_come(core: Core) -> None:
    more = asyncio.Event()

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await more.wait()
        writer.write(b"3\r\ntwo\r\n0\r\n\r\n")

    core.script = stream
    client = Client()
    passing = asyncio.create_task(passage(core).handle(client.exchange))
    await until(lambda: client.answer == b"one")
    more.set()
    await passing
    assert client.answer == b"onetwo"


async def test_client_that_leaves_ends_the_request_at_the_core(core: Core) -> None:
    left = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            pass
        left.set()

    core.script = wait
    client = Client("POST", b"/v1/predictions", [(b"content-length", b"2")], b"{}")
    passing = asyncio.create_task(passage(core).handle(client.exchange))
    await asyncio.sleep(0.05)
    client.gone.set()
    with pytest.raises(ClientGone):
        await passing
    async with asyncio.timeout(2):
        await left.wait()


async def test_answer_before_the_body_was_read_is_passed_on(core: Core) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")

    core.script = refuse
    client = Client("POST", b"/v1/files", [(b"content-length", b"%d" % 2**30)], *[b"x" * 2**20] * 100)
    async with asyncio.timeout(5):
        await passage(core).handle(client.exchange)
    assert client.status == 413


async def test_answer_of_a_core_that_has_closed_already_is_not_lost_with_the_body(core: Core) -> None:
    """A transport that failed to write the body threw away the refusal that had come."""
    closed = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 415 Unsupported\r\ncontent-length: 2\r\n\r\nno")
        await writer.drain()
        writer.close()
        closed.set()

    core.script = refuse
    client = Client("POST", b"/v1/predictions", [(b"content-length", b"6")], b"abc", b"def")
    receive = client.exchange._receive

    async def late() -> Any:
        await closed.wait()
        time.sleep(0.01)  # noqa: ASYNC251 - the answer is there, and nobody has read it yet
        return await receive()

    client.exchange._receive = late
    await passage(core).handle(client.exchange)
    assert (client.status, client.answer) == (415, b"no")


async def test_create_waits_for_the_core_and_is_sent_once(core: Core) -> None:
    core.up.clear()
    client = Client("POST", b"/v1/predictions", [(b"content-length", b"2")])
    passing = asyncio.create_task(passage(core).pass_on(client.exchange, b"{}"))
    await asyncio.sleep(0.1)
    assert core.connections == 0
    core.up.set()
    await passing
    assert (client.status, len(core.requests)) == (200, 1)


async def test_nothing_is_sent_when_the_core_stays_away(core: Core) -> None:
    core.up.clear()
    client = Client("POST", b"/v1/predictions", [(b"content-length", b"2")])
    with pytest.raises(Overloaded):
        await passage(core, wait_s=0.1).pass_on(client.exchange, b"{}")
    assert core.connections == 0
    assert not client.exchange.note.is_passed_on, "this process answers it"


async def test_too_many_do_not_wait(core: Core) -> None:
    core.up.clear()
    one = passage(core, max_waiters=1, wait_s=2)
    first = asyncio.create_task(one.handle(Client().exchange))
    await asyncio.sleep(0.02)
    with pytest.raises(Overloaded, match="too many"):
        await one.handle(Client().exchange)
    core.up.set()
    await first


@pytest.mark.parametrize(("method", "times"), [("GET", 2), ("HEAD", 2), ("POST", 1), ("DELETE", 1), ("PATCH", 1)])
async def test_only_a_request_that_reads_is_sent_again_when_the_core_was_lost(
    core: Core, method: str, times: int
) -> None:
    async def die_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if core.connections > 1:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    core.script = die_once
    client = Client(method, b"/v1/x", [(b"host", b"h")], b"")
    if times == 2:
        await passage(core).handle(client.exchange)
        assert client.status == 200
    else:
        with pytest.raises(UpstreamUnavailable, match="may have been carried out"):
            await passage(core).handle(client.exchange)
    assert core.connections == times


async def test_answer_that_is_cut_short_is_never_made_whole(core: Core) -> None:
    core.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"
    client = Client()
    with pytest.raises(UpstreamUnavailable):
        await passage(core).handle(client.exchange)
    assert client.answer == b"half"
    assert client.sent[-1]["more_body"] is True
    assert core.connections == 1
