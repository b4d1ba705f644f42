from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.core.changes import Change, decode_change, encode_change
from proxy.core.entitlement import Account, Groups, Rule, account_scope, group_scope, open_scope, token_scope
from proxy.core.errors import BadRequest, Unauthenticated, UpstreamRefused
from proxy.core.secrets import Secrets
from proxy.engine import acceptances, credentials
from proxy.engine.credentials import Gatekeeper
from proxy.upstreams.base import Credential, Verdict
from storage.errors import StorageUnavailable
from tests.fakes.clock import ManualClock
from tests.fakes.stores import MemoryKeyValue
from tests.fakes.upstreams import ScriptedUpstream

pytestmark = pytest.mark.anyio

SECRETS = Secrets.derive(b"s" * 32)
MINE = Credential("r8_mine")
YOURS = Credential("r8_yours")
OWN = "an-own-token-of-hotplate"


class House:
    """A gatekeeper with one upstream that has accounts and one that has none."""

    def __init__(
        self,
        own_tokens: tuple[str, ...] = (),
        *,
        notes: MemoryKeyValue | None = None,
        clock: ManualClock | None = None,
        wall: ManualClock | None = None,
    ) -> None:
        self.clock = clock or ManualClock()
        self.stretched: list[str] = []
        self.gate = Gatekeeper(
            SECRETS,
            own_tokens,
            accept_for_s=300.0,
            now=self.clock,
            notes=notes,
            wall=wall or self.clock,
            observe_stretched=self.stretched.append,
        )
        self.accounts = ScriptedUpstream(self.clock)
        self.local = ScriptedUpstream(self.clock, name="local", kind="local", has_accounts=False)
        self.mine = self.gate.scope_of(self.accounts, MINE)

    async def is_accepted(self, credential: Credential | None = MINE) -> bool:
        return await self.gate.is_accepted(self.accounts, credential)


# -- scopes --------------------------------------------------------------------------------------------


async def test_scope_is_the_tokens_own_at_each_upstream() -> None:
    house = House((OWN,))
    assert house.mine == token_scope(SECRETS, "replicate", "r8_mine")
    assert house.gate.scope_of(house.accounts, YOURS) != house.mine
    assert house.gate.scope_of(house.local, Credential(OWN)) == token_scope(SECRETS, "local", OWN)
    with pytest.raises(Unauthenticated):  # our own token is told to no upstream
        house.gate.scope_of(house.accounts, Credential(OWN))


async def test_open_upstream_has_one_scope_for_everybody() -> None:
    house = House()
    scopes = {house.gate.scope_of(house.local, one) for one in (None, MINE, YOURS)}
    assert scopes == {open_scope(SECRETS, "local")}


async def test_upstream_with_accounts_needs_a_credential() -> None:
    house = House()
    with pytest.raises(Unauthenticated, match="did not pass an authentication token"):
        house.gate.scope_of(house.accounts, None)


@pytest.mark.parametrize(
    "credential", [None, MINE, Credential(OWN[:-1]), Credential(OWN + "x"), Credential(OWN.upper())]
)
async def test_guarded_upstream_needs_one_of_the_own_tokens(credential: Credential | None) -> None:
    house = House(("another-own-token-here", OWN))
    with pytest.raises(Unauthenticated):
        house.gate.scope_of(house.local, credential)
    with pytest.raises(Unauthenticated):  # asked again: nothing of the refusal is remembered as a scope
        house.gate.scope_of(house.local, credential)


async def test_every_own_token_is_good() -> None:
    house = House(("another-own-token-here", OWN))
    assert house.gate.scope_of(house.local, Credential(OWN)) != house.gate.scope_of(
        house.local, Credential("another-own-token-here")
    )


async def test_scopes_are_the_same_whether_remembered_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "MAX_REMEMBERED", 3)
    house = House()
    first = [house.gate.scope_of(house.accounts, Credential(f"r8_{number}")) for number in range(10)]
    again = [house.gate.scope_of(house.accounts, Credential(f"r8_{number}")) for number in range(10)]
    assert first == again
    assert len(set(first)) == 10
    assert len(house.gate._scopes) == 3


async def test_long_tokens_of_strangers_are_not_kept() -> None:
    house = House()
    before = len(house.gate._scopes)
    long = Credential("x" * 60_000)
    assert house.gate.scope_of(house.accounts, long) == token_scope(SECRETS, "replicate", long.token)
    assert len(house.gate._scopes) == before


