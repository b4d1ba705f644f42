from __future__ import annotations

import asyncio

import pytest

from proxy.core.entitlement import open_scope, token_scope
from proxy.core.errors import Unauthenticated, UpstreamRefused
from proxy.core.secrets import Secrets
from proxy.engine import acceptances, credentials
from proxy.engine.credentials import Gatekeeper
from proxy.upstreams.base import Credential, Verdict
from tests.fakes.clock import ManualClock
from tests.fakes.upstreams import ScriptedUpstream

pytestmark = pytest.mark.anyio

SECRETS = Secrets.derive(b"s" * 32)
MINE = Credential("r8_mine")
YOURS = Credential("r8_yours")
OWN = "an-own-token-of-hotplate"


class House:
    """A gatekeeper with one upstream that has accounts and one that has none."""

    def __init__(self, own_tokens: tuple[str, ...] = ()) -> None:
        self.clock = ManualClock()
        self.gate = Gatekeeper(SECRETS, own_tokens, accept_for_s=300.0, now=self.clock)
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
