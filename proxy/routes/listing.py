"""``GET /predictions``: the caller's predictions, page by page.

Source: Replicate's OpenAPI document, ``predictions.list``.
"""

from __future__ import annotations

from proxy.core.cursors import read_request
from proxy.engine.listing import Asker
from proxy.routes.exchange import JSON_TYPE, PRIVATE, Exchange
from proxy.services import Services


class PredictionList:
    """Handler of ``GET /predictions``."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def get(self, exchange: Exchange) -> None:
        """One page."""
        services = self._services
        credential = exchange.credential()
        places = await services.visits(credential)
        relay = await services.home(credential)
        if not any(upstream is relay for upstream, _ in places):
            relay = None
        exchange.note.outcome = "own"
        exchange.note.upstream = relay.name if relay is not None else None
        cursor = read_request(exchange.query)
        await services.channel.settle()
        page = await services.listing.page(Asker(credential, places, relay), cursor)
        await exchange.respond(200, [JSON_TYPE, PRIVATE], page)