# -- who may have a hit --------------------------------------------------------------------------------


async def test_unknown_credential_is_asked_about_and_then_accepted_for_a_while() -> None:
    house = House()
    assert not house.gate.is_accepted_now(house.accounts, MINE)
    assert await house.is_accepted()
    assert house.accounts.checks == [MINE]
    assert house.gate.is_accepted_now(house.accounts, MINE)
    house.clock.advance(299)
    assert await house.is_accepted()
    assert len(house.accounts.checks) == 1


async def test_acceptance_ends_after_its_time() -> None:
    house = House()
    house.gate.accept(house.accounts, MINE)
    house.clock.advance(300)
    assert not house.gate.is_accepted_now(house.accounts, MINE)
    assert await house.is_accepted()
    assert house.accounts.checks == [MINE]


async def test_refusal_ends_acceptance_at_once() -> None:
    house = House()
    house.gate.accept(house.accounts, MINE)
    house.gate.refuse(house.accounts, MINE)
    assert not house.gate.is_accepted_now(house.accounts, MINE)


async def test_refusal_that_comes_while_somebody_is_asked_outlasts_the_answer() -> None:
    """The upstream looked at the token before it was revoked, and what it said then came after its refusal."""
    house = House()
    house.accounts.check_gate = asyncio.Event()
    asking = asyncio.create_task(house.is_accepted())
    for _ in range(10):
        await asyncio.sleep(0)
    assert house.accounts.checks
    house.gate.refuse(house.accounts, YOURS)
    house.gate.refuse(house.accounts, MINE)
    house.accounts.check_gate.set()
    assert not await asking
    assert not house.gate.is_accepted_now(house.accounts, MINE)
    assert await house.is_accepted(), "asked anew, it may be accepted again"


async def test_acceptance_of_one_caller_is_none_of_another() -> None:
    house = House()
    house.gate.accept(house.accounts, MINE)
    assert not house.gate.is_accepted_now(house.accounts, YOURS)


async def test_refused_credential_gets_the_upstreams_own_answer_every_time() -> None:
    house = House()
    house.accounts.verdict = Verdict(
        is_accepted=False, refusal=(401, "application/json", b'{"title":"Unauthenticated"}')
    )
    for _ in range(2):
        with pytest.raises(UpstreamRefused) as caught:
            await house.is_accepted()
        assert caught.value.status == 401
        assert caught.value.content == b'{"title":"Unauthenticated"}'
        assert not house.gate.is_accepted_now(house.accounts, MINE)
    assert len(house.accounts.checks) == 2


async def test_refusal_without_words_is_a_401_all_the_same() -> None:
    house = House()
    house.accounts.verdict = Verdict(is_accepted=False)
    with pytest.raises(UpstreamRefused) as caught:
        await house.is_accepted()
    assert caught.value.status == 401


async def test_where_nobody_can_be_asked_there_is_no_acceptance() -> None:
    house = House()
    house.accounts.verdict = Verdict(is_accepted=None)
    assert not await house.is_accepted()
    assert not house.gate.is_accepted_now(house.accounts, MINE)


async def test_without_a_credential_there_is_no_acceptance_and_nobody_is_asked() -> None:
    house = House()
    assert not await house.is_accepted(None)
    assert house.accounts.checks == []


async def test_upstream_without_accounts_needs_no_acceptance() -> None:
    house = House()
    assert house.gate.is_accepted_now(house.local, None)


