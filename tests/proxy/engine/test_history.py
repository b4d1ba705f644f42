from __future__ import annotations

import asyncio

import pytest

from proxy.core.ids import PredictionId
from proxy.engine import history as history_module
from proxy.engine.history import KEEP_S, PAGE_ENTRIES, PAGES, History, Label
from storage.digest import Scope
from storage.errors import StorageUnavailable
from tests.fakes.clock import ManualClock
from tests.fakes.stores import MemoryKeyValue

pytestmark = pytest.mark.anyio

MINE, THEIRS = Scope(b"m" * 32), Scope(b"t" * 32)
PIXEL = Label("acme/pixel", "hidden")
LIVE = Label("acme/brush", "hidden", "acme/brush-live")


class Keeper:
    """A history over rows that outlive it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.rows = MemoryKeyValue(self.clock)
        self.history = History(self.rows, self.clock)

    def add(
        self, name: str, scope: Scope = MINE, *, at: float = 0.0, label: Label = PIXEL, up: str | None = None
    ) -> None:
        self.history.add(scope, PredictionId(name), self.clock() + at, label, up)

    async def names(self, scope: Scope = MINE) -> list[str]:
        return [entry.id for entry in await self.history.entries(scope)]

    async def restart(self) -> None:
        await self.history.drain()
        self.history = History(self.rows, self.clock)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "FLUSH_S", 0.0)
    monkeypatch.setattr(history_module, "RETRY_S", 0.0)


async def test_entries_are_newest_first_however_they_came_and_each_scope_sees_its_own() -> None:
    keeper = Keeper()
    keeper.add("b", at=2.0)
    keeper.add("x", THEIRS, at=5.0)
    keeper.add("a", at=1.0)
    keeper.add("d", at=3.0)
    keeper.add("c", at=3.0)
    assert await keeper.names() == ["d", "c", "b", "a"]
    await asyncio.sleep(0.01)
    assert await keeper.names() == ["d", "c", "b", "a"]
    assert await keeper.names(THEIRS) == ["x"]


async def test_everything_is_there_after_a_restart() -> None:
    keeper = Keeper()
    keeper.add("run", label=LIVE, up="theirs")
    keeper.add("hit", at=1.0)
    before = await keeper.history.entries(MINE)
    await keeper.restart()
    assert await keeper.history.entries(MINE) == before
    found = await keeper.history.find(MINE, "run")
    assert found is not None
    assert (found.label, found.upstream_id, found.created_us) == (LIVE, "theirs", round(keeper.clock() * 1_000_000))
    assert await keeper.history.find(THEIRS, "run") is None


async def test_adding_writes_nothing_and_what_comes_together_is_one_row() -> None:
    keeper = Keeper()
    for number in range(50):
        keeper.add(f"p{number}")
    assert await keeper.rows.scan("") == []
    await asyncio.sleep(0.01)
    assert len(await keeper.rows.scan("")) == 1


async def test_oldest_pages_make_room_and_the_newest_survive_a_restart() -> None:
    keeper = Keeper()
    total = PAGE_ENTRIES * (PAGES + 3) + 7
    for number in range(total):
        keeper.add(f"{number:06d}", at=number / 1000)
        if number % 1999 == 0:
            await asyncio.sleep(0.001)
    await keeper.history.drain()
    kept = await keeper.names()
    assert kept == [f"{number:06d}" for number in reversed(range(total - len(kept), total))]
    assert PAGE_ENTRIES * (PAGES - 1) <= len(kept) <= PAGE_ENTRIES * PAGES
    assert len(await keeper.rows.scan("")) <= PAGES
    await keeper.restart()
    assert await keeper.names() == kept
    keeper.add("new", at=total)
    assert await keeper.names() == ["new", *kept]


async def test_old_entries_are_forgotten() -> None:
    keeper = Keeper()
    keeper.add("old")
    await keeper.history.drain()
    keeper.clock.advance(KEEP_S / 2)
    keeper.add("young")
    await keeper.history.drain()
    keeper.clock.advance(KEEP_S / 2 + 1)
    assert await keeper.names() == ["young"]


async def test_memory_over_many_scopes_is_bounded_and_nothing_is_lost() -> None:
    keeper = Keeper()
    keeper.history = History(keeper.rows, keeper.clock, memory_bytes=20_000)
    scopes = [Scope(number.to_bytes(32, "big")) for number in range(100)]
    for turn in range(3):
        for scope in scopes:
            keeper.add(f"turn{turn}", scope, at=turn)
        await asyncio.sleep(0.01)
    assert keeper.history._shelves.used_bytes <= 20_000
    assert keeper.history._unwritten == {}
    for scope in scopes:
        assert await keeper.names(scope) == ["turn2", "turn1", "turn0"]


async def test_store_in_trouble_delays_the_rows_and_loses_nothing() -> None:
    keeper = Keeper()
    keeper.rows.failure = StorageUnavailable("the disk is away")
    for number in range(PAGE_ENTRIES * 2 + 5):
        keeper.add(f"{number:04d}", at=number)
    await asyncio.sleep(0.01)
    assert len(await keeper.names()) == PAGE_ENTRIES * 2 + 5
    keeper.rows.failure = None
    await asyncio.sleep(0.01)
    await keeper.restart()
    assert len(await keeper.names()) == PAGE_ENTRIES * 2 + 5


async def test_row_that_cannot_be_read_counts_as_lost() -> None:
    keeper = Keeper()
    keeper.add("kept")
    await keeper.history.drain()
    (name, _), *_ = await keeper.rows.scan("")
    await keeper.rows.put(name[:-2] + "07", b"{broken")
    await keeper.restart()
    assert await keeper.names() == ["kept"]


async def test_entries_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "MAX_PENDING", 3)
    keeper = Keeper()
    for number in range(5):
        keeper.add(f"{number}", at=number)
    assert len(await keeper.names()) == 3
    await keeper.history.drain()
    keeper.add("later", at=9)
    assert (await keeper.names())[0] == "later"
    await keeper.history.drain()
