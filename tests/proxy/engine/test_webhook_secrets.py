from __future__ import annotations

import asyncio

import pytest

from proxy.core.errors import NotFound, Unauthenticated, UpstreamRefused, UpstreamUnavailable
from proxy.core.secrets import Secrets
from proxy.core.webhooks import derive_secret
from proxy.engine.credentials import Gatekeeper
from proxy.engine.webhook_secrets import ASK_AGAIN_S, FRESH_S, KEEP_S, MAX_ANSWER_BYTES, Place, WebhookSecrets
from proxy.upstreams.base import Credential, Upstream
from storage.digest import Scope
from storage.errors import StorageUnavailable
from tests.fakes.clock import ManualClock
from tests.fakes.stores import MemoryKeyValue
from tests.fakes.webhooks import ACCOUNT_SECRET, OTHER_ACCOUNT_SECRET, SecretUpstream

pytestmark = pytest.mark.anyio

ALICE, BOB = Credential("r8_" + "a" * 37), Credential("r8_" + "b" * 37)
OWN_TOKEN = "one-of-hotplates-own-tokens"
SECRETS = Secrets.derive(b"s" * 32)


class World:
    """Secrets over doubles; ``restarted`` forgets what is in memory alone."""

    def __init__(self, *more: SecretUpstream, own_tokens: tuple[str, ...] = ()) -> None:
        self.clock = ManualClock()
        self.notes = MemoryKeyValue(self.clock)
        self.api = SecretUpstream(self.clock)
        self.api.tells(ALICE.token, ACCOUNT_SECRET)
        self.api.tells(BOB.token, OTHER_ACCOUNT_SECRET)
        self.upstreams: list[Upstream] = [*more, self.api]
        self.gatekeeper = Gatekeeper(SECRETS, own_tokens, 300.0, self.clock)
        self.secrets = self.restarted()

    def restarted(self) -> WebhookSecrets:
        self.secrets = WebhookSecrets(SECRETS, self.notes, self.gatekeeper, self.upstreams, self.clock)
        return self.secrets

    def scope(self, credential: Credential | None = ALICE, upstream: Upstream | None = None) -> Scope:
        return self.gatekeeper.scope_of(upstream or self.api, credential)

    def learn(self, credential: Credential | None = ALICE, upstream: Upstream | None = None) -> None:
        self.secrets.learn(upstream or self.api, credential, self.scope(credential, upstream))

    async def signing(self, credential: Credential | None = ALICE, upstream: Upstream | None = None) -> tuple[str, ...]:
        asked = upstream or self.api
        return await self.secrets.signing(Place(asked.name, self.scope(credential, upstream)))

    def derived(self, credential: Credential | None = ALICE, upstream: Upstream | None = None) -> str:
        return derive_secret(SECRETS, self.scope(credential, upstream))


@pytest.fixture
def world() -> World:
    return World()


def plain(world: World, name: str) -> SecretUpstream:
    """An upstream without accounts."""
    return SecretUpstream(world.clock, name=name, kind="cog", has_accounts=False)


# -- signing


async def test_scope_is_signed_for_with_its_accounts_secret_and_the_derived_one(world: World) -> None:
    world.learn()
    assert await world.signing() == (ACCOUNT_SECRET, world.derived())
    assert world.api.asked == [ALICE.token]
    assert world.api.closed == 1
    world.learn(BOB)
    assert await world.signing(BOB) == (OTHER_ACCOUNT_SECRET, world.derived(BOB))
    assert not set(await world.signing(BOB)) & set(await world.signing())


async def test_nothing_but_the_derived_secret_signs_for_a_scope_of_which_nothing_is_known(world: World) -> None:
    assert await world.signing() == (world.derived(),)
    assert world.api.asked == []


async def test_delivery_waits_for_a_secret_that_is_being_read(world: World) -> None:
    world.api.told_gate = asyncio.Event()
    world.learn()
    signing = asyncio.create_task(world.signing())
    await asyncio.sleep(0.01)
    assert not signing.done()
    world.api.told_gate.set()
    assert await signing == (ACCOUNT_SECRET, world.derived())


