"""The output of a run on its way: what is shown of it, what is taken in, and what becomes of that."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from proxy.core.outputs import FileReference
from proxy.core.predictions import Prediction
from proxy.engine.partials import Partials
from proxy.engine.predictor import Hit
from proxy.engine.recent import Running
from proxy.upstreams.base import Progress
from proxy.upstreams.egress import EgressFailed
from storage.records import JsonValue
from tests.fakes.engine import BASE, Engine, png
from tests.fakes.upstreams import DELIVERY, FakeEgress, Served

pytestmark = pytest.mark.anyio

ONE, TWO, THREE = (f"{DELIVERY}/{name}.png" for name in ("one", "two", "three"))
PICTURES = {ONE: png("red"), TWO: png("green"), THREE: png("blue")}


class Run:
    """One run that waits at its gate while the test tells what the upstream would."""

    def __init__(self, engine: Engine, entry: Running, gate: asyncio.Event) -> None:
        self.engine = engine
        self.entry = entry
        self.heard: list[str] = []
        entry.flight.listen(lambda flight: self.heard.append("end" if flight.landed else "news"))
        self._gate = gate

    async def tell(self, output: JsonValue, **more: Any) -> Prediction:
        """The upstream's output so far; the prediction once what can be taken in is."""
        self.engine.upstream.reporters[-1](Progress("processing", self.engine.clock(), output=output, **more))
        await settle()
        return await self.shown()

    async def shown(self) -> Prediction:
        return await self.engine.views.of(self.entry)

    async def end(self, output: JsonValue, status: str = "succeeded") -> Prediction:
        self.engine.upstream.answer = lambda job: output
        self.engine.upstream.status = status
        self._gate.set()
        await self.entry.flight.finished(10)
        return await self.shown()


@asynccontextmanager
async def under_way(engine: Engine | None = None, **how: Any) -> AsyncIterator[Run]:
    engine = engine or Engine()
    for url, data in PICTURES.items():
        if url not in engine.egress.answers:
            engine.egress.serve(url, data)
    gate = engine.upstream.gate = asyncio.Event()
    entry = await engine.create(**how)
    assert isinstance(entry, Running)
    await settle()
    try:
        yield Run(engine, entry, gate)
    finally:
        gate.set()
        await engine.coalescer.drain(5)


async def settle() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


class HeldEgress(FakeEgress):
    """Opens nothing before it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    @asynccontextmanager
    async def open(self, url: str, *args: Any, **how: Any) -> AsyncIterator[Any]:
        await self.gate.wait()
        async with super().open(url, *args, **how) as fetched:
            yield fetched


def held(engine: Engine) -> HeldEgress:
    """An engine's egress, replaced by one that waits."""
    egress = HeldEgress()
    egress.answers = engine.egress.answers
    engine.egress = engine.ingestor._egress = egress  # type: ignore[assignment]
    return egress


def is_own(address: JsonValue) -> bool:
    return isinstance(address, str) and address.startswith(f"{BASE}/outputs/")


# -- what is shown -------------------------------------------------------------------------------------


async def test_text_is_shown_as_it_grows() -> None:
    async with under_way() as run:
        assert (await run.tell([])).output == []
        assert (await run.tell(["a "])).output == ["a "]
        prediction = await run.tell(["a ", "red "])
        assert (prediction.status, prediction.output) == ("processing", ["a ", "red "])
        found = await run.engine.views.find(run.entry.id, run.entry.scope)
        assert found == prediction


async def test_single_text_and_nested_values_are_shown_as_they_are() -> None:
    async with under_way() as run:
        assert (await run.tell("once upon")).output == "once upon"
        assert (await run.tell({"steps": [1, {"text": "a"}], "see": "https://elsewhere.test/x"})).output == {
            "steps": [1, {"text": "a"}],
            "see": "https://elsewhere.test/x",
        }


async def test_files_are_shown_one_by_one_under_addresses_of_this_proxy() -> None:
    async with under_way() as run:
        first = (await run.tell([ONE])).output
        assert len(first) == 1
        assert is_own(first[0])
        second = (await run.tell([ONE, TWO])).output
        assert second[0] == first[0]
        assert is_own(second[1])
        final = (await run.end([ONE, TWO, THREE])).output
        assert final[:2] == second
        assert run.engine.egress.asked == [ONE, TWO, THREE]


async def test_list_is_shown_only_as_far_as_every_file_is_here() -> None:
    engine = Engine()
    engine.egress.serve(TWO, EgressFailed("not there yet"))
    async with under_way(engine) as run:
        shown = (await run.tell([ONE, {"big": TWO, "text": "b"}, THREE, "text"])).output
        assert len(shown) == 1
        assert is_own(shown[0])
        assert (await run.tell([TWO, ONE])).output is None


