from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest
import structlog

from proxy.core.errors import InputInvalid, Overloaded, UpstreamRefused, UpstreamTimeout, UpstreamUnavailable
from proxy.core.ids import IdMint
from proxy.core.policy import UNPINNED_TTL_S, Bypass, Cached, Policy
from proxy.core.predictions import Prediction, render_prediction
from proxy.core.schemas import parse_schema
from proxy.engine import runs as runs_module
from proxy.engine.journal import INTERRUPTED
from proxy.engine.predictor import Hit
from proxy.engine.recent import Running
from proxy.engine.runs import UPSTREAM_WAIT_MAX_S
from proxy.engine.spool import SPOOL_TTL_S
from proxy.upstreams.base import Credential, Job, ModelDescription, ModelTarget, UpstreamKind, Verdict
from storage.digest import RecordId, hash_bytes
from storage.errors import StorageUnavailable
from tests.fakes.engine import BASE, OTHER_TOKEN, TOKEN, Engine, png
from tests.fakes.upstreams import DELIVERY, VERSION, ScriptedUpstream, Served

pytestmark = pytest.mark.anyio

FOX = {"prompt": "a red fox"}
OUT = f"{DELIVERY}/out-0.png"


def document(hit: Hit) -> dict[str, Any]:
    """A hit as its client reads it."""
    read = orjson.loads(hit.template.fill(hit.id, hit.input_json, hit.created_at))
    assert isinstance(read, dict)
    return read


async def shown(engine: Engine, entry: Running) -> Prediction:
    return await engine.views.of(entry)


async def found(engine: Engine, prediction_id: str, token: str | None = TOKEN) -> Prediction | None:
    return await engine.views.find(prediction_id, engine.request(token=token).scope)


async def canceled(engine: Engine, prediction_id: str, token: str = TOKEN) -> Prediction | None:
    return await engine.lives.cancel(prediction_id, engine.request(token=token).scope)


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(50):
        await asyncio.sleep(0)


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


# -- refused and failed runs ---------------------------------------------------------------------------


async def test_refused_create_reaches_all_sharers_and_nothing_is_kept() -> None:
    engine = Engine()
    engine.upstream.door = asyncio.Event()
    engine.upstream.refusal = UpstreamRefused(422, [("content-type", "application/json")], b'{"detail":"no"}')
    waiting = [asyncio.create_task(engine.create()) for _ in range(10)]
    await settle()
    engine.upstream.door.set()
    caught = await asyncio.gather(*waiting, return_exceptions=True)
    assert caught == [engine.upstream.refusal] * 10
    assert len(engine.upstream.jobs) == 1
    await engine.journal.drain()
    assert engine.ledger._values == {}
    assert len(engine.recent) == 0
    engine.upstream.refusal = None
    await engine.run()
    assert len(engine.upstream.jobs) == 2


@pytest.mark.parametrize(
    "error", [UpstreamUnavailable("away"), UpstreamTimeout("late"), Overloaded("full", retry_after_s=3.0)]
)
async def test_run_that_is_never_taken_is_an_error_and_the_next_request_tries_again(error: Any) -> None:
    engine = Engine()
    engine.upstream.refusal = error
    with pytest.raises(type(error)):
        await engine.create()
    engine.upstream.refusal = None
    assert (await shown(engine, await engine.run())).status == "succeeded"


@pytest.mark.parametrize("status", ["failed", "canceled"])
async def test_run_that_does_not_succeed_is_told_and_not_stored_and_the_next_request_runs_again(status: str) -> None:
    engine = Engine()
    engine.upstream.status = status
    entry = await engine.run()
    one = await shown(engine, entry)
    assert (one.status, one.error, one.output) == (status, "the model says no", None)
    assert engine.egress.asked == []
    assert engine.blobs.used_bytes == 0
    engine.upstream.status = "succeeded"
    assert (await shown(engine, await engine.run())).status == "succeeded"
    assert len(engine.upstream.jobs) == 2
    after = await found(await engine.restarted(), entry.id)
    assert after is not None
    assert (after.status, after.error) == (status, "the model says no")


