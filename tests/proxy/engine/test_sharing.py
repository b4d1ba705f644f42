"""Runs and results that several tokens share: by account, by group, by everybody."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.core.entitlement import Account, Groups, token_id
from proxy.core.errors import PaymentRequired, UpstreamRefused
from proxy.core.policy import Policy
from proxy.core.schemas import parse_schema
from proxy.engine.predictor import Hit
from proxy.engine.recent import Running
from proxy.engine.views import NOT_YOURS
from proxy.upstreams.base import Credential, Job, Outcome, Verdict
from tests.fakes.engine import OTHER_TOKEN, TOKEN, Engine, png

pytestmark = pytest.mark.anyio

SHARED = [Policy(scope="shared")]
REFUSAL = UpstreamRefused(401, [], b'{"title":"Unauthenticated"}')


async def settled() -> None:
    """Let everything that can go on go on."""
    for _ in range(20):
        await asyncio.sleep(0)


def refusing(engine: Engine, *tokens: str, error: UpstreamRefused = REFUSAL) -> None:
    """The upstream takes no run with these tokens."""
    run = engine.upstream.run

    async def judged(job: Job, report: Any) -> Outcome:
        if job.credential is not None and job.credential.token in tokens:
            engine.upstream.refusal = error
            try:
                return await run(job, report)
            finally:
                engine.upstream.refusal = None
        return await run(job, report)

    engine.upstream.run = judged  # type: ignore[method-assign]


@pytest.mark.parametrize("status", [401, 402, 403, 429])
async def test_refusal_of_who_leads_is_no_answer_to_who_follows(status: int) -> None:
    engine = Engine(policies=SHARED)
    refusing(engine, TOKEN, error=UpstreamRefused(status, [], b"{}"))
    engine.upstream.door = asyncio.Event()
    engine.gatekeeper.accept(engine.upstream, Credential(TOKEN))
    leader = asyncio.create_task(engine.create(token=TOKEN))
    await settled()
    followers = [asyncio.create_task(engine.create(token=OTHER_TOKEN, wants_s=60.0)) for _ in range(20)]
    await settled()
    assert len(engine.upstream.jobs) == 1
    engine.upstream.door.set()
    with pytest.raises(UpstreamRefused):
        await leader
    entries = await asyncio.gather(*followers)
    assert all(isinstance(entry, Running) for entry in entries)
    assert len(engine.upstream.jobs) == 2, "they ask for themselves, together"
    assert engine.gatekeeper.is_accepted_now(engine.upstream, Credential(OTHER_TOKEN))
    assert engine.gatekeeper.is_accepted_now(engine.upstream, Credential(TOKEN)) == (status in (402, 429))
    await engine.coalescer.drain(5)


async def test_refusal_that_is_about_the_request_is_everybody_s_answer() -> None:
    engine = Engine(policies=SHARED)
    refusing(engine, TOKEN, error=UpstreamRefused(422, [], b'{"detail":"no"}'))
    engine.upstream.door = asyncio.Event()
    leader = asyncio.create_task(engine.create(token=TOKEN))
    await settled()
    follower = asyncio.create_task(engine.create(token=OTHER_TOKEN, wants_s=60.0))
    await settled()
    engine.upstream.door.set()
    for one in (leader, follower):
        with pytest.raises(UpstreamRefused) as raised:
            await one
        assert raised.value.status == 422
    assert len(engine.upstream.jobs) == 1


async def test_token_that_nobody_vouches_for_shares_no_run() -> None:
    engine = Engine(policies=SHARED)
    engine.upstream.gate = asyncio.Event()
    first = await engine.create(token=TOKEN)
    engine.upstream.verdict = Verdict(is_accepted=None)
    second = await engine.create(token=OTHER_TOKEN)
    assert isinstance(first, Running)
    assert isinstance(second, Running)
    assert second.flight is not first.flight
    assert not second.is_follower
    assert len(engine.upstream.jobs) == 2
    engine.upstream.gate.set()
    await engine.coalescer.drain(5)


async def test_token_that_is_refused_shares_no_run_and_makes_none() -> None:
    engine = Engine(policies=SHARED)
    engine.upstream.gate = asyncio.Event()
    await engine.create(token=TOKEN)
    engine.upstream.verdict = Verdict(is_accepted=False)
    with pytest.raises(UpstreamRefused):
        await engine.create(token=OTHER_TOKEN)
    assert len(engine.upstream.jobs) == 1
    engine.upstream.gate.set()
    await engine.coalescer.drain(5)


async def test_equal_first_requests_of_one_token_share_a_run_although_nobody_vouches_for_it_yet() -> None:
    engine = Engine()
    engine.upstream.verdict = Verdict(is_accepted=None, is_silent=True)
    engine.upstream.door = asyncio.Event()
    asking = [asyncio.create_task(engine.create(wants_s=60.0)) for _ in range(10)]
    await settled()
    engine.upstream.door.set()
    entries = await asyncio.gather(*asking)
    assert len(engine.upstream.jobs) == 1
    assert len({entry.id for entry in entries}) == 10
    await engine.coalescer.drain(5)


async def test_sharers_of_a_run_have_their_own_predictions_and_see_them_alone() -> None:
    engine = Engine(policies=SHARED)
    engine.upstream.gate = asyncio.Event()
    mine, yours = [await engine.create(token=token) for token in (TOKEN, OTHER_TOKEN)]
    assert isinstance(mine, Running)
    assert isinstance(yours, Running)
    assert yours.is_follower
    assert mine.scope != yours.scope
    assert mine.results_scope == yours.results_scope
    engine.upstream.gate.set()
    await engine.coalescer.drain(5)
    for one, other in ((mine, yours), (yours, mine)):
        entitled = {one.results_scope}
        found = await engine.views.find(one.id, one.scope, entitled)
        assert found is not None
        assert found.output is not None
        assert await engine.views.find(one.id, other.scope, entitled) is None
    await engine.journal.drain()
    again = await engine.restarted()
    found = await again.views.find(yours.id, yours.scope, {yours.results_scope})
    assert found is not None
    assert found.output is not None


async def test_end_of_a_shared_run_that_failed_is_known_to_all_who_shared_it_after_a_restart() -> None:
    """The row of a run named the one who caused it, and the others' predictions had their data removed."""
    engine = Engine(policies=SHARED)
    engine.upstream.status = "failed"
    engine.upstream.gate = asyncio.Event()
    mine, yours = [await engine.create(token=token) for token in (TOKEN, OTHER_TOKEN)]
    engine.upstream.gate.set()
    await engine.coalescer.drain(5)
    again = await engine.restarted()
    for one in (mine, yours):
        assert isinstance(one, Running)
        found = await again.views.find(one.id, one.scope, {one.results_scope})
        assert found is not None
        assert (found.status, found.error) == ("failed", "the model says no")