@pytest.mark.parametrize("output", [TWO, {"image": ONE, "mask": TWO}])
async def test_other_shapes_are_shown_only_when_whole(output: JsonValue) -> None:
    engine = Engine()
    egress = held(engine)
    async with under_way(engine) as run:
        assert (await run.tell(output)).output is None
        egress.gate.set()
        await settle()
        shown = (await run.shown()).output
        assert all(map(is_own, shown.values() if isinstance(shown, dict) else [shown]))


async def test_no_upstream_address_of_a_file_is_ever_shown() -> None:
    """Whatever the moment, and also when nothing can be fetched."""
    engine = Engine()
    engine.egress.serve(ONE, EgressFailed("away"))
    async with under_way(engine) as run:
        for output in ([ONE], [ONE, TWO], {"a": [ONE]}, ONE, [[ONE]]):
            engine.upstream.reporters[-1](Progress("processing", engine.clock(), output=output))
            for _ in range(30):
                assert DELIVERY not in str((await run.shown()).output)
                await asyncio.sleep(0)


async def test_files_are_data_urls_where_clients_need_them() -> None:
    engine = Engine(base_url="http://localhost:8484")
    async with under_way(engine) as run:
        shown = (await run.tell([ONE])).output
        assert shown == ["data:image/png;base64," + base64.b64encode(PICTURES[ONE]).decode()]


async def test_data_urls_become_addresses() -> None:
    """Cog's files come as base64, again with every piece of news."""
    urls = ["data:image/png;base64," + base64.b64encode(data).decode() for data in PICTURES.values()]
    engine = Engine()
    puts = counted_puts(engine)
    async with under_way(engine) as run:
        assert len((await run.tell(urls[:1])).output) == 1
        assert len((await run.tell(urls[:2])).output) == 2
        final = (await run.end(urls)).output
        assert all(map(is_own, final))
        assert len(puts) == 3


async def test_each_listener_hears_of_more_to_show() -> None:
    async with under_way() as run:
        run.heard.clear()
        await run.tell([ONE, TWO])
        assert run.heard == ["news"] * 3, "the report itself and each file"
        await run.end([ONE, TWO])
        assert run.heard[-1] == "end"


async def test_output_of_a_run_that_still_waits_is_not_looked_at() -> None:
    async with under_way() as run:
        run.engine.upstream.reporters[-1](Progress("starting", run.engine.clock(), output=[ONE]))
        await settle()
        assert (await run.shown()).output is None
        assert run.engine.egress.asked == []


# -- taking in -----------------------------------------------------------------------------------------


async def test_files_are_fetched_one_at_a_time_and_once_each() -> None:
    async with under_way() as run:
        for count in (1, 3, 2, 3):
            run.engine.upstream.reporters[-1](
                Progress("processing", run.engine.clock(), output=[ONE, TWO, THREE][:count])
            )
            await asyncio.sleep(0)
        await settle()
        assert run.engine.egress.asked == [ONE, TWO, THREE]
        assert run.engine.egress.most_open == 1


async def test_file_that_is_on_its_way_at_the_end_is_not_fetched_twice() -> None:
    engine = Engine()
    egress = held(engine)
    async with under_way(engine) as run:
        await run.tell([ONE, TWO])
        ending = asyncio.create_task(run.end([ONE, TWO]))
        await settle()
        egress.gate.set()
        final = (await ending).output
        assert all(map(is_own, final))
        assert egress.asked == [ONE, TWO]


async def test_file_that_could_not_be_fetched_is_tried_again_with_the_result() -> None:
    engine = Engine()
    engine.egress.serve(ONE, EgressFailed("early"), EgressFailed("early"), PICTURES[ONE])
    async with under_way(engine) as run:
        assert (await run.tell([ONE])).output is None
        assert is_own((await run.end([ONE])).output[0])
        assert engine.left == 0
    assert isinstance(await engine.create(), Hit)


async def test_file_keeps_its_place_and_name_in_the_result() -> None:
    async with under_way() as run:
        await run.tell([TWO])
        await run.end([ONE, TWO])
        landed = run.entry.flight.landed
        assert landed is not None
        assert landed.record is not None
        assert [(file.path, file.name) for file in landed.record.files] == [((0,), "one.png"), ((1,), "two.png")]


async def test_cut_file_is_never_shown() -> None:
    engine = Engine()
    engine.egress.serve(ONE, Served(PICTURES[ONE], breaks_after=20, chunk_bytes=10))
    async with under_way(engine) as run:
        assert (await run.tell([ONE, TWO])).output is None


async def test_request_that_may_not_be_kept_leaves_nothing_in_the_store() -> None:
    engine = Engine()
    puts = counted_puts(engine)
    async with under_way(engine, cache_control="no-store") as run:
        assert is_own((await run.tell([ONE])).output[0])
        await run.end([ONE])
        assert engine.egress.asked == [ONE]
    assert puts == []
    assert engine.spooled == 1


