"""``GET /webhooks/default/secret``: what a receiver checks webhooks with.

Source: Replicate's OpenAPI document, ``webhooks.default.secret.get``. An extension: ``?upstream=NAME`` tells the
secret of one upstream, for a caller that is somebody at several.
"""

from __future__ import annotations

from urllib.parse import parse_qs

from proxy.routes.exchange import PRIVATE, Exchange
from proxy.routes.passthrough import Passthrough
from proxy.services import Services


class Webhooks:
    """The handler of ``/webhooks/default/secret``."""

    def __init__(self, services: Services, passthrough: Passthrough) -> None:
        self._services = services
        self._passthrough = passthrough

    async def secret(self, exchange: Exchange) -> None:
        """The caller's signing secret; where the upstream itself sends webhooks, its own answer is passed on."""
        services = self._services
        if not services.settings.webhooks.enabled:
            await self._passthrough.handle(exchange)
            return
        credential = exchange.credential()
        named = parse_qs(exchange.query).get("upstream")
        home = await services.home(credential)
        name = named[0] if named else home.name if home is not None else None
        upstream, _ = services.webhook_secrets.home(credential, name)
        exchange.note.outcome, exchange.note.upstream = "own", upstream.name
        await services.gatekeeper.require(upstream, credential)
        visitor = await services.gatekeeper.identify(upstream, credential)
        answer = await services.webhook_secrets.tell(upstream, credential, visitor.owner)
        await exchange.respond(200, [(b"content-type", answer.content_type.encode("latin-1")), PRIVATE], answer.body)
