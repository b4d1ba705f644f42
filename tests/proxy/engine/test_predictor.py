from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest
import structlog

from proxy.core.errors import Overloaded, UpstreamRefused
from proxy.core.predictions import render_prediction
from proxy.core.schemas import parse_schema
from proxy.engine.predictor import Hit
from proxy.engine.recent import Running
from proxy.engine.runs import UPSTREAM_WAIT_MAX_S
from proxy.upstreams.base import Job, ModelDescription, ModelTarget, UpstreamKind
from storage.digest import hash_bytes
from tests.fakes.asking import FOX, OPENAPI, canceled, document, found, settle, shown
from tests.fakes.engine import BASE, OTHER_TOKEN, TOKEN, Engine, png
from tests.fakes.upstreams import DELIVERY, VERSION, ScriptedUpstream

pytestmark = pytest.mark.anyio


# -- miss, then hit ------------------------------------------------------------------------------------


async def test_first_request_runs_and_the_second_is_a_hit_with_the_same_output() -> None:
    engine = Engine()
    first = await shown(engine, await engine.run())
    hit = await engine.create()
    assert isinstance(hit, Hit)
    second = document(hit)
    assert len(engine.upstream.jobs) == 1
    assert first.status == second["status"] == "succeeded"
    assert first.output == second["output"]
    assert first.id != second["id"]
    assert second["logs"] == "step 1\nstep 2\n"
    assert second["metrics"]["predict_time"] == 2.5
    assert second["input"] == FOX


async def test_hit_is_a_prediction_of_its_own() -> None:
    engine = Engine()
    await engine.run()
    engine.clock.advance(60)
    hits = [await engine.create() for _ in range(3)]
    assert all(isinstance(hit, Hit) for hit in hits)
    assert len({hit.id for hit in hits}) == 3
    for hit in hits:
        one = await found(engine, hit.id)
        assert one is not None
        assert isinstance(hit, Hit)
        assert orjson.loads(render_prediction(one, BASE)) == document(hit)


async def test_other_input_is_another_run() -> None:
    engine = Engine()
    engine.upstream.answer = lambda job: [f"{DELIVERY}/{job.input['seed']}.png"]
    for seed, color in enumerate(["red", "blue"]):
        engine.egress.serve(f"{DELIVERY}/{seed}.png", png(color))
    for seed in (0, 1):
        await engine.run({"seed": seed})
    digests = []
    for seed in (0, 1):
        hit = await engine.create({"seed": seed})
        assert isinstance(hit, Hit)
        digests.append(hit.record.files[0].blob.digest)
    assert digests == [hash_bytes(png("red")), hash_bytes(png("blue"))]


LIVE = ModelTarget("acme", "live", is_deployment=True)


async def test_deployment_is_told_on_a_miss_a_hit_and_later_with_the_model_that_ran() -> None:
    engine = Engine()
    engine.upstream.description = ModelDescription("deployments/acme/live", "hidden", is_pinned=False, schema=None)
    engine.upstream.told_model, engine.upstream.gate = "acme/pixel", asyncio.Event()
    running = await engine.create(target=LIVE)
    assert isinstance(running, Running)
    seen = [await shown(engine, running)]
    engine.upstream.gate.set()
    await running.flight.finished(10)
    seen.append(await shown(engine, running))
    engine.upstream.told_model = "acme/changed-since"
    hit = await engine.create(target=LIVE)
    assert isinstance(hit, Hit)
    assert (document(hit)["model"], document(hit)["deployment"]) == ("acme/pixel", "acme/live")
    engine = await engine.restarted()
    for prediction_id in (running.id, hit.id):
        one = await found(engine, prediction_id)
        assert one is not None
        seen.append(one)
    assert {(one.model, one.deployment) for one in seen} == {("acme/pixel", "acme/live")}


@pytest.mark.parametrize("kind", ["replicate", "cog"])
async def test_deployment_and_model_of_one_name_share_nothing(kind: UpstreamKind) -> None:
    engine = Engine()
    engine.upstream.kind = kind
    await engine.run(target=ModelTarget("acme", "live"))
    assert isinstance(await engine.create(target=LIVE), Running)
    assert len(engine.upstream.jobs) == 2