async def test_only_who_set_a_deadline_hears_of_an_aborted_run() -> None:
    """The word ends the Python client's reading of the answer, and the JavaScript client waits for another one."""
    engine = Engine()
    engine.upstream.status = "aborted"
    patient = await engine.run()
    assert (await shown(engine, patient)).status == "canceled"
    assert (await shown(engine, await engine.run(deadline_s=30.0))).status == "aborted"
    after = await found(await engine.restarted(), patient.id)
    assert after is not None
    assert after.status == "canceled"


@pytest.mark.parametrize("error", [UpstreamTimeout("The run did not end in time."), RuntimeError("a bug")])
async def test_run_that_breaks_after_it_was_accepted_has_failed(error: Exception) -> None:
    engine = Engine()
    engine.upstream.breakdown = error
    with structlog.testing.capture_logs():
        entry = await engine.run()
    one = await shown(engine, entry)
    assert one.status == "failed"
    assert one.error
    engine.upstream.breakdown = None
    assert (await shown(engine, await engine.run())).status == "succeeded"


async def test_bug_of_an_upstream_is_an_error_to_all_who_wait() -> None:
    engine = Engine()
    engine.upstream.refusal = RuntimeError("a bug")  # type: ignore[assignment]
    with structlog.testing.capture_logs():
        caught = await asyncio.gather(*(engine.create() for _ in range(3)), return_exceptions=True)
    assert [getattr(error, "status", None) for error in caught] == [500] * 3
    assert len(engine.coalescer) == 0


async def test_request_right_after_a_failure_never_gets_that_failure() -> None:
    engine = Engine()
    engine.upstream.status = "failed"
    for _ in range(20):
        entry = await engine.create()
        assert isinstance(entry, Running)
        while entry.flight.landed is None:  # noqa: ASYNC110 - the very step in which it ends is wanted
            await asyncio.sleep(0)
        following = await engine.create()
        assert isinstance(following, Running)
        assert following.flight is not entry.flight
        await following.flight.finished(10)


# -- what cannot be fetched or stored ------------------------------------------------------------------


async def test_result_is_served_from_the_spool_when_the_store_is_away() -> None:
    engine = Engine()
    engine.blobs.failure = engine.actions.failure = StorageUnavailable("the disk is full")
    entry = await engine.run()
    assert entry.flight.landed is not None
    assert not entry.flight.landed.is_stored
    one = await shown(engine, entry)
    assert one.status == "succeeded"
    assert one.output[0].startswith(BASE)
    spooled = engine.spool.get(hash_bytes(png()))
    assert spooled is not None
    assert spooled.data == png()
    assert (engine.spooled, engine.left) == (1, 0)
    engine.blobs.failure = engine.actions.failure = None
    assert isinstance(await engine.create(), Running)


async def test_prediction_whose_spooled_file_is_gone_is_shown_with_its_data_removed() -> None:
    """It went on with ``succeeded`` and an address that led nowhere."""
    engine = Engine()
    entry = await engine.run(cache_control="no-store")
    assert (await shown(engine, entry)).output[0].startswith(BASE)
    engine.clock.advance(SPOOL_TTL_S + 1)
    one = await shown(engine, entry)
    assert (one.status, one.output, one.is_data_removed) == ("succeeded", None, True)


async def test_spooled_result_is_shown_as_data_where_clients_need_that() -> None:
    engine = Engine(base_url="http://127.0.0.1:8484")
    engine.blobs.failure = StorageUnavailable("the disk is full")
    one = await shown(engine, await engine.run())
    assert one.output[0].startswith("data:image/png;base64,")


async def test_record_that_cannot_be_stored_is_an_answer_all_the_same() -> None:
    engine = Engine()
    engine.actions.failure = StorageUnavailable("the index is locked")
    entry = await engine.run()
    assert entry.flight.landed is not None
    assert not entry.flight.landed.is_stored
    assert (await shown(engine, entry)).status == "succeeded"
    engine.actions.failure = None
    assert isinstance(await engine.create(), Running)


