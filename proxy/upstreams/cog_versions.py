"""Names and versions for models that have none of their own: what a Cog server runs is told by its schema alone.

A version is 64 hex digits, a hash over the model's name, its OpenAPI document and the operator's ``revision``. So one
server can go by several names, each with its own version, and a bare version finds its name again: names whose runs
succeeded are remembered beyond a restart, where there is a store to remember them in.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import orjson
import structlog

from proxy.core.errors import NotFound
from proxy.core.schemas import model_version, parse_schema
from proxy.upstreams.base import ModelDescription, ModelTarget
from storage.errors import StorageError
from storage.ports import KeyValue
from storage.records import JsonObject

MAX_NAMES = 256
"""Names answered from memory; more are worked out anew each time."""

MAX_KEPT = 64
"""Names that outlast a restart."""

_log = structlog.get_logger("hotplate.versions")


@dataclass(frozen=True, slots=True)
class Build:
    """One state of a model's code and weights, as far as can be told.

    Attributes:
        id: equal for equal builds.
        openapi: its OpenAPI document, ``None`` when it has none.
        revision: goes into its versions, beside the document.
    """

    id: str
    openapi: JsonObject | None
    revision: str = ""


def build_from_openapi(openapi: JsonObject | None, revision: str) -> Build:
    """The build behind a server's OpenAPI document."""
    return Build(model_version("", openapi or {}, revision), openapi, revision)


class VersionBook:
    """The names and versions of one upstream.

    Args:
        pinned: the version that the operator says it is, whatever the document says.
        memory: where names are kept; ``None`` = for this process only.
    """

    def __init__(self, upstream: str, *, pinned: str | None, memory: KeyValue | None) -> None:
        self._row = f"models:{upstream}"
        self._pinned = pinned
        self._memory = memory
        self._described: OrderedDict[tuple[str, str], ModelDescription] = OrderedDict()
        self._builds: OrderedDict[str, str] = OrderedDict()
        self._kept: list[str] = []

    async def load(self) -> None:
        """Read the remembered names."""
        row = await self._memory.get(self._row) if self._memory else None
        if row is not None:
            try:
                names = orjson.loads(row)
            except orjson.JSONDecodeError:
                return
            if isinstance(names, list):
                self._kept = [name for name in names if isinstance(name, str)][-MAX_KEPT:]

    def describe(self, target: ModelTarget, build: Build) -> ModelDescription:
        """What ``target`` is when ``build`` is what runs.

        Raises:
            NotFound: it pins another version, or a bare version that belongs to no known name.
        """
        if target.name:
            found = self._entry(target.model, build)
            if target.version in (None, found.version):
                return found
        else:
            names = [*reversed(self._kept), *(name for name, _ in reversed(self._described))]
            for name in dict.fromkeys(names):
                found = self._entry(name, build)
                if found.version == target.version:
                    return found
        raise NotFound("The specified version does not exist (or perhaps you don't have permission to use it?)")

    def forget(self) -> None:
        """Work descriptions out anew: another build is described from now on. What versions mean stays."""
        self._described.clear()

    def build_of(self, version: str) -> str | None:
        """Id of the build that was described as ``version``."""
        return self._builds.get(version)

    async def keep(self, model: str) -> None:
        """Remember a name whose run succeeded."""
        if not model or model in self._kept:
            return
        self._kept = [*self._kept, model][-MAX_KEPT:]
        if self._memory is not None:
            try:
                await self._memory.put(self._row, orjson.dumps(self._kept))
            except StorageError as error:
                _log.warning("names_not_kept", reason=str(error))

    def _entry(self, model: str, build: Build) -> ModelDescription:
        known = self._described.get((model, build.id))
        if known is not None:
            self._described.move_to_end((model, build.id))
            return known
        described = ModelDescription(
            model=model,
            version=self._pinned or model_version(model, build.openapi or {}, build.revision),
            is_pinned=bool(build.openapi is not None or build.revision or self._pinned),
            schema=parse_schema(build.openapi) if build.openapi is not None else None,
            openapi=build.openapi,
        )
        self._described[model, build.id] = described
        self._builds[described.version] = build.id
        self._builds.move_to_end(described.version)
        for memory in (self._described, self._builds):
            if len(memory) > MAX_NAMES:
                memory.popitem(last=False)
        return described