@pytest.mark.parametrize("status", ["failed", "canceled"])
async def test_run_of_a_deployment_that_was_not_stored_still_tells_it(status: str) -> None:
    engine = Engine()
    engine.upstream.told_model, engine.upstream.status = "acme/pixel", status
    entry = await engine.run(target=LIVE)
    one = await found(await engine.restarted(), entry.id)
    assert one is not None
    assert (one.status, one.model, one.deployment) == (status, "acme/pixel", "acme/live")


async def test_model_of_a_bare_version_is_the_one_that_the_run_tells() -> None:
    engine = Engine()
    engine.upstream.description = ModelDescription("", VERSION, is_pinned=True, schema=None)
    engine.upstream.told_model = "acme/pixel"
    assert (await shown(engine, await engine.run())).model == "acme/pixel"


@pytest.mark.parametrize(
    "other", [{"seed": 1.0}, {"seed": "1"}, {"seed": True}, {"seed": 1, "x": None}, {}, {"Seed": 1}]
)
async def test_input_that_merely_looks_alike_is_a_miss(other: dict[str, Any]) -> None:
    engine = Engine()
    await engine.run({"seed": 1})
    assert isinstance(await engine.create(other), Running)


@pytest.mark.parametrize(
    "other",
    [
        ModelDescription("acme/pixel", "0" * 64, is_pinned=True, schema=None),
        ModelDescription("acme/pixel", "hidden", is_pinned=False, schema=None),
    ],
)
async def test_other_model_or_version_is_a_miss(other: ModelDescription) -> None:
    engine = Engine()
    await engine.run()
    engine.upstream.description = other
    assert isinstance(await engine.create(), Running)


async def test_other_model_of_a_version_that_is_not_told_is_a_miss() -> None:
    engine = Engine()
    engine.upstream.description = ModelDescription("acme/pixel", "hidden", is_pinned=False, schema=None)
    await engine.run()
    engine.upstream.description = ModelDescription("acme/other", "hidden", is_pinned=False, schema=None)
    assert isinstance(await engine.create(), Running)


async def test_version_of_an_account_upstream_is_one_however_the_request_names_its_model() -> None:
    engine = Engine()
    engine.upstream.description = ModelDescription("", VERSION, is_pinned=True, schema=None)
    await engine.run()
    engine.upstream.description = ModelDescription("acme/pixel", VERSION, is_pinned=True, schema=None)
    assert isinstance(await engine.create(), Hit)


async def test_own_models_are_told_apart_by_name_and_version() -> None:
    engine = Engine()
    engine.upstream.has_accounts = False
    engine.upstream.kind = "cog"
    await engine.run()
    for other in (("acme/other", VERSION), ("acme/pixel", "0" * 64)):
        engine.upstream.description = ModelDescription(*other, is_pinned=True, schema=None)
        assert isinstance(await engine.create(), Running)


async def test_other_upstream_is_a_miss() -> None:
    engine = Engine()
    await engine.run()
    other = ScriptedUpstream(engine.clock, name="replicate-eu")
    assert isinstance(await engine.create(upstream=other), Running)


async def test_files_are_stored_before_anybody_hears_of_success() -> None:
    engine = Engine()
    entry = await engine.create()
    assert isinstance(entry, Running)
    landed = await entry.flight.finished(10)
    assert landed is not None
    assert landed.is_stored
    assert landed.record is not None
    assert await engine.blobs.read(landed.record.files[0].blob) == png()


async def test_flight_does_not_hold_on_to_what_the_upstream_sent() -> None:
    """Cog answers with files as base64 in the document; a flight is remembered for an hour after its end."""
    engine = Engine()
    engine.upstream.answer = lambda job: "data:image/png;base64,iVBORw0KGgo="
    entry = await engine.run()
    assert entry.flight.landed is not None
    assert entry.flight.landed.outcome.output is None
    assert entry.flight.landed.record is not None
    assert entry.flight.landed.record.output is None


