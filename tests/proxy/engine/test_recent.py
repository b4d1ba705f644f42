from __future__ import annotations

import pytest

from proxy.core.ids import PredictionId
from proxy.core.policy import Cached
from proxy.engine import recent
from proxy.engine.coalescer import Flight, Landed
from proxy.engine.recent import KEEP_S, RecentPredictions, Running, Served
from proxy.upstreams.base import Outcome
from storage.digest import RecordId, Scope
from tests.fakes.clock import ManualClock

pytestmark = pytest.mark.anyio

MINE = Scope(b"m" * 32)
YOURS = Scope(b"y" * 32)
ENDED = Landed(Outcome("succeeded", None, None, "", {}, 1.0, 2.0), record=None, is_stored=False)


class Memory:
    """Recent predictions under a clock."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.recent = RecentPredictions(self.clock)

    def served(self, name: str, scope: Scope = MINE, input_bytes: int = 10) -> Served:
        entry = Served(PredictionId(name), scope, {"prompt": name}, input_bytes, self.clock())
        self.recent.add(entry)
        return entry

    def running(self, name: str, *, has_ended: bool = False) -> Running:
        flight = Flight(RecordId(1), None, self.clock())
        if has_ended:
            flight.land(ENDED)
        entry = Running(
            PredictionId(name), MINE, "acme/pixel", "hidden", {}, 10, self.clock(), flight, Cached(), is_follower=False
        )
        self.recent.add(entry)
        return entry

    def names(self) -> list[str]:
        return [str(entry.id) for entry in self.recent.newest(MINE)]


async def test_entry_is_found_by_its_own_scope_alone() -> None:
    memory = Memory()
    entry = memory.served("a")
    assert memory.recent.get("a", MINE) is entry
    assert memory.recent.get("a", YOURS) is None
    assert memory.recent.get("b", MINE) is None
    assert memory.recent.get("", MINE) is None


async def test_newest_come_first_and_only_of_the_own_scope() -> None:
    memory = Memory()
    for name in "abc":
        memory.served(name)
        memory.served(f"not-{name}", YOURS)
    assert memory.names() == ["c", "b", "a"]


async def test_number_of_entries_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MAX_ENTRIES", 3)
    memory = Memory()
    for name in "abcdef":
        memory.served(name)
    assert memory.names() == ["f", "e", "d"]


async def test_bytes_of_inputs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MAX_INPUT_BYTES", 100)
    memory = Memory()
    for name in "abcdef":
        memory.served(name, input_bytes=40)
    assert memory.names() == ["f", "e"]
    memory.served("huge", input_bytes=1000)
    assert memory.names() == ["huge"]
    memory.served("g", input_bytes=10)
    assert memory.names() == ["g"]


async def test_entries_are_forgotten_after_an_hour() -> None:
    memory = Memory()
    memory.served("a")
    memory.clock.advance(KEEP_S)
    memory.served("b")
    assert memory.names() == ["b", "a"]
    memory.clock.advance(1)
    memory.served("c")
    assert memory.names() == ["c", "b"]


async def test_run_on_its_way_is_never_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MAX_ENTRIES", 3)
    memory = Memory()
    running = [memory.running(f"run-{number}") for number in range(5)]
    memory.clock.advance(KEEP_S * 5)
    for number in range(50):
        memory.served(f"hit-{number}")
    for entry in running:
        assert memory.recent.get(entry.id, MINE) is entry


async def test_runs_on_their_way_do_not_keep_the_rest_from_being_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MAX_ENTRIES", 10)
    memory = Memory()
    for number in range(5):
        memory.running(f"run-{number}")
    for number in range(1000):
        memory.served(f"hit-{number}")
    assert len(memory.names()) <= 20


async def test_run_that_has_ended_is_dropped_like_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MAX_ENTRIES", 3)
    memory = Memory()
    memory.running("run", has_ended=True)
    for name in "abc":
        memory.served(name)
    assert memory.names() == ["c", "b", "a"]
