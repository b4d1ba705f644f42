from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog

from proxy.core.errors import NotCached, UpstreamRefused, UpstreamUnavailable
from proxy.core.money import Kind, Line, Selection, earned
from proxy.core.policy import Policy
from proxy.core.prices import Price
from proxy.core.tally import Tally
from proxy.engine import books
from proxy.engine.books import NOBODY, OTHER, Books
from proxy.engine.predictor import Hit
from proxy.engine.recent import Running
from proxy.engine.rows import RowWriter
from proxy.upstreams.base import Job, ModelDescription, ModelTarget, Outcome, Progress
from storage.digest import Scope
from storage.errors import StorageUnavailable
from tests.fakes.clock import ManualClock
from tests.fakes.engine import OTHER_TOKEN, TOKEN, Engine
from tests.fakes.stores import MemoryKeyValue
from tests.fakes.upstreams import DELIVERY

pytestmark = pytest.mark.anyio

PRICE = Price(per_second=0.01, per_output=0.1)
RUN = (2.5, 0.125)
"""Seconds and money of a run of the scripted upstream, which gives one picture."""

SCOPE = Scope(b"s" * 32)
DAY_S = 86_400.0


def counted(engine: Engine) -> dict[Kind, Line]:
    """Whatever the engine has counted."""
    return engine.books.since_start().get("replicate", {})


def numbers(engine: Engine) -> dict[Kind, float]:
    return {kind: line.number for kind, line in counted(engine).items()}


async def held(engine: Engine, *tokens: str, given: dict[str, Any] | None = None) -> list[Running]:
    """Predictions that wait for one run, the first of which caused it; a second apart."""
    engine.upstream.gate = asyncio.Event()
    made = []
    for token in tokens:
        entry = await engine.create(given, token=token)
        assert isinstance(entry, Running)
        made.append(entry)
        engine.clock.advance(1.0)
    return made


async def let_go(engine: Engine, entry: Running) -> None:
    assert engine.upstream.gate is not None
    engine.upstream.gate.set()
    await entry.flight.finished(5)
    await engine.coalescer.drain(5)


