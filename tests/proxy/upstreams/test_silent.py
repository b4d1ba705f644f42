"""Models as an edge describes them: from the core's word, never from a model service."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from proxy.core.errors import NotFound, UpstreamUnavailable
from proxy.core.schemas import parse_schema
from proxy.upstreams.base import Credential, ModelDescription, ModelTarget, Verdict
from proxy.upstreams.silent import KEEP_S, Describer, NotedUpstream, ToldUpstream
from tests.fakes.clock import ManualClock
from tests.fakes.cog_server import OPENAPI
from tests.fakes.upstreams import ScriptedUpstream

pytestmark = pytest.mark.anyio

TARGET = ModelTarget("acme", "sketch")


class Pair:
    """The core's upstream, and the edge's that is told of it."""

    def __init__(self, openapi: Any = OPENAPI) -> None:
        self.clock = ManualClock()
        self.behind = ScriptedUpstream(self.clock, name="gpus", kind="cog", has_accounts=False)
        self.behind.description = ModelDescription(
            "acme/sketch", "5" * 64, is_pinned=True, schema=parse_schema(openapi), openapi=openapi
        )
        self.answers: list[Any] = []
        self.is_away = False
        self.told = ToldUpstream("gpus", "cog", self.ask, self.clock)
        self._describer = Describer((self.behind,))

    async def ask(self, question: Any) -> Any:
        if self.is_away:
            raise TimeoutError
        answer = orjson.loads(orjson.dumps(await self._describer.answer(orjson.loads(orjson.dumps(question)))))
        self.answers.append(answer)
        return answer


async def test_edge_describes_as_the_core_does() -> None:
    pair = Pair()
    assert await pair.told.describe(TARGET, None) == pair.behind.description
    assert pair.told.has_accounts is False


async def test_core_is_asked_once_for_a_while_and_sends_no_document_again() -> None:
    pair = Pair()
    for _ in range(5):
        await pair.told.describe(TARGET, None)
    assert len(pair.answers) == 1
    pair.clock.advance(KEEP_S)
    assert await pair.told.describe(TARGET, None) == pair.behind.description
    assert pair.answers[1] == {}


async def test_another_build_is_known_within_that_while() -> None:
    pair = Pair()
    await pair.told.describe(TARGET, None)
    pair.behind.description = replace(pair.behind.description, version="6" * 64)
    pair.clock.advance(KEEP_S)
    assert (await pair.told.describe(TARGET, None)).version == "6" * 64


async def test_edge_that_cannot_ask_does_not_go_on_with_what_it_was_told() -> None:
    pair = Pair()
    await pair.told.describe(TARGET, None)
    pair.is_away = True
    pair.clock.advance(KEEP_S)
    with pytest.raises(UpstreamUnavailable):
        await pair.told.describe(TARGET, None)


async def test_model_that_is_not_there_is_not_there_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()

    async def missing(target: ModelTarget, credential: Credential | None) -> ModelDescription:
        raise NotFound("no")

    monkeypatch.setattr(pair.behind, "describe", missing)
    for _ in range(3):
        with pytest.raises(NotFound):
            await pair.told.describe(TARGET, None)
    assert pair.answers == [None]


async def test_description_without_a_schema_stays_without_one() -> None:
    pair = Pair(openapi={"openapi": "3.0.2"})
    assert (await pair.told.describe(TARGET, None)).schema is None


async def test_schema_that_the_edge_would_read_otherwise_is_no_description() -> None:
    pair = Pair()
    pair.behind.description = replace(pair.behind.description, schema=None)
    with pytest.raises(UpstreamUnavailable):
        await pair.told.describe(TARGET, None)


async def test_nobody_is_asked_about_a_credential_or_told_anything() -> None:
    pair = Pair()
    noted = NotedUpstream(ScriptedUpstream(pair.clock))
    assert await noted.check(Credential("r8_x")) == Verdict(None, is_silent=True)
    assert await noted.input_schema(TARGET, None) is None
    assert (await noted.describe(TARGET, None)).model == "acme/pixel"
    assert noted.has_accounts
    assert (await noted.readiness()).state == "unknown"