async def test_file_that_cannot_be_fetched_keeps_the_upstreams_url_and_nothing_is_stored() -> None:
    engine = Engine()
    engine.upstream.answer = lambda job: [OUT, f"{DELIVERY}/lost.png"]
    entry = await engine.run()
    one = await shown(engine, entry)
    assert one.status == "succeeded"
    assert one.output[0].startswith(BASE)
    assert one.output[1] == f"{DELIVERY}/lost.png"
    assert (engine.spooled, engine.left) == (0, 1)
    assert entry.flight.landed is not None
    assert not entry.flight.landed.is_stored
    assert isinstance(await engine.create(), Running)


async def test_truncated_file_is_never_stored() -> None:
    engine = Engine()
    engine.egress.serve(OUT, Served(png(), chunk_bytes=10, breaks_after=30, is_length_known=False))
    entry = await engine.run()
    assert (await shown(engine, entry)).output == [OUT]
    assert isinstance(await engine.create(), Running)


async def test_result_with_an_address_of_somebody_else_is_not_stored() -> None:
    engine = Engine()
    engine.upstream.answer = lambda job: [OUT, "https://elsewhere.example/b.png"]
    one = await shown(engine, await engine.run())
    assert one.output[1] == "https://elsewhere.example/b.png"
    assert isinstance(await engine.create(), Running)


async def test_words_are_handed_out_as_they_are_and_not_stored() -> None:
    engine = Engine()
    engine.upstream.answer = lambda job: ["Once ", "upon ", "data: a time"]
    one = await shown(engine, await engine.run())
    assert one.output == ["Once ", "upon ", "data: a time"]
    assert isinstance(await engine.create(), Running)


# -- who may have a hit --------------------------------------------------------------------------------


async def test_hit_for_an_unknown_credential_is_asked_about_first() -> None:
    engine = Engine()
    await engine.run()
    again = await engine.restarted()
    assert isinstance(await again.create(), Hit)
    assert [credential.token for credential in again.upstream.checks] == [TOKEN]
    assert again.upstream.jobs == []


async def test_run_that_was_accepted_proves_its_credential() -> None:
    engine = Engine()
    await engine.run()
    assert isinstance(await engine.create(), Hit)
    assert engine.upstream.checks == []


async def test_refused_credential_gets_no_hit_but_the_upstreams_answer() -> None:
    engine = Engine()
    await engine.run()
    engine.clock.advance(301)
    engine.upstream.verdict = Verdict(is_accepted=False, refusal=(401, "application/json", b'{"detail":"who?"}'))
    for _ in range(2):
        with pytest.raises(UpstreamRefused) as caught:
            await engine.create()
        assert caught.value.content == b'{"detail":"who?"}'
    assert len(engine.upstream.jobs) == 1


async def test_where_nobody_can_be_asked_there_is_no_hit() -> None:
    """The request goes on to the upstream, and not to the stored result by another way."""
    engine = Engine()
    await engine.run()
    engine.clock.advance(86_401)
    engine.upstream.verdict = Verdict(is_accepted=None)
    engine.upstream.refusal = UpstreamUnavailable("away")
    with pytest.raises(UpstreamUnavailable):
        await engine.create()
    assert len(engine.upstream.jobs) == 2


async def test_refused_create_ends_acceptance_at_once() -> None:
    engine = Engine()
    await engine.run()
    assert isinstance(await engine.create(), Hit)
    engine.upstream.refusal = UpstreamRefused(401, [], b"{}")
    engine.upstream.verdict = Verdict(is_accepted=False)
    with pytest.raises(UpstreamRefused):
        await engine.create({"prompt": "something new"})
    with pytest.raises(UpstreamRefused):
        await engine.create()


