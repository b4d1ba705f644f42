"""Whose request it is, and whether that caller may have a hit.

An upstream with accounts judges its own tokens: a token may get hits for some minutes after the upstream last
accepted it, by a look-up of its account or by a create. A refusal ends that at once. Where nobody can be asked
there is no hit. Upstreams without accounts are guarded by Hotplate's own tokens, or are open on loopback.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Callable, Sequence

from proxy.core.entitlement import files_scope, open_scope, token_scope
from proxy.core.errors import Overloaded, Unauthenticated, UpstreamRefused
from proxy.core.secrets import Secrets
from proxy.upstreams.base import Credential, Upstream, Verdict
from proxy.upstreams.once import AskedOnce
from storage.digest import Scope

MAX_REMEMBERED = 50_000
"""Tokens remembered at once; the one unused for longest is forgotten first and merely asked about again."""


MAX_REMEMBERED_CHARS = 256
"""Longer tokens are hashed anew each time: what strangers send must not fill the memory."""


class Gatekeeper:
    """Scopes of callers, and the short memory of accepted credentials. Used from the event loop alone."""

    def __init__(
        self, secrets: Secrets, own_tokens: Sequence[str], accept_for_s: float, now: Callable[[], float]
    ) -> None:
        """``now`` is a monotonic clock in seconds."""
        self._secrets = secrets
        self._own_tokens = [token.encode() for token in own_tokens]
        self._accept_for_s = accept_for_s
        self._now = now
        self._accepted_at: OrderedDict[Scope, float] = OrderedDict()
        self._asking: AskedOnce[Scope, Verdict] = AskedOnce()
        self._scopes: OrderedDict[tuple[str, str | None], Scope] = OrderedDict()
        self._listeners: list[Callable[[Scope, float], None]] = []

    def scope_of(self, upstream: Upstream, credential: Credential | None) -> Scope:
        """The scope of a caller at ``upstream``.

        Raises:
            Unauthenticated: a credential is needed and missing, or it is one for another kind of upstream: Hotplate's
                own tokens are for those without accounts, and those are for Hotplate's own tokens alone.
        """
        token = credential.token if credential is not None else None
        remembered = self._scopes.get((upstream.name, token))
        if remembered is not None:
            return remembered
        scope = self._derive(upstream, credential)
        if token is not None and len(token) > MAX_REMEMBERED_CHARS:
            return scope
        self._scopes[upstream.name, token] = scope
        if len(self._scopes) > MAX_REMEMBERED:
            self._scopes.popitem(last=False)
        return scope

    def is_own(self, credential: Credential) -> bool:
        """Whether it is one of Hotplate's own tokens. Those are told to no upstream."""
        given = credential.token.encode()
        # Every token is compared, each in constant time, so that timing says nothing of any of them.
        return any([hmac.compare_digest(given, own) for own in self._own_tokens])

    def files_scope(self, credential: Credential | None) -> Scope:
        """The scope of files that a caller has uploaded and that are kept here; ``scope_of`` has let it in.

        Where everybody may use a model, a token that comes along still tells one caller's files from another's.
        """
        return files_scope(self._secrets, credential.token if credential is not None else None)

    def _derive(self, upstream: Upstream, credential: Credential | None) -> Scope:
        if not upstream.has_accounts and not self._own_tokens:
            return open_scope(self._secrets, upstream.name)
        if credential is None:
            raise Unauthenticated("You did not pass an authentication token")
        if self.is_own(credential) == upstream.has_accounts:
            raise Unauthenticated("You did not pass a valid authentication token")
        return token_scope(self._secrets, upstream.name, credential.token)

    def is_accepted_now(self, upstream: Upstream, scope: Scope) -> bool:
        """Whether a hit may be given without asking anybody."""
        if not upstream.has_accounts:
            return True  # ``scope_of`` has judged the token itself
        at = self._accepted_at.get(scope)
        return at is not None and self._now() - at < self._accept_for_s

    async def is_accepted(self, upstream: Upstream, credential: Credential | None, scope: Scope) -> bool:
        """Whether a hit may be given; asks the upstream where needed, once for all who wait.

        Raises:
            UpstreamRefused: the upstream refuses the credential; its own answer.
        """
        if self.is_accepted_now(upstream, scope):
            return True
        if credential is None:
            return False
        verdict = await self._asking.ask(scope, lambda: upstream.check(credential))
        if verdict.is_accepted:
            self.accept(scope)
            return True
        if verdict.is_accepted is False:
            self.refuse(scope)
            status, content_type, body = verdict.refusal or (401, "application/json", b"{}")
            raise UpstreamRefused(status, [("content-type", content_type)], body)
        return False

    async def require(self, upstream: Upstream, credential: Credential | None, scope: Scope) -> None:
        """See to it that the upstream accepts the credential now: what it asked for before is shown to nobody else.

        Raises:
            UpstreamRefused: see ``is_accepted``.
            Overloaded: nobody can be asked.
        """
        if not await self.is_accepted(upstream, credential, scope):
            raise Overloaded("the model service cannot be asked about this credential now", retry_after_s=5.0)

    def accept(self, scope: Scope) -> None:
        """The upstream has just accepted this scope's credential."""
        self._accepted_at[scope] = self._now()
        self._accepted_at.move_to_end(scope)
        if len(self._accepted_at) > MAX_REMEMBERED:
            self._accepted_at.popitem(last=False)
        self._tell(scope, self._accept_for_s)

    def refuse(self, scope: Scope) -> None:
        """The upstream has just refused it: no hit until it is accepted again."""
        self._accepted_at.pop(scope, None)
        self._tell(scope, 0.0)

    # -- between processes -------------------------------------------------------------------------------

    def listen(self, listener: Callable[[Scope, float], None]) -> None:
        """Call ``listener`` with a scope and the seconds for which it may get hits, at each word of an upstream."""
        self._listeners.append(listener)

    def standings(self) -> list[tuple[Scope, float]]:
        """Every scope that may get hits now, and for how many seconds."""
        now = self._now()
        left = ((scope, at + self._accept_for_s - now) for scope, at in self._accepted_at.items())
        return [(scope, left_s) for scope, left_s in left if left_s > 0]

    def learn(self, scope: Scope, left_s: float) -> None:
        """What another process was told of a scope: see ``listen``."""
        if left_s <= 0:
            self._accepted_at.pop(scope, None)
            return
        self._accepted_at[scope] = self._now() - self._accept_for_s + left_s
        self._accepted_at.move_to_end(scope)
        if len(self._accepted_at) > MAX_REMEMBERED:
            self._accepted_at.popitem(last=False)

    def forget(self) -> None:
        """No scope may get hits until it is learned anew."""
        self._accepted_at.clear()

    def _tell(self, scope: Scope, left_s: float) -> None:
        for listener in self._listeners:
            listener(scope, left_s)