async def test_who_has_left_a_group_sees_its_results_no_more() -> None:
    engine = Engine(policies=[Policy(scope="group:crew")])
    gate, credential = engine.gatekeeper, Credential(TOKEN)
    gate.set_groups(Groups.of({"crew": [f"token:{token_id(engine.secrets, TOKEN)}"]}))
    entry = await engine.run()
    hit = await engine.create()
    assert isinstance(hit, Hit)
    for prediction_id in (entry.id, hit.id):
        visitor = await gate.recognise(engine.upstream, credential)
        found = await engine.views.find(prediction_id, visitor.owner, visitor.entitled)
        assert found is not None
        assert found.output is not None
    gate.set_groups(Groups())
    for prediction_id in (entry.id, hit.id):
        visitor = await gate.recognise(engine.upstream, credential)
        found = await engine.views.find(prediction_id, visitor.owner, visitor.entitled)
        assert found is not None
        assert (found.output, found.is_data_removed, found.input, found.logs) == (None, True, {}, "")
    assert isinstance(await engine.create(), Running), "and gets no hit by its own key either"


@pytest.mark.parametrize("is_running", [False, True], ids=["stored", "taken up"])
@pytest.mark.parametrize("scope", ["shared", "group:crew"])
async def test_fields_and_file_addresses_of_who_made_a_result_are_shown_to_nobody_else(
    scope: str, is_running: bool
) -> None:
    """What the key leaves out may differ, and so may the URL of equal bytes. Once memory had forgotten what a caller
    had asked with, its prediction showed what the one who had made the result had."""
    engine = Engine(policies=[Policy(scope=scope, ignore=frozenset({"customer"}))])
    members = [f"token:{token_id(engine.secrets, token)}" for token in (TOKEN, OTHER_TOKEN)]
    groups = Groups.of({"crew": members})
    engine.gatekeeper.set_groups(groups)
    engine.upstream.takes = parse_schema(
        {"components": {"schemas": {"Input": {"properties": {"image": {"type": "string", "format": "uri"}}}}}}
    )
    for host in ("mine", "yours"):
        engine.egress.serve(f"https://{host}.example.com/a.png?key=secret-of-{host}", png())
    engine.upstream.gate = asyncio.Event() if is_running else None

    def asked(name: str) -> dict[str, str]:
        url = f"https://{name}.example.com/a.png?key=secret-of-{name}"
        return {"prompt": "a red fox", "customer": f"secret-of-{name}", "image": url}

    made = await engine.create(asked("mine"), token=TOKEN)
    assert isinstance(made, Running)
    if not is_running:
        await made.flight.finished(10)
    got = await engine.create(asked("yours"), token=OTHER_TOKEN)
    assert isinstance(got, Hit if not is_running else Running)
    assert len(engine.upstream.jobs) == 1
    again = await engine.restarted()
    again.gatekeeper.set_groups(groups)
    again.upstream = engine.upstream.successor()
    again.resumption._upstreams = {again.upstream.name: again.upstream}
    await again.resumption.resume()
    await again.coalescer.drain(5)
    for prediction_id, token in ((got.id, OTHER_TOKEN), (made.id, TOKEN)):
        visitor = await again.gatekeeper.recognise(again.upstream, Credential(token))
        found = await again.views.find(prediction_id, visitor.owner, visitor.entitled)
        assert found is not None
        assert found.output is not None
        assert found.input == {"prompt": "a red fox", "image": None}
    if is_running:
        engine.upstream.gate.set()  # type: ignore[union-attr]
        await engine.coalescer.drain(5)


