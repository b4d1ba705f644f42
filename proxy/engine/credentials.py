"""Whose request it is, and whether that caller may have a hit.

An upstream with accounts knows its callers by their tokens: their predictions and results belong to the account that it
names behind a token, or to the token where it names none. Upstreams without accounts, and those whose token Hotplate
holds, are guarded by Hotplate's own tokens, or are open.

Whether an upstream accepts a token is for ``acceptances`` to say, what an own token may do for ``allowances``. What
changes is told to ``on_change``, and ``apply`` takes what another process was told so.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import TypeVar

from proxy.core.changes import Accepted, Change, GroupsChanged, Refused, TokenAdded, TokenRevoked
from proxy.core.entitlement import (
    ACCOUNT_RULE,
    Account,
    AuthMode,
    Groups,
    Rule,
    Visitor,
    account_scope,
    files_scope,
    group_scope,
    has_own_form,
    house_scope,
    narrower,
    open_scope,
    results_scope,
    shared_scope,
    token_id,
    token_scope,
)
from proxy.core.errors import Overloaded, Unauthenticated
from proxy.core.own_tokens import OwnToken
from proxy.core.secrets import Secrets
from proxy.engine.acceptances import Acceptances, Standing
from proxy.engine.accounts import Accounts
from proxy.engine.allowances import Allowances
from proxy.engine.tokens import OwnTokens
from proxy.upstreams.base import Credential, ModelTarget, Upstream
from storage.digest import Scope
from storage.ports import KeyValue

MAX_REMEMBERED = 50_000
"""Tokens remembered at once; the one unused for longest is forgotten first."""

MAX_REMEMBERED_CHARS = 256
"""Longer tokens are hashed anew each time: what strangers send must not fill the memory."""

LEARN_AGAIN_S = 60.0
"""How long nobody asks again whose a token is after the upstream did not tell."""

IDENTIFY_TIMEOUT_S = 5.0
"""Longest that a first request waits to hear whose its token is; then it is the token's own."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Gatekeeper:
    """Knows callers and the standing of their credentials. Used from the event loop alone."""

    def __init__(
        self,
        secrets: Secrets,
        own_tokens: Sequence[str],
        accept_for_s: float,
        now: Callable[[], float],
        *,
        mode: AuthMode = "passthrough",
        stretch_s: float = 86_400.0,
        groups: Groups | None = None,
        notes: KeyValue | None = None,
        wall: Callable[[], float] | None = None,
        spent_today: Callable[[Scope], float] = lambda owner: 0.0,
        observe_stretched: Callable[[str], None] = lambda upstream: None,
    ) -> None:
        """
        Args:
            own_tokens: Hotplate's own tokens that stand in the settings.
            accept_for_s: how long an acceptance is good.
            now, wall: monotonic clock and epoch seconds.
            stretch_s: how long it is good while the upstream cannot be asked.
            notes: where own tokens and acceptances outlive a restart.
            spent_today: see ``Allowances``.
            observe_stretched: told the upstream's name each time an acceptance was stretched.
        """
        self._secrets = secrets
        self._now = now
        self._observe_stretched = observe_stretched
        self._is_open = mode == "open" or (mode == "passthrough" and not own_tokens)
        self._groups = groups or Groups()
        self.tokens = OwnTokens(secrets, own_tokens, notes, wall or now)
        self._allowances = Allowances(now, spent_today)
        self._accounts = Accounts(secrets, notes, wall or now)
        self._acceptances = Acceptances(self._accounts, accept_for_s, stretch_s, now, self._learned)
        self._learn_again_at: OrderedDict[Scope, float] = OrderedDict()
        self._scopes: OrderedDict[tuple[str, str | None], Scope] = OrderedDict()
        self._visitors: OrderedDict[Scope, tuple[Account | None, Visitor]] = OrderedDict()
        self.on_change: Callable[[Change], None] = lambda change: None

    async def load(self) -> None:
        """Read the own tokens that former processes have added."""
        await self.tokens.load()
        self._forget_callers()

    async def aclose(self) -> None:
        """Stop asking, and let what was begun to be written be written."""
        await self._acceptances.aclose()
        await self._accounts.drain()

    # -- who asks --------------------------------------------------------------------------------------

    def scope_of(self, upstream: Upstream, credential: Credential | None) -> Scope:
        """The owner scope of a caller at ``upstream``, as far as it is known without asking anybody.

        Raises:
            Unauthenticated: a credential is needed and missing, or it is one for another kind of upstream: Hotplate's
                own tokens are for those without accounts, and those are for Hotplate's own tokens alone.
        """
        return self._visitor(upstream, credential).owner

    async def recognise(self, upstream: Upstream, credential: Credential | None) -> Visitor:
        """A caller as far as it is known here, from memory or from what a former process wrote; asks nobody.

        Raises:
            Unauthenticated: see ``scope_of``.
        """
        visitor = self._visitor(upstream, credential)
        if not upstream.has_accounts or self._accounts.known(visitor.token) is not None:
            return visitor
        await self._accounts.recall(visitor.token)
        return self._visitor(upstream, credential)

    async def identify(self, upstream: Upstream, credential: Credential | None) -> Visitor:
        """A caller, whose account is asked for if it is not known yet: once for all who wait, and bounded in time.

        Raises:
            Unauthenticated: see ``scope_of``.
        """
        visitor = await self.recognise(upstream, credential)
        token, now = visitor.token, self._now()
        if credential is None or not upstream.has_accounts or self._account_of(token) is not None:
            return visitor
        if now < self._learn_again_at.get(token, 0.0) or not self._acceptances.may_ask(upstream.name):
            return visitor
        try:
            async with asyncio.timeout(IDENTIFY_TIMEOUT_S):
                await self._acceptances.ask(upstream, credential, token)
        except TimeoutError:
            pass
        if self._account_of(token) is None:
            # Only now: who comes while somebody asks waits along, so that equal requests get one scope.
            _remember(self._learn_again_at, token, self._now() + LEARN_AGAIN_S)
        return self._visitor(upstream, credential)

    async def is_known(self, upstream: Upstream, credential: Credential | None) -> bool:
        """Whether the upstream has ever accepted this credential, as far as is remembered. Asks nobody."""
        if credential is None or not upstream.has_accounts:
            return False
        return await self._acceptances.is_known(self._token_scope(upstream, credential))

    def token_of(self, upstream: Upstream, credential: Credential | None) -> Scope:
        """The scope of a credential itself, whoever is behind it.

        Raises:
            Unauthenticated: see ``scope_of``.
        """
        return self._token_scope(upstream, credential)

    def results_scope(self, upstream: Upstream, credential: Credential | None, rule: Rule = ACCOUNT_RULE) -> Scope:
        """Whose results may answer a caller that ``scope_of`` lets in, under a model's ``rule``."""
        visitor = self._visitor(upstream, credential)
        if visitor.is_anybody and rule.kind != "shared":
            return visitor.token
        own = self._own(upstream, credential)
        groups = self._groups_of(visitor.token, credential)
        if own is not None and own.rule is not None:
            rule = own.rule if rule == ACCOUNT_RULE else narrower(rule, own.rule)
            groups |= {own.rule.group}
        return results_scope(self._secrets, upstream.name, rule, visitor.owner, visitor.token, groups)

    def is_entitled(self, upstream: Upstream, credential: Credential | None, results: Scope) -> bool:
        """Whether a caller may see now what is stored under a scope of results.

        Raises:
            Unauthenticated: see ``scope_of``.
        """
        return results in self._visitor(upstream, credential).entitled

    def is_alone(self, upstream: Upstream, credential: Credential | None, results: Scope) -> bool:
        """Whether nobody but the owner of a caller's predictions sees what is stored under a scope of results.

        Raises:
            Unauthenticated: see ``scope_of``.
        """
        return results in self._visitor(upstream, credential).owners

    def is_own(self, credential: Credential) -> bool:
        """Whether it is one of Hotplate's own tokens, or was. Those are told to no upstream."""
        return has_own_form(credential.token) or self.tokens.find(credential.token) is not None

    def files_scope(self, credential: Credential | None) -> Scope:
        """The scope of files that a caller has uploaded and that are kept here; ``scope_of`` has let it in.

        Where everybody may use a model, a token that comes along still tells one caller's files from another's.
        """
        return files_scope(self._secrets, credential.token if credential is not None else None)

    async def check_create(self, upstream: Upstream, credential: Credential | None, target: ModelTarget) -> None:
        """See to it that a caller may create a prediction of ``target``, and count it.

        Raises:
            Forbidden, RateLimited: it is one of Hotplate's own tokens, and may not.
            UpstreamUnavailable, UpstreamTimeout: see ``Allowances.check_model``.
        """
        own = self._own(upstream, credential)
        if own is not None:
            await self._allowances.check_model(own, upstream, target)
            self._allowances.check_rate(own)

    async def check_model(self, upstream: Upstream, credential: Credential | None, target: ModelTarget) -> None:
        """See to it that a caller may run ``target``, without counting.

        Raises:
            Forbidden, UpstreamUnavailable, UpstreamTimeout: see ``check_create``.
        """
        own = self._own(upstream, credential)
        if own is not None:
            await self._allowances.check_model(own, upstream, target)

    def is_limited(self, upstream: Upstream, credential: Credential | None) -> bool:
        """Whether what a caller creates is counted or limited, so that one process must do it for all.

        Raises:
            Unauthenticated: see ``scope_of``.
        """
        own = self._own(upstream, credential)
        return own is not None and (own.rate_per_min is not None or own.models != ("*",))

    def check_run(self, upstream: Upstream, credential: Credential | None) -> None:
        """See to it that a caller may cause a run.

        Raises:
            PaymentRequired: it is one of Hotplate's own tokens, and has spent what it may today.
        """
        own = self._own(upstream, credential)
        if own is not None:
            self._allowances.check_spend(own, self._visitor(upstream, credential).owner)

    def _own(self, upstream: Upstream, credential: Credential | None) -> OwnToken | None:
        if upstream.has_accounts or self._is_open or credential is None:
            return None
        return self.tokens.find(credential.token)

    def _visitor(self, upstream: Upstream, credential: Credential | None) -> Visitor:
        token = self._token_scope(upstream, credential)
        account = self._account_of(token) if upstream.has_accounts else None
        remembered = self._visitors.get(token)
        if remembered is not None and remembered[0] == account:
            return remembered[1]
        visitor = self._describe(upstream, credential, token, account)
        _remember(self._visitors, token, (account, visitor))
        return visitor

    def _token_scope(self, upstream: Upstream, credential: Credential | None) -> Scope:
        text = credential.token if credential is not None else None
        remembered = self._scopes.get((upstream.name, text))
        if remembered is not None:
            return remembered
        scope = self._admit(upstream, credential)
        if text is None or len(text) <= MAX_REMEMBERED_CHARS:
            _remember(self._scopes, (upstream.name, text), scope)
        return scope

    def _admit(self, upstream: Upstream, credential: Credential | None) -> Scope:
        if not upstream.has_accounts and self._is_open:
            return open_scope(self._secrets, upstream.name)
        if credential is None:
            raise Unauthenticated("You did not pass an authentication token")
        is_own = self.is_own(credential)
        is_good = not is_own if upstream.has_accounts else is_own and self.tokens.find(credential.token) is not None
        if not is_good:
            raise Unauthenticated("You did not pass a valid authentication token")
        return token_scope(self._secrets, upstream.name, credential.token)

    def _describe(
        self, upstream: Upstream, credential: Credential | None, token: Scope, account: Account | None
    ) -> Visitor:
        secrets, name = self._secrets, upstream.name
        if not upstream.has_accounts and self._is_open:
            return Visitor(token, token, (), frozenset({token, shared_scope(secrets, name)}), is_anybody=True)
        own, owner, may_share = self._own(upstream, credential), token, True
        groups = self._groups_of(token, credential)
        if account is not None:
            owner = account_scope(secrets, name, account)
        if own is not None and own.rule is not None and own.rule.kind != "shared":
            may_share = False
            groups = frozenset({own.rule.group}) if own.rule.kind == "group" else frozenset()
            owner = house_scope(secrets, name) if own.rule == ACCOUNT_RULE else token
        entitled = {owner, token, *(group_scope(secrets, name, group) for group in groups)}
        if may_share:
            entitled.add(shared_scope(secrets, name))
        return Visitor(token, owner, (token,) if owner != token else (), frozenset(entitled))

    def _groups_of(self, token: Scope, credential: Credential | None) -> frozenset[str]:
        if credential is None or not self._groups.by_member:
            return frozenset()
        return self._groups.of_caller(token_id(self._secrets, credential.token), self._account_of(token))

    def _account_of(self, token: Scope) -> Account | None:
        known = self._accounts.known(token)
        return known.account if known is not None else None

    # -- whether it may have a hit -----------------------------------------------------------------------

    def is_accepted_now(self, upstream: Upstream, credential: Credential | None) -> bool:
        """Whether a hit may be given without asking anybody."""
        if not upstream.has_accounts:
            return True  # ``scope_of`` has judged the token itself
        if credential is None:
            return False
        return self._acceptances.standing_now(upstream.name, self._token_scope(upstream, credential)) is not None

    async def judge(self, upstream: Upstream, credential: Credential | None) -> Standing | None:
        """Why a hit may be given, if it may; asks the upstream where needed, once for all who wait.

        Raises:
            UpstreamRefused: the upstream refuses the credential; its own answer.
        """
        if not upstream.has_accounts:
            return "accepted"
        if credential is None:
            return None
        standing = await self._acceptances.judge(upstream, credential, self._token_scope(upstream, credential))
        if standing == "stretched":
            self._observe_stretched(upstream.name)
        return standing

    async def is_accepted(self, upstream: Upstream, credential: Credential | None) -> bool:
        """Whether a hit may be given; see ``judge``."""
        return await self.judge(upstream, credential) is not None

    async def require(self, upstream: Upstream, credential: Credential | None) -> None:
        """See to it that the upstream accepts the credential now: what it asked for before is shown to nobody else.

        Raises:
            UpstreamRefused: see ``judge``.
            Overloaded: nobody can be asked.
        """
        if not await self.is_accepted(upstream, credential):
            raise Overloaded("the model service cannot be asked about this credential now", retry_after_s=5.0)

    @property
    def refusals(self) -> int:
        """How many refusals were heard so far; see ``accept``."""
        return self._acceptances.refusals

    def accept(self, upstream: Upstream, credential: Credential | None, as_of: int | None = None) -> None:
        """The upstream has accepted this credential; ``as_of``: what ``refusals`` was when it was asked. Its answer may
        have taken seconds, and a refusal since then stands."""
        if credential is not None and upstream.has_accounts:
            self._acceptances.accept(upstream.name, self._token_scope(upstream, credential), as_of=as_of)

    def refuse(self, upstream: Upstream, credential: Credential | None) -> None:
        """The upstream has just refused it: no hit until it is accepted again."""
        if credential is not None and upstream.has_accounts:
            self._acceptances.refuse(upstream.name, self._token_scope(upstream, credential))

    # -- what changes ------------------------------------------------------------------------------------

    async def add_token(
        self,
        name: str,
        *,
        rule: Rule | None = None,
        models: Sequence[str] = ("*",),
        rate_per_min: int | None = None,
        spend_per_day: float | None = None,
    ) -> tuple[str, OwnToken]:
        """See ``OwnTokens.add``."""
        text, token = await self.tokens.add(
            name, rule=rule, models=models, rate_per_min=rate_per_min, spend_per_day=spend_per_day
        )
        self._change(TokenAdded(token))
        return text, token

    async def revoke_token(self, name: str) -> OwnToken:
        """End an own token's life, at once and for good.

        Raises:
            BadRequest: see ``OwnTokens.take``.
            StorageError: it is revoked here and now, but the next process would know it again.
        """
        token = self.tokens.take(name)
        self._change(TokenRevoked(token.digest))
        await self.tokens.erase(token)
        return token

    def set_groups(self, groups: Groups) -> None:
        """Groups have other members from now on."""
        self._change(GroupsChanged(groups))

    def apply(self, change: Change) -> None:
        """Take over what another process has learned."""
        match change:
            case Accepted() | Refused():
                self._acceptances.apply(change)
            case TokenAdded(token):
                self.tokens.put(token)
                self._forget_callers()
            case TokenRevoked(digest):
                self.tokens.drop(digest)
                self._forget_callers()
            case GroupsChanged(groups):
                self._groups = groups
                self._visitors.clear()

    def snapshot(self) -> list[Change]:
        """All that a process that begins now must know to judge as this one does."""
        found: list[Change] = [GroupsChanged(self._groups)]
        found += [TokenAdded(token) for token in self.tokens.all()]
        return found + [replace(one, account=self._account_of(one.token)) for one in self._acceptances.fresh()]

    def forget(self) -> None:
        """Know nothing but the settings, in a process that will be told another's ``snapshot``."""
        self.tokens.forget()
        self._acceptances.forget()
        self._accounts.forget()
        self._learn_again_at.clear()
        self._forget_callers()

    def _change(self, change: Change) -> None:
        self.apply(change)
        self.on_change(change)

    def _learned(self, change: Accepted | Refused) -> None:
        self.apply(change)
        if isinstance(change, Accepted):
            change = replace(change, account=self._account_of(change.token))
        self.on_change(change)

    def _forget_callers(self) -> None:
        """Tokens that were good may be so no more: everybody is judged anew."""
        self._scopes.clear()
        self._visitors.clear()


def _remember(memory: OrderedDict[K, V], name: K, value: V) -> None:
    memory[name] = value
    memory.move_to_end(name)
    if len(memory) > MAX_REMEMBERED:
        memory.popitem(last=False)
