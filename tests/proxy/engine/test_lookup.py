from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.core.errors import UpstreamRefused, UpstreamUnavailable
from proxy.core.policy import UNPINNED_TTL_S, Bypass, Cached, Policy
from proxy.engine.predictor import Hit
from proxy.engine.recent import Running
from proxy.upstreams.base import Credential, ModelDescription, Verdict
from storage.digest import hash_bytes
from storage.records import BlobRef
from tests.fakes.asking import OUT, document, settle, shown
from tests.fakes.engine import BASE, TOKEN, Engine, png

pytestmark = pytest.mark.anyio


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


async def test_credential_that_is_refused_while_a_file_is_read_has_no_hit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hit went out all the same once the bytes were there."""
    former = Engine(base_url="http://127.0.0.1:8000")  # files are shown as data
    await former.run()
    engine = await former.restarted()
    read, reached, gate = engine.blobs.read, asyncio.Event(), asyncio.Event()

    async def slow(ref: BlobRef, first: int = 0, last: int | None = None) -> bytes | None:
        reached.set()
        await gate.wait()
        return await read(ref, first, last)

    monkeypatch.setattr(engine.blobs, "read", slow)
    asking = asyncio.create_task(engine.create())
    await reached.wait()
    engine.gatekeeper.refuse(engine.upstream, engine.request().credential)
    gate.set()
    answer = await asking
    assert isinstance(answer, Running)
    await answer.flight.finished(10)
    assert not answer.flight.was_found
    assert len(engine.upstream.jobs) == 1


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