async def test_result_of_one_account_alone_shows_it_all_that_it_was_made_with() -> None:
    engine = Engine(policies=[Policy(ignore=frozenset({"customer"}))])
    given = {"prompt": "a red fox", "customer": "mine"}
    made = await engine.run(given)
    found = await (await engine.restarted()).views.find(made.id, made.scope)
    assert found is not None
    assert found.input == given


@pytest.mark.parametrize("is_running", [False, True], ids=["stored", "on its way"])
async def test_who_leaves_a_group_while_its_request_is_judged_gets_nothing_of_the_group(is_running: bool) -> None:
    engine = Engine(policies=[Policy(scope="group:crew")])
    members = [f"token:{token_id(engine.secrets, token)}" for token in (TOKEN, OTHER_TOKEN)]
    engine.gatekeeper.set_groups(Groups.of({"crew": members}))
    engine.upstream.gate = asyncio.Event() if is_running else None
    made = await engine.create(token=OTHER_TOKEN)
    assert isinstance(made, Running)
    if not is_running:
        await made.flight.finished(10)
    engine.upstream.check_gate = asyncio.Event()
    asking = asyncio.create_task(engine.create(token=TOKEN))
    await settled()
    assert engine.upstream.checks
    engine.gatekeeper.set_groups(Groups.of({"crew": members[1:]}))
    engine.upstream.check_gate.set()
    answer = await asking
    assert isinstance(answer, Running)
    assert not answer.is_follower
    assert answer.flight is not made.flight
    assert answer.results_scope == answer.scope
    if is_running:
        engine.upstream.gate.set()  # type: ignore[union-attr]
    await engine.coalescer.drain(5)
    assert not answer.flight.was_found
    assert len(engine.upstream.jobs) == 2


async def test_who_has_left_a_group_is_not_told_why_its_run_failed_either() -> None:
    engine = Engine(policies=[Policy(scope="group:crew")])
    gate = engine.gatekeeper
    gate.set_groups(Groups.of({"crew": [f"token:{token_id(engine.secrets, TOKEN)}"]}))
    engine.upstream.status = "failed"
    entry = await engine.run()
    gate.set_groups(Groups())
    visitor = await gate.recognise(engine.upstream, Credential(TOKEN))
    found = await engine.views.find(entry.id, visitor.owner, visitor.entitled)
    assert found is not None
    assert (found.status, found.error) == ("failed", NOT_YOURS)


async def test_run_is_taken_up_by_the_next_process_under_its_own_scopes() -> None:
    engine = Engine(policies=SHARED)
    engine.upstream.verdict = Verdict(is_accepted=True, account=Account("user", "alice"))
    await engine.gatekeeper.identify(engine.upstream, Credential(TOKEN))
    engine.upstream.gate = asyncio.Event()
    entry = await engine.create()
    assert isinstance(entry, Running)
    assert entry.scope != entry.results_scope
    await engine.journal.drain()
    again = await engine.restarted()
    again.upstream = engine.upstream.successor()
    again.resumption._upstreams = {again.upstream.name: again.upstream}
    await again.resumption.resume()
    await again.coalescer.drain(5)
    found = await again.views.find(entry.id, entry.scope, {entry.results_scope})
    assert found is not None
    assert found.output is not None
    engine.upstream.gate.set()
    await engine.coalescer.drain(5)


async def test_token_that_may_cause_no_run_still_gets_what_is_stale_and_nothing_is_refreshed_for_it() -> None:
    engine = Engine(own_tokens=("a-token-of-ours-one",), policies=[Policy(ttl_s=60, stale_while_revalidate_s=3600)])
    engine.upstream.has_accounts = False
    gate = engine.gatekeeper
    text, _ = await gate.add_token("mine", spend_per_day=1.0)
    await engine.run(token=text)
    engine.clock.advance(120)
    gate._allowances._spent_today = lambda owner: 1.0
    answer = await engine.create(token=text)
    assert isinstance(answer, Hit)
    assert answer.grade == "revalidate"
    await settled()
    assert len(engine.upstream.jobs) == 1
    with pytest.raises(PaymentRequired):
        await engine.create({"prompt": "new"}, token=text)
