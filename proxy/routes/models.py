"""Model, version and account look-ups for upstreams that have no such API; others are asked themselves.

Source: Replicate's OpenAPI document, ``GET /models/{owner}/{name}`` and below, ``GET /account``.
"""

from __future__ import annotations

from proxy.core.errors import NotFound
from proxy.core.predictions import format_time
from proxy.core.requests import is_slug
from proxy.routes.exchange import Exchange
from proxy.routes.passthrough import Passthrough
from proxy.services import Services
from proxy.upstreams.base import ModelDescription, ModelTarget
from storage.records import JsonObject

SINCE = format_time(1_767_225_600)
"""Cog tells no dates; the clients want one."""


class Models:
    """Handlers of ``/models/{owner}/{name}`` and below, and of ``/account``."""

    def __init__(self, services: Services, passthrough: Passthrough) -> None:
        self._services = services
        self._passthrough = passthrough

    async def get(self, exchange: Exchange) -> None:
        """One model."""
        described = await self._own(exchange)
        if described is None:
            await self._passthrough.handle(exchange)
            return
        await exchange.respond_json(200, model_document(self._services.base_url, described.model, described))

    async def versions(self, exchange: Exchange) -> None:
        """The versions of a model: the one that runs."""
        described = await self._own(exchange)
        if described is None:
            await self._passthrough.handle(exchange)
            return
        await exchange.respond_json(200, page([_version(described)]))

    async def examples(self, exchange: Exchange) -> None:
        """Examples of a model: Cog keeps none."""
        if await self._own(exchange) is None:
            await self._passthrough.handle(exchange)
            return
        await exchange.respond_json(200, page([]))

    async def version(self, exchange: Exchange) -> None:
        """One version of a model."""
        described = await self._own(exchange)
        if described is None:
            await self._passthrough.handle(exchange)
            return
        if exchange.params["version"] != described.version:
            raise NotFound("The requested resource could not be found.")
        await exchange.respond_json(200, _version(described))

    async def account(self, exchange: Exchange) -> None:
        """Whose credential this is; an upstream with accounts says so itself."""
        if not self._services.answers_itself(exchange.credential()):
            await self._passthrough.handle(exchange)
            return
        await exchange.respond_json(
            200, {"type": "organization", "username": "hotplate", "name": "Hotplate", "github_url": None}
        )

    async def _own(self, exchange: Exchange) -> ModelDescription | None:
        """The model, if an upstream without an API of models serves it.

        Raises:
            Unauthenticated, NotFound: see ``Gatekeeper.scope_of`` and ``Upstream.describe``.
        """
        owner, name = exchange.params["owner"], exchange.params["name"]
        if not (is_slug(owner) and is_slug(name)):
            raise NotFound("The requested resource could not be found.")
        upstream = self._services.catalog.serving(f"{owner}/{name}")
        if upstream.has_accounts:
            return None
        credential = exchange.credential()
        self._services.gatekeeper.scope_of(upstream, credential)
        if upstream.kind == "replicate":
            return None
        return await upstream.describe(ModelTarget(owner, name), None)


def page(results: list[JsonObject]) -> JsonObject:
    """A list that is whole."""
    return {"next": None, "previous": None, "results": results}


def model_document(base_url: str, model: str, described: ModelDescription | None) -> JsonObject:
    """A model as the API shows it; without a version while nobody can describe it."""
    owner, _, name = model.partition("/")
    return {
        "url": f"{base_url}/v1/models/{model}",
        "owner": owner,
        "name": name,
        "description": None,
        "visibility": "private",
        "is_official": False,
        "github_url": None,
        "paper_url": None,
        "license_url": None,
        "run_count": 0,
        "cover_image_url": None,
        "default_example": None,
        "latest_version": _version(described) if described is not None else None,
    }


def _version(described: ModelDescription) -> JsonObject:
    return {
        "id": described.version,
        "created_at": SINCE,
        "cog_version": "unknown",
        "openapi_schema": described.openapi or {},
    }