# -- many at once --------------------------------------------------------------------------------------


async def test_hundred_identical_creates_share_one_run_and_each_has_its_own_id() -> None:
    engine = Engine()
    engine.upstream.gate = asyncio.Event()
    entries = await asyncio.gather(*(engine.create() for _ in range(100)))
    engine.upstream.gate.set()
    running = [entry for entry in entries if isinstance(entry, Running)]
    assert len(running) == 100
    for entry in running:
        await entry.flight.finished(10)
    assert len(engine.upstream.jobs) == len(engine.runs) == 1
    assert len({entry.id for entry in running}) == 100
    assert sum(not entry.is_follower for entry in running) == 1
    shown_outputs = [(await shown(engine, entry)).output for entry in running]
    assert all(output == shown_outputs[0] is not None for output in shown_outputs)
    for entry in running:
        one = await found(engine, entry.id)
        assert one is not None
        assert (one.id, one.status, one.output) == (entry.id, "succeeded", shown_outputs[0])


async def test_each_of_a_hundred_sharers_is_found_after_a_restart() -> None:
    engine = Engine()
    entries = await asyncio.gather(*(engine.create() for _ in range(100)))
    assert isinstance(entries[0], Running)
    await entries[0].flight.finished(10)
    output = (await shown(engine, entries[0])).output
    again = await engine.restarted()
    for entry in entries:
        one = await found(again, entry.id)
        assert one is not None
        assert (one.id, one.status, one.output) == (entry.id, "succeeded", output)


async def test_sharers_keep_the_input_as_each_of_them_gave_it() -> None:
    engine = Engine()
    engine.upstream.description = replace(engine.upstream.description, schema=parse_schema(OPENAPI))
    engine.upstream.gate = asyncio.Event()
    first, second = [await engine.create(given) for given in ({"seed": 7}, {"seed": 7, "steps": 4})]
    assert isinstance(first, Running)
    assert isinstance(second, Running)
    assert first.flight is second.flight
    engine.upstream.gate.set()
    await first.flight.finished(10)
    assert (await shown(engine, first)).input == {"seed": 7}
    assert (await shown(engine, second)).input == {"seed": 7, "steps": 4}


async def test_two_callers_never_share_a_run_or_a_result() -> None:
    engine = Engine()
    engine.upstream.gate = asyncio.Event()
    mine = await engine.create()
    yours = await engine.create(token=OTHER_TOKEN)
    assert isinstance(mine, Running)
    assert isinstance(yours, Running)
    assert mine.flight is not yours.flight
    engine.upstream.gate.set()
    await mine.flight.finished(10)
    await yours.flight.finished(10)
    assert [job.credential.token for job in engine.upstream.jobs if job.credential] == [TOKEN, OTHER_TOKEN]
    assert (await shown(engine, mine)).output != (await shown(engine, yours)).output


async def test_another_callers_result_is_a_miss_and_its_predictions_are_unknown() -> None:
    engine = Engine()
    entry = await engine.run()
    hit = await engine.create()
    assert isinstance(await engine.create(token=OTHER_TOKEN), Running)
    again = await engine.restarted()
    for one in (engine, again):
        for prediction_id in (entry.id, hit.id):
            assert await found(one, prediction_id, OTHER_TOKEN) is None
            assert await canceled(one, prediction_id, OTHER_TOKEN) is None
            assert await found(one, prediction_id) is not None


async def test_record_of_another_caller_is_no_hit_even_if_a_store_gives_it_out() -> None:
    """The key holds the scope already; what is about to be shown is compared once more, as a whole."""
    engine = Engine()
    entry = await engine.run()
    assert entry.flight.landed is not None
    assert entry.flight.landed.record is not None
    stolen = replace(entry.flight.landed.record, scope=engine.request(token=OTHER_TOKEN).scope)
    await engine.actions.put(stolen)
    answer = await engine.create()
    assert isinstance(answer, Running)
    await answer.flight.finished(10)
    assert len(engine.upstream.jobs) == 2
    await engine.actions.put(stolen)
    one = await found(await engine.restarted(), entry.id)
    assert one is not None
    assert one.output is None