async def test_blob_that_was_lost_meanwhile_is_fetched_again() -> None:
    async with under_way() as run:
        await run.tell([ONE])
        run.engine.blobs._blobs.clear()
        assert is_own((await run.end([ONE])).output[0])
        assert run.engine.egress.asked == [ONE, ONE]
    assert isinstance(await run.engine.create(), Hit)


async def test_taking_in_that_breaks_spoils_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine()
    take = engine.ingestor.take

    async def broken(*args: Any, **how: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(engine.ingestor, "take", broken)
    async with under_way(engine) as run:
        assert (await run.tell([ONE])).output is None
        monkeypatch.setattr(engine.ingestor, "take", take)
        assert is_own((await run.end([ONE])).output[0])


# -- nothing partial is ever a result ------------------------------------------------------------------


async def test_partial_output_is_no_hit_and_of_a_failed_run_nothing_is_kept() -> None:
    engine = Engine()
    async with under_way(engine) as run:
        await run.tell([ONE, TWO], has_all_files=True)
        assert engine.actions._records == {}
        failed = await run.end([ONE], status="failed")
        assert (failed.status, failed.output) == ("failed", None)
    assert engine.actions._records == {}
    assert isinstance(await engine.create(), Running)


async def test_cancelled_run_stops_fetching() -> None:
    engine = Engine()
    egress = held(engine)
    async with under_way(engine) as run:
        await run.tell([ONE])
        await engine.lives.cancel(run.entry.id, run.entry.scope)
        await run.entry.flight.finished(5)
        assert (await run.shown()).output is None
        egress.gate.set()
        await settle()
        assert egress.asked == []


async def test_flight_holds_nothing_of_the_output_after_its_end() -> None:
    async with under_way() as run:
        await run.tell([ONE])
        await run.end([ONE])
        flight = run.entry.flight
        assert flight.partials is None
        assert flight.progress is not None
        assert flight.progress.output is None


# -- whole before the end ------------------------------------------------------------------------------


async def test_waiting_client_hears_as_soon_as_all_files_are_here() -> None:
    engine = Engine()
    egress = held(engine)
    async with under_way(engine) as run:
        waiting = asyncio.create_task(run.entry.wait(30))
        await run.tell([ONE, TWO], has_all_files=True)
        assert not waiting.done()
        assert not run.entry.flight.is_whole
        egress.gate.set()
        await waiting
        assert run.entry.flight.is_whole
        assert run.entry.flight.landed is None
        shown = await run.shown()
        assert shown.status == "processing"
        assert len(shown.output) == 2
        assert engine.actions._records == {}, "it is not stored until the run has succeeded"


@pytest.mark.parametrize("output", [["a ", "red "], "a text", [], None, ["https://elsewhere.test/a.png"]])
async def test_output_without_files_is_not_taken_for_whole(output: JsonValue) -> None:
    async with under_way() as run:
        await run.tell(output, has_all_files=True)
        assert not run.entry.flight.is_whole


async def test_output_with_a_file_that_cannot_be_had_is_not_whole() -> None:
    engine = Engine()
    engine.egress.serve(TWO, EgressFailed("away"))
    async with under_way(engine) as run:
        await run.tell([ONE, TWO], has_all_files=True)
        assert not run.entry.flight.is_whole


async def test_output_that_grows_on_is_whole_only_when_it_is_again() -> None:
    engine = Engine()
    engine.egress.serve(TWO, EgressFailed("away"))
    async with under_way(engine) as run:
        await run.tell([ONE], has_all_files=True)
        assert run.entry.flight.is_whole
        await run.tell([ONE, TWO], has_all_files=True)
        assert not run.entry.flight.is_whole


def counted_puts(engine: Engine) -> list[str]:
    """The media types of everything that goes into the store from now on."""
    puts: list[str] = []
    put = engine.blobs.put

    async def counting(chunks: Any, *, content_type: str, **how: Any) -> Any:
        puts.append(content_type)
        return await put(chunks, content_type=content_type, **how)

    engine.blobs.put = counting  # type: ignore[method-assign]
    return puts


async def test_file_that_two_ask_for_at_once_is_fetched_once() -> None:
    engine = Engine()
    file = FileReference((0,), ONE)
    engine.egress.serve(ONE, PICTURES[ONE])
    partials = Partials(engine.ingestor, engine.upstream.output_access, keep=True, changed=lambda: None)
    first, second = await asyncio.gather(partials.take(0, file), partials.take(0, file))
    assert first is not None
    assert first is second is partials.known(ONE)
    assert engine.egress.asked == [ONE]


async def test_whoever_asks_for_a_file_when_the_run_ends_gets_none_and_goes_on() -> None:
    engine = Engine()
    partials = Partials(engine.ingestor, engine.upstream.output_access, keep=True, changed=lambda: None)
    asking = asyncio.create_task(partials.take(0, FileReference((0,), ONE)))
    await asyncio.sleep(0)
    await partials.aclose()
    assert await asking is None