async def test_api_that_says_nothing_delays_a_delivery_for_a_while_only(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.engine.webhook_secrets.READ_TIMEOUT_S", 0.05)
    world.api.told_gate = asyncio.Event()
    world.learn()
    assert await asyncio.wait_for(world.signing(), 5) == (world.derived(),)


async def test_creates_by_the_hundred_ask_once_an_hour(world: World) -> None:
    for _ in range(100):
        world.learn()
    await world.signing()
    world.clock.advance(FRESH_S - 1)
    world.learn()
    await world.signing()
    assert len(world.api.asked) == 1
    world.clock.advance(2)
    world.api.tells(ALICE.token, OTHER_ACCOUNT_SECRET)
    world.learn()
    assert await world.signing() == (OTHER_ACCOUNT_SECRET, world.derived())
    assert len(world.api.asked) == 2


async def test_secret_is_known_after_a_restart_without_asking(world: World) -> None:
    world.learn()
    await world.signing()
    world.restarted()
    world.learn()
    assert await world.signing() == (ACCOUNT_SECRET, world.derived())
    assert len(world.api.asked) == 1
    world.clock.advance(KEEP_S)
    world.restarted()
    assert await world.signing() == (world.derived(),)


@pytest.mark.parametrize("trouble", [UpstreamUnavailable("away"), NotFound("none"), 401, 404, 429, 500])
async def test_secret_that_cannot_be_read_is_asked_for_again_later(
    world: World, trouble: UpstreamUnavailable | NotFound | int
) -> None:
    world.api.trouble = trouble
    world.learn()
    assert await world.signing() == (world.derived(),)
    world.api.trouble = None
    world.clock.advance(ASK_AGAIN_S - 1)
    world.learn()
    assert await world.signing() == (world.derived(),)
    world.clock.advance(2)
    world.learn()
    assert await world.signing() == (ACCOUNT_SECRET, world.derived())


async def test_known_secret_serves_on_while_a_newer_one_cannot_be_read(world: World) -> None:
    world.learn()
    await world.signing()
    world.clock.advance(FRESH_S + 1)
    world.api.trouble = UpstreamUnavailable("away")
    world.learn()
    assert await world.signing() == (ACCOUNT_SECRET, world.derived())
    assert len(world.api.asked) == 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"key": 7}',
        b'{"key": "secret"}',
        b'{"key": "whsec_a_b"}',
        b'{"key": "%b"}' % ACCOUNT_SECRET.encode() + b" " * MAX_ANSWER_BYTES,
    ],
)
async def test_answer_that_holds_no_secret_teaches_nothing(world: World, body: bytes) -> None:
    world.api.told[ALICE.token] = body
    world.learn()
    assert await world.signing() == (world.derived(),)


async def test_what_breaks_in_an_upstream_breaks_no_create(world: World) -> None:
    world.api.told = None  # type: ignore[assignment]
    world.learn()
    assert await world.signing() == (world.derived(),)


async def test_disk_that_is_away_costs_the_memory_of_the_secret_alone(world: World) -> None:
    world.notes.failure = StorageUnavailable("away")
    world.learn()
    assert await world.signing() == (ACCOUNT_SECRET, world.derived())
    world.notes.failure = None
    world.restarted()
    assert await world.signing() == (world.derived(),)


async def test_secrets_lie_sealed_and_each_opens_in_its_own_place_alone(world: World) -> None:
    world.learn()
    world.learn(BOB)
    await world.signing()
    await world.signing(BOB)
    rows = dict(await world.notes.scan("webhook-secret:"))
    assert len(rows) == 2
    for value in rows.values():
        assert b"whsec_" not in value
        assert ACCOUNT_SECRET.encode()[6:] not in value
    first, second = rows
    await world.notes.put(first, rows[second])
    await world.notes.put(second, rows[first])
    world.restarted()
    assert await world.signing() == (world.derived(),)
    assert await world.signing(BOB) == (world.derived(BOB),)


async def test_stopping_ends_a_reading_that_is_on_its_way(world: World) -> None:
    world.api.told_gate = asyncio.Event()
    world.learn()
    await asyncio.sleep(0.01)
    await asyncio.wait_for(world.secrets.aclose(), 5)


# -- one secret for a caller


async def test_own_token_is_told_one_secret_for_all_models_without_accounts() -> None:
    clock = ManualClock()
    one = SecretUpstream(clock, name="one", kind="cog", has_accounts=False)
    two = SecretUpstream(clock, name="two", kind="local", has_accounts=False)
    world = World(one, two, own_tokens=(OWN_TOKEN,))
    own = Credential(OWN_TOKEN)
    home, scope = world.secrets.home(own)
    assert home is one
    told = (await world.secrets.tell(home, own, scope)).body
    world.learn(own, two)
    world.learn(own, one)
    for upstream in (one, two):
        assert any(secret.encode() in told for secret in await world.signing(own, upstream))
    await world.secrets.aclose()
    world.restarted()
    assert any(secret.encode() in told for secret in await world.signing(own, two))
    assert world.api.asked == one.asked == two.asked == [], "own tokens are told to nobody"


