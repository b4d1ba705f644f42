"""``/_hotplate/explain``: why a request has the key that it has, why two differ, how a prediction was answered."""

from __future__ import annotations

import json

from proxy.core.canonical import parse_json
from proxy.core.controls import parse_controls
from proxy.core.entitlement import parse_authorization
from proxy.core.errors import BadRequest
from proxy.core.requests import is_slug, parse_create
from proxy.engine.runs import Create
from proxy.routes.exchange import Exchange
from proxy.services import Services
from proxy.upstreams.base import Credential
from storage.records import JsonValue


class Explain:
    """Handlers; who may use them is for ``Operations.guarded`` to say.

    A request is explained from the body of a create. ``version`` may also be called ``model``, and ``deployment`` names
    a deployment. ``Cache-Control`` and Hotplate's own headers mean what they mean on the create;
    ``X-Explain-Authorization`` names the caller, ``X-Explain-Profile`` the profile.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    async def explain(self, exchange: Exchange) -> None:
        """``POST /_hotplate/explain`` with a create's body."""
        document = await self._document(exchange)
        await exchange.respond_json(200, await self._services.explainer.explain(await self._create(exchange, document)))

    async def compare(self, exchange: Exchange) -> None:
        """``POST /_hotplate/explain/diff`` with ``{"a": body, "b": body}``."""
        document = await self._document(exchange)
        if not isinstance(document, dict) or document.keys() != {"a", "b"}:
            raise BadRequest('the body must be {"a": one create\'s body, "b": the other\'s}')
        a, b = await self._create(exchange, document["a"]), await self._create(exchange, document["b"])
        await exchange.respond_json(200, await self._services.explainer.compare(a, b))

    async def prediction(self, exchange: Exchange) -> None:
        """``GET /_hotplate/explain/{id}``."""
        await exchange.respond_json(200, await self._services.past.explain(exchange.params["id"]))

    async def _document(self, exchange: Exchange) -> JsonValue:
        return parse_json(await exchange.body(2 * self._services.settings.limits.max_body_bytes))

    async def _create(self, exchange: Exchange, document: JsonValue) -> Create:
        """The create that a body and the headers describe."""
        services = self._services
        named = None
        if isinstance(document, dict):
            if "version" not in document and "model" in document:
                document = {**document, "version": document["model"]}
            if "deployment" in document:
                named = _deployment(document["deployment"])
                document = {name: value for name, value in document.items() if name != "deployment"}
        parsed = parse_create(json.dumps(document, allow_nan=False).encode(), named)
        if named is not None:
            upstream, target = services.catalog.deployment(*named)
        else:
            upstream, target = await services.catalog.resolve(parsed.model, parsed.version)
        token = parse_authorization(exchange.headers.get("x-explain-authorization"))
        credential = Credential(token) if token is not None else None
        profile = exchange.headers.get("x-explain-profile")
        if profile is not None and not services.policies.has_profile(profile):
            raise BadRequest("no policy has that profile's name")
        return Create(
            upstream=upstream,
            target=target,
            given=parsed.input,
            credential=credential,
            scope=(await services.gatekeeper.identify(upstream, credential)).owner,
            wants_s=0.0,
            controls=parse_controls(exchange.headers, profile),
        )


def _deployment(text: JsonValue) -> tuple[str, str]:
    owner, slash, name = text.partition("/") if isinstance(text, str) else ("", "", "")
    if not slash or not is_slug(owner) or not is_slug(name):
        raise BadRequest("deployment must be owner/name")
    return owner, name
