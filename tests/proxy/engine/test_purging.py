from __future__ import annotations

import asyncio

import pytest

from proxy.core.controls import Controls
from proxy.core.errors import BadRequest, UpstreamUnavailable
from proxy.core.policy import Policy
from proxy.engine.predictor import Hit
from proxy.engine.purging import ROW
from proxy.engine.recent import Running
from storage.errors import StorageUnavailable
from storage.records import BlobRef
from tests.fakes.engine import Engine

pytestmark = pytest.mark.anyio

TAGGED = Controls(tags=("spring",))


async def view(engine: Engine, prediction_id: str) -> tuple[str, bool]:
    found = await engine.views.find(prediction_id, engine.request().scope)
    assert found is not None
    return found.status, found.is_data_removed


async def test_purged_result_is_a_miss_and_its_predictions_show_their_data_as_removed() -> None:
    engine = Engine()
    made = await engine.run(controls=TAGGED)
    hit = await engine.create()
    assert isinstance(hit, Hit)
    assert await view(engine, made.id) == await view(engine, hit.id) == ("succeeded", False)
    assert await engine.purging.purge("tag", ["spring"]) == 1
    assert await view(engine, made.id) == await view(engine, hit.id) == ("succeeded", True)
    engine.clock.advance(1)
    anew = await engine.run()
    assert await view(engine, made.id) == ("succeeded", True)
    assert await view(engine, anew.id) == ("succeeded", False)
    assert isinstance(await engine.create(), Hit)


async def test_each_kind_takes_its_own_and_leaves_the_others() -> None:
    engine = Engine()
    blue = await engine.run({"prompt": "blue"}, controls=Controls(namespace="blue"))
    other = await engine.run({"prompt": "other"})
    assert blue.flight.key is not None
    assert await engine.purging.purge("key", ["ab" * 32]) == 0
    assert await engine.purging.purge("model", ["nobody/*"]) == 0
    assert await engine.purging.purge("tag", ["namespace:blue"]) == 1
    assert isinstance(await engine.create({"prompt": "other"}), Hit)
    assert await engine.purging.purge("id", [other.id]) == 1
    engine.clock.advance(1)
    again = await engine.run({"prompt": "other"})
    assert again.flight.key is not None
    assert await engine.purging.purge("key", [again.flight.key.hex()]) == 1
    engine.clock.advance(1)
    await engine.run({"prompt": "other"})
    await engine.run({"prompt": "blue"})
    assert await engine.purging.purge("model", ["acme/*"]) == 2
    assert await engine.purging.purge("all", []) == 0


async def test_run_under_way_is_for_those_who_wait_and_is_not_stored() -> None:
    engine = Engine()
    engine.upstream.gate = asyncio.Event()
    waiting = await engine.create(controls=TAGGED)
    assert isinstance(waiting, Running)
    assert await engine.purging.purge("tag", ["spring"]) == 0
    engine.clock.advance(1)
    newcomer = await engine.create()
    assert isinstance(newcomer, Running)
    assert newcomer.flight is not waiting.flight, "nobody joins a run that was purged"
    engine.upstream.gate.set()
    await asyncio.gather(waiting.flight.finished(10), newcomer.flight.finished(10))
    landed = waiting.flight.landed
    assert landed is not None
    assert not landed.is_stored
    assert await view(engine, waiting.id) == ("succeeded", False), "it gets what it waited for"
    hit = await engine.create()
    assert isinstance(hit, Hit)
    assert hit.record.record_id == newcomer.flight.record_id
    again = await engine.restarted()
    await again.purging.resume()
    assert await view(again, waiting.id) == ("succeeded", True), "nothing of it lies on the disk"


async def test_run_that_is_adopted_after_a_restart_is_still_not_stored() -> None:
    engine = Engine()
    engine.upstream.gate = asyncio.Event()
    waiting = await engine.create()
    assert isinstance(waiting, Running)
    assert await engine.purging.purge("model", ["acme/pixel"]) == 0
    again = await engine.restarted()
    await again.purging.resume()
    engine.clock.advance(5)
    await again.resumption.resume()
    await again.coalescer.drain(10)
    assert again.left_behind == [("replicate", "adopted")]
    assert await again.purging.purge("all", []) == 0
    engine.upstream.gate.set()
    await engine.coalescer.drain(10)


