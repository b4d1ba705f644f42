from __future__ import annotations

import asyncio

import pytest

from proxy.core.errors import HotplateError, TooManyRuns, UpstreamRefused, UpstreamUnavailable
from proxy.core.policy import Policy
from proxy.engine import budgets as budgets_module
from proxy.engine.budgets import RunBudgets, WaitingRoom
from proxy.engine.coalescer import Flight
from proxy.engine.predictor import Hit
from proxy.engine.recent import Running
from storage.digest import RecordId, Scope
from tests.fakes.clock import ManualClock
from tests.fakes.engine import OTHER_TOKEN, Engine

pytestmark = pytest.mark.anyio


def scope(number: int) -> Scope:
    return Scope(number.to_bytes(32))


async def refused(engine: Engine, prompt: str, token: str | None = None) -> TooManyRuns:
    with pytest.raises(TooManyRuns) as caught:
        await (engine.create({"prompt": prompt}, token=token) if token else engine.create({"prompt": prompt}))
    return caught.value


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


# -- runs of one caller --------------------------------------------------------------------------------


async def test_caller_has_no_more_runs_on_their_way_than_its_bound_and_other_callers_have_their_own() -> None:
    engine = Engine(max_runs=2)
    engine.upstream.gate = asyncio.Event()
    entries = [await engine.create({"prompt": prompt}) for prompt in ("a", "b")]
    error = await refused(engine, "c")
    assert (error.status, error.retry_after_s) == (429, 1.0)
    assert isinstance(await engine.create({"prompt": "c"}, token=OTHER_TOKEN), Running)
    assert len(engine.budgets) == 3
    engine.upstream.gate.set()
    for entry in entries:
        assert isinstance(entry, Running)
        await entry.flight.finished(5)
    await engine.run({"prompt": "c"})
    await settle()
    assert len(engine.budgets) == 0


async def test_hits_and_shared_runs_are_not_bounded() -> None:
    engine = Engine(max_runs=1, runs_per_minute=2)
    await engine.run({"prompt": "done"})
    engine.upstream.gate = asyncio.Event()
    entries = [await engine.create({"prompt": "busy"}) for _ in range(20)]
    hits = [await engine.create({"prompt": "done"}) for _ in range(20)]
    assert all(isinstance(hit, Hit) for hit in hits)
    assert isinstance(await refused(engine, "other"), TooManyRuns)
    engine.upstream.gate.set()
    for entry in entries:
        assert isinstance(entry, Running)
        await entry.flight.finished(5)
    assert len(engine.upstream.jobs) == 2


async def test_stale_result_is_served_although_its_refresh_would_be_a_run_too_many() -> None:
    engine = Engine(runs_per_minute=1, policies=(Policy(ttl_s=10.0, stale_while_revalidate_s=100.0),))
    await engine.run()
    engine.clock.advance(20.0)
    assert isinstance(await engine.create(), Hit)
    await settle()
    assert len(engine.upstream.jobs) == 1
    engine.clock.advance(40.0)
    assert isinstance(await engine.create(), Hit)
    await settle()
    assert len(engine.upstream.jobs) == 2


async def test_minute_s_runs_may_come_at_once_and_then_one_by_one() -> None:
    engine = Engine(runs_per_minute=3)
    for prompt in "abc":
        await engine.run({"prompt": prompt})
    error = await refused(engine, "d")
    assert error.retry_after_s == 20.0
    assert error.detail == "Request was throttled. Expected available in 20 seconds."
    engine.clock.advance(20.0)
    await engine.run({"prompt": "d"})
    assert isinstance(await refused(engine, "e"), TooManyRuns)


@pytest.mark.parametrize("error", [UpstreamRefused(422, [], b"{}"), UpstreamUnavailable("away")])
async def test_run_that_was_never_taken_is_on_its_way_no_more(error: HotplateError) -> None:
    engine = Engine(max_runs=1)
    engine.upstream.refusal = error
    for _ in range(3):
        with pytest.raises(type(error)):
            await engine.create()
        await settle()
    assert len(engine.budgets) == 0


async def test_cancelled_run_is_on_its_way_no_more() -> None:
    engine = Engine(max_runs=1)
    engine.upstream.gate = asyncio.Event()
    entry = await engine.create()
    assert isinstance(entry, Running)
    await engine.lives.cancel(entry.id, entry.scope)
    await entry.flight.finished(5)
    await settle()
    assert len(engine.budgets) == 0
    assert isinstance(await engine.create({"prompt": "next"}), Running)


async def test_refused_create_makes_no_run_and_no_flight() -> None:
    engine = Engine(runs_per_minute=1)
    await engine.run()
    for _ in range(5):
        await refused(engine, "other")
    assert len(engine.upstream.jobs) == 1
    assert len(engine.coalescer) == 0


