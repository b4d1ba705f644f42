from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from typing import Any

import orjson
import pytest

from proxy.core.ids import PredictionId
from proxy.core.policy import Cached
from proxy.engine import recent
from proxy.engine.coalescer import Flight, Landed
from proxy.engine.recent import KEEP_S, RecentPredictions, Running
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

    def served(self, name: str, scope: Scope = MINE, input_bytes: int = 10) -> None:
        given = b'{"":"%s"}' % (b"x" * (input_bytes - 7))
        self.recent.add_served(PredictionId(name), scope, given, self.clock())

    def running(self, name: str, *, has_ended: bool = False) -> Running:
        flight = Flight(RecordId(1), None, self.clock())
        if has_ended:
            flight.land(ENDED)
        entry = Running(
            id=PredictionId(name),
            scope=MINE,
            results_scope=MINE,
            model="acme/pixel",
            version="hidden",
            input={},
            input_bytes=10,
            created_at=self.clock(),
            flight=flight,
            plan=Cached(),
            is_follower=False,
        )
        self.recent.add(entry)
        return entry

    def kept(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if self.recent.served_input(name, MINE) is not None]


@pytest.mark.parametrize(
    "given",
    [
        {f"field{number}": number + 1000 for number in range(20_000)},
        {"images": [[]] * 20_000},
        {"prompt": "x" * 500_000},
    ],
    ids=["fields", "lists", "text"],
)
def test_weight_of_an_input_is_near_what_it_takes_in_memory(given: dict[str, Any]) -> None:
    given_json = orjson.dumps(given)
    del given
    tracemalloc.start()
    try:
        parsed = orjson.loads(given_json)
        real_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert parsed
    assert 0.5 * real_bytes < recent.weigh(given_json) < 3 * real_bytes


async def test_entry_is_found_by_its_own_scope_alone() -> None:
    memory = Memory()
    memory.recent.add_served(PredictionId("a"), MINE, b'{"prompt":"x"}', 1.0)
    entry = memory.running("run")
    assert memory.recent.served_input("a", MINE) == {"prompt": "x"}
    assert memory.recent.running("run", MINE) is entry
    for name in ("a", "b", "", "run"):
        assert memory.recent.served_input(name, YOURS) is None
        assert memory.recent.running(name, YOURS) is None
    assert memory.recent.served_input("run", MINE) is None
    assert memory.recent.running("a", MINE) is None


async def test_number_of_entries_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MAX_ENTRIES", 3)
    memory = Memory()
    for name in "abcdef":
        memory.served(name)
    assert memory.kept("abcdef") == ["d", "e", "f"]


async def test_bytes_of_inputs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MAX_INPUT_BYTES", 100)
    memory = Memory()
    for name in "abcdef":
        memory.served(name, input_bytes=40)
    assert memory.kept("abcdef") == ["e", "f"]
    memory.served("huge", input_bytes=1000)
    assert memory.kept(["e", "f", "huge"]) == ["huge"]
    memory.served("g", input_bytes=10)
    assert memory.kept(["huge", "g"]) == ["g"]


async def test_entries_are_forgotten_after_an_hour() -> None:
    memory = Memory()
    memory.served("a")
    memory.clock.advance(KEEP_S)
    memory.served("b")
    assert memory.kept("ab") == ["a", "b"]
    memory.clock.advance(1)
    memory.served("c")
    assert memory.kept("abc") == ["b", "c"]


async def test_run_on_its_way_is_never_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MAX_ENTRIES", 3)
    memory = Memory()
    running = [memory.running(f"run-{number}") for number in range(5)]
    memory.clock.advance(KEEP_S * 5)
    running.append(memory.running("one more"))
    for entry in running:
        assert memory.recent.running(entry.id, MINE) is entry


async def test_runs_on_their_way_do_not_keep_ended_ones_from_being_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MAX_ENTRIES", 10)
    memory = Memory()
    for number in range(5):
        memory.running(f"run-{number}")
    ended = [memory.running(f"ended-{number}", has_ended=True) for number in range(1000)]
    assert sum(memory.recent.running(entry.id, MINE) is not None for entry in ended) <= 10
