"""The line between core and edges, over a real socket: what both ends promise each other."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from proxy.engine.channel import MAX_UNREAD_BYTES, CoreChannel, pack, read_frame
from proxy.engine.edge_channel import BATCH_S, EdgeChannel, NoAnswer
from tests.fakes.cog_server import until

pytestmark = pytest.mark.anyio


class Line:
    """A core that can go away and come back at one path, whose listening socket stays, and an edge."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.path)
        self.listener.listen()
        self.listener.setblocking(False)
        self.core = CoreChannel()
        self.edge = EdgeChannel(self.path)
        self.heard: list[tuple[str, Any]] = []
        self._running: asyncio.Task[None] | None = None

    def hear(self, *topics: str) -> None:
        for topic in topics:
            self.edge.subscribe(topic, lambda payload, topic=topic: self.heard.append((topic, payload)))
        self.edge.on_connect(lambda: self.heard.append(("connected", None)))

    async def up(self) -> None:
        await self.core.serve(self.listener.dup())
        if self._running is None:
            self._running = asyncio.create_task(self.edge.run())
        assert await self.edge.wait_until_up(5)

    async def down(self) -> None:
        await self.core.aclose()
        await until(lambda: not self.edge.is_up)
        self.core = CoreChannel()

    async def aclose(self) -> None:
        if self._running is not None:
            self._running.cancel()
            with suppress(asyncio.CancelledError):
                await self._running
        await self.core.aclose()
        self.listener.close()


@pytest.fixture
async def line(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Line]:
    line = Line(tmp_path / "channel")
    yield line
    await line.aclose()


async def test_each_connection_is_a_line_of_its_own(line: Line) -> None:
    assert line.edge.line is None
    await line.up()
    first = line.edge.line
    assert first is not None
    await line.down()
    assert line.edge.line is None
    await line.up()
    assert line.edge.line not in (None, first)


async def test_edge_hears_the_snapshot_first_and_then_events_in_their_order(line: Line) -> None:
    line.hear("switch", "standing", "results")
    line.core.publish("switch", "off", lasts=True)
    line.core.publish("switch", "on", lasts=True)
    line.core.publish("results", ["before anybody was there"])
    line.core.snapshot("standing", lambda: [["ab", 1.5]])
    await line.up()
    for number in range(100):
        line.core.publish("results", [number])
    await until(lambda: len(line.heard) == 103)
    assert line.heard[:3] == [("connected", None), ("switch", "on"), ("standing", [["ab", 1.5]])]
    assert line.heard[3:] == [("results", [number]) for number in range(100)]
    assert line.core.pids == [os.getpid()]


async def test_event_arrives_within_milliseconds(line: Line) -> None:
    arrived = asyncio.Event()
    line.edge.subscribe("results", lambda payload: arrived.set())
    await line.up()
    taken: list[float] = []
    for _ in range(20):
        arrived.clear()
        said_at = time.perf_counter()
        line.core.publish("results", [])
        await arrived.wait()
        taken.append(time.perf_counter() - said_at)
    assert sorted(taken)[10] < 0.1


async def test_edge_is_not_up_while_the_core_is_away_and_begins_anew_with_the_next_one(line: Line) -> None:
    line.hear("switch")
    line.core.publish("switch", "first", lasts=True)
    await line.up()
    await line.down()
    with pytest.raises(NoAnswer):
        await line.edge.ask("any", None, 5)
    assert not await line.edge.wait_until_up(0.05)
    line.core.publish("switch", "second", lasts=True)
    await line.up()
    assert line.heard == [("connected", None), ("switch", "first"), ("connected", None), ("switch", "second")]


async def test_news_that_cannot_be_taken_in_takes_the_edge_down(line: Line) -> None:
    line.hear("results")
    line.edge.subscribe("standing", lambda payload: payload["no"])
    await line.up()
    line.core.publish("standing", [])
    await until(lambda: line.heard.count(("connected", None)) == 2)


async def test_what_edges_tell_arrives_in_order_and_in_few_batches(line: Line) -> None:
    told: list[int] = []
    line.core.hear("request", told.append)
    await line.up()
    for number in range(1000):
        line.edge.tell("request", number)
    await until(lambda: len(told) == 1000)
    assert told == list(range(1000))


async def test_a_single_word_is_sent_at_once(line: Line) -> None:
    told: list[float] = []
    line.core.hear("request", lambda payload: told.append(time.perf_counter()))
    await line.up()
    await asyncio.sleep(2 * BATCH_S)
    said_at = time.perf_counter()
    line.edge.tell("request", None)
    await asyncio.sleep(0)
    assert line.edge._pending == [], "not after the pause between batches"
    await until(lambda: bool(told))
    assert told[0] - said_at < 1.0


