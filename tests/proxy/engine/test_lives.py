from __future__ import annotations

import asyncio

import pytest

from proxy.core.errors import UpstreamRefused
from proxy.core.ids import IdMint
from proxy.engine.predictor import Hit
from proxy.engine.recent import Running
from storage.digest import RecordId
from tests.fakes.asking import canceled, found, settle, shown
from tests.fakes.engine import OTHER_TOKEN, Engine
from tests.fakes.upstreams import VERSION

pytestmark = pytest.mark.anyio


# -- cancelling ----------------------------------------------------------------------------------------


async def test_one_of_two_sharers_cancels_and_the_other_gets_its_picture() -> None:
    engine = Engine()
    engine.upstream.gate = asyncio.Event()
    first, second = [await engine.create() for _ in range(2)]
    assert isinstance(second, Running)
    one = await canceled(engine, first.id)
    assert one is not None
    assert (one.status, one.output) == ("canceled", None)
    assert (await shown(engine, second)).status == "processing"
    engine.upstream.gate.set()
    await second.flight.finished(10)
    assert (await shown(engine, second)).status == "succeeded"
    after = await found(engine, first.id)
    assert after is not None
    assert (after.status, after.output) == ("canceled", None)
    assert engine.upstream.canceled == []


async def test_run_is_cancelled_when_all_have_cancelled_and_the_next_request_starts_afresh() -> None:
    engine = Engine()
    engine.upstream.gate = asyncio.Event()
    entries = [await engine.create() for _ in range(3)]
    for entry in entries:
        await canceled(engine, entry.id)
        await canceled(engine, entry.id)  # a second time changes nothing
    fresh = await engine.create()
    assert isinstance(fresh, Running)
    assert not fresh.is_follower
    await settle()
    assert len(engine.upstream.canceled) == 1
    engine.upstream.gate.set()
    await fresh.flight.finished(10)
    assert (await shown(engine, fresh)).status == "succeeded"
    assert len(engine.upstream.jobs) == 2
    for entry in entries:
        one = await found(engine, entry.id)
        assert one is not None
        assert one.status == "canceled"


async def test_cancelling_twice_counts_once() -> None:
    engine = Engine()
    engine.upstream.gate = asyncio.Event()
    first, second = [await engine.create() for _ in range(2)]
    for _ in range(5):
        await canceled(engine, first.id)
    await settle()
    assert engine.upstream.canceled == []
    engine.upstream.gate.set()
    assert isinstance(second, Running)
    await second.flight.finished(10)


async def test_cancelled_prediction_stays_cancelled_after_a_restart_though_its_run_succeeded() -> None:
    engine = Engine()
    engine.upstream.gate = asyncio.Event()
    first, second = [await engine.create() for _ in range(2)]
    await canceled(engine, first.id)
    engine.upstream.gate.set()
    assert isinstance(second, Running)
    await second.flight.finished(10)
    again = await engine.restarted()
    statuses = [await found(again, entry.id) for entry in (first, second)]
    assert [one.status for one in statuses if one is not None] == ["canceled", "succeeded"]


async def test_prediction_that_has_ended_stays_as_it_is_when_it_is_cancelled() -> None:
    engine = Engine()
    entry = await engine.run()
    hit = await engine.create()
    again = await engine.restarted()
    for one in (engine, again):
        for prediction_id in (entry.id, hit.id):
            after = await canceled(one, prediction_id)
            assert after is not None
            assert after.status == "succeeded"
            assert after.output is not None
    assert isinstance(await engine.create(), Hit)


async def test_cancelling_what_nobody_knows_is_none() -> None:
    assert await canceled(Engine(), "a" * 26) is None


# -- deadlines -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("has_started", "status"), [(True, "canceled"), (False, "aborted")])
async def test_deadline_ends_a_prediction_and_the_run_that_nobody_else_wants(has_started: bool, status: str) -> None:
    engine = Engine()
    engine.upstream.gate = asyncio.Event()
    engine.upstream.starts = has_started
    entry = await engine.create(deadline_s=0.02)
    assert isinstance(entry, Running)
    await asyncio.wait_for(entry.wait(5), 2)
    await settle()
    one = await shown(engine, entry)
    assert (one.status, one.completed_at is not None) == (status, True)
    assert (one.started_at is not None) is has_started
    assert len(engine.upstream.canceled) == 1
    after = await found(await engine.restarted(), entry.id)
    assert after is not None
    assert after.status == status


