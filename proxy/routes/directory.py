"""What an API tells of its models and of itself, answered where no Replicate API stands behind, and for Hotplate's own
tokens, of which none is told.

There are the models that the settings name outright, the deployments likewise, and nothing of what only a service has:
no collections, no trainings, no hardware to choose from. All others are answered by the Replicate API behind.

Source: Replicate's OpenAPI document, ``models.list``, ``models.search``, ``search``, ``collections``, ``deployments``,
``hardware.list``, ``trainings.list``.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qs

from proxy.core.errors import BadRequest, NotFound, UpstreamTimeout, UpstreamUnavailable
from proxy.core.requests import is_slug
from proxy.routes.exchange import Exchange, Handler
from proxy.routes.models import SINCE, model_document, page
from proxy.routes.passthrough import Passthrough
from proxy.services import Services
from proxy.upstreams.base import ModelDescription, ModelTarget, Upstream
from storage.records import JsonObject, JsonValue

MAX_SEARCH_BYTES = 4096
MAX_FOUND = 50


class Directory:
    """Handlers of what lies beside the models themselves."""

    def __init__(self, services: Services, passthrough: Passthrough) -> None:
        self._services = services
        self._passthrough = passthrough

    def fixed(self, make: Callable[[], JsonValue]) -> Handler:
        """A handler that always answers the same."""

        async def handle(exchange: Exchange) -> None:
            if self._is_here(exchange):
                await exchange.respond_json(200, make())
            else:
                await self._passthrough.handle(exchange)

        return handle

    async def models(self, exchange: Exchange) -> None:
        """Every model."""
        if self._is_here(exchange):
            await exchange.respond_json(200, page(await self._models([])))
        else:
            await self._passthrough.handle(exchange)

    async def search_models(self, exchange: Exchange) -> None:
        """``QUERY``: the models whose names have every word of the body."""
        if not self._is_here(exchange):
            await self._passthrough.handle(exchange)
            return
        body = await exchange.body(MAX_SEARCH_BYTES)
        # One client sends its words in quotes.
        words = body.decode(errors="replace").strip().strip('"').split()
        await exchange.respond_json(200, page(await self._models(words)))

    async def search(self, exchange: Exchange) -> None:
        """``?query=words&limit=n``.

        Raises:
            BadRequest: there is nothing to search for, or the limit is none.
        """
        if not self._is_here(exchange):
            await self._passthrough.handle(exchange)
            return
        given = parse_qs(exchange.query)
        query, limit = given.get("query", [""])[0], given.get("limit", ["20"])[0]
        if not query.strip():
            raise BadRequest("query is required")
        if not (limit.isascii() and limit.isdigit() and 1 <= int(limit) <= MAX_FOUND):
            raise BadRequest(f"limit must be a number from 1 to {MAX_FOUND}")
        found = (await self._models(query.split()))[: int(limit)]
        models: list[JsonObject] = [{"model": model, "metadata": {}} for model in found]
        await exchange.respond_json(200, {"query": query, "models": models, "collections": [], "pages": []})

    async def deployments(self, exchange: Exchange) -> None:
        """The deployments that the settings name."""
        if not self._is_here(exchange):
            await self._passthrough.handle(exchange)
            return
        found: list[JsonObject] = []
        for upstream, target in self._services.catalog.named(deployments=True):
            described = await _describe(upstream, target)
            if described is not None:
                found.append(_deployment(target, described))
        await exchange.respond_json(200, page(found))

    async def deployment(self, exchange: Exchange) -> None:
        """One deployment, where an upstream without accounts serves it.

        Raises:
            NotFound, UpstreamUnavailable, UpstreamTimeout: see ``Upstream.describe``.
        """
        owner, name = exchange.params["owner"], exchange.params["name"]
        upstream, target = self._services.catalog.deployment(owner, name)
        if upstream.kind == "replicate" or not (is_slug(owner) and is_slug(name)):
            await self._passthrough.handle(exchange)
            return
        self._services.gatekeeper.scope_of(upstream, exchange.credential())
        await exchange.respond_json(200, _deployment(target, await upstream.describe(target, None)))

    def _is_here(self, exchange: Exchange) -> bool:
        """Whether it is to be answered here, for this caller.

        Raises:
            Unauthenticated: the caller is nobody here.
        """
        return self._services.answers_itself(exchange.credential())

    async def _models(self, words: list[str]) -> list[JsonObject]:
        found: list[JsonObject] = []
        for upstream, target in self._services.catalog.named():
            if all(word.lower() in target.model.lower() for word in words):
                described = await _describe(upstream, target)
                found.append(model_document(self._services.base_url, target.model, described))
        return found


async def _describe(upstream: Upstream, target: ModelTarget) -> ModelDescription | None:
    """A model as it is now, or ``None`` while its servers cannot tell."""
    try:
        return await upstream.describe(target, None)
    except (NotFound, UpstreamUnavailable, UpstreamTimeout):
        return None


def _deployment(target: ModelTarget, described: ModelDescription) -> JsonObject:
    return {
        "owner": target.owner,
        "name": target.name,
        "current_release": {
            "number": 1,
            "model": described.model,
            "version": described.version,
            "created_at": SINCE,
            "created_by": {"type": "organization", "username": "hotplate", "name": "Hotplate"},
            "configuration": {"hardware": "cpu", "min_instances": 0, "max_instances": 1},
        },
    }
