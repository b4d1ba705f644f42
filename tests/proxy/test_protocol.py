"""Raw sockets against a real server: what a client may send, for how long, and what it is told when it may not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvicorn
import uvloop
from starlette.types import Message, Receive, Scope, Send

from proxy import tls
from proxy.protocol import MAX_LINGER_BYTES, BoundedHttpProtocol

TIME_LIMIT_S = 0.3
LARGE_BYTES = 32 * 1024**2
"""More than the buffers of the system hold."""

GET = b"GET %s HTTP/1.1\r\nHost: h\r\n\r\n"


class _QuickProtocol(BoundedHttpProtocol):
    """The same rules with short times; ``alive`` tells what a test cannot see from outside."""

    head_timeout_s = TIME_LIMIT_S
    body_timeout_s = TIME_LIMIT_S * 2
    send_timeout_s = TIME_LIMIT_S
    linger_s = 0.5
    max_connections = 8
    alive: set[_QuickProtocol] = set()  # noqa: RUF012 - one server is asked at a time
    most_queued = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.alive.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.alive.discard(self)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        _QuickProtocol.most_queued = max(self.most_queued, len(self.pipeline))


class _App:
    """Answers with the path and the body's size; ``/wait`` first waits for ``release`` or the client's end."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.release = threading.Event()
        self.paths: list[str] = []
        self.disconnects = self.sent_all = 0
        self.large_bytes = LARGE_BYTES
        self.headers_after_body: list[tuple[bytes, bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        self.paths.append(path)
        size = 0
        if path != "/early":
            message: Message = {"more_body": True}
            while message.get("more_body", False):
                if path == "/slow-reader":
                    await asyncio.sleep(TIME_LIMIT_S * 2.5)
                message = await receive()
                if message["type"] == "http.disconnect":
                    self.disconnects += 1
                    return
                size += len(message["body"])
            self.headers_after_body = list(scope["headers"])
        if path == "/wait":
            gone = asyncio.ensure_future(receive())
            while not self.release.is_set():
                await asyncio.sleep(0.005)
                if gone.done():
                    self.disconnects += 1
                    return
            gone.cancel()
        if path in ("/large", "/one"):
            await self._send_large(send, pieces=64 if path == "/large" else 1)
            return
        body = b"%s %d\n" % (path.encode(), size)
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", str(len(body)).encode())],
            }
        )
        await send({"type": "http.response.body", "body": body})

    async def _send_large(self, send: Send, pieces: int) -> None:
        headers = [(b"content-length", b"%d" % self.large_bytes)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number in range(pieces):
            body = bytes(self.large_bytes // pieces)
            await send({"type": "http.response.body", "body": body, "more_body": number < pieces - 1})
        self.sent_all += 1


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Client:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.received = b""

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def read_until(self, ending: bytes) -> bytes:
        while not self.received.endswith(ending):
            data = self.connection.recv(65536)
            assert data, self.received
            self.received += data
        return self.received

    def read_all(self) -> bytes:
        with contextlib.suppress(ConnectionResetError):
            while data := self.connection.recv(65536):
                self.received += data
        return self.received

    def problem(self) -> dict[str, Any]:
        """The last answer before the close, which is a problem object that says "close"."""
        head, _, body = self.read_all().rpartition(b"\r\n\r\n")
        assert b"content-type: application/problem+json\r\n" in head
        assert b"connection: close" in head
        assert f"content-length: {len(body)}\r\n".encode() in head
        problem: dict[str, Any] = orjson.loads(body)
        assert set(problem) == {"title", "detail", "status"}
        assert f"HTTP/1.1 {problem['status']} ".encode() in head
        return problem


class _Live:
    def __init__(self, port: int, app: _App) -> None:
        self.port = port
        self.app = app
        self._clients: list[_Client] = []

    def connect(self, context: ssl.SSLContext | None = None) -> _Client:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            connection = context.wrap_socket(connection, server_hostname="localhost")
        client = _Client(connection)
        self._clients.append(client)
        return client

    def reset(self) -> None:
        self.app.release.set()
        for client in self._clients:
            client.connection.close()
        self._clients.clear()
        _eventually(lambda: not _QuickProtocol.alive)
        self.app.reset()
        _QuickProtocol.most_queued = 0


Runner = Callable[[Coroutine[Any, Any, None]], None]


@contextlib.contextmanager
def _serving(run: Runner, context: ssl.SSLContext | None = None, keep_alive_s: int = 5) -> Iterator[_Live]:
    listener = socket.create_server(("127.0.0.1", 0))
    app = _App()
    config = uvicorn.Config(
        app,
        loop="none",
        http=_QuickProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_keep_alive=keep_alive_s,
    )
    config.load()
    config.ssl = context
    server = _Server(config)
    thread = threading.Thread(target=lambda: run(server.serve(sockets=[listener])))
    thread.start()
    live = _Live(listener.getsockname()[1], app)
    try:
        yield live
    finally:
        live.reset()
        while not server.started:
            time.sleep(0.005)
        server.should_exit = True
        thread.join(10)
        listener.close()
        assert not thread.is_alive()


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"], scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[_Live]:
    with _serving(request.param) as live:
        yield live


@pytest.fixture
def live(server: _Live) -> Iterator[_Live]:
    yield server
    server.reset()


def _eventually(condition: Callable[[], bool]) -> None:
    due_at = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < due_at
        time.sleep(0.005)


# Requests that are as they should be.


def test_requests_follow_each_other_on_one_connection(live: _Live) -> None:
    client = live.connect()
    for number in range(3):
        client.send(b"POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello" % number)
        client.read_until(b"/%d 5\n" % number)


def test_idle_time_between_requests_is_no_slow_head(live: _Live) -> None:
    client = live.connect()
    client.send(GET % b"/a")
    client.read_until(b"/a 0\n")
    time.sleep(TIME_LIMIT_S * 2)
    client.send(GET % b"/b")
    client.read_until(b"/b 0\n")


def test_pipelined_requests_are_answered_in_order(live: _Live) -> None:
    client = live.connect()
    client.send(GET % b"/a" + b"POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc" + GET % b"/c")
    received = client.read_until(b"/c 0\n")
    assert received.index(b"/a 0\n") < received.index(b"/b 3\n")
    assert received.count(b"HTTP/1.1 200 OK") == 3


def test_head_may_come_byte_by_byte(live: _Live) -> None:
    client = live.connect()
    for byte in b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + GET % b"/b":
        client.send(bytes([byte]))
    received = client.read_until(b"/b 0\n")
    assert b"/a 3\n" in received


def test_head_of_exactly_the_limit_is_read(live: _Live) -> None:
    head = b"GET /a HTTP/1.1\r\nHost: h\r\nX: %s\r\n\r\n"
    filler = b"x" * (BoundedHttpProtocol.max_head_bytes - len(head % b""))
    client = live.connect()
    client.send(head % filler)
    client.read_until(b"/a 0\n")
    client.send(head % filler)
    client.read_until(b"/a 0\n")


def test_head_and_a_body_much_larger_than_a_head_in_one_write(live: _Live) -> None:
    size = 3_000_000
    client = live.connect()
    client.send(b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size + GET % b"/b")
    received = client.read_until(b"/b 0\n")
    assert b"/a %d\n" % size in received


def test_chunked_body_of_many_small_chunks_is_no_large_head(live: _Live) -> None:
    client = live.connect()
    client.send(b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 50_000)
    client.send(b"0\r\n\r\n")
    client.read_until(b"/a 50000\n")


def test_expect_100_continue_waits_for_the_app(live: _Live) -> None:
    client = live.connect()
    client.send(b"POST /slow-reader HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
    client.read_until(b"HTTP/1.1 100 Continue\r\n\r\n")
    client.send(b"abc")
    client.read_until(b"/slow-reader 3\n")


def test_trailers_do_not_become_headers(live: _Live) -> None:
    client = live.connect()
    client.send(b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nAuthorization: t\r\n\r\n")
    client.read_until(b"/a 0\n")
    assert [name for name, _ in live.app.headers_after_body] == [b"host", b"transfer-encoding"]


@pytest.mark.parametrize("token", [b"websocket", b"h2c"])
def test_upgrade_is_ignored_and_the_connection_goes_on(live: _Live, token: bytes) -> None:
    """The parser ends a request that asks for an upgrade at its head: the body was read as the next request."""
    upgrade = b"%s HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: %s\r\n"
    length = upgrade % (b"POST /c", token) + b"Content-Length: 3\r\n\r\nabc"
    chunked = upgrade % (b"POST /e", token) + b"Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n"
    client = live.connect()
    client.send(upgrade % (b"GET /a", token) + b"\r\n" + GET % b"/b")
    client.read_until(b"/b 0\n")
    client.send(length + GET % b"/d" + chunked)
    client.read_until(b"/e 4\n")
    for byte in length:
        client.send(bytes([byte]))
    received = client.read_until(b"/c 3\n")
    assert received.count(b"HTTP/1.1 200 OK") == 6
    assert live.app.paths == ["/a", "/b", "/c", "/d", "/e", "/c"]


# Requests that are too large.


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: h\r\n" + b"X: a\r\n" * 201 + b"\r\n",
        b"GET /a HTTP/1.1\r\n" + b"X: a\r\n" * 20_000,
        b"\r\n" * 40_000,
    ],
    ids=["path", "one header", "201 headers", "endless headers", "endless empty lines"],
)
def test_large_head_is_answered_431(live: _Live, request_bytes: bytes) -> None:
    client = live.connect()
    client.send(request_bytes)
    assert client.problem()["status"] == 431
    assert live.app.paths == []


def test_200_headers_are_read(live: _Live) -> None:
    client = live.connect()
    client.send(b"GET /a HTTP/1.1\r\nHost: h\r\n" + b"X: a\r\n" * 199 + b"\r\n")
    client.read_until(b"/a 0\n")


@pytest.mark.parametrize(
    "unit",
    [b"x", b"\r\nX: a"],
    ids=["one header", "many headers"],
)
def test_endless_head_is_cut_off(live: _Live, unit: bytes) -> None:
    client = live.connect()
    client.send(b"GET /a HTTP/1.1\r\nHost: h\r\nX: ")
    block = unit * (65536 // len(unit))
    sent_bytes = 0
    with contextlib.suppress(OSError):  # a reset or a broken pipe
        while sent_bytes < 150_000_000:
            client.send(block)
            sent_bytes += len(block)
    # What the server read and dropped, and what two kernels buffer.
    assert sent_bytes < MAX_LINGER_BYTES + 16 * 1024 * 1024
    _eventually(lambda: not _QuickProtocol.alive)


@pytest.mark.parametrize("unit", [b"X: a\r\n", b"x"], ids=["trailers", "one trailer"])
def test_endless_trailer_ends_the_request(live: _Live, unit: bytes) -> None:
    client = live.connect()
    client.send(b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
    client.send(unit * 200_000)
    assert client.problem()["status"] == 431
    _eventually(lambda: live.app.disconnects == 1)


def test_requests_are_read_ahead_only_so_far(live: _Live) -> None:
    client = live.connect()
    client.send(GET % b"/wait" + GET % b"/a" * 2000)
    _eventually(lambda: live.app.paths == ["/wait"] and _QuickProtocol.most_queued > 0)
    live.app.release.set()
    received = client.read_all()
    assert _QuickProtocol.most_queued == BoundedHttpProtocol.max_pipelined
    assert received.count(b"HTTP/1.1 200 OK") == BoundedHttpProtocol.max_pipelined + 1


# Requests that are too slow.


def test_slow_head_is_answered_408_though_it_keeps_moving(live: _Live) -> None:
    client = live.connect()
    client.send(b"GET /a HTTP/1.1\r\n")
    began_at = time.monotonic()
    with contextlib.suppress(OSError):
        while time.monotonic() - began_at < TIME_LIMIT_S * 2:
            client.send(b"X: a\r\n")
            time.sleep(0.05)
    assert client.problem()["status"] == 408


def test_slow_second_head_is_answered_408(live: _Live) -> None:
    client = live.connect()
    client.send(GET % b"/a" + b"GET /b")
    assert client.problem()["status"] == 408
    assert b"/a 0\n" in client.received


@pytest.mark.parametrize("sent", [b"", b"\r\n"])
def test_client_that_asks_nothing_is_closed_without_an_answer(live: _Live, sent: bytes) -> None:
    client = live.connect()
    client.send(sent)
    assert client.read_all() == b""


def test_body_that_stops_is_answered_408_and_the_app_sees_a_disconnect(live: _Live) -> None:
    client = live.connect()
    client.send(b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc")
    assert client.problem()["status"] == 408
    _eventually(lambda: live.app.disconnects == 1)


def test_body_that_drips_is_answered_408_though_it_keeps_moving(live: _Live) -> None:
    client = live.connect()
    client.send(b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n")
    began = time.monotonic()
    while not live.app.disconnects and time.monotonic() - began < 10:
        time.sleep(TIME_LIMIT_S / 3)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            client.send(b"x")
    assert TIME_LIMIT_S * 2 < time.monotonic() - began < TIME_LIMIT_S * 8
    assert client.problem()["status"] == 408


@pytest.mark.slow
def test_chunks_that_drip_are_answered_408(live: _Live) -> None:
    client = live.connect()
    client.send(b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        for byte in b"1;" + b"x" * 60:
            time.sleep(TIME_LIMIT_S / 6)
            client.send(bytes([byte]))
    _eventually(lambda: live.app.disconnects == 1)


@pytest.mark.slow
def test_body_that_comes_quickly_enough_may_take_long(live: _Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_QuickProtocol, "body_bytes_per_s", 10)
    client = live.connect()
    client.send(b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n")
    for _ in range(10):
        time.sleep(TIME_LIMIT_S / 2)
        client.send(b"x" * 10)
    client.read_until(b"/a 100\n")


def test_body_that_the_app_reads_late_is_not_the_clients_fault(live: _Live) -> None:
    size = 200_000
    client = live.connect()
    client.send(b"POST /slow-reader HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
    client.read_until(b"/slow-reader %d\n" % size)


def test_rest_of_a_body_already_answered_is_not_waited_for(live: _Live) -> None:
    client = live.connect()
    client.send(b"POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc")
    assert client.read_all().endswith(b"/early 0\n")


def test_connection_that_was_ended_is_closed_though_the_client_stays(live: _Live) -> None:
    client = live.connect()
    client.send(b"nonsense\r\n\r\n")
    client.problem()
    _eventually(lambda: not _QuickProtocol.alive)


# Clients that do not take their answers, and too many of them.


@pytest.mark.parametrize("path", [b"/large", b"/one"])
def test_client_that_reads_nothing_is_dropped_and_holds_nothing(live: _Live, path: bytes) -> None:
    client = live.connect()
    client.send(GET % path)
    _eventually(lambda: any(protocol.transport.get_write_buffer_size() for protocol in tuple(_QuickProtocol.alive)))
    began = time.monotonic()
    _eventually(lambda: not _QuickProtocol.alive)
    assert time.monotonic() - began < TIME_LIMIT_S * 4
    _eventually(lambda: live.app.sent_all == 1)  # the app goes on, and nothing of that is kept
    with contextlib.suppress(ConnectionResetError):
        while client.connection.recv(1 << 20):
            pass


def test_client_that_reads_nothing_holds_no_connection_that_is_to_be_closed(live: _Live) -> None:
    client = live.connect()
    client.send(b"GET /one HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    _eventually(lambda: live.app.sent_all == 1)
    _eventually(lambda: not _QuickProtocol.alive)


@pytest.mark.slow
def test_client_that_reads_slowly_gets_all(live: _Live) -> None:
    live.app.large_bytes = 8 * 1024**2
    for path in (b"/large", b"/one"):
        client = live.connect()
        client.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.send(GET % path)
        began, received = time.monotonic(), 0
        while received < 8 * 1024**2:
            data = client.connection.recv(256 * 1024)
            assert data
            received += len(data)
            if time.monotonic() - began < TIME_LIMIT_S * 3:
                time.sleep(TIME_LIMIT_S / 10)
        assert time.monotonic() - began > TIME_LIMIT_S * 2


def test_one_connection_too_many_is_turned_away_and_the_others_stay(live: _Live) -> None:
    clients = [live.connect() for _ in range(8)]
    for client in clients:
        client.send(GET % b"/a")
        client.read_until(b"/a 0\n")
    for _ in range(5):
        one_more = live.connect()
        assert b"retry-after: 1\r\n" in one_more.read_all()
        assert one_more.problem()["status"] == 503
    for client in clients:
        client.send(GET % b"/b")
        client.read_until(b"/b 0\n")
    clients[0].connection.close()
    _eventually(lambda: len(_QuickProtocol.alive) == 7)
    again = live.connect()
    again.send(GET % b"/c")
    again.read_until(b"/c 0\n")


# Requests that are not HTTP.


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"GET /a HTTP/1.1\r\nHost : h\r\n\r\n",
        b"CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n",
    ],
    ids=["nonsense", "length and chunked", "chunked and length", "two lengths", "space before colon", "connect"],
)
def test_broken_request_is_answered_400(live: _Live, request_bytes: bytes) -> None:
    client = live.connect()
    client.send(request_bytes)
    assert client.problem()["status"] == 400
    assert live.app.paths == []


def test_broken_chunk_ends_the_request_it_belongs_to(live: _Live) -> None:
    client = live.connect()
    client.send(b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
    _eventually(lambda: live.app.paths == ["/a"])
    client.send(b"zz\r\n")
    assert client.problem()["status"] == 400
    _eventually(lambda: live.app.disconnects == 1)


@pytest.mark.parametrize(
    "after",
    [b"nonsense\r\n\r\n", b"POST /b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"],
    ids=["head", "body"],
)
def test_answer_to_a_broken_request_waits_for_the_response_before_it(live: _Live, after: bytes) -> None:
    client = live.connect()
    client.send(GET % b"/wait" + GET % b"/a" + after)
    _eventually(lambda: live.app.paths == ["/wait"])
    time.sleep(TIME_LIMIT_S)
    live.app.release.set()
    assert client.problem()["status"] == 400
    assert client.received.index(b"/wait 0\n") < client.received.index(b"/a 0\n") < client.received.index(b" 400 ")
    assert live.app.paths == ["/wait", "/a"]


def test_request_in_progress_sees_the_client_leave_with_others_queued_behind_it(live: _Live) -> None:
    client = live.connect()
    client.send(GET % b"/wait")
    _eventually(lambda: live.app.paths == ["/wait"])
    client.send(GET % b"/a")
    _eventually(lambda: _QuickProtocol.most_queued == 1)
    (protocol,) = _QuickProtocol.alive
    protocol.loop.call_soon_threadsafe(protocol.transport.abort)
    _eventually(lambda: live.app.disconnects == 1)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_over_tls_the_same_answers(tmp_path: Path, run: Runner) -> None:
    files = tls.LocalAuthority(tmp_path, ["localhost"]).ensure()
    trust = ssl.create_default_context(cafile=str(files.ca_file))
    with _serving(run, tls.server_context(files)) as live:
        for request_bytes, status in [
            (b"GET /" + b"a" * 300_000, 431),
            (b"nonsense\r\n\r\n", 400),
            (b"GET /a HTTP/1.1\r\n", 408),
        ]:
            client = live.connect(trust)
            client.send(request_bytes)
            assert client.problem()["status"] == status
            client.connection.close()
        _eventually(lambda: not _QuickProtocol.alive)


@pytest.mark.slow
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("path", [b"/large", b"/one"])
@pytest.mark.parametrize("connection", [b"close", b"keep-alive"])
def test_over_tls_a_client_that_reads_nothing_is_dropped(
    tmp_path: Path, run: Runner, path: bytes, connection: bytes
) -> None:
    """TLS takes large messages whole, so that nothing seems to wait until the connection is to be closed."""
    files = tls.LocalAuthority(tmp_path, ["localhost"]).ensure()
    trust = ssl.create_default_context(cafile=str(files.ca_file))
    with _serving(run, tls.server_context(files), keep_alive_s=1) as live:
        client = live.connect(trust)
        client.send(b"GET %b HTTP/1.1\r\nHost: h\r\nConnection: %b\r\n\r\n" % (path, connection))
        _eventually(lambda: live.app.sent_all == 1)
        _eventually(lambda: not _QuickProtocol.alive)


@pytest.mark.slow
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("path", [b"/large", b"/one"])
@pytest.mark.parametrize("connection", [b"close", b"keep-alive"])
def test_over_tls_a_client_that_reads_slowly_gets_all(
    tmp_path: Path, run: Runner, path: bytes, connection: bytes
) -> None:
    files = tls.LocalAuthority(tmp_path, ["localhost"]).ensure()
    trust = ssl.create_default_context(cafile=str(files.ca_file))
    with _serving(run, tls.server_context(files), keep_alive_s=1) as live:
        client = live.connect(trust)
        client.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.send(b"GET %b HTTP/1.1\r\nHost: h\r\nConnection: %b\r\n\r\n" % (path, connection))
        began, received = time.monotonic(), 0
        while received < LARGE_BYTES:
            data = client.connection.recv(64 * 1024)
            assert data
            received += len(data)
            if time.monotonic() - began < 4:
                time.sleep(TIME_LIMIT_S / 30)
        assert time.monotonic() - began > 4
