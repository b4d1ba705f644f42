"""The operator's listener: ``/livez``, ``/readyz``, ``/metrics``, ``/_hotplate/*``.

Loopback by default; with a token set, every request but the two probes must carry it.
"""

from __future__ import annotations

import asyncio
import hmac
from urllib.parse import parse_qs

import prometheus_client

from proxy import __version__
from proxy.core.errors import Unauthenticated
from proxy.core.money import parse_selection
from proxy.routes.exchange import PRIVATE, Exchange, Handler
from proxy.services import Services
from storage.records import JsonObject


class Operations:
    """Handlers of the admin listener."""

    def __init__(self, services: Services) -> None:
        self._services = services
        token = services.settings.admin.token
        self._token = token.get_secret_value().encode() if token is not None else None
        self.is_draining = False
        self.workers: list[JsonObject] = []
        """The processes of this proxy, as whoever started them knows them."""

    def guarded(self, handler: Handler) -> Handler:
        """``handler`` behind the admin token, where one is set."""

        async def handle(exchange: Exchange) -> None:
            exchange.note.outcome = "admin"
            if self._token is not None:
                credential = exchange.credential()
                if credential is None or not hmac.compare_digest(credential.token.encode(), self._token):
                    raise Unauthenticated("this listener needs the admin token")
            await handler(exchange)

        return handle

    async def livez(self, exchange: Exchange) -> None:
        """The process answers."""
        await exchange.respond_json(200, {"status": "ok"})

    async def readyz(self, exchange: Exchange) -> None:
        """Whether traffic should come here: 503 while draining; a store in trouble is ``degraded`` but 200."""
        trouble = self._services.storage.trouble()
        bypass = {"bypass": "on"} if self._services.kill_switch.is_on else {}
        if self.is_draining:
            await exchange.respond_json(503, {"status": "draining"})
        elif trouble is not None:
            await exchange.respond_json(200, {"status": "degraded", "storage": trouble, **bypass})
        else:
            await exchange.respond_json(200, {"status": "ok", **bypass})

    async def metrics(self, exchange: Exchange) -> None:
        """Prometheus text."""
        await self._services.channel.settle()
        body = prometheus_client.generate_latest(self._services.metrics.registry)
        await exchange.respond(200, [(b"content-type", prometheus_client.CONTENT_TYPE_LATEST.encode()), PRIVATE], body)

    async def stats(self, exchange: Exchange) -> None:
        """The ledger: ``?days=N&by=model|scope|day&scope=HEX``, see ``proxy.core.money``."""
        asked = {name: values[-1] for name, values in parse_qs(exchange.query).items()}
        days, selection = parse_selection(asked)
        services = self._services
        await services.channel.settle()
        document = await services.books.report(days, selection)
        await exchange.respond_json(200, {"currency": services.settings.money.currency, **document})

    async def status(self, exchange: Exchange) -> None:
        """What runs here, for ``hotplate doctor`` and people."""
        services = self._services
        upstreams = services.catalog.upstreams
        connected = services.channel.pids
        readiness = await asyncio.gather(*(upstream.readiness() for upstream in upstreams))
        await exchange.respond_json(
            200,
            {
                "version": __version__,
                "base_url": services.base_url,
                "bypass": {"on": services.kill_switch.is_on, "since": services.kill_switch.since},
                "upstreams": [
                    {
                        "name": upstream.name,
                        "kind": upstream.kind,
                        "state": state.state,
                        "detail": state.detail,
                        "servers": dict(state.servers),
                    }
                    for upstream, state in zip(upstreams, readiness, strict=True)
                ],
                "storage": {
                    "used_bytes": services.storage.used_bytes(),
                    "max_bytes": int(services.settings.storage.max_bytes),
                    "trouble": services.storage.trouble(),
                },
                "workers": [
                    {**worker, "is_connected": worker["pid"] in connected} if worker["role"] == "edge" else worker
                    for worker in self.workers
                ],
                "runs_in_flight": len(services.coalescer),
                "spool_bytes": services.spool.used_bytes,
            },
        )
