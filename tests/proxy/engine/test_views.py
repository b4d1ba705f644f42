"""Predictions as they are shown; partial outputs are told in ``test_partials``."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from proxy.core.predictions import as_begun, render_prediction
from proxy.core.schemas import parse_schema
from proxy.engine import runs as runs_module
from proxy.engine.journal import INTERRUPTED
from proxy.engine.predictor import Hit
from proxy.engine.recent import Running
from proxy.upstreams.base import ModelTarget
from storage.digest import RecordId
from tests.fakes.asking import FOX, OPENAPI, document, found, settle, shown
from tests.fakes.engine import BASE, Engine

pytestmark = pytest.mark.anyio


# -- found again ---------------------------------------------------------------------------------------


async def test_run_on_its_way_is_shown_with_its_progress() -> None:
    engine = Engine()
    engine.upstream.gate = asyncio.Event()
    entry = await engine.create()
    await settle()
    one = await found(engine, entry.id)
    assert one is not None
    assert (one.status, one.logs, one.output, one.completed_at) == ("processing", "step 1\n", None, None)
    assert one.input == FOX
    engine.upstream.gate.set()
    assert isinstance(entry, Running)
    await entry.flight.finished(10)
    after = await found(engine, entry.id)
    assert after is not None
    assert (after.status, after.logs) == ("succeeded", "step 1\nstep 2\n")


async def test_prediction_is_found_after_a_restart_with_the_same_output_and_its_input_normalised() -> None:
    engine = Engine()
    engine.upstream.description = replace(engine.upstream.description, schema=parse_schema(OPENAPI))
    entry = await engine.run({"seed": 7})
    hit = await engine.create({"seed": 7})
    assert isinstance(hit, Hit)
    before = await shown(engine, entry)
    again = await engine.restarted()
    one, other = await found(again, entry.id), await found(again, hit.id)
    assert one is not None
    assert other is not None
    assert one.output == before.output == other.output == document(hit)["output"]
    assert one.input == other.input == {"seed": 7, "steps": 4}
    assert (one.logs, one.metrics) == (before.logs, before.metrics)
    assert one.id == entry.id
    assert other.id == hit.id


async def test_restart_with_another_secret_knows_nothing_and_serves_nothing() -> None:
    engine = Engine()
    entry = await engine.run()
    again = await engine.restarted()
    stranger = Engine(storage=again.storage, clock=engine.clock)
    stranger.views._mint = type(stranger.views._mint)(replace(stranger.secrets, ids=b"x" * 32))
    assert await found(stranger, entry.id) is None


async def test_run_that_was_lost_with_the_process_is_shown_as_failed() -> None:
    engine = Engine()
    engine.upstream.gate = asyncio.Event()
    entry = await engine.create()
    again = await engine.restarted()
    one = await found(again, entry.id)
    assert one is not None
    assert (one.status, one.error, one.output) == ("failed", INTERRUPTED, None)
    assert one.is_terminal
    fresh = await again.run()
    assert (await shown(again, fresh)).status == "succeeded"
    engine.upstream.gate.set()
    assert isinstance(entry, Running)
    await entry.flight.finished(10)


async def test_run_that_a_stopping_proxy_leaves_goes_on_upstream_and_whoever_waits_is_answered() -> None:
    engine = Engine()
    engine.upstream.gate = asyncio.Event()
    entry = await engine.create()
    assert isinstance(entry, Running)
    waiting = asyncio.create_task(entry.wait(60))
    await settle()
    await engine.coalescer.drain(0.01)
    await asyncio.wait_for(waiting, 1)
    assert engine.upstream.canceled == []
    assert (await shown(engine, entry)).status == "processing"


# -- numbers that are drawn twice ----------------------------------------------------------------------


async def test_number_of_a_live_result_is_not_given_to_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the ids of the second run would, once memory forgets it, show the first one's picture."""
    drawn = iter([RecordId(1), RecordId(1), RecordId(1), RecordId(2), RecordId(3)])
    monkeypatch.setattr(runs_module, "new_record_id", lambda: next(drawn))
    engine = Engine()
    await engine.run({"seed": 1})
    engine.upstream.status = "failed"
    second = await engine.run({"seed": 2})
    assert second.flight.record_id == 2
    one = await found(await engine.restarted(), second.id)
    assert one is not None
    assert (one.status, one.output) == ("failed", None)


async def test_old_id_never_shows_a_result_that_drew_its_number_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_module, "new_record_id", lambda: RecordId(1))
    engine = Engine()
    engine.upstream.status = "failed"
    old = await engine.run({"seed": 1})
    engine.upstream.status = "succeeded"
    engine.clock.advance(2 * 86_400)
    await engine.run({"seed": 2})
    one = await found(await engine.restarted(), old.id)
    assert one is None or one.output is None


# -- beside their runs -------------------------------------------------------------------------------


@pytest.mark.parametrize("is_deployment", [False, True])
async def test_hit_that_is_not_waited_for_is_shown_as_one_that_was_found_and_has_only_begun(
    is_deployment: bool,
) -> None:
    engine = Engine()
    target, given = ModelTarget("acme", "pixel", is_deployment=is_deployment), {"prompt": "a red fox", "seed": 1.0}
    await engine.run(given, target=target)
    hit = await engine.create(given, target=target)
    assert isinstance(hit, Hit)
    found = await engine.views.find(hit.id, hit.record.scope)
    assert found is not None
    begun = engine.views.begun(hit.id, hit.record, given, hit.created_at)
    assert render_prediction(begun, BASE) == render_prediction(as_begun(found), BASE)
