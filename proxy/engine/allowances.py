"""What one of Hotplate's own tokens may do: which models, how often, for how much a day.

A caller without limits costs nothing here. Rates count creates alone, as the API's own do: how often a client polls is
seldom its user's choice. Spending is asked about when a run is to be made: what the cache gives is free.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from proxy.core.errors import Forbidden, PaymentRequired, RateLimited, UpstreamUnavailable
from proxy.core.own_tokens import OwnToken, plan_request
from proxy.upstreams.base import DEPLOYMENTS, ModelTarget, RelayRequest, Upstream
from proxy.upstreams.bodies import nothing
from proxy.upstreams.relay import close
from storage.digest import Scope

MAX_REMEMBERED = 10_000
"""Versions whose model was asked for."""


class Allowances:
    """Judges creates of own tokens. Used from the event loop alone."""

    def __init__(self, now: Callable[[], float], spent_today: Callable[[Scope], float]) -> None:
        """``now`` is monotonic; ``spent_today``: what the runs of an owner scope have cost since midnight UTC."""
        self._now = now
        self._spent_today = spent_today
        self._due_at: dict[bytes, float] = {}
        self._named: OrderedDict[tuple[str, str, str], bool] = OrderedDict()

    async def check_model(self, token: OwnToken, upstream: Upstream, target: ModelTarget) -> None:
        """See to it that the token may run ``target``.

        Raises:
            Forbidden: it may not, or it cannot be told what model that is.
            UpstreamUnavailable, UpstreamTimeout: the upstream cannot be asked which model a version is of.
        """
        if token.may_run_all:
            return
        name = f"{DEPLOYMENTS}{target.model}" if target.is_deployment else target.model
        if not name:
            raise Forbidden("This token may run some models only: name the model as owner/name:version.")
        if not token.may_run(name):
            raise Forbidden("This token may not run this model.")
        # A version is sent by itself, so the name beside it is only a claim until the upstream has confirmed it.
        is_claim = upstream.kind == "replicate" and not target.is_deployment
        if is_claim and target.version and not await self._is_of_model(upstream, target, target.version):
            raise Forbidden("This token may not run this version: it is none of that model.")

    def check_rate(self, token: OwnToken) -> None:
        """Count a create.

        Raises:
            RateLimited: it comes too early; ``retry_after_s``.
        """
        if token.rate_per_min is None:
            return
        wait_s, due_at = plan_request(self._due_at.get(token.digest, 0.0), self._now(), token.rate_per_min)
        if wait_s > 0:
            raise RateLimited(
                f"This token may create {token.rate_per_min} predictions a minute.", retry_after_s=wait_s + 0.5
            )
        self._due_at[token.digest] = due_at

    def check_spend(self, token: OwnToken, owner: Scope) -> None:
        """See to it that the token may cause a run.

        Raises:
            PaymentRequired: it has spent what it may today.
        """
        if token.spend_per_day is not None and self._spent_today(owner) >= token.spend_per_day:
            raise PaymentRequired("This token has spent what it may spend today.")

    async def _is_of_model(self, upstream: Upstream, target: ModelTarget, version: str) -> bool:
        name = (upstream.name, target.model, version)
        known = self._named.get(name)
        if known is None:
            path = f"/models/{target.owner}/{target.name}/versions/{version}"
            request = RelayRequest("GET", path, "", [("accept", "application/json")], nothing(), has_body=False)
            response = await upstream.relay(request, None)
            await close(response)
            if response.status not in (200, 404):
                raise UpstreamUnavailable("The model service does not say which model this version is of.")
            known = self._named[name] = response.status == 200
            if len(self._named) > MAX_REMEMBERED:
                self._named.popitem(last=False)
        return known