class TestPredictions:
    async def test_miss_is_a_run_made_and_its_repeats_are_hits_at_the_same_price(self) -> None:
        engine = Engine(price=PRICE)
        await engine.run()
        for _ in range(2):
            assert isinstance(await engine.create(), Hit)
        assert counted(engine) == {
            "made_succeeded": Line(1, *RUN),
            "hit": Line(2, 2 * RUN[0], pytest.approx(2 * RUN[1])),
        }

    async def test_run_that_others_share_is_made_once(self) -> None:
        engine = Engine(price=PRICE)
        first, *_ = await held(engine, TOKEN, TOKEN, TOKEN, TOKEN)
        await let_go(engine, first)
        assert numbers(engine) == {"made_succeeded": 1, "shared": 3, "repeat": 2}
        assert earned(counted(engine)) == Line(1, *RUN)

    async def test_scopes_do_not_share(self) -> None:
        engine = Engine()
        first, second = await held(engine, TOKEN, OTHER_TOKEN)
        await let_go(engine, first)
        await second.flight.finished(5)
        assert numbers(engine) == {"made_succeeded": 2}

    async def test_who_cancels_is_saved_nothing_and_the_others_are(self) -> None:
        engine = Engine()
        first, second, *_ = await held(engine, TOKEN, TOKEN, TOKEN, TOKEN)
        await engine.lives.cancel(second.id, second.scope)
        await engine.lives.cancel(second.id, second.scope)
        await let_go(engine, first)
        assert numbers(engine) == {"made_succeeded": 1, "shared": 2, "left": 1, "repeat": 1}

    async def test_run_that_its_own_client_cancelled_is_inherited_by_one_who_stays(self) -> None:
        engine = Engine(price=PRICE)
        first, _ = await held(engine, TOKEN, TOKEN)
        await engine.lives.cancel(first.id, first.scope)
        await let_go(engine, first)
        assert numbers(engine) == {"made_succeeded": 1, "shared": 1, "heir": 1}
        assert earned(counted(engine)) == Line(0, 0.0, 0.0)

    async def test_failed_run_costs_its_seconds_and_saves_nobody_anything(self) -> None:
        engine = Engine(price=PRICE)
        engine.upstream.status = "failed"
        first, _ = await held(engine, TOKEN, TOKEN)
        await let_go(engine, first)
        assert numbers(engine) == {"made_failed": 1, "shared": 1, "fruitless": 1}
        assert counted(engine)["made_failed"] == Line(1, 2.5, 0.025)
        assert earned(counted(engine)).money == 0.0

    async def test_cancelled_run_costs_what_the_upstream_says(self) -> None:
        engine = Engine(price=PRICE)
        (first,) = await held(engine, TOKEN)
        end = Outcome("canceled", None, None, "", {"predict_time": 0.75}, 0.0, 9.0)
        engine.upstream.jobs[0].tell_end(end)
        await engine.lives.cancel(first.id, first.scope)
        await engine.coalescer.drain(5)
        assert counted(engine) == {"made_canceled": Line(1, 0.75, 0.0075)}

    async def test_cancelled_run_costs_the_time_that_it_was_seen_to_work_where_the_upstream_is_silent(self) -> None:
        engine = Engine()
        (first,) = await held(engine, TOKEN)
        engine.clock.advance(3.0)
        await engine.lives.cancel(first.id, first.scope)
        await engine.coalescer.drain(5)
        assert counted(engine) == {"made_canceled": Line(1, 4.0, 0.0)}

    async def test_run_that_had_succeeded_when_its_cancellation_came_is_paid_for_as_such(self) -> None:
        engine = Engine(price=PRICE)
        (first,) = await held(engine, TOKEN)
        end = Outcome("succeeded", ["https://replicate.delivery/1.png"], None, "", {"predict_time": 2.5}, 0.0, 9.0)
        engine.upstream.jobs[0].tell_end(end)
        await engine.lives.cancel(first.id, first.scope)
        await engine.coalescer.drain(5)
        assert counted(engine) == {"made_succeeded": Line(1, *RUN)}

    async def test_run_that_is_cancelled_while_its_files_are_taken_in_is_paid_for_and_kept(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Under load that took a second; the run was counted as cancelled, and what it gave was thrown away."""
        engine = Engine(price=PRICE)
        arrived, opened, ingest = asyncio.Event(), asyncio.Event(), engine.ingestor.ingest

        async def slow(*given: Any, **more: Any) -> Any:
            arrived.set()
            await opened.wait()
            return await ingest(*given, **more)

        monkeypatch.setattr(engine.ingestor, "ingest", slow)
        entry = await engine.create()
        assert isinstance(entry, Running)
        await arrived.wait()
        shown = await engine.lives.cancel(entry.id, entry.scope)
        opened.set()
        await engine.coalescer.drain(5)
        assert shown is not None
        assert shown.status == "canceled"
        assert counted(engine) == {"made_succeeded": Line(1, *RUN)}
        assert isinstance(await engine.create(), Hit)

    async def test_run_whose_result_cannot_be_taken_in_is_counted_as_the_upstream_ended_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = Engine(price=PRICE)

        async def broken(*given: Any, **more: Any) -> Any:
            raise RuntimeError("no")

        monkeypatch.setattr(engine.ingestor, "ingest", broken)
        engine.upstream.answer = lambda job: [f"{DELIVERY}/out-0.png"] * 3
        await engine.run()
        assert counted(engine) == {"made_succeeded": Line(1, 2.5, pytest.approx(0.325))}

    async def test_cancellation_that_is_not_heard_when_the_proxy_stops_is_left_to_the_next_process(self) -> None:
        engine = Engine()
        (first,) = await held(engine, TOKEN)
        silent = asyncio.Event()

        async def run(job: Job, report: Any) -> Any:
            report(Progress("processing", engine.clock(), upstream_id="up-9"))
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await silent.wait()  # the API does not answer
                raise

        engine.upstream.run = run  # type: ignore[method-assign]
        other = await engine.create({"prompt": "a grey goose"})
        assert isinstance(other, Running)
        await engine.lives.cancel(other.id, other.scope)
        await asyncio.sleep(0)
        await engine.coalescer.drain(0)
        await engine.journal.drain()
        assert numbers(engine) == {}
        again = await engine.restarted()
        again.upstream.gate = asyncio.Event()
        again.upstream.gate.set()
        await again.resumption.resume()
        await again.coalescer.drain(5)
        assert sorted(again.upstream.adopted) == ["up-1", "up-9"]
        assert sum(numbers(again).values()) == 2
        view = await again.views.find(other.id, other.scope)
        assert view is not None
        assert view.status == "canceled"
        assert first.scope == other.scope

    async def test_run_that_was_lost_is_a_failed_one(self) -> None:
        engine = Engine()
        engine.upstream.breakdown = UpstreamUnavailable("lost")
        (first,) = await held(engine, TOKEN)
        await let_go(engine, first)
        assert numbers(engine) == {"made_failed": 1}

    async def test_refusal_is_no_run_for_anybody_who_waited(self) -> None:
        engine = Engine()
        engine.upstream.refusal, engine.upstream.door = UpstreamRefused(402, [], b"{}"), asyncio.Event()
        asked = [asyncio.create_task(engine.create()) for _ in range(3)]
        await asyncio.sleep(0.01)
        engine.upstream.door.set()
        await asyncio.gather(*asked, return_exceptions=True)
        await engine.coalescer.drain(5)
        assert numbers(engine) == {"refused": 3}

    async def test_request_is_refused_where_the_upstream_cannot_even_say_what_would_run(self) -> None:
        engine = Engine()

        async def away(*_: object) -> ModelDescription:
            raise UpstreamUnavailable("away")

        engine.upstream.describe = away  # type: ignore[method-assign]
        with pytest.raises(UpstreamUnavailable):
            await engine.create()
        assert numbers(engine) == {"refused": 1}

    async def test_result_that_was_stored_meanwhile_is_a_hit_for_all_who_led_and_followed(self) -> None:
        engine = Engine(price=PRICE)
        await engine.run()
        record = next(iter(engine.actions._records.values()))
        looked_up = 0
        find = engine.flights.find

        async def find_late(*asked: Any) -> Any:
            nonlocal looked_up
            looked_up += 1
            return None if looked_up == 1 else await find(*asked)

        engine.flights.find = find_late  # type: ignore[method-assign]
        entry = await engine.create()
        assert isinstance(entry, Running)
        await entry.flight.finished(5)
        assert record.compute_s == 2.5
        assert counted(engine) == {"made_succeeded": Line(1, *RUN), "hit": Line(1, *RUN)}

    async def test_follower_who_was_answered_before_the_run_was_refused_is_refused_as_well(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("proxy.engine.predictor.FOLLOWER_PATIENCE_S", 0.01)
        engine = Engine()
        engine.upstream.refusal, engine.upstream.door = UpstreamRefused(402, [], b"{}"), asyncio.Event()
        leading = asyncio.create_task(engine.create())
        await asyncio.sleep(0.01)
        early = await asyncio.gather(engine.create(), engine.create(), engine.create())
        assert isinstance(early[0], Running)
        await engine.lives.cancel(early[0].id, early[0].scope)
        engine.upstream.door.set()
        with pytest.raises(UpstreamRefused):
            await leading
        await engine.coalescer.drain(5)
        assert numbers(engine) == {"left": 1, "refused": 3}

    async def test_request_that_wants_no_run_and_gets_none_is_refused(self) -> None:
        engine = Engine()
        with pytest.raises(NotCached):
            await engine.create(cache_control="only-if-cached")
        assert numbers(engine) == {"refused": 1}

    async def test_stale_answer_in_place_of_an_error_is_one_hit_and_no_refusal(self) -> None:
        engine = Engine(policies=(Policy(ttl_s=10.0, stale_if_error_s=100.0),))
        await engine.run()
        engine.clock.advance(50.0)
        engine.upstream.refusal = UpstreamRefused(503, [], b"{}")
        assert isinstance(await engine.create(), Hit)
        await engine.coalescer.drain(5)
        assert numbers(engine) == {"made_succeeded": 1, "hit": 1}

    async def test_new_run_behind_a_stale_answer_is_spent_and_not_a_request(self) -> None:
        engine = Engine(policies=(Policy(ttl_s=10.0, stale_while_revalidate_s=100.0),))
        await engine.run()
        engine.clock.advance(50.0)
        assert isinstance(await engine.create(), Hit)
        await engine.coalescer.drain(5)
        assert numbers(engine) == {"made_succeeded": 1, "hit": 1, "refresh": 1}

    async def test_new_run_behind_an_answer_is_known_as_that_after_a_restart(self) -> None:
        engine = Engine(policies=(Policy(ttl_s=10.0, stale_while_revalidate_s=100.0),))
        await engine.run()
        engine.clock.advance(50.0)
        engine.upstream.gate = asyncio.Event()
        assert isinstance(await engine.create(), Hit)
        await asyncio.sleep(0.01)
        await engine.journal.drain()
        await engine.coalescer.drain(0)
        again = await engine.restarted()
        await again.resumption.resume()
        await again.coalescer.drain(5)
        assert numbers(again) == {"refresh": 1}

    async def test_deployment_has_an_account_of_its_own_whatever_stands_behind_it(self) -> None:
        engine = Engine()
        engine.upstream.description = ModelDescription(
            "deployments/acme/live", "hidden", is_pinned=False, schema=None, deployment="acme/live"
        )
        engine.upstream.told_model = "acme/pixel"
        await engine.run()
        assert isinstance(await engine.create(), Hit)
        groups = (await engine.books.report(1, Selection()))["groups"]
        assert [(group["name"], group["requests"]) for group in groups] == [("deployments/acme/live", 2)]

    async def test_refresh_in_the_background_is_spent_and_not_a_request(self) -> None:
        engine = Engine(price=PRICE)
        (first,) = await held(engine, TOKEN)
        first.flight.tally = Tally("refresh")
        await let_go(engine, first)
        assert counted(engine) == {"refresh": Line(1, *RUN)}
        assert earned(counted(engine)).money == pytest.approx(-RUN[1])

    async def test_adopted_run_is_counted_once_with_those_who_share_it(self) -> None:
        engine = Engine()
        first, second, third = await held(engine, TOKEN, TOKEN, TOKEN)
        await engine.lives.cancel(third.id, third.scope)
        await engine.journal.drain()
        await engine.coalescer.drain(0)
        assert numbers(engine) == {"left": 1}
        again = await engine.restarted()
        await again.resumption.resume()
        await again.coalescer.drain(5)
        assert numbers(again) == {"made_succeeded": 1, "shared": 1, "repeat": 1}
        assert first.scope == second.scope

    async def test_run_whose_result_was_stored_right_before_a_kill_is_counted_by_the_next_process(self) -> None:
        """It was taken for counted, but what is counted is written after the row of the run is gone."""
        engine = Engine()
        first, _ = await held(engine, TOKEN, TOKEN)
        await engine.journal.drain()
        rows = dict(engine.ledger._values)
        await let_go(engine, first)
        await engine.journal.drain()
        engine.ledger._values.clear()
        engine.ledger._values.update(rows)  # killed before the row of the run went, and so before the sums were written
        again = await engine.restarted()
        await again.books.open()
        await again.resumption.resume()
        await again.coalescer.drain(5)
        assert again.upstream.adopted == []
        assert numbers(again) == {"made_succeeded": 1, "shared": 1, "repeat": 1}
        assert counted(again)["made_succeeded"].seconds == counted(engine)["made_succeeded"].seconds
        await again.books.aclose()


@asynccontextmanager
async def opened(rows: MemoryKeyValue, clock: ManualClock, **more: Any) -> AsyncIterator[Books]:
    """The books of one process."""
    made = Books(RowWriter(rows), lambda upstream, model: PRICE, clock, **more)
    await made.open()
    yield made
    await made.aclose()


async def all_of(made: Books, days: int = 1, selection: Selection | None = None) -> dict[str, Any]:
    """What is reported of everything: number, seconds and money by kind, zeros left out."""
    found = (await made.report(days, selection or Selection()))["all"]["kinds"]
    return {kind: tuple(line.values()) for kind, line in found.items() if line["count"]}


class TestRows:
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def rows(self, clock: ManualClock) -> MemoryKeyValue:
        return MemoryKeyValue(clock)

    async def test_day_goes_on_in_the_next_process(self, rows: MemoryKeyValue, clock: ManualClock) -> None:
        async with opened(rows, clock) as made:
            made.hit("replicate", "acme/pixel", SCOPE, 2.0, 1)
        async with opened(rows, clock) as made:
            made.hit("replicate", "acme/pixel", SCOPE, 2.0, 1, times=3)
            assert await all_of(made) == {"hit": (4, 8.0, pytest.approx(0.48))}
            assert made.since_start()["replicate"]["hit"] == Line(3, 6.0, pytest.approx(0.36))

    async def test_what_is_counted_is_written_a_moment_later(
        self, rows: MemoryKeyValue, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(books, "FLUSH_S", 0.01)
        async with opened(rows, clock) as made:
            made.hit("replicate", "acme/pixel", SCOPE, 2.0, 1)
            await asyncio.sleep(0.1)
            (name,) = rows._values
            assert name == f"money:2026-09-21:{SCOPE.hex()}:replicate:acme/pixel"
            made.hit("replicate", "acme/pixel", SCOPE, 2.0, 1)
            await asyncio.sleep(0.1)
            async with opened(rows, clock) as killed:
                assert await all_of(killed) == {"hit": (2, 4.0, pytest.approx(0.24))}

    async def test_store_that_is_away_delays_the_rows_and_loses_none(
        self, rows: MemoryKeyValue, clock: ManualClock
    ) -> None:
        async with opened(rows, clock) as made:
            rows.failure = StorageUnavailable("away")
            with structlog.testing.capture_logs():
                for number in range(3):
                    made.hit("replicate", f"acme/{number}", SCOPE, 2.0, 1)
                    assert (await all_of(made))["hit"][0] == number + 1
            rows.failure = None
        async with opened(rows, clock) as made:
            assert (await all_of(made))["hit"][0] == 3

    async def test_rows_wait_for_what_others_write_once_and_not_each(
        self, rows: MemoryKeyValue, clock: ManualClock
    ) -> None:
        writer, put = RowWriter(rows), rows.put
        order: list[str] = []

        async def noted(name: str, value: bytes, ttl_s: float | None = None) -> None:
            order.append(name.partition(":")[0])
            if name.startswith("money:"):
                writer.put("other:1", b"", 60.0)
            await put(name, value, ttl_s)

        made = Books(writer, lambda upstream, model: PRICE, clock)
        for model in ("a/a", "b/b", "c/c"):
            made.hit("replicate", model, SCOPE, 1.0, 1)
        rows.put = noted  # type: ignore[method-assign]
        await made.aclose()
        await writer.drain()
        assert order == ["money"] * 3 + ["other"] * 3

    async def test_days_are_kept_apart_and_read_back(self, rows: MemoryKeyValue, clock: ManualClock) -> None:
        async with opened(rows, clock) as made:
            for _ in range(3):
                made.hit("replicate", "acme/pixel", SCOPE, 2.0, 1)
                clock.advance(DAY_S)
            made.hit("replicate", "acme/pixel", SCOPE, 2.0, 1)
            assert [(await all_of(made, days))["hit"][0] for days in (1, 2, 3, 400)] == [1, 2, 3, 4]
            assert made.since_start()["replicate"]["hit"].number == 4
            groups = (await made.report(400, Selection("day")))["groups"]
            assert [group["name"] for group in groups] == ["2026-09-21", "2026-09-22", "2026-09-23", "2026-09-24"]

    async def test_clock_that_is_set_back_begins_no_day_anew(self, rows: MemoryKeyValue, clock: ManualClock) -> None:
        async with opened(rows, clock) as made:
            made.hit("replicate", "acme/pixel", SCOPE, 2.0, 1)
            clock.advance(DAY_S)
            made.hit("replicate", "acme/pixel", SCOPE, 2.0, 1)
            clock.advance(-DAY_S)
            made.hit("replicate", "acme/pixel", SCOPE, 2.0, 1)
            assert (await all_of(made, 2))["hit"][0] == 3

    async def test_rows_end_after_four_hundred_days(self, rows: MemoryKeyValue, clock: ManualClock) -> None:
        async with opened(rows, clock) as made:
            made.hit("replicate", "acme/pixel", SCOPE, 2.0, 1)
        clock.advance(401 * DAY_S)
        assert await rows.scan("money:") == []

    async def test_too_many_accounts_share_one(self, rows: MemoryKeyValue, clock: ManualClock) -> None:
        async with opened(rows, clock, max_accounts=2) as made:
            for number in range(5):
                made.hit("replicate", f"acme/{number}", SCOPE, 2.0, 1)
            made.hit("replicate", "acme/0", SCOPE, 2.0, 1)
            groups = (await made.report(1, Selection()))["groups"]
            assert {group["name"]: group["requests"] for group in groups} == {"acme/0": 2, "acme/1": 1, OTHER: 3}
        assert f"money:2026-09-21:{NOBODY.hex()}:replicate:other" in rows._values

    async def test_damaged_row_is_left_out(self, rows: MemoryKeyValue, clock: ManualClock) -> None:
        async with opened(rows, clock) as made:
            made.hit("replicate", "acme/pixel", SCOPE, 2.0, 1)
        for number, broken in enumerate((b"{", b"{}", b'{"format": 1}', b'{"format": 9}', b"[]")):
            await rows.put(f"money:2026-09-21:{number}", broken)
        with structlog.testing.capture_logs():
            async with opened(rows, clock) as made:
                assert (await all_of(made))["hit"][0] == 1

    async def test_storage_is_counted_by_the_hour(self, rows: MemoryKeyValue, clock: ManualClock) -> None:
        async with opened(rows, clock, used_bytes=lambda: 2 * 10**9, storage_price=0.73) as made:
            clock.advance(10 * 3600.0)
            assert await all_of(made) == {"stored": (20, 0.0, pytest.approx(0.02))}
            document = await made.report(1, Selection())
            assert document["storage"] == {"bytes": 2 * 10**9, "money_per_month": pytest.approx(1.46)}
            assert document["all"]["earned"]["money"] == pytest.approx(-0.02)
            assert await all_of(made, selection=Selection(scope="00")) == {}

    async def test_storage_of_a_busy_proxy_is_counted_in_the_day_in_which_it_lay_there(
        self, rows: MemoryKeyValue, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(books, "FLUSH_S", 0.001)
        async with opened(rows, clock, used_bytes=lambda: 10**9) as made:
            for _ in range(48):
                clock.advance(3600.0)
                made.hit("replicate", "acme/pixel", SCOPE, 2.0, 1)
                while made._stock_at < clock():  # noqa: ASYNC110 - it does so by itself, and tells nobody
                    await asyncio.sleep(0.001)
            stored = [group["kinds"]["stored"]["count"] for group in (await made.report(3, Selection("day")))["groups"]]
            assert sum(stored) == pytest.approx(48.0)
            assert max(stored) == pytest.approx(24.0, abs=1.5)

    async def test_report_after_an_idle_midnight_is_of_the_new_day(
        self, rows: MemoryKeyValue, clock: ManualClock
    ) -> None:
        async with opened(rows, clock) as made:
            made.hit("replicate", "acme/pixel", SCOPE, 2.0, 1)
            clock.advance(DAY_S)
            assert (await made.report(1, Selection()))["last_day"] == "2026-09-22"
            assert await all_of(made, 1) == {}
            assert (await all_of(made, 2))["hit"][0] == 1

    async def test_new_prices_hold_from_now_on(self, rows: MemoryKeyValue, clock: ManualClock) -> None:
        async with opened(rows, clock) as made:
            made.hit("replicate", "acme/pixel", SCOPE, 1.0, 0)
            made.reprice(lambda upstream, model: Price(per_second=1.0))
            made.hit("replicate", "acme/pixel", SCOPE, 1.0, 0)
            assert await all_of(made) == {"hit": (2, 2.0, pytest.approx(1.01))}

    async def test_pings_relays_and_would_be_hits_stand_apart(self, rows: MemoryKeyValue, clock: ManualClock) -> None:
        async with opened(rows, clock) as made:
            made.run_ended("ping", "replicate", "acme/pixel", SCOPE, 1.0, 1)
            made.would_hit("replicate", "acme/pixel", SCOPE, 2.0, 1)
            made.relayed("replicate", ModelTarget("acme", "pixel"), SCOPE)
            document = await made.report(1, Selection())
            assert document["all"]["requests"] == 1
            assert document["all"]["total"]["money"] == 0.0
            assert document["all"]["earned"]["money"] == pytest.approx(-0.11)


# -- what a scope has spent today ----------------------------------------------------------------------


async def test_what_a_scope_spends_is_what_its_runs_cost_since_midnight_across_a_restart() -> None:
    engine = Engine(policies=[Policy(scope="shared")], price=PRICE)
    mine, yours = (engine.request(token=token).scope for token in (TOKEN, OTHER_TOKEN))
    await engine.run(token=TOKEN)
    assert isinstance(await engine.create(token=OTHER_TOKEN), Hit)
    assert (engine.books.spent_today(mine), engine.books.spent_today(yours)) == (pytest.approx(RUN[1]), 0.0)
    engine.upstream.status = "failed"
    await engine.run({"prompt": "another"}, token=TOKEN)
    spent = engine.books.spent_today(mine)
    assert spent > RUN[1], "a run that failed costs its seconds, too"
    await engine.books.aclose()
    again = await engine.restarted()
    await again.books.open()
    assert again.books.spent_today(mine) == pytest.approx(spent)
    again.clock.advance(DAY_S)
    assert again.books.spent_today(mine) == 0.0
    await again.books.aclose()