async def test_client_that_caused_the_run_and_leaves_spoils_nothing() -> None:
    engine = Engine()
    engine.upstream.door = asyncio.Event()
    leader = asyncio.create_task(engine.create())
    await settle()
    follower = asyncio.create_task(engine.create())
    await settle()
    leader.cancel()
    await asyncio.wait([leader])
    engine.upstream.door.set()
    entry = await follower
    assert isinstance(entry, Running)
    await entry.flight.finished(10)
    assert (await shown(engine, entry)).status == "succeeded"
    assert len(engine.upstream.jobs) == 1
    assert engine.upstream.canceled == []


async def test_run_whose_only_client_has_left_is_finished_and_stored() -> None:
    engine = Engine()
    engine.upstream.door = asyncio.Event()
    leader = asyncio.create_task(engine.create())
    await settle()
    leader.cancel()
    await asyncio.wait([leader])
    engine.upstream.door.set()
    await engine.coalescer.drain(5)
    assert isinstance(await engine.create(), Hit)
    assert len(engine.upstream.jobs) == 1


async def test_request_that_comes_while_the_result_is_stored_joins_or_hits() -> None:
    """At no moment between the end of the run and the stored record is there a gap for a second run."""
    for steps in range(40):
        engine = Engine()
        first = asyncio.create_task(engine.create())
        for _ in range(steps):
            await asyncio.sleep(0)
        second = await engine.create()
        entry = await first
        assert isinstance(entry, Running)
        await entry.flight.finished(10)
        if isinstance(second, Running):
            await second.flight.finished(10)
            assert (await shown(engine, second)).output == (await shown(engine, entry)).output
        assert len(engine.upstream.jobs) == 1, steps


async def ended_meanwhile(engine: Engine) -> Running:
    """A create whose look-up found nothing, and whose flight finds what another one has just stored."""
    request = engine.request()
    prepared = await engine.preparation.prepare(request)
    assert prepared.key is not None
    assert await engine.storage.results.get_complete(prepared.key) is None
    await engine.run()
    get_complete, seen = engine.storage.results.get_complete, 0

    async def blind_at_first(key: Any) -> Any:
        nonlocal seen
        seen += 1
        return None if seen == 1 else await get_complete(key)

    engine.storage.results.get_complete = blind_at_first  # type: ignore[method-assign]
    entry = await engine.create()
    engine.storage.results.get_complete = get_complete  # type: ignore[method-assign]
    assert isinstance(entry, Running)
    await entry.flight.finished(10)
    return entry


async def test_flight_that_ended_between_look_up_and_join_is_found_inside() -> None:
    engine = Engine()
    entry = await ended_meanwhile(engine)
    assert len(engine.upstream.jobs) == 1
    one = await shown(engine, entry)
    assert one.status == "succeeded"
    assert one.output is not None


async def test_prediction_that_was_found_inside_is_still_found_after_a_restart() -> None:
    engine = Engine()
    entry = await ended_meanwhile(engine)
    output = (await shown(engine, entry)).output
    one = await found(await engine.restarted(), entry.id)
    assert one is not None
    assert (one.status, one.output, one.is_data_removed) == ("succeeded", output, False)


# -- what is said elsewhere ----------------------------------------------------------------------------


async def test_job_says_what_the_upstream_needs_and_nothing_of_the_client() -> None:
    engine = Engine()
    await engine.run(wants_s=60.0)
    job: Job = engine.upstream.jobs[0]
    assert (job.version, job.input, job.wants_s) == (VERSION, FOX, UPSTREAM_WAIT_MAX_S)
    assert job.credential is not None
    assert len(job.id) == 26


