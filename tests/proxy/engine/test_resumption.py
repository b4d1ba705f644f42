"""A process ends at any moment, and the next one over the same stores goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.core.errors import UpstreamUnavailable
from proxy.core.webhooks import WebhookRequest
from proxy.engine import lives as lives_module
from proxy.engine import resumption as module
from proxy.engine.journal import INTERRUPTED
from proxy.engine.predictor import Hit
from proxy.engine.recent import Running
from proxy.upstreams.base import Credential, ModelDescription, ModelTarget, Progress
from tests.fakes.engine import TOKEN, Engine
from tests.fakes.upstreams import VERSION, ScriptedUpstream

pytestmark = pytest.mark.anyio

FOX = {"prompt": "a red fox"}


def cog(engine: Engine) -> ScriptedUpstream:
    return ScriptedUpstream(engine.clock, name="replicate", kind="cog", has_accounts=False)


async def begun(engine: Engine, count: int = 1, **how: Any) -> list[Running]:
    """Predictions that share one run, which has been taken and does not end."""
    engine.upstream.gate = asyncio.Event()
    entries = [await engine.create(FOX, **how) for _ in range(count)]
    assert all(isinstance(entry, Running) for entry in entries)
    await engine.journal.drain()
    return [entry for entry in entries if isinstance(entry, Running)]


async def killed(engine: Engine, **options: Any) -> Engine:
    """The next process; what the former one still does reaches no store any more."""
    again = await engine.restarted(**options)
    again.upstream = engine.upstream.successor()
    again.resumption._upstreams = {again.upstream.name: again.upstream}
    return again


async def found(engine: Engine, prediction_id: str) -> Any:
    return await engine.views.find(prediction_id, engine.request(token=TOKEN).scope)


async def test_run_that_goes_on_upstream_is_adopted_and_every_sharer_gets_its_picture() -> None:
    engine = Engine()
    first, second = await begun(engine, 2)
    again = await killed(engine)
    await again.resumption.resume()
    assert (await found(again, first.id)).status == "starting"
    await again.coalescer.drain(5)
    assert again.upstream.adopted == ["up-1"]
    assert again.upstream.jobs == []
    one, two = await found(again, first.id), await found(again, second.id)
    assert one.status == two.status == "succeeded"
    assert one.output == two.output
    assert one.created_at == first.created_at
    assert again.left_behind == [("replicate", "adopted")]
    assert isinstance(await again.create(FOX), Hit)


async def test_output_so_far_of_an_adopted_run_is_shown() -> None:
    engine = Engine()
    (entry,) = await begun(engine)
    again = await killed(engine)
    again.upstream.gate = asyncio.Event()
    await again.resumption.resume()
    while not again.upstream.reporters:  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0)
    again.upstream.reporters[-1](Progress("processing", again.clock(), output=["a ", "red "]))
    assert (await found(again, entry.id)).output == ["a ", "red "]
    again.upstream.gate.set()
    await again.coalescer.drain(5)


def slow_disk(engine: Engine, prefix: str) -> asyncio.Event:
    """Rows whose name begins with ``prefix`` are written once the event is set."""
    put, opened = engine.ledger.put, asyncio.Event()

    async def wait_and_put(name: str, value: bytes, ttl_s: float | None = None) -> None:
        if name.startswith(prefix):
            await opened.wait()
        await put(name, value, ttl_s)

    engine.ledger.put = wait_and_put  # type: ignore[method-assign]
    return opened


@pytest.mark.parametrize("row", ["going:", "pred:"])
async def test_create_is_answered_when_the_next_process_would_know_its_prediction(row: str) -> None:
    """A proxy killed right after thirty answers showed most of them as succeeded, without any output."""
    engine = Engine()
    engine.upstream.gate = asyncio.Event()
    opened = slow_disk(engine, row)
    creating = asyncio.create_task(engine.create(FOX))
    await asyncio.sleep(0.01)
    assert not creating.done()
    opened.set()
    entry = await creating
    assert isinstance(entry, Running)
    again = await killed(engine)
    await again.resumption.resume()
    await again.coalescer.drain(5)
    assert (await found(again, entry.id)).status == "succeeded"


async def test_cancellation_is_answered_when_the_next_process_would_know_it() -> None:
    engine = Engine()
    first, _ = await begun(engine, 2)
    opened = slow_disk(engine, "canceled:")
    canceling = asyncio.create_task(engine.lives.cancel(first.id, first.scope))
    await asyncio.sleep(0.01)
    assert not canceling.done()
    opened.set()
    one = await canceling
    assert one is not None
    assert one.status == "canceled"


async def test_disk_that_stands_still_holds_no_answer_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lives_module, "WRITE_WAIT_S", 0.01)
    engine = Engine()
    opened = slow_disk(engine, "pred:")
    entry = await engine.run(FOX)
    assert (await engine.views.of(entry)).status == "succeeded"
    opened.set()
    await engine.journal.drain()


async def test_same_input_joins_the_adopted_run_instead_of_paying_again() -> None:
    engine = Engine()
    await begun(engine)
    again = await killed(engine)
    again.upstream.gate = asyncio.Event()
    await again.resumption.resume()
    joined = await again.create(FOX)
    assert isinstance(joined, Running)
    assert joined.is_follower
    again.upstream.gate.set()
    await joined.flight.finished(5)
    assert (await again.views.of(joined)).status == "succeeded"
    assert again.upstream.jobs == []


async def test_adopted_run_does_not_prove_a_credential_before_the_upstream_has_spoken() -> None:
    engine = Engine()
    await begun(engine)
    again = await killed(engine)
    again.upstream.gate = asyncio.Event()
    await again.resumption.resume()
    await asyncio.sleep(0)
    assert not again.gatekeeper.is_accepted_now(again.upstream, Credential(TOKEN))
    again.upstream.gate.set()
    await again.coalescer.drain(5)


async def test_orderly_stop_leaves_the_run_to_the_next_process_too() -> None:
    engine = Engine()
    (entry,) = await begun(engine)
    await engine.coalescer.drain(0.01)
    assert engine.upstream.canceled == []
    again = await killed(engine)
    await again.resumption.resume()
    await again.coalescer.drain(5)
    assert (await found(again, entry.id)).status == "succeeded"


async def test_run_that_ended_with_its_connection_is_run_once_more_and_not_a_second_time() -> None:
    engine = Engine()
    engine.upstream = cog(engine)
    (entry,) = await begun(engine, token=None)
    scope = entry.scope
    again = await killed(engine)
    again.upstream.gate = asyncio.Event()
    await again.resumption.resume()
    await asyncio.sleep(0.01)
    assert [job.input for job in again.upstream.jobs] == [FOX]
    assert again.upstream.jobs[0].id == engine.upstream.jobs[0].id
    await again.journal.drain()
    third = await killed(again)
    await third.resumption.resume()
    one = await third.views.find(entry.id, scope)
    assert one is not None
    assert (one.status, one.error) == ("failed", INTERRUPTED)
    assert (again.left_behind, third.left_behind) == ([("replicate", "repeated")], [("replicate", "lost")])
    assert third.upstream.jobs == []


async def test_run_that_was_left_behind_long_ago_is_not_run_once_more() -> None:
    engine = Engine()
    engine.upstream = cog(engine)
    (entry,) = await begun(engine, token=None)
    again = await killed(engine)
    again.clock.advance(module.MAX_REPEAT_AGE_S + 1)
    await again.resumption.resume()
    assert again.left_behind == [("replicate", "lost")]
    one = await again.views.find(entry.id, entry.scope)
    assert one is not None
    assert one.status == "failed"


async def test_run_whose_result_was_stored_before_the_end_is_not_asked_for_again() -> None:
    engine = Engine()
    (entry,) = await begun(engine)
    rows = dict(engine.ledger._values)
    assert engine.upstream.gate is not None
    engine.upstream.gate.set()
    await entry.flight.finished(5)
    await engine.journal.drain()
    engine.ledger._values.update(rows)  # as if it had been killed between the record and the row
    again = await killed(engine)
    await again.resumption.resume()
    await again.coalescer.drain(5)
    assert (again.upstream.adopted, again.upstream.jobs) == ([], [])
    assert (await found(again, entry.id)).status == "succeeded"


async def test_run_whose_words_were_left_before_the_end_is_not_run_once_more() -> None:
    engine = Engine()
    engine.upstream = cog(engine)
    engine.upstream.answer = lambda job: "Once upon a time"
    (entry,) = await begun(engine, token=None)
    rows = dict(engine.ledger._values)
    assert engine.upstream.gate is not None
    engine.upstream.gate.set()
    await entry.flight.finished(5)
    await engine.journal.drain()
    engine.ledger._values.update(rows)
    again = await killed(engine)
    await again.resumption.resume()
    await again.coalescer.drain(5)
    one = await again.views.find(entry.id, entry.scope)
    assert one is not None
    assert (one.status, one.output) == ("succeeded", "Once upon a time")
    assert again.upstream.jobs == []


async def test_run_of_an_upstream_that_is_gone_has_failed() -> None:
    engine = Engine()
    (entry,) = await begun(engine)
    again = await killed(engine)
    again.resumption._upstreams = {}
    await again.resumption.resume()
    one = await found(again, entry.id)
    assert (one.status, one.error) == ("failed", INTERRUPTED)


async def test_run_that_cannot_be_found_again_has_failed_and_says_why() -> None:
    engine = Engine()
    (entry,) = await begun(engine)
    again = await killed(engine)
    again.upstream.breakdown = UpstreamUnavailable("The run's result is lost.")
    await again.resumption.resume()
    await again.coalescer.drain(5)
    one = await found(again, entry.id)
    assert (one.status, one.error) == ("failed", "The run's result is lost.")


@pytest.mark.parametrize(("has_started", "status"), [(True, "canceled"), (False, "aborted")])
async def test_deadline_holds_across_a_restart(has_started: bool, status: str) -> None:
    engine = Engine()
    engine.upstream.starts = has_started
    (entry,) = await begun(engine, deadline_s=30.0)
    again = await killed(engine)
    again.upstream.gate, again.upstream.starts = asyncio.Event(), False
    again.clock.advance(31)
    await again.resumption.resume()
    await asyncio.sleep(0.05)
    one = await found(again, entry.id)
    assert one.status == status
    assert len(again.upstream.canceled) == 1


async def test_cancelled_prediction_stays_cancelled_and_the_others_go_on() -> None:
    engine = Engine()
    first, second = await begun(engine, 2)
    await engine.lives.cancel(first.id, first.scope)
    await engine.journal.drain()
    again = await killed(engine)
    await again.resumption.resume()
    await again.coalescer.drain(5)
    assert (await found(again, first.id)).status == "canceled"
    assert (await found(again, second.id)).status == "succeeded"


@pytest.mark.parametrize("is_cog", [False, True])
async def test_run_that_nobody_wanted_any_more_is_cancelled_by_the_next_process(is_cog: bool) -> None:
    """A kill right after a cancellation left the run to its end upstream, and it was paid for."""
    engine = Engine()
    if is_cog:
        engine.upstream = cog(engine)
    token = None if is_cog else TOKEN
    entries = await begun(engine, 2, token=token)
    await engine.journal.drain()
    rows = dict(engine.ledger._values)
    for entry in entries:
        await engine.lives.cancel(entry.id, entry.scope)
    await engine.journal.drain()
    await engine.coalescer.drain(5)
    await engine.journal.drain()
    going = {name: row for name, row in rows.items() if name.startswith("going:")}
    unwanted = {name.replace("going:", "unwanted:"): (b"1", row[1]) for name, row in going.items()}
    assert not [name for name in engine.ledger._values if name.startswith(("going:", "unwanted:"))]
    engine.ledger._values.update(going | unwanted)
    again = await killed(engine)
    again.upstream.gate = asyncio.Event()
    await again.resumption.resume()
    await again.coalescer.drain(5)
    await again.journal.drain()
    assert len(again.upstream.canceled) == (0 if is_cog else 1)
    assert again.upstream.jobs == []
    assert not [name for name in again.ledger._values if name.startswith(("going:", "unwanted:"))]
    one = await again.views.find(entries[0].id, entries[0].scope)
    assert one is not None
    assert one.status == "canceled"


async def test_nothing_is_left_in_the_store_when_all_has_ended() -> None:
    engine = Engine()
    await begun(engine, 3)
    again = await killed(engine)
    await again.resumption.resume()
    await again.coalescer.drain(5)
    await again.journal.drain()
    assert not [name for name in again.ledger._values if name.startswith(("going:", "pred:"))]


async def test_result_of_an_adopted_run_of_an_unpinned_model_is_stored_as_such() -> None:
    engine = Engine()
    engine.upstream.description = ModelDescription("acme/pixel", "hidden", is_pinned=False, schema=None)
    await begun(engine)
    again = await killed(engine)
    await again.resumption.resume()
    await again.coalescer.drain(5)
    again.upstream.description = engine.upstream.description
    hit = await again.create(FOX)
    assert isinstance(hit, Hit)
    assert hit.record.version == "hidden" != VERSION


# -- webhooks ------------------------------------------------------------------------------------------

HOOK = WebhookRequest("https://hooks.example.com/in", frozenset({"start", "completed"}))


async def told(engine: Engine, count: int) -> list[tuple[str, str]]:
    """Prediction and status of what the receiver got, once it is ``count``, and a moment later."""
    for _ in range(200):
        if len(engine.receiver.got) >= count:
            break
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.02)
    return [(one.document["id"], one.status) for one in engine.receiver.got]


async def test_webhook_of_a_miss_a_follower_and_a_hit_is_told_with_their_own_ids() -> None:
    engine = Engine()
    first, second = await begun(engine, 2, webhook=HOOK)
    assert engine.upstream.gate is not None
    engine.upstream.gate.set()
    await first.flight.finished(5)
    await told(engine, 4)
    hit = await engine.create(FOX, webhook=HOOK)
    assert isinstance(hit, Hit)
    got = await told(engine, 6)
    for one in (first, second, hit):
        assert [status for prediction_id, status in got if prediction_id == one.id] == ["processing", "succeeded"]
    await engine.journal.drain()
    assert not [name for name in engine.ledger._values if name.startswith(("hook:", "pred:", "going:"))]


async def test_webhook_of_an_adopted_run_is_told_its_end_and_not_its_start_again() -> None:
    engine = Engine()
    (entry,) = await begun(engine, webhook=HOOK)
    assert await told(engine, 1) == [(entry.id, "processing")]
    again = await killed(engine)
    await again.resumption.resume()
    assert await told(again, 1) == [(entry.id, "succeeded")]
    assert (again.receiver.got[0].url, again.receiver.got[0].document["output"] is not None) == (HOOK.url, True)


async def test_start_that_came_after_the_kill_is_told_once() -> None:
    engine = Engine()
    engine.upstream.starts = False
    (entry,) = await begun(engine, webhook=HOOK)
    assert await told(engine, 0) == []
    again = await killed(engine)
    await again.resumption.resume()
    assert await told(again, 2) == [(entry.id, "processing"), (entry.id, "succeeded")]


@pytest.mark.parametrize("is_stored", [True, False])
async def test_end_that_was_not_told_before_the_kill_is_told_once_after_it(is_stored: bool) -> None:
    engine = Engine()
    (entry,) = await begun(engine, webhook=HOOK)
    rows = dict(engine.ledger._values)
    if is_stored:
        assert engine.upstream.gate is not None
        engine.upstream.gate.set()
        await entry.flight.finished(5)
        await engine.journal.drain()
        rows = {**engine.ledger._values, **{name: row for name, row in rows.items() if name.startswith("pred:")}}
    await engine.notices.aclose()
    engine.ledger._values.clear()
    engine.ledger._values.update({name: row for name, row in rows.items() if not name.startswith("hook:")})
    again = await killed(engine)
    if not is_stored:
        again.resumption._upstreams = {}
    await again.resumption.resume()
    assert await told(again, 1) == [(entry.id, "succeeded" if is_stored else "failed")]
    third = await killed(again)
    await third.resumption.resume()
    assert await told(third, 1) == []


async def test_cancellation_is_told_even_if_the_proxy_ended_right_after_it() -> None:
    engine = Engine()
    (entry,) = await begun(engine, webhook=HOOK)
    rows = dict(engine.ledger._values)
    await engine.lives.cancel(entry.id, entry.scope)
    assert await told(engine, 2) == [(entry.id, "processing"), (entry.id, "canceled")]
    await engine.journal.drain()
    engine.ledger._values.update(rows)
    again = await killed(engine)
    await again.resumption.resume()
    assert await told(again, 1) == [(entry.id, "canceled")]


@pytest.mark.parametrize("was_killed", [True, False])
async def test_predictions_of_a_run_that_goes_on_are_listed_once_after_a_kill_and_after_a_stop(
    was_killed: bool,
) -> None:
    engine = Engine()
    leader, follower = await begun(engine, 2)
    again = await killed(engine)
    if was_killed:
        for row, _ in await again.ledger.scan("history:"):
            await again.ledger.remove(row)
    await again.resumption.resume()
    entries = await again.history.entries(engine.request(token=TOKEN).scope)
    assert {entry.id: entry.upstream_id for entry in entries} == {leader.id: "up-1", follower.id: None}
    assert len(entries) == 2
    await again.coalescer.drain(5)


async def test_adopted_run_of_a_deployment_still_tells_it() -> None:
    engine = Engine()
    engine.upstream.told_model = "acme/pixel"
    target = ModelTarget("acme", "live", is_deployment=True)
    (entry,) = await begun(engine, target=target)
    again = await killed(engine)
    again.upstream.gate = None
    await again.resumption.resume()
    assert (await found(again, entry.id)).deployment == "acme/live"
    await again.coalescer.drain(5)
    one = await found(again, entry.id)
    assert (one.status, one.deployment) == ("succeeded", "acme/live")
    assert isinstance(await again.create(FOX, target=target), Hit)
