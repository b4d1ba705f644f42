"""Whether upstreams accept credentials: what they said lately, and what is made of it while they are away.

An acceptance hangs on a token, not on its account: one of an account's tokens may be revoked. It is good for some
minutes, and for longer while its upstream cannot be asked (no answer, an error of the server's, too many requests): it
is *stretched*. An upstream that is away is asked once a second, whoever waits; who can be stretched does not wait. An
acceptance that a former process wrote down can be stretched, but is never fresh.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

from proxy.core.changes import Accepted, Refused
from proxy.core.entitlement import Account
from proxy.core.errors import UpstreamRefused
from proxy.engine.accounts import Accounts
from proxy.upstreams.base import Credential, Upstream, Verdict
from proxy.upstreams.once import AskedOnce
from storage.digest import Scope

Standing = Literal["accepted", "stretched"]
"""Why a caller may have a hit: its upstream accepted it lately, or did so before it went away."""

MAX_REMEMBERED = 50_000
"""Tokens remembered at once; the one unused for longest is forgotten first and merely asked about again."""

ASK_AGAIN_S = 1.0
"""How often an upstream that is away is asked, all callers together."""


class Acceptances:
    """Judges tokens by their scopes. Used from the event loop alone."""

    def __init__(
        self,
        accounts: Accounts,
        accept_for_s: float,
        stretch_s: float,
        now: Callable[[], float],
        learned: Callable[[Accepted | Refused], None],
    ) -> None:
        """``now`` is monotonic; ``learned`` is told what an upstream has said. ``refusals`` counts all that were heard:
        who asks an upstream notes the number, so that a later refusal is not undone by the answer."""
        self._accounts = accounts
        self._accept_for_s = accept_for_s
        self._stretch_s = max(stretch_s, accept_for_s)
        self._now = now
        self._learned = learned
        self._accepted: OrderedDict[Scope, Accepted] = OrderedDict()
        self._refused: OrderedDict[Scope, int] = OrderedDict()
        self.refusals = 0
        self._ask_again_at: dict[str, float] = {}
        self._asking: AskedOnce[Scope, Verdict] = AskedOnce()
        self._behind: set[asyncio.Task[Verdict]] = set()

    async def aclose(self) -> None:
        """Stop asking."""
        for task in self._behind:
            task.cancel()
        if self._behind:
            await asyncio.wait(self._behind)

    def standing_now(self, upstream: str, token: Scope) -> Standing | None:
        """Why a hit may be given without asking anybody; ``None`` where somebody is to be asked first."""
        accepted, now = self._accepted.get(token), self._now()
        if accepted is not None and now - accepted.at < self._accept_for_s:
            return "accepted"
        is_away = now < self._ask_again_at.get(upstream, 0.0)
        return "stretched" if is_away and self._can_be_stretched(token) else None

    def may_ask(self, upstream: str) -> bool:
        """Whether the upstream is not known to be away, or it is time to ask whether it is back."""
        return self._now() >= self._ask_again_at.get(upstream, 0.0)

    async def is_known(self, token: Scope) -> bool:
        """Whether its upstream has accepted it before, as far as is remembered. Asks nobody."""
        return token in self._accepted or (await self._accounts.recall(token)).was_accepted

    async def judge(self, upstream: Upstream, credential: Credential, token: Scope) -> Standing | None:
        """Why a hit may be given, if it may; asks the upstream where needed, once for all who wait.

        Raises:
            UpstreamRefused: the upstream refuses the credential; its own answer.
        """
        standing = self.standing_now(upstream.name, token)
        if standing is not None:
            return standing
        await self._accounts.recall(token)
        if upstream.name in self._ask_again_at:  # it was away when it was asked last
            may_ask = self.may_ask(upstream.name)
            if may_ask:
                self._ask_again_at[upstream.name] = self._now() + ASK_AGAIN_S
            if self._can_be_stretched(token):
                if may_ask:  # somebody must find out when it is back, but need not wait for that
                    self._ask_behind(upstream, credential, token)
                return "stretched"
            if not may_ask:
                return None
        verdict = await self.ask(upstream, credential, token)
        if verdict.is_accepted:
            return "accepted"
        if verdict.is_accepted is False:
            status, content_type, body = verdict.refusal or (401, "application/json", b"{}")
            raise UpstreamRefused(status, [("content-type", content_type)], body)
        return "stretched" if not verdict.is_silent and self._can_be_stretched(token) else None

    async def ask(self, upstream: Upstream, credential: Credential, token: Scope) -> Verdict:
        """What the upstream says of a credential now; asked once for all who want to know meanwhile."""
        return await self._asking.ask(token, lambda: self._question(upstream, credential, token))

    def accept(self, upstream: str, token: Scope, account: Account | None = None, as_of: int | None = None) -> bool:
        """The upstream has accepted a token; whether that counts: ``as_of``, it was not refused since."""
        if as_of is not None and self._refused.get(token, 0) > as_of:
            return False
        self._learned(Accepted(upstream, token, self._now(), account))
        return True

    def refuse(self, upstream: str, token: Scope) -> None:
        """The upstream has just refused it: no hit until it is accepted again."""
        self._learned(Refused(upstream, token))

    def apply(self, change: Accepted | Refused) -> None:
        """Take over what an upstream has said, here or to another process."""
        self._ask_again_at.pop(change.upstream, None)
        if isinstance(change, Refused):
            self._accepted.pop(change.token, None)
            self.refusals += 1
            self._refused[change.token] = self.refusals
            self._refused.move_to_end(change.token)
            if len(self._refused) > MAX_REMEMBERED:
                self._refused.popitem(last=False)
            self._accounts.refused(change.token)
            return
        self._accepted[change.token] = change
        self._accepted.move_to_end(change.token)
        if len(self._accepted) > MAX_REMEMBERED:
            self._accepted.popitem(last=False)
        self._accounts.accepted(change.token, change.account)

    def forget(self) -> None:
        """No token was accepted, as far as is known."""
        self._accepted.clear()
        self._ask_again_at.clear()

    def fresh(self) -> list[Accepted]:
        """Every acceptance that is good now."""
        now = self._now()
        return [accepted for accepted in self._accepted.values() if now - accepted.at < self._accept_for_s]

    def _can_be_stretched(self, token: Scope) -> bool:
        accepted = self._accepted.get(token)
        if accepted is not None:
            return self._now() - accepted.at < self._stretch_s
        remembered = self._accounts.known(token)
        age_s = self._accounts.age_s(remembered) if remembered is not None else None
        return age_s is not None and age_s < self._stretch_s

    def _ask_behind(self, upstream: Upstream, credential: Credential, token: Scope) -> None:
        task = asyncio.create_task(self.ask(upstream, credential, token))
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)

    async def _question(self, upstream: Upstream, credential: Credential, token: Scope) -> Verdict:
        as_of = self.refusals
        verdict = await upstream.check(credential)
        if verdict.is_accepted:
            if not self.accept(upstream.name, token, verdict.account, as_of):
                return Verdict(is_accepted=None, is_silent=True)
        elif verdict.is_accepted is False:
            self.refuse(upstream.name, token)
        elif not verdict.is_silent:
            self._ask_again_at[upstream.name] = self._now() + ASK_AGAIN_S
        return verdict
