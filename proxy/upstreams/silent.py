"""Upstreams as an edge knows them: it describes models from what is known and asks no model service anything.

An edge answers hits and nothing else. What it cannot say at once raises, or says that nobody can be asked, and the
request goes to the core, where the real upstream is.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import blake3
import orjson

from proxy.core.errors import NotFound, UpstreamUnavailable
from proxy.core.outputs import OutputAccess
from proxy.core.schemas import InputSchema, parse_schema
from proxy.upstreams.base import (
    Credential,
    Job,
    ModelDescription,
    ModelTarget,
    Outcome,
    Progress,
    Readiness,
    RelayRequest,
    RelayResponse,
    Upstream,
    UpstreamKind,
    Verdict,
)
from proxy.upstreams.once import AskedOnce
from storage.memory import ByteLru
from storage.records import JsonObject

KEEP_S = 0.5
"""How long the core's word on what a model is now is taken without asking again: a server may start with another
build at any time."""

MAX_REMEMBERED = 10_000

DESCRIBE = "describe"
"""Topic of the question."""


class SilentUpstream:
    """Everything of ``Upstream`` that would ask somebody."""

    outlives_us = False
    output_access = OutputAccess()
    api_roots: tuple[str, ...] = ()
    files_url: str | None = None

    def __init__(self, name: str, kind: UpstreamKind, *, has_accounts: bool) -> None:
        self._name, self._kind, self._has_accounts = name, kind, has_accounts

    @property
    def name(self) -> str:
        return self._name

    @property
    def kind(self) -> UpstreamKind:
        return self._kind

    @property
    def has_accounts(self) -> bool:
        return self._has_accounts

    async def input_schema(self, target: ModelTarget, credential: Credential | None) -> InputSchema | None:
        """Nothing is told here."""
        return None

    async def run(self, job: Job, report: Callable[[Progress], None]) -> Outcome:
        """Nothing runs here."""
        raise UpstreamUnavailable("Nothing is run by this process.")

    async def adopt(self, job: Job, upstream_id: str, report: Callable[[Progress], None]) -> Outcome:
        """Nothing runs here."""
        raise UpstreamUnavailable("Nothing is run by this process.")

    async def check(self, credential: Credential) -> Verdict:
        """Nobody can be asked."""
        return Verdict(is_accepted=None, is_silent=True)  # which is no outage: nothing is stretched for it here

    async def relay(self, request: RelayRequest, credential: Credential | None) -> RelayResponse:
        """Nothing is passed on to a model service from here."""
        raise UpstreamUnavailable("Nothing is relayed by this process.")

    async def open_stream(self, url: str, credential: Credential | None, last_event_id: str | None) -> RelayResponse:
        """Nothing is streamed from here."""
        raise NotFound("Nothing is streamed by this process.")

    async def readiness(self) -> Readiness:
        """The core knows."""
        return Readiness("unknown", "another process knows")

    async def aclose(self) -> None:
        """Nothing was started."""


class NotedUpstream(SilentUpstream):
    """An API whose upstream describes from notes, which every process can read."""

    def __init__(self, behind: Upstream) -> None:
        super().__init__(behind.name, behind.kind, has_accounts=behind.has_accounts)
        self._behind = behind

    async def describe(self, target: ModelTarget, credential: Credential | None) -> ModelDescription:
        """See ``Upstream.describe``."""
        return await self._behind.describe(target, credential)

    async def aclose(self) -> None:
        """Close what stands behind."""
        await self._behind.aclose()


class ToldUpstream(SilentUpstream):
    """Model servers that the core alone watches: what they run now is asked of it, at most once in ``KEEP_S``.

    Args:
        ask: the core's answer to a question about a target; raises what it likes when there is none.
    """

    def __init__(
        self,
        name: str,
        kind: UpstreamKind,
        ask: Callable[[JsonObject], Awaitable[Any]],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name, kind, has_accounts=False)
        self._ask = ask
        self._monotonic = monotonic
        self._told: ByteLru[ModelTarget, tuple[ModelDescription | None, str, float]] = ByteLru(MAX_REMEMBERED)
        self._asking: AskedOnce[ModelTarget, ModelDescription | None] = AskedOnce()

    async def describe(self, target: ModelTarget, credential: Credential | None) -> ModelDescription:
        """See ``Upstream.describe``."""
        told = self._told.get(target)
        if told is not None and self._monotonic() - told[2] < KEEP_S:
            described = told[0]
        else:
            described = await self._asking.ask(target, lambda: self._learn(target))
        if described is None:
            raise NotFound("The requested resource could not be found.")
        return described

    async def _learn(self, target: ModelTarget) -> ModelDescription | None:
        former = self._told.get(target)
        asked_at = self._monotonic()
        question = {
            "upstream": self.name,
            "target": [target.owner, target.name, target.version, target.is_deployment],
            "known": former[1] if former is not None else "",
        }
        try:
            answer = await self._ask(question)
        except Exception as error:
            raise UpstreamUnavailable("The core does not say what the model is.") from error
        if answer == {}:
            assert former is not None
            described, mark = former[0], former[1]
        elif answer is None:
            described, mark = None, ""
        else:
            described, mark = _read(answer), answer["mark"]
        self._told.put(target, (described, mark, asked_at), 1)
        return described


class Describer:
    """The core's side of that question."""

    def __init__(self, upstreams: tuple[Upstream, ...]) -> None:
        self._upstreams = {upstream.name: upstream for upstream in upstreams}

    async def answer(self, question: Any) -> JsonObject | None:
        """What the model is now; ``{}`` when that is what the asker knows, ``None`` when there is no such model.

        Raises:
            UpstreamUnavailable, UpstreamTimeout: see ``Upstream.describe``.
        """
        owner, name, version, is_deployment = question["target"]
        try:
            target = ModelTarget(owner, name, version, is_deployment)
            described = await self._upstreams[question["upstream"]].describe(target, None)
        except NotFound:
            return None
        answer: JsonObject = {
            "model": described.model,
            "version": described.version,
            "is_pinned": described.is_pinned,
            "has_schema": described.schema is not None,
            "openapi": described.openapi,
            "deployment": described.deployment,
        }
        mark = blake3.blake3(orjson.dumps(answer)).hexdigest(16)
        return {} if mark == question["known"] else {**answer, "mark": mark}


def _read(answer: JsonObject) -> ModelDescription:
    openapi = answer["openapi"]
    schema = parse_schema(openapi) if isinstance(openapi, dict) else None
    if answer["has_schema"] != (schema is not None):
        # The key would be another one than the core's.
        raise UpstreamUnavailable("The core's description of the model cannot be read here.")
    return ModelDescription(
        model=answer["model"],
        version=answer["version"],
        is_pinned=answer["is_pinned"],
        schema=schema,
        openapi=openapi,
        deployment=answer["deployment"],
    )
