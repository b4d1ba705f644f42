from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog

from proxy.core.errors import Overloaded, UpstreamRefused, UpstreamTimeout, UpstreamUnavailable
from proxy.engine.predictor import Hit
from proxy.engine.recent import Running
from proxy.engine.spool import SPOOL_TTL_S
from storage.digest import hash_bytes
from storage.errors import StorageUnavailable
from tests.fakes.asking import FOX, OUT, document, found, settle, shown
from tests.fakes.engine import BASE, OTHER_TOKEN, Engine, png
from tests.fakes.upstreams import DELIVERY, Served

pytestmark = pytest.mark.anyio


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
