"""What is remembered of pinned versions of an API that is not ours: input schema and model name.

A version never changes, so what was once seen of it stays true. It is learned from answers that pass by; nothing is
fetched for it. Without a schema keys are derived from the input as it stands, which merely misses more often.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass

import orjson

from proxy.core.schemas import InputSchema, parse_schema
from storage.errors import StorageError
from storage.memory import ByteLru
from storage.ports import KeyValue
from storage.records import JsonObject

MEMORY_BYTES = 8 * 1024**2
"""Room for what is known of versions, counted by the length of their documents: some hundred of them."""

MAX_OPENAPI_BYTES = 1024**2
"""Real documents have 5 to 50 kB; a larger one is not remembered."""

_ENTRY_BYTES = 1000
_MODEL = re.compile(r"[A-Za-z0-9._-]{1,128}/[A-Za-z0-9._-]{1,128}")


@dataclass(frozen=True, slots=True)
class KnownVersion:
    """``model`` is ``"owner/name"``, ``""`` while unknown; ``schema`` is ``None`` while unknown."""

    model: str = ""
    schema: InputSchema | None = None


class VersionNotes:
    """Remembers the versions of one upstream, in memory before a ``KeyValue``."""

    def __init__(self, upstream: str, notes: KeyValue) -> None:
        """Args: ``upstream`` is part of each name, so that one API's word does not count for another's versions."""
        self._upstream = upstream
        self._notes = notes
        self._known: ByteLru[str, KnownVersion] = ByteLru(MEMORY_BYTES)

    async def recall(self, version: str) -> KnownVersion:
        """What is known of ``version`` (64 hex digits)."""
        known = self._known.get(version)
        if known is not None and known.schema is not None:
            return known
        # What is not known is looked up each time: another worker may have learned it.
        name = await self._notes.get(self._name("model", version))
        openapi = await self._notes.get(self._name("schema", version))
        if name is None and openapi is None:
            return known or KnownVersion()
        known = KnownVersion((name or b"").decode(errors="replace"), _read_schema(openapi))
        self._known.put(version, known, _ENTRY_BYTES + len(openapi or b""))
        return known

    async def learn_model(self, version: str, model: object) -> None:
        """Remember whose version it is; what is no ``"owner/name"`` is ignored."""
        known = await self.recall(version)
        if known.model != model and isinstance(model, str) and _MODEL.fullmatch(model):
            self._known.discard(version)
            await self._put(self._name("model", version), model.encode())

    async def learn_schema(self, version: str, openapi: JsonObject) -> None:
        """Remember its OpenAPI document, if there is an input schema in it."""
        known = await self.recall(version)
        if known.schema is not None:
            return
        try:
            note = orjson.dumps(openapi)
        except TypeError:
            return
        schema = _read_schema(note)
        if schema is not None:
            self._known.put(version, KnownVersion(known.model, schema), _ENTRY_BYTES + len(note))
            await self._put(self._name("schema", version), note)

    async def _put(self, name: str, note: bytes) -> None:
        with contextlib.suppress(StorageError):  # then it is known to this process at most
            await self._notes.put(name, note)

    def _name(self, what: str, version: str) -> str:
        return f"{what}:{self._upstream}:{version}"


def _read_schema(note: bytes | None) -> InputSchema | None:
    if note is None or len(note) > MAX_OPENAPI_BYTES:
        return None
    try:
        openapi = orjson.loads(note)
    except ValueError:
        return None
    return parse_schema(openapi) if isinstance(openapi, dict) else None
