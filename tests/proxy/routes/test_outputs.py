from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message

from proxy.logs import Note
from proxy.routes import outputs
from proxy.routes.exchange import Exchange
from proxy.routes.outputs import SLICE_BYTES

pytestmark = pytest.mark.anyio


class Client:
    """Takes so many messages and then no more."""

    def __init__(self, takes: int) -> None:
        self.takes = takes
        self.taken: list[Message] = []

    async def send(self, message: Message) -> None:
        if len(self.taken) >= self.takes:
            await asyncio.sleep(60)
        self.taken.append(message)

    def exchange(self) -> Exchange:
        scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "hotplate.note": Note()}
        return Exchange(scope, self.receive, self.send)

    async def receive(self) -> Message:
        return {"type": "http.disconnect"}


@pytest.mark.parametrize("size_bytes", [0, 1, SLICE_BYTES, SLICE_BYTES + 1, 3 * SLICE_BYTES])
async def test_file_is_sent_whole_in_messages_of_bounded_size(size_bytes: int) -> None:
    client, data = Client(100), bytes(range(256)) * (size_bytes // 256 + 1)
    data = data[:size_bytes]
    assert await outputs._write_while_taken(client.exchange(), data) == size_bytes
    assert b"".join(message["body"] for message in client.taken) == data
    assert [message["more_body"] for message in client.taken] == [*[True] * (len(client.taken) - 1), False]
    assert max(len(message["body"]) for message in client.taken) <= SLICE_BYTES


async def test_file_is_held_no_longer_for_a_client_that_takes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "HOLD_S", 0.05)
    client = Client(2)
    assert await outputs._write_while_taken(client.exchange(), bytes(5 * SLICE_BYTES)) == 2 * SLICE_BYTES
    assert len(client.taken) == 2