async def test_deadline_of_one_sharer_leaves_the_others_their_picture() -> None:
    engine = Engine()
    engine.upstream.gate = asyncio.Event()
    hasty = await engine.create(deadline_s=0.02)
    patient = await engine.create()
    assert isinstance(hasty, Running)
    assert isinstance(patient, Running)
    await asyncio.wait_for(hasty.wait(5), 2)
    engine.upstream.gate.set()
    await patient.flight.finished(5)
    assert (await shown(engine, hasty)).status == "canceled"
    assert (await shown(engine, patient)).status == "succeeded"
    assert (len(engine.upstream.jobs), engine.upstream.canceled) == (1, [])


async def test_prediction_that_ends_before_its_deadline_stays_as_it_ended() -> None:
    engine = Engine()
    entry = await engine.run(deadline_s=0.03)
    await asyncio.sleep(0.06)
    one = await shown(engine, entry)
    assert (one.status, one.deadline_at) == ("succeeded", entry.created_at + 0.03)
    assert engine.lives._timers == {}


async def test_waiting_create_is_answered_when_its_prediction_is_cancelled() -> None:
    engine = Engine()
    engine.upstream.gate = asyncio.Event()
    entry = await engine.create()
    assert isinstance(entry, Running)
    waiting = asyncio.create_task(entry.wait(60))
    await settle()
    await canceled(engine, entry.id)
    await asyncio.wait_for(waiting, 1)


# -- what lists are made of ----------------------------------------------------------------------------


async def test_leader_stands_for_the_upstreams_run_and_followers_and_hits_stand_beside_it() -> None:
    engine = Engine()
    engine.upstream.gate = asyncio.Event()
    leader = await engine.create()
    engine.clock.advance(1)
    follower = await engine.create()
    assert isinstance(leader, Running)
    assert isinstance(follower, Running)
    engine.upstream.gate.set()
    await leader.flight.finished(10)
    engine.clock.advance(1)
    hit = await engine.create()
    assert isinstance(hit, Hit)
    scope = engine.request().scope
    for history in (engine.history, (await engine.restarted()).history):
        entries = await history.entries(scope)
        assert [(one.id, one.upstream_id) for one in entries] == [
            (hit.id, None),
            (follower.id, None),
            (leader.id, "up-1"),
        ]
    assert await engine.history.entries(engine.request(token=OTHER_TOKEN).scope) == []


async def test_request_that_was_refused_is_not_listed() -> None:
    engine = Engine()
    engine.upstream.refusal = UpstreamRefused(422, [], b"{}")
    with pytest.raises(UpstreamRefused):
        await engine.create()
    assert await engine.history.entries(engine.request().scope) == []


async def test_prediction_of_which_nothing_is_left_is_shown_as_removed() -> None:
    engine = Engine()
    entry = await engine.run()
    engine.clock.advance(2)
    hit = await engine.create()
    assert isinstance(hit, Hit)
    engine = await engine.restarted()
    await engine.actions.remove(hit.record.key)
    for row, _ in await engine.ledger.scan("run:"):
        await engine.ledger.remove(row)
    for one_id, created_at in ((entry.id, entry.created_at), (hit.id, hit.created_at)):
        one = await found(engine, one_id)
        assert one is not None
        assert (one.status, one.is_data_removed, one.output, one.input) == ("succeeded", True, None, {})
        assert (one.model, one.version, one.created_at) == ("acme/pixel", VERSION, created_at)
        assert await canceled(engine, one_id) == one
        assert await found(engine, one_id, OTHER_TOKEN) is None
    for row, _ in await engine.ledger.scan("history:"):
        await engine.ledger.remove(row)
    one = await found(await engine.restarted(), hit.id)
    assert one is not None
    assert (one.status, one.is_data_removed, one.version) == ("succeeded", True, "hidden")


async def test_id_from_the_future_is_nobodys() -> None:
    engine = Engine()
    scope = engine.request().scope
    forged = IdMint(engine.secrets).mint(RecordId(7), scope, engine.clock() + 86_400)
    assert await found(engine, forged) is None