async def test_hundred_requests_at_once_ask_once() -> None:
    house = House()
    house.accounts.check_gate = asyncio.Event()
    waiting = [asyncio.create_task(house.is_accepted()) for _ in range(100)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    house.accounts.check_gate.set()
    assert await asyncio.gather(*waiting) == [True] * 100
    assert len(house.accounts.checks) == 1


async def test_request_that_leaves_while_somebody_is_asked_spoils_nothing() -> None:
    house = House()
    house.accounts.check_gate = asyncio.Event()
    first, second = (asyncio.create_task(house.is_accepted()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    house.accounts.check_gate.set()
    assert await second
    assert first.cancelled()


async def test_memory_of_acceptances_is_bounded_and_forgetting_means_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptances, "MAX_REMEMBERED", 3)
    house = House()
    house.gate.accept(house.accounts, MINE)
    for number in range(3):
        house.gate.accept(house.accounts, Credential(f"r8_{number}"))
    assert not house.gate.is_accepted_now(house.accounts, MINE)
    assert await house.is_accepted()


async def test_credential_does_not_show_its_token() -> None:
    assert "r8_mine" not in repr(MINE)
    assert "r8_mine" not in str(MINE)


# -- whose a token is ----------------------------------------------------------------------------------

ALICE = Account("user", "alice")
OTHERS = Credential("r8_other_of_mine")


def told(account: Account | None = ALICE) -> Verdict:
    return Verdict(is_accepted=True, account=account)


async def test_two_tokens_of_one_account_have_one_owner_and_each_keeps_its_own() -> None:
    house = House()
    house.accounts.verdict = told()
    mine, other = [await house.gate.identify(house.accounts, one) for one in (MINE, OTHERS)]
    assert mine.owner == other.owner == account_scope(SECRETS, "replicate", ALICE)
    assert mine.token != other.token
    assert mine.former == (mine.token,)
    assert other.token not in mine.entitled
    assert house.gate.scope_of(house.accounts, MINE) == mine.owner


async def test_hundred_first_requests_ask_once_and_get_one_scope() -> None:
    house = House()
    house.accounts.verdict = told()
    house.accounts.check_gate = asyncio.Event()
    asking = [asyncio.create_task(house.gate.identify(house.accounts, MINE)) for _ in range(100)]
    for _ in range(5):
        await asyncio.sleep(0)
    house.accounts.check_gate.set()
    assert {visitor.owner for visitor in await asyncio.gather(*asking)} == {account_scope(SECRETS, "replicate", ALICE)}
    assert len(house.accounts.checks) == 1


async def test_known_token_is_asked_about_no_more() -> None:
    house = House()
    house.accounts.verdict = told()
    await house.gate.identify(house.accounts, MINE)
    house.clock.advance(10_000)
    await house.gate.identify(house.accounts, MINE)
    assert len(house.accounts.checks) == 1


async def test_request_waits_for_an_account_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "IDENTIFY_TIMEOUT_S", 0.01)
    house = House()
    house.accounts.verdict = told()
    house.accounts.check_gate = asyncio.Event()
    visitor = await house.gate.identify(house.accounts, MINE)
    assert visitor.owner == visitor.token
    house.accounts.check_gate.set()
    await asyncio.sleep(0.01)
    assert (await house.gate.identify(house.accounts, MINE)).owner != visitor.owner, "it was learned behind"
    assert len(house.accounts.checks) == 1


@pytest.mark.parametrize("verdict", [told(None), Verdict(False), Verdict(None), Verdict(None, is_silent=True)])
async def test_token_whose_account_is_not_told_is_its_own_and_not_asked_about_each_time(verdict: Verdict) -> None:
    house = House()
    house.accounts.verdict = verdict
    for _ in range(3):
        visitor = await house.gate.identify(house.accounts, MINE)
        assert (visitor.owner, visitor.former) == (visitor.token, ())
    assert len(house.accounts.checks) == 1
    house.clock.advance(61)
    house.accounts.verdict = told()
    assert (await house.gate.identify(house.accounts, MINE)).owner == account_scope(SECRETS, "replicate", ALICE)


async def test_account_that_was_renamed_is_another() -> None:
    house = House()
    house.accounts.verdict = told()
    await house.gate.identify(house.accounts, MINE)
    house.clock.advance(301)
    house.accounts.verdict = told(Account("user", "alicia"))
    assert await house.is_accepted()
    assert house.gate.scope_of(house.accounts, MINE) == account_scope(SECRETS, "replicate", Account("user", "alicia"))


async def test_groups_that_change_act_at_once() -> None:
    house = House()
    house.accounts.verdict = told()
    await house.gate.identify(house.accounts, MINE)
    rule = Rule("group", "crew")
    before = house.gate.results_scope(house.accounts, MINE, rule)
    house.gate.set_groups(Groups.of({"crew": ["account:alice"]}))
    during = house.gate.results_scope(house.accounts, MINE, rule)
    assert during in (await house.gate.identify(house.accounts, MINE)).entitled
    house.gate.set_groups(Groups())
    assert before == house.gate.results_scope(house.accounts, MINE, rule) != during
    assert during not in (await house.gate.identify(house.accounts, MINE)).entitled


async def test_row_of_a_token_names_its_account_after_a_restart_and_is_sealed() -> None:
    clock = ManualClock()
    notes = MemoryKeyValue(clock)
    house = House(notes=notes, clock=clock)
    house.accounts.verdict = told()
    first = await house.gate.identify(house.accounts, MINE)
    await house.gate.aclose()
    assert all(b"alice" not in value and b"r8_" not in value for value, _ in notes._values.values())
    again = House(notes=notes, clock=clock)
    assert (await again.gate.identify(again.accounts, MINE)).owner == first.owner
    assert again.accounts.checks == []
    assert not again.gate.is_accepted_now(again.accounts, MINE), "what was written down is not fresh"


async def test_account_that_is_read_behind_a_question_counts_at_once() -> None:
    """A caller whose first request was a look-up was its token alone for as long as the process ran."""
    clock = ManualClock()
    notes = MemoryKeyValue(clock)
    house = House(notes=notes, clock=clock)
    house.accounts.verdict = told()
    first = await house.gate.identify(house.accounts, MINE)
    await house.gate.aclose()
    again = House(notes=notes, clock=clock)
    again.accounts.verdict = Verdict(is_accepted=True)
    assert again.gate.scope_of(again.accounts, MINE) == first.token
    await again.gate.require(again.accounts, MINE)
    assert again.gate.scope_of(again.accounts, MINE) == first.owner
    assert await again.gate.identify(again.accounts, MINE) == first


async def test_row_that_somebody_has_moved_says_nothing() -> None:
    clock = ManualClock()
    notes = MemoryKeyValue(clock)
    house = House(notes=notes, clock=clock)
    house.accounts.verdict = told()
    mine = await house.gate.identify(house.accounts, MINE)
    await house.gate.aclose()
    yours = house.gate.token_of(house.accounts, YOURS)
    notes._values[f"caller:{yours.hex()}"] = notes._values.pop(f"caller:{mine.token.hex()}")
    again = House(notes=notes, clock=clock)
    visitor = await again.gate.recognise(again.accounts, YOURS)
    assert visitor.owner == visitor.token


# -- while the upstream is away ------------------------------------------------------------------------

AWAY = Verdict(is_accepted=None)


async def test_acceptance_is_stretched_while_nobody_can_be_asked_and_no_longer_than_it_may() -> None:
    house = House()
    house.gate.accept(house.accounts, MINE)
    house.accounts.verdict = AWAY
    house.clock.advance(86_399)
    assert await house.gate.judge(house.accounts, MINE) == "stretched"
    assert house.stretched == ["replicate"]
    house.clock.advance(1)
    assert await house.gate.judge(house.accounts, MINE) is None


async def test_api_without_accounts_stretches_nothing() -> None:
    house = House()
    house.gate.accept(house.accounts, MINE)
    house.accounts.verdict = Verdict(is_accepted=None, is_silent=True)
    house.clock.advance(301)
    assert await house.gate.judge(house.accounts, MINE) is None


async def test_token_that_was_never_accepted_is_not_stretched() -> None:
    house = House()
    house.gate.accept(house.accounts, MINE)
    house.accounts.verdict = AWAY
    house.clock.advance(301)
    assert await house.gate.judge(house.accounts, MINE) == "stretched"
    assert await house.gate.judge(house.accounts, YOURS) is None


async def test_upstream_that_is_away_is_asked_once_a_second_for_all() -> None:
    house = House()
    others = [Credential(f"r8_{number}") for number in range(20)]
    for one in others:
        house.gate.accept(house.accounts, one)
    house.accounts.verdict = AWAY
    house.clock.advance(301)
    assert await house.gate.judge(house.accounts, others[0]) == "stretched"
    for _ in range(10):
        for one in (*others, YOURS):
            await house.gate.judge(house.accounts, one)
            await house.gate.identify(house.accounts, one)
    assert len(house.accounts.checks) == 1
    house.clock.advance(1)
    for one in (*others, YOURS):
        await house.gate.judge(house.accounts, one)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(house.accounts.checks) == 2


async def test_caller_that_can_be_stretched_does_not_wait_for_the_question_whether_it_is_back() -> None:
    house = House()
    house.gate.accept(house.accounts, MINE)
    house.accounts.verdict = AWAY
    house.clock.advance(301)
    await house.gate.judge(house.accounts, MINE)
    house.accounts.check_gate = asyncio.Event()
    house.clock.advance(1)
    async with asyncio.timeout(1):
        assert await house.gate.judge(house.accounts, MINE) == "stretched"
    house.accounts.verdict = told()
    house.accounts.check_gate.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert await house.gate.judge(house.accounts, MINE) == "accepted"
    await house.gate.aclose()


async def test_refusal_in_an_outage_ends_the_stretching() -> None:
    house = House()
    house.gate.accept(house.accounts, MINE)
    house.accounts.verdict = AWAY
    house.clock.advance(301)
    assert await house.gate.judge(house.accounts, MINE) == "stretched"
    house.gate.refuse(house.accounts, MINE)
    assert await house.gate.judge(house.accounts, MINE) is None


@pytest.mark.parametrize(("slept_s", "standing"), [(3600, "stretched"), (86_400, None), (-3600, None)])
async def test_acceptance_is_stretched_across_a_restart_by_the_clock_on_the_wall(
    slept_s: float, standing: str | None
) -> None:
    clock, wall = ManualClock(1000.0), ManualClock()
    notes = MemoryKeyValue(wall)
    house = House(notes=notes, clock=clock, wall=wall)
    house.gate.accept(house.accounts, MINE)
    await house.gate.aclose()
    wall.advance(slept_s)
    again = House(notes=notes, clock=ManualClock(5.0), wall=wall)
    again.accounts.verdict = AWAY
    assert await again.gate.judge(again.accounts, MINE) == standing


async def test_upstream_that_refuses_a_token_is_still_the_one_that_has_heard_of_it() -> None:
    clock = ManualClock()
    notes = MemoryKeyValue(clock)
    house = House(notes=notes, clock=clock)
    assert not await house.gate.is_known(house.accounts, MINE)
    house.gate.accept(house.accounts, MINE)
    house.gate.refuse(house.accounts, MINE)
    house.gate.refuse(house.accounts, YOURS)
    await house.gate.aclose()
    again = House(notes=notes, clock=clock)
    assert await again.gate.is_known(again.accounts, MINE)
    assert not await again.gate.is_known(again.accounts, YOURS)
    assert len(notes._values) == 1, "of a stranger nothing is written"


async def test_refusal_outlives_a_restart() -> None:
    clock = ManualClock()
    notes = MemoryKeyValue(clock)
    house = House(notes=notes, clock=clock)
    house.gate.accept(house.accounts, MINE)
    house.gate.refuse(house.accounts, MINE)
    await house.gate.aclose()
    again = House(notes=notes, clock=clock)
    again.accounts.verdict = AWAY
    assert await again.gate.judge(again.accounts, MINE) is None


# -- several processes ---------------------------------------------------------------------------------


async def test_what_one_process_learns_another_applies() -> None:
    """Every change goes through its wire form, as it would between processes."""
    one, two = House((OWN,)), House((OWN,))
    two.clock.now = one.clock.now
    heard: list[str] = []

    def pass_on(change: Change) -> None:
        heard.append(type(change).__name__)
        two.gate.apply(decode_change(encode_change(change)))

    one.gate.on_change = pass_on
    one.accounts.verdict = told()
    await one.gate.identify(one.accounts, MINE)
    assert two.gate.is_accepted_now(two.accounts, MINE)
    assert two.gate.scope_of(two.accounts, MINE) == account_scope(SECRETS, "replicate", ALICE)
    one.gate.refuse(one.accounts, MINE)
    assert not two.gate.is_accepted_now(two.accounts, MINE)
    text, _ = await one.gate.add_token("new")
    assert two.gate.scope_of(two.local, Credential(text)) == one.gate.scope_of(one.local, Credential(text))
    await one.gate.revoke_token("new")
    for house in (one, two):
        with pytest.raises(Unauthenticated):
            house.gate.scope_of(house.local, Credential(text))
    one.gate.set_groups(Groups.of({"crew": ["account:alice"]}))
    scopes = [house.gate.results_scope(house.accounts, MINE, Rule("group", "crew")) for house in (one, two)]
    assert scopes[0] == scopes[1] == group_scope(SECRETS, "replicate", "crew")
    assert heard == ["Accepted", "Refused", "TokenAdded", "TokenRevoked", "GroupsChanged"]
    assert two.accounts.checks == []


async def test_snapshot_brings_a_new_process_up_to_date() -> None:
    one, two = House((OWN,)), House((OWN,))
    one.accounts.verdict = told()
    await one.gate.identify(one.accounts, MINE)
    one.gate.accept(one.accounts, YOURS)
    text, _ = await one.gate.add_token("new")
    one.gate.set_groups(Groups.of({"crew": ["account:alice"]}))
    for change in one.gate.snapshot():
        two.gate.apply(decode_change(encode_change(change)))
    assert two.gate.is_accepted_now(two.accounts, MINE)
    assert two.gate.is_accepted_now(two.accounts, YOURS)
    assert not two.gate.is_accepted_now(two.accounts, OTHERS)
    assert two.gate.scope_of(two.local, Credential(text)) == one.gate.scope_of(one.local, Credential(text))
    assert await two.gate.identify(two.accounts, MINE) == await one.gate.identify(one.accounts, MINE)


# -- own tokens ----------------------------------------------------------------------------------------


async def test_revoked_token_is_told_to_no_upstream_either() -> None:
    house = House((OWN,))
    text, _ = await house.gate.add_token("new")
    await house.gate.revoke_token("new")
    assert house.gate.is_own(Credential(text))
    with pytest.raises(Unauthenticated):
        house.gate.scope_of(house.accounts, Credential(text))


@pytest.mark.parametrize(
    ("name", "limits", "reason"),
    [
        ("", {}, "name"),
        (" x", {}, "name"),
        ("x" * 65, {}, "name"),
        ("a\nb", {}, "name"),
        ("taken", {}, "already"),
        ("x", {"models": ()}, "models"),
        ("x", {"rate_per_min": 0}, "rate"),
        ("x", {"spend_per_day": -1.0}, "spent"),
        ("x", {"spend_per_day": float("nan")}, "spent"),
    ],
)
async def test_token_that_could_not_be_meant_is_not_made(name: str, limits: dict[str, Any], reason: str) -> None:
    house = House((OWN,))
    await house.gate.add_token("taken")
    with pytest.raises(BadRequest, match=reason):
        await house.gate.add_token(name, **limits)
    assert len(house.gate.tokens) == 2


async def test_token_that_could_not_be_written_is_not_good() -> None:
    notes = MemoryKeyValue()
    house = House((OWN,), notes=notes)
    notes.failure = StorageUnavailable("full")
    with pytest.raises(StorageUnavailable):
        await house.gate.add_token("new")
    assert len(house.gate.tokens) == 1


async def test_revocation_that_could_not_be_written_acts_all_the_same() -> None:
    notes = MemoryKeyValue()
    house = House((OWN,), notes=notes)
    text, _ = await house.gate.add_token("new")
    notes.failure = StorageUnavailable("full")
    with pytest.raises(StorageUnavailable):
        await house.gate.revoke_token("new")
    with pytest.raises(Unauthenticated):
        house.gate.scope_of(house.local, Credential(text))


# -- a process that is told what another has learned -----------------------------------------------------


async def test_process_that_forgets_and_is_told_anew_judges_as_the_other_does() -> None:
    here, there = House((OWN,)), House((OWN,))
    here.accounts.verdict = told()
    await here.gate.identify(here.accounts, MINE)
    here.gate.on_change = there.gate.apply
    text, _ = await here.gate.add_token("phone", rate_per_min=5)
    phone = Credential(text)
    assert there.gate.is_limited(there.local, phone)
    assert not there.gate.is_limited(there.local, Credential(OWN))
    await here.gate.revoke_token("phone")
    there.gate.forget()
    assert not there.gate.is_accepted_now(there.accounts, MINE)
    for change in here.gate.snapshot():
        there.gate.apply(change)
    assert there.gate.is_accepted_now(there.accounts, MINE)
    assert there.gate.scope_of(there.accounts, MINE) == here.gate.scope_of(here.accounts, MINE)
    assert there.gate.scope_of(there.local, Credential(OWN)) == here.gate.scope_of(here.local, Credential(OWN))
    with pytest.raises(Unauthenticated):
        there.gate.scope_of(there.local, phone)
    assert there.accounts.checks == []