async def test_what_is_told_while_the_core_is_away_arrives_later(line: Line) -> None:
    await line.up()
    await line.down()
    told: list[Any] = []
    line.edge.tell("request", "kept")
    line.core.hear("request", told.append)
    await line.up()
    await until(lambda: bool(told))
    assert told == ["kept"]


async def test_what_is_told_last_arrives_although_the_edge_ends(line: Line) -> None:
    told: list[Any] = []
    line.core.hear("request", told.append)
    await line.up()
    line.edge.tell("request", 1)
    line.edge.tell("request", 2)
    assert line._running is not None
    line._running.cancel()
    await asyncio.wait([line._running])
    await until(lambda: len(told) == 2)


async def test_all_that_edges_have_to_tell_is_there_once_it_has_settled(line: Line) -> None:
    told: list[Any] = []
    line.core.hear("request", told.append)
    await line.core.settle()
    await line.up()
    line.edge.tell("request", 1)
    await until(lambda: told == [1])
    line.edge.tell("request", 2)
    await line.core.settle()
    assert told == [1, 2], "without the pause between two batches"


async def test_edge_that_hangs_or_leaves_holds_nobody_up(line: Line) -> None:
    await line.core.serve(line.listener.dup())
    _, writer = await asyncio.open_unix_connection(line.path)
    writer.write(pack(["hello", 1]))
    await until(lambda: line.core.pids == [1])
    began_at = time.perf_counter()
    await line.core.settle()
    assert 0.2 < time.perf_counter() - began_at < 2.0
    settling = asyncio.create_task(line.core.settle())
    await asyncio.sleep(0.01)
    began_at = time.perf_counter()
    writer.close()
    await settling
    assert time.perf_counter() - began_at < 0.2


async def test_bad_entry_does_not_cost_the_others(line: Line) -> None:
    told: list[Any] = []

    def hear(payload: Any) -> None:
        if payload == "bad":
            raise ValueError
        told.append(payload)

    line.core.hear("request", hear)
    await line.up()
    for payload in ("one", "bad", "two"):
        line.edge.tell("request", payload)
    line.edge.tell("nobody listens", None)
    await until(lambda: len(told) == 2)
    assert line.edge.is_up


async def test_questions_are_answered_each_its_own_way(line: Line) -> None:
    gate = asyncio.Event()

    async def answer(payload: Any) -> Any:
        if payload == "late":
            await gate.wait()
        if payload == "broken":
            raise ValueError
        return [payload]

    line.core.answer("echo", answer)
    await line.up()
    late = asyncio.create_task(line.edge.ask("echo", "late", 5))
    assert await line.edge.ask("echo", "soon", 5) == ["soon"]
    for topic, payload in (("echo", "broken"), ("unknown", None)):
        with pytest.raises(NoAnswer):
            await line.edge.ask(topic, payload, 5)
    with pytest.raises(NoAnswer):
        await line.edge.ask("echo", "late", 0.01)
    gate.set()
    assert await late == ["late"]


async def test_question_under_way_has_no_answer_when_the_core_goes(line: Line) -> None:
    async def never(payload: Any) -> Any:
        await asyncio.Event().wait()

    line.core.answer("echo", never)
    await line.up()
    asking = asyncio.create_task(line.edge.ask("echo", None, 60))
    await asyncio.sleep(0.01)
    await line.down()
    with pytest.raises(NoAnswer):
        await asking


async def test_edge_that_does_not_read_is_cut_off(line: Line) -> None:
    await line.core.serve(line.listener.dup())
    reader, writer = await asyncio.open_unix_connection(line.path, limit=1024)
    writer.write(pack(["hello", 1]))
    assert await read_frame(reader) == ["snapshot", {}]
    text = "x" * 1024**2
    for _ in range(2 * MAX_UNREAD_BYTES // len(text)):
        line.core.publish("results", text)
    assert line.core.pids == []
    writer.close()


async def test_stranger_on_the_socket_is_sent_away(line: Line) -> None:
    await line.core.serve(line.listener.dup())
    for words in (b"GET / HTTP/1.1\r\n\r\n", pack(["told", []]), b"\xff\xff\xff\xff"):
        reader, writer = await asyncio.open_unix_connection(line.path)
        writer.write(words)
        if words.startswith(b"GET"):
            writer.write_eof()
        with suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
    assert line.core.pids == []