async def test_refusal_that_comes_while_a_create_is_held_is_not_undone_by_its_answer() -> None:
    """An API may hold a create for seconds. The token was refused meanwhile, and then the create was answered: for
    minutes the token had hits again."""
    engine = Engine()
    credential = Credential(TOKEN)
    await engine.run()
    engine.upstream.door = asyncio.Event()
    held = asyncio.create_task(engine.create({"prompt": "held"}))
    await settle()
    engine.gatekeeper.refuse(engine.upstream, credential)
    engine.upstream.door.set()
    assert isinstance(await held, Running)
    assert not engine.gatekeeper.is_accepted_now(engine.upstream, credential)
    engine.upstream.verdict = Verdict(is_accepted=False)
    with pytest.raises(UpstreamRefused):
        await engine.create()


async def test_hundred_hits_at_once_ask_once_and_none_of_them_runs() -> None:
    engine = Engine()
    await engine.run()
    again = await engine.restarted()
    again.upstream.check_gate = asyncio.Event()
    waiting = [asyncio.create_task(again.create()) for _ in range(100)]
    await settle()
    again.upstream.check_gate.set()
    answers = await asyncio.gather(*waiting)
    assert all(isinstance(answer, Hit) for answer in answers)
    assert len(again.upstream.checks) == 1
    assert again.upstream.jobs == []


async def test_own_tokens_of_hotplate_are_callers_of_their_own() -> None:
    mine, yours = "mine-is-16-characters", "yours-is-16-characters"
    engine = Engine(own_tokens=(mine, yours))
    engine.upstream.has_accounts = False
    engine.upstream.kind = "local"
    await engine.run(token=mine)
    assert isinstance(await engine.create(token=mine), Hit)
    assert isinstance(await engine.create(token=yours), Running)


async def test_open_upstream_is_one_caller_for_everybody() -> None:
    engine = Engine()
    engine.upstream.has_accounts = False
    engine.upstream.kind = "local"
    await engine.run(token=None)
    assert isinstance(await engine.create(token=TOKEN), Hit)


# -- how long, and for whom not ------------------------------------------------------------------------


async def test_result_of_a_version_that_is_not_told_is_served_for_a_week_and_then_run_again() -> None:
    engine = Engine()
    engine.upstream.description = ModelDescription("acme/pixel", "hidden", is_pinned=False, schema=None)
    await engine.run()
    engine.clock.advance(UNPINNED_TTL_S - 1)
    assert isinstance(await engine.create(), Hit)
    engine.clock.advance(1)
    await engine.run()
    assert len(engine.upstream.jobs) == 2
    assert isinstance(await engine.create(), Hit)


async def test_result_of_a_pinned_version_is_served_after_years() -> None:
    engine = Engine()
    await engine.run()
    engine.clock.advance(10 * 365 * 86_400)
    assert isinstance(await engine.create(), Hit)


async def test_no_store_runs_for_itself_and_keeps_nothing() -> None:
    engine = Engine()
    entry = await engine.run(cache_control="no-store")
    assert entry.plan == Bypass("request")
    assert (await shown(engine, entry)).output[0].startswith(BASE)
    assert engine.blobs.used_bytes == 0
    await engine.run()
    assert len(engine.upstream.jobs) == 2
    await engine.run(cache_control="no-store")
    assert len(engine.upstream.jobs) == 3


async def test_no_cache_runs_anew_and_replaces_the_result() -> None:
    engine = Engine()
    old = await engine.run()
    engine.egress.serve(OUT, png("blue"))
    fresh = await engine.run(cache_control="no-cache")
    assert fresh.plan == Cached(may_look_up=False, may_share=False)
    assert len(engine.upstream.jobs) == 2
    hit = await engine.create()
    assert isinstance(hit, Hit)
    assert hit.record.files[0].blob.digest == hash_bytes(png("blue"))
    assert (await shown(engine, old)).output != (await shown(engine, fresh)).output


