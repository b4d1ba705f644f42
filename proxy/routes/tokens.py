"""Hotplate's own tokens, on the admin listener: ``/_hotplate/tokens``. What is done here acts at once."""

from __future__ import annotations

import orjson

from proxy.core.canonical import parse_json
from proxy.core.entitlement import parse_rule
from proxy.core.errors import BadRequest, Overloaded
from proxy.core.own_tokens import describe_token
from proxy.routes.exchange import Exchange
from proxy.services import Services
from storage.errors import StorageError
from storage.records import JsonObject

MAX_BODY_BYTES = 64 * 1024

_FIELDS = frozenset({"name", "scope", "models", "rate_per_min", "spend_per_day"})


class TokenDesk:
    """Handlers of ``/_hotplate/tokens`` and below."""

    def __init__(self, services: Services) -> None:
        self._gatekeeper = services.gatekeeper

    async def list(self, exchange: Exchange) -> None:
        """``GET``: every token that is good, none of its text."""
        await exchange.respond_json(200, {"tokens": [describe_token(token) for token in self._gatekeeper.tokens.all()]})

    async def add(self, exchange: Exchange) -> None:
        """``POST``: a new one; the answer is the only place where its text ever stands.

        Raises:
            BadRequest: the body says something that no token can have.
            Overloaded: it could not be written down.
        """
        document = parse_json(await exchange.body(MAX_BODY_BYTES))
        if not isinstance(document, dict) or not document.keys() <= _FIELDS:
            raise BadRequest(f"the body must be an object with some of {', '.join(sorted(_FIELDS))}")
        wanted = _read(document)
        try:
            text, token = await self._gatekeeper.add_token(**wanted)
        except StorageError as error:
            raise Overloaded("the store cannot be written now", retry_after_s=5.0) from error
        await exchange.respond_json(201, {**describe_token(token), "token": text})

    async def revoke(self, exchange: Exchange) -> None:
        """``DELETE /_hotplate/tokens/{name}``, by name or id.

        Raises:
            BadRequest: there is none of that name.
            Overloaded: it is good no more here and now, but that could not be written down.
        """
        try:
            token = await self._gatekeeper.revoke_token(exchange.params["name"])
        except StorageError as error:
            raise Overloaded("revoked until the next start, but that could not be written down") from error
        await exchange.respond(200, [(b"content-type", b"application/json")], orjson.dumps(describe_token(token)))


def _read(document: JsonObject) -> JsonObject:
    """What ``Gatekeeper.add_token`` takes.

    Raises:
        BadRequest: a value has another type, or is no scope.
    """
    name, scope = document.get("name"), document.get("scope")
    models, rate, spend = document.get("models"), document.get("rate_per_min"), document.get("spend_per_day")
    if not isinstance(name, str):
        raise BadRequest("name must be text")
    if scope is not None and not isinstance(scope, str):
        raise BadRequest("scope must be account, token, shared or group:NAME")
    if models is not None and not (isinstance(models, list) and all(isinstance(glob, str) for glob in models)):
        raise BadRequest("models must be a list of globs")
    if rate is not None and type(rate) is not int:
        raise BadRequest("rate_per_min must be a whole number")
    if spend is not None and type(spend) not in (int, float):
        raise BadRequest("spend_per_day must be a number")
    try:
        rule = parse_rule(scope) if scope is not None else None
    except ValueError as error:
        raise BadRequest(str(error)) from error
    wanted: JsonObject = {"rule": rule, "rate_per_min": rate, "spend_per_day": spend}
    return {"name": name, **wanted, **({"models": models} if models is not None else {})}
