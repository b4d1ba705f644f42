from __future__ import annotations

import asyncio
import resource

import pytest

from proxy.system import affordable_connections, look

ENDLESS = resource.RLIM_INFINITY


class Limits:
    """The system's limits of open files, in place of the real ones."""

    def __init__(self, soft: int, hard: int, *, may_raise: bool = True) -> None:
        self.soft, self.hard, self.may_raise = soft, hard, may_raise

    def get(self, kind: int) -> tuple[int, int]:
        return self.soft, self.hard

    def set(self, kind: int, limits: tuple[int, int]) -> None:
        if not self.may_raise or limits[1] != self.hard:
            raise ValueError("not allowed")
        self.soft = limits[0]


@pytest.mark.parametrize(
    ("soft", "hard", "connections", "then"),
    [
        (1024, 500_000, 10_000, 13_334),
        (1024, ENDLESS, 10_000, 13_334),
        (1024, 4096, 3072, 4096),
        (50_000, 500_000, 10_000, 50_000),
        (ENDLESS, ENDLESS, 10_000, ENDLESS),
        (1, 1, 1, 1),
    ],
)
def test_limit_is_raised_as_far_as_needed_and_allowed(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, connections: int, then: int
) -> None:
    limits = Limits(soft, hard)
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    monkeypatch.setattr(resource, "setrlimit", limits.set)
    assert affordable_connections(10_000) == connections
    assert limits.soft == then


def test_limit_that_cannot_be_raised_bounds_the_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(1024, 500_000, may_raise=False)
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    monkeypatch.setattr(resource, "setrlimit", limits.set)
    assert affordable_connections(10_000) == 768


@pytest.mark.anyio
async def test_what_the_other_side_has_taken_is_seen_and_what_is_left_for_it() -> None:
    gate = asyncio.Event()

    async def read_later(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        await reader.readexactly(8 * 1024**2)
        writer.close()

    server = await asyncio.start_server(read_later, "127.0.0.1", 0, limit=4096)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(bytes(8 * 1024**2))
    await asyncio.sleep(0.1)
    taken, left = look(writer.transport)
    assert 0 <= taken < 8 * 1024**2
    assert left > 0
    assert taken + left == pytest.approx(8 * 1024**2, abs=64 * 1024)
    gate.set()
    await writer.drain()
    for _ in range(100):
        taken_then, left_then = look(writer.transport)
        if not left_then:
            break
        await asyncio.sleep(0.02)
    assert (left_then, taken_then > taken) == (0, True)
    writer.close()
    server.close()


class Silent(asyncio.WriteTransport):
    """A transport of which the system tells nothing."""

    held_bytes = 5000

    def get_write_buffer_size(self) -> int:
        return self.held_bytes


def test_where_the_system_tells_nothing_our_own_share_must_do() -> None:
    transport = Silent()
    taken, left = look(transport)
    assert left == 5000
    transport.held_bytes = 2000
    assert look(transport)[0] - taken == 3000