@pytest.mark.parametrize("cache_control", ["no-store", "no-cache"])
async def test_request_for_a_run_of_its_own_neither_joins_nor_is_joined(cache_control: str) -> None:
    engine = Engine()
    engine.upstream.gate = asyncio.Event()
    entries = [
        await engine.create(),
        await engine.create(cache_control=cache_control),
        await engine.create(cache_control=cache_control),
        await engine.create(),
    ]
    running = [entry for entry in entries if isinstance(entry, Running)]
    assert [entry.is_follower for entry in running] == [False, False, False, True]
    assert len({id(entry.flight) for entry in running}) == 3
    engine.upstream.gate.set()
    for entry in running:
        await entry.flight.finished(10)
        assert (await shown(engine, entry)).status == "succeeded"


@pytest.mark.parametrize("given", [{"image": "https://example.com/a.png"}, {"images": ["http://example.com/a.png"]}])
async def test_input_that_is_a_url_is_run_each_time(given: dict[str, Any]) -> None:
    engine = Engine()
    for number in (1, 2):
        entry = await engine.run(given)
        assert entry.plan == Bypass("url-input")
        assert len(engine.upstream.jobs) == number
    assert engine.blobs.used_bytes == 0


async def test_cache_that_is_switched_off_neither_serves_nor_keeps() -> None:
    engine = Engine()
    await engine.run()
    off = await engine.restarted(cache_enabled=False)
    entry = await off.run()
    assert entry.plan == Bypass("off")
    assert len(off.upstream.jobs) == 1


# -- inputs by schema ----------------------------------------------------------------------------------

OPENAPI: dict[str, Any] = {
    "openapi": "3.0.2",
    "components": {
        "schemas": {
            "Input": {
                "type": "object",
                "properties": {
                    "seed": {"type": "integer", "x-order": 0},
                    "steps": {"type": "integer", "default": 4, "minimum": 1, "maximum": 50, "x-order": 1},
                },
            }
        }
    },
}


async def test_default_left_out_or_filled_in_is_one_request() -> None:
    engine = Engine()
    engine.upstream.description = replace(engine.upstream.description, schema=parse_schema(OPENAPI))
    await engine.run({"seed": 7})
    hit = await engine.create({"steps": 4, "seed": 7})
    assert isinstance(hit, Hit)
    assert document(hit)["input"] == {"steps": 4, "seed": 7}
    assert isinstance(await engine.create({"seed": 7, "steps": 5}), Running)


async def test_account_upstream_is_sent_what_was_given_and_judges_it_itself() -> None:
    engine = Engine()
    engine.upstream.description = replace(engine.upstream.description, schema=parse_schema(OPENAPI))
    for given in ({"seed": 7}, {"seed": "seven"}, {"seed": 7, "steps": 500}, {"unknown": True}):
        await engine.run(given)
        assert engine.upstream.jobs[-1].input == given
        assert isinstance(await engine.create(given), Hit)


async def test_own_model_is_sent_the_normalised_input_and_never_nonsense() -> None:
    engine = Engine()
    engine.upstream.has_accounts = False
    engine.upstream.kind = "cog"
    engine.upstream.description = replace(engine.upstream.description, schema=parse_schema(OPENAPI))
    await engine.run({"seed": 7, "unknown": "dropped"})
    assert engine.upstream.jobs[-1].input == {"seed": 7, "steps": 4}
    assert isinstance(await engine.create({"seed": 7}), Hit)
    with pytest.raises(InputInvalid):
        await engine.create({"seed": 7, "steps": 500})
    assert len(engine.upstream.jobs) == 1


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


# -- text ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "is_kept"), [({"seed": 7}, True), ({"temperature": 0}, True), ({}, False)])
async def test_text_is_kept_where_the_input_asks_for_the_same_again(given: dict[str, Any], is_kept: bool) -> None:
    engine = Engine()
    engine.upstream.answer = lambda job: ["a ", "fox"]
    first = await shown(engine, await engine.run({**FOX, **given}))
    again = await engine.create({**FOX, **given})
    assert isinstance(again, Hit) is is_kept
    if isinstance(again, Hit):
        assert document(again)["output"] == first.output == ["a ", "fox"]


