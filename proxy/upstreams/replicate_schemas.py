"""What a model takes, asked for when that is needed: whether a URL in an input stands where files stand.

This is asked on the caller's own account, of the API itself, and is no part of a key: a model whose version is not
pinned may take other inputs tomorrow. What was learned of a pinned version stays true and is remembered with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from proxy.core.schemas import InputSchema, parse_schema
from proxy.upstreams.base import ModelTarget
from proxy.upstreams.once import AskedOnce
from proxy.upstreams.replicate_client import ReplicateClient
from proxy.upstreams.replicate_versions import VersionNotes
from storage.memory import ByteLru
from storage.records import JsonObject

KEEP_S = 300.0
"""How long the schema of a model that is not pinned is taken for the one that will run."""

KEEP_UNKNOWN_S = 30.0
"""How long nobody asks again after nothing was told."""

MAX_REMEMBERED = 1000


@dataclass(frozen=True, slots=True)
class _Learned:
    schema: InputSchema | None
    until: float


class SchemaDesk:
    """Asks for schemas, once for all who ask meanwhile."""

    def __init__(
        self, client: ReplicateClient, versions: VersionNotes, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._versions = versions
        self._clock = clock
        self._learned: ByteLru[tuple[ModelTarget, str], _Learned] = ByteLru(MAX_REMEMBERED)
        self._asking: AskedOnce[tuple[ModelTarget, str], InputSchema | None] = AskedOnce()

    async def find(self, target: ModelTarget, authorization: dict[str, str]) -> InputSchema | None:
        """The input schema of what ``target`` runs now, ``None`` where it is not told. Never raises.

        What one account was told counts for that account alone: models may be private.
        """
        asked = target, authorization.get("authorization", "")
        learned = self._learned.get(asked)
        if learned is not None and self._clock() < learned.until:
            return learned.schema
        schema = await self._asking.ask(asked, lambda: self._ask(target, authorization))
        self._learned.put(asked, _Learned(schema, self._clock() + (KEEP_S if schema else KEEP_UNKNOWN_S)), 1)
        return schema

    async def _ask(self, target: ModelTarget, authorization: dict[str, str]) -> InputSchema | None:
        if target.is_deployment:
            deployment = await self._client.document(f"/deployments/{target.model}", authorization)
            match deployment:
                case {"current_release": {"model": str(model), "version": str(version)}}:
                    return await self._of_version(model, version, authorization)
            return None
        if target.version is not None:
            known = await self._versions.recall(target.version)
            return known.schema or await self._of_version(target.model or known.model, target.version, authorization)
        model_document = await self._client.document(f"/models/{target.model}", authorization)
        match model_document:
            case {"latest_version": {"openapi_schema": dict(openapi)}}:
                return parse_schema(openapi)
        return None

    async def _of_version(self, model: str, version: str, authorization: dict[str, str]) -> InputSchema | None:
        """The schema of one version; an official model does not show its versions, but its newest."""
        if not model:
            return None
        known = await self._versions.recall(version)
        if known.schema is not None:
            return known.schema
        document = await self._client.document(f"/models/{model}/versions/{version}", authorization)
        openapi: JsonObject | None = None
        match document:
            case {"id": str(found), "openapi_schema": dict(openapi)} if found == version:
                await self._versions.learn_model(version, model)
                await self._versions.learn_schema(version, openapi)
                return parse_schema(openapi)
        return None