async def test_token_of_two_apis_is_told_the_secret_of_the_first(world: World) -> None:
    second = SecretUpstream(world.clock, name="second")
    second.tells(ALICE.token, OTHER_ACCOUNT_SECRET)
    world.upstreams.append(second)
    world.restarted()
    await world.secrets.tell(world.secrets.home(ALICE)[0], ALICE, world.scope())
    world.restarted()
    world.learn(upstream=second)
    signing = await world.signing(upstream=second)
    assert {ACCOUNT_SECRET, OTHER_ACCOUNT_SECRET, world.derived(), world.derived(upstream=second)} == set(signing)


async def test_secret_of_the_first_api_is_read_anew_where_it_accepts_the_token(world: World) -> None:
    second = SecretUpstream(world.clock, name="second")
    world.upstreams.append(second)
    world.restarted()
    world.gatekeeper.accept(world.api, ALICE)
    world.learn(upstream=second)
    assert ACCOUNT_SECRET in await world.signing(upstream=second)


async def test_token_is_not_shown_to_an_api_that_never_accepted_it(world: World) -> None:
    """A webhook of one API's model sent its caller's token to the first API in the settings, too."""
    second = SecretUpstream(world.clock, name="second")
    second.tells(ALICE.token, OTHER_ACCOUNT_SECRET)
    world.upstreams = [world.api, second]
    world.restarted()
    world.learn(upstream=second)
    assert OTHER_ACCOUNT_SECRET in await world.signing(upstream=second)
    assert (world.api.asked, second.asked) == ([], [ALICE.token])


async def test_scope_that_all_share_is_never_signed_for_with_one_callers_secret(world: World) -> None:
    """Whoever reaches an open upstream has its one scope, whatever token they send."""
    local = plain(world, "local")
    world.upstreams.append(local)
    world.restarted()
    world.learn(ALICE, local)
    world.learn(BOB, local)
    assert await world.signing(ALICE, local) == (world.derived(None, local),)
    assert world.api.asked == []
    assert await world.notes.scan("") == []


# -- what callers are told


async def test_caller_is_told_what_the_api_says_to_the_letter(world: World) -> None:
    world.api.told[ALICE.token] = b'{ "key":"' + ACCOUNT_SECRET.encode() + b'", "more": [1] }'
    answer = await world.secrets.tell(world.api, ALICE, world.scope())
    assert answer.body == world.api.told[ALICE.token]
    assert answer.content_type == "application/json; x=y"
    assert await world.signing() == (ACCOUNT_SECRET, world.derived()), "what was told is remembered"


@pytest.mark.parametrize("trouble", [UpstreamUnavailable("away"), 403, 404, 500])
async def test_caller_is_told_the_derived_secret_where_the_api_tells_none(
    world: World, trouble: UpstreamUnavailable | int
) -> None:
    world.api.trouble = trouble
    answer = await world.secrets.tell(world.api, ALICE, world.scope())
    assert answer.body == b'{"key":"' + world.derived().encode() + b'"}'


async def test_caller_whose_token_is_refused_is_told_so_in_the_apis_words(world: World) -> None:
    stranger = Credential("r8_" + "x" * 37)
    scope = world.scope(stranger)
    world.gatekeeper.accept(world.api, stranger)
    with pytest.raises(UpstreamRefused) as refused:
        await world.secrets.tell(world.api, stranger, scope)
    assert (refused.value.status, refused.value.content) == (401, b'{"title":"Unauthenticated"}')
    assert not world.gatekeeper.is_accepted_now(world.api, stranger)


async def test_home_is_the_first_upstream_with_accounts_or_the_one_that_was_named(world: World) -> None:
    local = plain(world, "local")
    world.upstreams.insert(0, local)
    secrets = world.restarted()
    assert secrets.home(ALICE)[0] is world.api
    assert secrets.home(None)[0] is local
    assert secrets.home(ALICE, "local")[0] is local
    with pytest.raises(NotFound):
        secrets.home(ALICE, "nobody")
    with pytest.raises(Unauthenticated):
        secrets.home(None, world.api.name)


def test_no_secret_shows_when_an_answer_is_printed() -> None:
    from proxy.engine.webhook_secrets import SecretAnswer, _Known

    assert "whsec" not in repr(SecretAnswer("application/json", ACCOUNT_SECRET.encode()))
    assert "whsec" not in repr(_Known(ACCOUNT_SECRET, 0.0))