# -- stopping and losing -------------------------------------------------------------------------------


async def test_create_that_waits_while_the_proxy_stops_is_told_to_come_again() -> None:
    engine = Engine()
    engine.upstream.door = asyncio.Event()
    waiting = asyncio.create_task(engine.create())
    await settle()
    await engine.coalescer.drain(0.01)
    with pytest.raises(Overloaded):
        await waiting
    await engine.journal.drain()
    assert engine.ledger._values == {}


async def test_result_whose_file_was_lost_is_a_miss_and_then_whole_again() -> None:
    engine = Engine()
    entry = await engine.run()
    engine.blobs.lose(hash_bytes(png()))
    assert isinstance(await engine.run(), Running)
    assert len(engine.upstream.jobs) == 2
    assert isinstance(await engine.create(), Hit)
    assert (await shown(engine, entry)).status == "succeeded"


@pytest.mark.parametrize("base_url", [BASE, "http://127.0.0.1:8484"])
async def test_damaged_file_is_a_miss_and_no_error(base_url: str) -> None:
    """Its length is right, so only reading it shows the damage: where it is shown as ``data:``, at the hit."""
    engine = Engine(base_url=base_url)
    await engine.run()
    again = await engine.restarted()
    again.blobs.replace_bytes(hash_bytes(png()), bytes(len(png())))
    answer = await again.create()
    if base_url == BASE:
        assert isinstance(answer, Hit)  # the outputs route finds the damage and sends nothing
        return
    assert isinstance(answer, Running)
    await answer.flight.finished(10)
    one = await shown(again, answer)
    assert (one.status, one.is_data_removed) == ("succeeded", False)
    assert one.output[0].startswith("data:image/png;base64,")
    assert len(again.upstream.jobs) == 1


async def test_damage_that_memory_has_not_noticed_is_a_miss_too() -> None:
    """The record may be believed complete for two seconds more; the flight must not find it inside again."""
    engine = Engine(base_url="http://127.0.0.1:8484")
    await engine.run()
    again = await engine.restarted()
    request = again.request()
    prepared = await again.preparation.prepare(request)
    assert prepared.key is not None
    record = await again.storage.results.get_complete(prepared.key)
    again.blobs.lose(hash_bytes(png()))

    async def still_there(key: Any) -> Any:
        return record

    again.storage.results.get_complete = still_there  # type: ignore[method-assign]
    answer = await again.create()
    assert isinstance(answer, Running)
    await answer.flight.finished(10)
    one = await shown(again, answer)
    assert (one.status, one.is_data_removed) == ("succeeded", False)
    assert len(again.upstream.jobs) == 1


async def test_prediction_whose_file_is_lost_is_shown_with_its_data_removed() -> None:
    engine = Engine()
    entry = await engine.run()
    again = await engine.restarted()
    again.blobs.lose(hash_bytes(png()))
    one = await found(again, entry.id)
    assert one is not None
    assert (one.status, one.output, one.is_data_removed) == ("succeeded", None, True)


async def test_replaced_result_stays_for_an_hour_what_its_own_predictions_show() -> None:
    """A hit lost its output a moment after its answer, when another request asked for a new run."""
    engine = Engine()
    old = await engine.run()
    hit = await engine.create()
    shown_before = (await shown(engine, old)).output
    engine.egress.serve(OUT, png("blue"))
    new = await engine.run(cache_control="no-cache")
    again = await engine.restarted()
    for prediction_id in (old.id, hit.id):
        one = await found(again, prediction_id)
        assert one is not None
        assert (one.output, one.is_data_removed) == (shown_before, False)
    assert (await shown(engine, new)).output != shown_before
    repeat = await again.create()
    assert isinstance(repeat, Hit)
    assert repeat.record.record_id == new.flight.record_id
    engine.clock.advance(3601)
    one = await found(again, old.id)
    assert one is not None
    assert (one.output, one.is_data_removed) == (None, True)


