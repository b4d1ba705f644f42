"""What the flows cannot show: readers that take nothing, readers that go, and refusals in every form."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from starlette.types import Message

from proxy.core.sse import Parser
from proxy.engine import streams as engine_streams
from proxy.engine.recent import Running
from proxy.logs import Note
from proxy.routes import streams as routes_streams
from proxy.routes.exchange import Endpoint, Exchange
from proxy.routes.streams import Streams
from tests.fakes.engine import Engine
from tests.fakes.streaming import TEXT_STREAM, StreamingUpstream

pytestmark = pytest.mark.anyio


class Client:
    """A client of one stream: ``is_gone`` makes it leave, ``takes`` says whether it takes what is sent."""

    def __init__(self, token: str, method: str = "GET", **headers: str) -> None:
        self.is_gone, self.takes = asyncio.Event(), asyncio.Event()
        self.takes.set()
        self.sent: list[Message] = []
        self.note = Note()
        self.scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": f"/streams/{token}",
            "path_params": {"id": token},
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
            "hotplate.note": self.note,
        }
        self._asked = False

    async def receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.is_gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await self.takes.wait()
        self.sent.append(message)

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    @property
    def is_complete(self) -> bool:
        return self.sent[-1]["type"] == "http.response.body" and not self.sent[-1].get("more_body", False)


class Place:
    """The handlers over an engine in front of a scripted upstream."""

    def __init__(self) -> None:
        self.engine = Engine()
        self.upstream = StreamingUpstream(self.engine.clock, stream_url=TEXT_STREAM)
        self.engine.upstream = self.upstream
        services: Any = SimpleNamespace(streams=self.engine.streams, stream_book=self.engine.stream_book)
        self.handlers = Streams(services)

    async def begin(self) -> tuple[Running, str]:
        """A prediction on its way, and its stream's token."""
        entry = await self.engine.create({"prompt": "x", "seed": 1})
        assert isinstance(entry, Running)
        return entry, self.engine.stream_book.path(entry.id, entry.results_scope, makes_files=False).rpartition("/")[2]

    def open(self, client: Client) -> asyncio.Task[None]:
        endpoint = Endpoint({}, self.handlers.handle)
        return asyncio.create_task(endpoint(client.scope, client.receive, client.send))

    async def end(self, entry: Running) -> None:
        self.upstream.connections[0].say(("7:0", "output", "a"), ("7:1", "done", "{}"))
        self.upstream.succeed(["a"])
        await entry.flight.finished(5)


async def settle() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


async def test_reader_is_answered_before_anything_is_said_and_told_to_the_end() -> None:
    place = Place()
    entry, token = await place.begin()
    client = Client(token)
    task = place.open(client)
    await settle()
    assert client.status == 200
    assert client.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert client.note.outcome == "stream"
    await place.end(entry)
    await task
    assert [event.name for event in Parser().feed(client.body)] == ["output", "done"]
    assert client.is_complete


async def test_reader_that_leaves_a_silent_stream_frees_its_place_at_once() -> None:
    place = Place()
    entry, token = await place.begin()
    client = Client(token)
    task = place.open(client)
    await settle()
    assert place.engine.streams._listening.total() == 1
    client.is_gone.set()
    await task
    assert place.engine.streams._listening.total() == 0
    assert client.note.error is None
    await settle()
    await place.end(entry)


async def test_reader_that_takes_nothing_loses_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes_streams, "SEND_TIMEOUT_S", 0.02)
    place = Place()
    entry, token = await place.begin()
    client = Client(token)
    task = place.open(client)
    await settle()
    client.takes.clear()
    await place.end(entry)
    await asyncio.wait_for(task, 5)
    assert place.engine.streams._listening.total() == 0
    assert not client.is_complete, "a stream that was cut looks whole"


async def test_one_reader_too_many_is_told_when_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_streams, "MAX_LISTENERS_EACH", 1)
    place = Place()
    entry, token = await place.begin()
    first, second = Client(token), Client(token)
    place.open(first)
    await settle()
    await place.open(second)
    assert second.status == 503
    assert second.headers["retry-after"] == "5"
    assert second.headers["access-control-allow-origin"] == "*"
    first.is_gone.set()
    await settle()
    await place.end(entry)


async def test_reader_that_has_heard_the_end_is_told_not_to_come_again() -> None:
    place = Place()
    entry, token = await place.begin()
    client = Client(token)
    task = place.open(client)
    await settle()
    await place.end(entry)
    await task
    last = list(Parser().feed(client.body))[-1].id
    again = Client(token, last_event_id=last)
    await place.open(again)
    assert (again.status, again.body) == (204, b"")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_unknown_token_is_a_problem_that_pages_may_read(method: str) -> None:
    place = Place()
    client = Client("x" * 59, method)
    await place.open(client)
    assert client.status == 404
    assert client.headers["access-control-allow-origin"] == "*"
    assert client.headers["cache-control"] == "no-store"
    assert client.body == b"" if method == "HEAD" else orjson.loads(client.body)["status"] == 404


async def test_what_is_no_stream_goes_to_the_other_handler_of_the_path() -> None:
    place = Place()
    entry, token = await place.begin()
    asked: list[str] = []

    async def files(exchange: Exchange) -> None:
        asked.append(exchange.params["id"])
        await exchange.respond(200, [], b"a file")

    endpoint = Endpoint({}, place.handlers.or_else(files))
    for text in ("bcwr-q3v6", token[:-1], token + "0", token.upper()):
        client = Client(text, "DELETE")
        await endpoint(client.scope, client.receive, client.send)
        assert client.body == b"a file"
    mine = Client(token, "DELETE")
    await endpoint(mine.scope, mine.receive, mine.send)
    assert (mine.status, mine.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    assert len(asked) == 4
    place.upstream.succeed(["a"])
    await entry.flight.finished(5)