def test_without_bounds_nothing_is_counted() -> None:
    free = RunBudgets(max_runs=0, per_minute=0, now=ManualClock())
    for number in range(100):
        free.begin(scope(number))
    assert len(free) == 0


def test_memory_of_callers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets_module, "MAX_BUCKETS", 10)
    clock = ManualClock()
    bounded = RunBudgets(max_runs=0, per_minute=1, now=clock)
    for number in range(50):
        bounded.begin(scope(number))()
    assert len(bounded._buckets) == 10
    assert len(bounded) == 0
    with pytest.raises(TooManyRuns):
        bounded.begin(scope(49))
    clock.advance(60.0)
    for number in range(100, 120):
        bounded.begin(scope(number))()
    assert scope(49) not in bounded._buckets


# -- places to wait ------------------------------------------------------------------------------------


async def test_places_are_bounded_for_each_run_and_in_all() -> None:
    room = WaitingRoom(max_waiters=3, max_each=2)
    one, other = Flight(RecordId(1), None, 0.0), Flight(RecordId(2), None, 0.0)
    with room.place(one) as first, room.place(one) as second, room.place(one) as third:
        assert (first, second, third) == (True, True, False)
        with room.place(other) as fourth, room.place(other) as fifth:
            assert (fourth, fifth) == (True, False)
    assert len(room) == one.waiters == other.waiters == 0


async def test_place_is_free_again_when_whoever_waits_leaves() -> None:
    room, flight = WaitingRoom(max_waiters=1, max_each=1), Flight(RecordId(1), None, 0.0)

    async def wait() -> None:
        with room.place(flight):
            await asyncio.sleep(60)

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    assert len(room) == 1
    waiting.cancel()
    await asyncio.wait([waiting])
    assert len(room) == flight.waiters == 0


async def test_request_beyond_the_places_is_answered_at_once_and_gets_its_picture_all_the_same() -> None:
    engine = Engine(max_waiters_per_run=4)
    engine.upstream.door = asyncio.Event()  # the upstream holds the create of who leads
    leading = asyncio.create_task(engine.create(wants_s=30.0))
    await settle()
    waiting = [asyncio.create_task(engine.create(wants_s=30.0)) for _ in range(3)]
    await settle()
    shed = [await asyncio.wait_for(engine.create(wants_s=30.0), 1) for _ in range(20)]
    assert not any(task.done() for task in waiting)
    engine.upstream.door.set()
    entries = [await leading, *shed, *await asyncio.gather(*waiting)]
    outputs = set()
    for entry in entries:
        assert isinstance(entry, Running)
        await entry.flight.finished(5)
        outputs.add(str((await engine.views.of(entry)).output))
    assert len(outputs) == 1
    assert len(engine.upstream.jobs) == 1
    assert len({entry.id for entry in entries}) == 24
    assert len(engine.waiting) == 0


async def test_request_that_leads_without_a_place_asks_the_upstream_not_to_hold_its_answer() -> None:
    engine = Engine(max_waiters=1)
    engine.upstream.door = asyncio.Event()
    first = asyncio.create_task(engine.create({"prompt": "a"}, wants_s=5.0))
    await settle()
    second = asyncio.create_task(engine.create({"prompt": "b"}, wants_s=5.0))
    await settle()
    assert [job.wants_s for job in engine.upstream.jobs] == [5.0, 0.0]
    engine.upstream.door.set()
    for entry in await asyncio.gather(first, second):
        assert isinstance(entry, Running)
        await entry.flight.finished(5)


async def test_sharers_of_one_large_input_hold_one_copy_of_it() -> None:
    engine = Engine()
    engine.upstream.gate = asyncio.Event()
    entries = [await engine.create({"prompt": "x" * 100_000}) for _ in range(5)]
    other = await engine.create({"prompt": "x" * 100_000, "seed": None})
    assert all(isinstance(entry, Running) for entry in entries)
    assert len({id(entry.input) for entry in entries if isinstance(entry, Running)}) == 1
    assert isinstance(other, Running)
    assert "seed" in other.input
    engine.upstream.gate.set()
    await other.flight.finished(5)


async def test_outcome_that_is_not_kept_makes_no_queue() -> None:
    engine = Engine()
    engine.upstream.answer = lambda job: "words"
    engine.upstream.gate = asyncio.Event()
    entries = [await engine.create() for _ in range(50)]
    engine.upstream.gate.set()
    for entry in entries:
        assert isinstance(entry, Running)
        await entry.flight.finished(5)
        assert (await engine.views.of(entry)).output == "words"
    assert len(engine.upstream.jobs) == 1  # nobody waited for a turn of its own
    assert isinstance(await engine.create(), Running)
    assert len(engine.upstream.jobs) == 2