@pytest.mark.parametrize(("cache_control", "is_left"), [(None, True), ("no-store", False)])
async def test_words_that_are_not_kept_for_others_outlive_a_restart_for_their_own_client(
    cache_control: str | None, is_left: bool
) -> None:
    """After a restart they were shown as succeeded without any output, seconds after they were written."""
    engine = Engine()
    engine.upstream.answer = lambda job: ["Once ", "upon ", "a time"]
    entry = await engine.run(cache_control=cache_control)
    again = await engine.restarted()
    one = await found(again, entry.id)
    assert one is not None
    assert (one.output, one.is_data_removed) == ((["Once ", "upon ", "a time"], False) if is_left else (None, True))
    assert await found(again, entry.id, OTHER_TOKEN) is None
    assert (await again.streams.find(again.stream_name(entry)) is not None) == is_left
    assert all(b"Once" not in value for value, _ in engine.ledger._values.values())
    again.upstream.answer = engine.upstream.answer
    assert isinstance(await again.create(), Running)


@pytest.mark.parametrize("text", ["", "a" * 26, "x" * 5000, "../../etc/passwd", "\x00" * 26, "\u00e9" * 26])
async def test_id_that_is_not_ours_is_nobodys(text: str) -> None:
    engine = Engine()
    await engine.run()
    assert await found(engine, text) is None


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


# -- answers of a process that runs nothing ------------------------------------------------------------


async def test_hit_alone_is_found_where_there_is_one_and_no_run_is_made_where_there_is_none() -> None:
    engine = Engine()
    assert await engine.predictor.find_hit(engine.request()) is None
    assert engine.upstream.jobs == []
    await engine.run()
    hit = await engine.predictor.find_hit(engine.request())
    assert hit is not None
    assert document(hit)["status"] == "succeeded"
    for how in ({"cache_control": "no-cache"}, {"cache_control": "max-age=0"}, {"given": {"prompt": "another"}}):
        engine.clock.advance(1.0)
        assert await engine.predictor.find_hit(engine.request(**how)) is None
    assert len(engine.upstream.jobs) == 1
    assert len(engine.coalescer) == 0


async def test_result_that_calls_for_a_new_run_is_no_hit_alone() -> None:
    engine = Engine(policies=(Policy(ttl_s=10.0, stale_while_revalidate_s=100.0, stale_if_error_s=200.0),))
    await engine.run()
    for age_s in (50.0, 100.0):
        engine.clock.advance(age_s)
        assert await engine.predictor.find_hit(engine.request()) is None
    assert len(engine.upstream.jobs) == 1
    assert len(engine.coalescer) == 0


async def test_pool_gives_hits_alone_only_once_it_is_full() -> None:
    engine = Engine(policies=(Policy(pool=3),))
    for _ in range(3):
        assert await engine.predictor.find_hit(engine.request()) is None
        await engine.run()
    hits = [await engine.predictor.find_hit(engine.request()) for _ in range(50)]
    assert {hit.member for hit in hits if hit is not None} == {(0, 3), (1, 3), (2, 3)}
    assert len(engine.upstream.jobs) == 3


async def test_hit_that_may_not_be_given_any_more_leaves_nothing_behind() -> None:
    engine = Engine()
    await engine.run()
    remembered = len(engine.recent)
    assert await engine.predictor.find_hit(engine.request(), lambda: False) is None
    assert len(engine.recent) == remembered
    assert await engine.predictor.find_hit(engine.request(), lambda: True) is not None
    assert len(engine.recent) == remembered + 1


async def test_credential_that_nobody_can_be_asked_about_has_no_hit_alone() -> None:
    """An upstream that is asked by nobody here is none that is away: no acceptance is stretched for it."""
    engine = Engine()
    await engine.run()
    engine.clock.advance(301.0)
    engine.upstream.verdict = Verdict(is_accepted=None, is_silent=True)
    assert await engine.predictor.find_hit(engine.request()) is None