async def test_neither_token_nor_prompt_nor_address_goes_into_the_log() -> None:
    engine = Engine()
    engine.upstream.answer = lambda job: [f"{DELIVERY}/secret-address.png"]
    engine.upstream.breakdown = None
    with structlog.testing.capture_logs() as lines:
        await engine.run({"prompt": "a secret prompt"})
        engine.upstream.breakdown = RuntimeError("a bug")
        await engine.run({"prompt": "another secret prompt"})
    assert len(lines) >= 2
    for word in (TOKEN, "secret prompt", "secret-address"):
        assert word not in repr(lines)


# -- what followers and later requests must not pay for -------------------------------------------------


async def test_follower_is_answered_although_the_upstream_holds_the_create_of_who_leads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("proxy.engine.predictor.FOLLOWER_PATIENCE_S", 0.02)
    engine = Engine()
    engine.upstream.door = asyncio.Event()
    leading = asyncio.create_task(engine.create(wants_s=30.0))
    await settle()
    follower = await asyncio.wait_for(engine.create(), 1)
    assert isinstance(follower, Running)
    assert (await shown(engine, follower)).status == "starting"
    assert not leading.done()
    engine.upstream.door.set()
    leader = await leading
    await follower.flight.finished(5)
    assert isinstance(leader, Running)
    assert (await shown(engine, follower)).output == (await shown(engine, leader)).output is not None
    assert len(engine.upstream.jobs) == 1


async def test_follower_that_was_answered_early_has_failed_when_the_upstream_refuses_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("proxy.engine.predictor.FOLLOWER_PATIENCE_S", 0.02)
    engine = Engine()
    engine.upstream.door = asyncio.Event()
    engine.upstream.refusal = UpstreamRefused(402, [], b'{"title":"Insufficient credit"}')
    leading = asyncio.create_task(engine.create(wants_s=30.0))
    await settle()
    follower = await engine.create()
    engine.upstream.door.set()
    with pytest.raises(UpstreamRefused):
        await leading
    assert isinstance(follower, Running)
    await asyncio.wait_for(follower.wait(5), 1)
    assert (await shown(engine, follower)).status == "failed"
    after = await found(await engine.restarted(), follower.id)
    assert after is not None
    assert after.status == "failed"


async def test_follower_hears_of_a_refusal_that_comes_at_once() -> None:
    engine = Engine()
    engine.upstream.door = asyncio.Event()
    engine.upstream.refusal = UpstreamRefused(422, [], b"{}")
    asking = [asyncio.create_task(engine.create()) for _ in range(3)]
    await settle()
    engine.upstream.door.set()
    for error in await asyncio.gather(*asking, return_exceptions=True):
        assert isinstance(error, UpstreamRefused)


async def test_stop_while_a_follower_was_answered_early_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.engine.predictor.FOLLOWER_PATIENCE_S", 0.02)
    engine = Engine()
    engine.upstream.door = asyncio.Event()
    leading = asyncio.create_task(engine.create(wants_s=30.0))
    await settle()
    follower = await engine.create()
    assert isinstance(follower, Running)
    waiting = asyncio.create_task(follower.wait(30))
    await engine.coalescer.drain(0.01)
    await asyncio.wait_for(waiting, 1)
    with pytest.raises(Overloaded):
        await leading


async def test_schema_that_is_learned_after_the_first_run_does_not_cost_a_second_one() -> None:
    """The Python client creates first and asks for the version afterwards."""
    engine = Engine()
    first = await engine.run(FOX)
    engine.upstream.description = replace(engine.upstream.description, schema=parse_schema(OPENAPI))
    again = await engine.create(FOX)
    assert isinstance(again, Hit)
    assert again.record.record_id == first.flight.record_id
    assert len(engine.upstream.jobs) == 1
    other = await engine.create({**FOX, "steps": 5})
    assert isinstance(other, Running)


async def test_run_on_its_way_is_joined_although_its_schema_was_learned_meanwhile() -> None:
    engine = Engine()
    engine.upstream.gate = asyncio.Event()
    await engine.create(FOX)
    engine.upstream.description = replace(engine.upstream.description, schema=parse_schema(OPENAPI))
    joined = await engine.create(FOX)
    assert isinstance(joined, Running)
    assert joined.is_follower
    engine.upstream.gate.set()
    await joined.flight.finished(5)