async def test_purge_that_comes_while_the_record_is_being_stored_takes_it_away_again() -> None:
    engine = Engine()
    put = engine.actions.put

    async def slow_put(record: object) -> None:
        await put(record)  # type: ignore[arg-type]
        engine.announcements.announce("purged", {"kind": "all", "values": [], "at": engine.clock()})

    engine.actions.put = slow_put  # type: ignore[method-assign, assignment]
    made = await engine.run()
    assert made.flight.landed is not None
    assert not made.flight.landed.is_stored
    assert await engine.purging.purge("all", []) == 0


async def test_what_was_left_for_an_hour_is_not_shown_either() -> None:
    engine = Engine()
    first = await engine.run(controls=TAGGED)
    engine.clock.advance(1)
    await engine.run(cache_control="no-cache", controls=None)
    await engine.purging.purge("tag", ["spring"])
    again = await engine.restarted()
    await again.purging.resume()
    assert await view(again, first.id) == ("succeeded", True)


async def test_purge_that_cannot_be_written_down_says_so_and_forgets_what_memory_holds() -> None:
    engine = Engine()
    await engine.run()
    engine.storage.notes.failure = StorageUnavailable("gone")  # type: ignore[attr-defined]
    with pytest.raises(StorageUnavailable):
        await engine.purging.purge("all", [])
    engine.storage.notes.failure = None  # type: ignore[attr-defined]
    assert await engine.purging.purge("all", []) == 1


async def test_row_that_cannot_be_read_means_everything() -> None:
    engine = Engine()
    engine.upstream.gate = asyncio.Event()
    waiting = await engine.create()
    assert isinstance(waiting, Running)
    await engine.storage.notes.put(ROW, b"{")
    await engine.purging.resume()
    engine.upstream.gate.set()
    landed = await waiting.flight.finished(10)
    assert landed is not None
    assert not landed.is_stored


@pytest.mark.parametrize(("kind", "values"), [("key", ["xyz"]), ("id", ["x"]), ("tag", [])])
async def test_what_names_nothing_is_refused(kind: str, values: list[str]) -> None:
    engine = Engine()
    with pytest.raises(BadRequest):
        await engine.purging.purge(kind, values)  # type: ignore[arg-type]


async def test_stale_result_that_was_purged_meanwhile_does_not_stand_in_for_a_failed_run() -> None:
    engine = Engine(policies=[Policy(ttl_s=10.0, stale_if_error_s=1000.0)])
    await engine.run()
    engine.clock.advance(20)
    engine.upstream.door = asyncio.Event()
    engine.upstream.refusal = UpstreamUnavailable("away")
    asking = asyncio.create_task(engine.create())
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(engine.upstream.jobs) == 2
    await engine.purging.purge("all", [])
    engine.upstream.door.set()
    with pytest.raises(UpstreamUnavailable):
        await asking


@pytest.mark.parametrize("waits_for", ["credential", "file"])
async def test_result_that_was_purged_after_it_was_found_is_no_hit(waits_for: str) -> None:
    """The purge had said that it was gone; a request that had found it before, and still waited for the upstream's word
    on its credential or for the bytes of its file, was answered with it."""
    engine = Engine(base_url="http://127.0.0.1:8000")  # files are shown as data
    await engine.run()
    engine = await engine.restarted()
    gate, reached = asyncio.Event(), asyncio.Event()
    if waits_for == "credential":
        engine.upstream.check_gate = gate
    else:
        read = engine.blobs.read

        async def slow(ref: BlobRef, first: int = 0, last: int | None = None) -> bytes | None:
            reached.set()
            await gate.wait()
            return await read(ref, first, last)

        engine.blobs.read = slow  # type: ignore[method-assign]
    asking = asyncio.create_task(engine.create())
    for _ in range(20):
        await asyncio.sleep(0)
    assert engine.upstream.checks if waits_for == "credential" else reached.is_set()
    engine.clock.advance(1)
    assert await engine.purging.purge("all", []) == 1
    gate.set()
    answer = await asking
    assert isinstance(answer, Running)
    await answer.flight.finished(10)
    assert not answer.flight.was_found
    assert len(engine.upstream.jobs) == 1
