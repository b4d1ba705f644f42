"""What the operator changes while the proxy runs, on the admin listener: the kill switch, policies, purges."""

from __future__ import annotations

from typing import Any

from proxy.core.canonical import parse_json
from proxy.core.errors import BadRequest, Overloaded
from proxy.core.purging import KINDS, PurgeKind
from proxy.routes.exchange import Exchange
from proxy.services import Services
from proxy.settings import SettingsError
from storage.errors import StorageError
from storage.records import JsonObject

MAX_BODY_BYTES = 1024**2


class Controls:
    """Handlers; who may use them is for ``Operations.guarded`` to say."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def bypass(self, exchange: Exchange) -> None:
        """``GET /_hotplate/bypass``."""
        await exchange.respond_json(200, self._bypass())

    async def switch(self, exchange: Exchange) -> None:
        """``POST /_hotplate/bypass`` with ``{"on": true}`` or ``{"on": false}``."""
        on = (await _document(exchange)).get("on")
        if not isinstance(on, bool):
            raise BadRequest('the body must be {"on": true} or {"on": false}')
        is_written = await self._services.kill_switch.turn(on=on)
        await exchange.respond_json(200, {**self._bypass(), "is_written": is_written})

    def _bypass(self) -> JsonObject:
        switch = self._services.kill_switch
        return {"on": switch.is_on, "since": switch.since, "cache_enabled": self._services.settings.cache.enabled}

    async def policies(self, exchange: Exchange) -> None:
        """``GET /_hotplate/policies``: those that hold now, in order."""
        tables = self._services.reload.tables
        await exchange.respond_json(200, {"policies": [table.to_json() for table in tables]})

    async def reload(self, exchange: Exchange) -> None:
        """``POST /_hotplate/reload``."""
        try:
            done = await self._services.reload.reload()
        except SettingsError as error:
            raise BadRequest(str(error)) from error
        await exchange.respond_json(
            200,
            {
                "policies": done.policies,
                "has_changed": done.has_changed,
                "needs_restart": list(done.needs_restart),
            },
        )

    async def observed(self, exchange: Exchange) -> None:
        """``GET /_hotplate/observed``: what the cache would have made of requests under policies that only observe."""
        await exchange.respond_json(200, self._services.observer.report())

    async def purge(self, exchange: Exchange) -> None:
        """``POST /_hotplate/purge`` with a list under ``id``, ``key``, ``tag`` or ``model``, or ``{"all": true}``."""
        document = await _document(exchange)
        kinds = [kind for kind in KINDS if kind in document]
        if len(kinds) != 1 or len(document) != 1:
            raise BadRequest(f"the body must hold exactly one of {', '.join(KINDS)}")
        values = _values(kinds[0], document[kinds[0]])
        try:
            removed = await self._services.purging.purge(kinds[0], values)
        except StorageError as error:
            raise Overloaded(f"not everything could be removed: {error}", retry_after_s=1.0) from error
        await exchange.respond_json(200, {"removed": removed})


def _values(kind: PurgeKind, given: Any) -> list[str]:
    if kind == "all":
        if given is not True:
            raise BadRequest('to purge everything say {"all": true}')
        return []
    if not isinstance(given, list) or not all(isinstance(value, str) and value for value in given):
        raise BadRequest(f"{kind} must be a list of texts")
    return given


async def _document(exchange: Exchange) -> JsonObject:
    document = parse_json(await exchange.body(MAX_BODY_BYTES))
    if not isinstance(document, dict):
        raise BadRequest("the body must be a JSON object")
    return document
