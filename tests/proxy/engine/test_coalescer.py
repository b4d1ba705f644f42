from __future__ import annotations

import asyncio

import pytest

from proxy.core.errors import HotplateError, Overloaded, UpstreamRefused
from proxy.engine.coalescer import Coalescer, Flight, Landed
from proxy.upstreams.base import Outcome, Progress
from storage.digest import PredictionKey, RecordId

pytestmark = pytest.mark.anyio

KEY = PredictionKey(b"k" * 32)
OTHER = PredictionKey(b"o" * 32)
LANDED = Landed(
    Outcome("succeeded", None, None, "", {}, started_at=1.0, completed_at=2.0), record=None, is_stored=False
)


def flight(key: PredictionKey | None = KEY) -> Flight:
    made = Flight(RecordId(1), key, started_at=0.0)
    made.sharers = 1
    return made


class Work:
    """A run that waits at ``gate`` and then lands; it remembers whether it was cancelled."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.was_cancelled = False
        self.has_begun = False

    async def __call__(self, one: Flight) -> None:
        self.has_begun = True
        one.report(Progress("starting", 0.0))
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
        one.land(LANDED)


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_flight_can_be_followed_from_the_step_in_which_it_is_led() -> None:
    coalescer, one, work = Coalescer(), flight(), Work()
    assert coalescer.find(KEY) is None
    coalescer.lead(one, work)
    assert coalescer.find(KEY) is one
    assert coalescer.find(OTHER) is None
    assert len(coalescer) == 1
    work.gate.set()
    assert await one.finished(1) is LANDED


async def test_flight_that_has_ended_is_followed_by_nobody() -> None:
    coalescer, one, work = Coalescer(), flight(), Work()
    coalescer.lead(one, work)
    await settle()
    one.land(LANDED)
    assert coalescer.find(KEY) is None  # though its task is still on its way
    work.gate.set()
    await settle()
    assert len(coalescer) == 0


async def test_flight_without_a_key_is_followed_by_nobody() -> None:
    coalescer, one, work = Coalescer(), flight(None), Work()
    coalescer.lead(one, work)
    assert coalescer.find(KEY) is None
    work.gate.set()
    assert await one.finished(1) is LANDED


async def test_create_is_answerable_once_the_run_is_accepted() -> None:
    coalescer, one, work = Coalescer(), flight(), Work()
    coalescer.lead(one, work)
    await one.accepted()
    assert one.was_accepted
    assert one.landed is None
    assert one.progress == Progress("starting", 0.0)
    work.gate.set()
    assert await one.finished(1) is LANDED


async def test_wait_that_runs_out_leaves_the_flight_alone() -> None:
    coalescer, one, work = Coalescer(), flight(), Work()
    coalescer.lead(one, work)
    assert await one.finished(0) is None
    assert await one.finished(0.01) is None
    assert not work.was_cancelled
    work.gate.set()
    assert await one.finished(1) is LANDED
    assert await one.finished(0) is LANDED


@pytest.mark.parametrize("waits_for", ["accepted", "finished"])
async def test_client_that_leaves_while_it_waits_changes_nothing_for_others(waits_for: str) -> None:
    coalescer, one, work = Coalescer(), flight(), Work()
    coalescer.lead(one, work)
    waiting = asyncio.create_task(one.accepted() if waits_for == "accepted" else one.finished(10))  # type: ignore[arg-type]
    other = asyncio.create_task(one.finished(10))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    work.gate.set()
    assert await other is LANDED
    assert not work.was_cancelled


async def test_refusal_reaches_every_sharer_as_the_same_error() -> None:
    coalescer, one = Coalescer(), flight()
    refusal = UpstreamRefused(422, [], b"{}")

    async def refuse(led: Flight) -> None:
        await asyncio.sleep(0)
        led.refuse(refusal)

    coalescer.lead(one, refuse)
    caught = await asyncio.gather(*(one.accepted() for _ in range(10)), return_exceptions=True)
    assert caught == [refusal] * 10
    assert not one.was_accepted
    assert one.has_ended
    assert coalescer.find(KEY) is None
    assert await one.finished(1) is None


async def test_refusal_that_nobody_waits_for_is_no_warning() -> None:
    one = flight()
    one.refuse(HotplateError("nobody hears this"))
    del one
    await settle()


async def test_run_goes_on_while_one_sharer_is_left() -> None:
    coalescer, one, work = Coalescer(), flight(), Work()
    coalescer.lead(one, work)
    one.sharers = 3
    await settle()
    coalescer.leave(one)
    coalescer.leave(one)
    await settle()
    assert coalescer.find(KEY) is one
    assert not work.was_cancelled
    coalescer.leave(one)
    assert coalescer.find(KEY) is None  # at once: nobody joins what is being cancelled
    await settle()
    assert work.was_cancelled


async def test_leaving_a_flight_that_has_ended_cancels_nothing() -> None:
    coalescer, one, work = Coalescer(), flight(), Work()
    coalescer.lead(one, work)
    work.gate.set()
    await one.finished(1)
    coalescer.leave(one)
    await settle()
    assert not work.was_cancelled


async def test_end_of_a_cancelled_flight_leaves_its_successor_in_the_table() -> None:
    coalescer, one, work = Coalescer(), flight(), Work()
    coalescer.lead(one, work)
    await settle()
    coalescer.leave(one)
    successor, other_work = flight(), Work()
    coalescer.lead(successor, other_work)
    await settle()
    assert work.was_cancelled
    assert coalescer.find(KEY) is successor
    other_work.gate.set()
    assert await successor.finished(1) is LANDED


async def test_drain_waits_for_flights_that_end_in_time() -> None:
    coalescer, one, work = Coalescer(), flight(), Work()
    coalescer.lead(one, work)
    asyncio.get_running_loop().call_later(0.01, work.gate.set)
    await coalescer.drain(5)
    assert one.landed is LANDED
    assert not work.was_cancelled
    assert len(coalescer) == 0


async def test_drain_cancels_what_does_not_end_and_waits_for_that() -> None:
    coalescer, one, work = Coalescer(), flight(), Work()
    coalescer.lead(one, work)
    await coalescer.drain(0.01)
    assert work.was_cancelled
    assert one.has_ended
    assert len(coalescer) == 0


async def test_drain_of_nothing_is_done_at_once() -> None:
    await Coalescer().drain(60)


async def test_flight_that_is_cancelled_before_its_first_step_leaves_nobody_waiting() -> None:
    coalescer, one, work = Coalescer(), flight(), Work()
    waiting = asyncio.create_task(one.accepted())
    await settle()
    coalescer.lead(one, work)
    one.cancel()
    with pytest.raises(Overloaded):
        await waiting
    assert not work.has_begun
    assert len(coalescer) == 0
