from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.upstreams.base import ModelTarget
from proxy.upstreams.replicate_schemas import KEEP_S, KEEP_UNKNOWN_S, SchemaDesk
from proxy.upstreams.replicate_versions import VersionNotes
from storage.records import JsonObject
from tests.fakes.clock import ManualClock
from tests.fakes.stores import MemoryKeyValue

pytestmark = pytest.mark.anyio

VERSION = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"
OPENAPI = {"components": {"schemas": {"Input": {"properties": {"image": {"type": "string", "format": "uri"}}}}}}
ALICE, BOB = {"authorization": "Bearer a"}, {"authorization": "Bearer b"}
MODEL = ModelTarget("acme", "restyle")


class Api:
    """Documents by path; counts who asks for what."""

    def __init__(self) -> None:
        self.documents: dict[str, JsonObject] = {}
        self.asked: list[tuple[str, str]] = []

    async def document(self, path: str, authorization: dict[str, str]) -> JsonObject | None:
        self.asked.append((path, authorization["authorization"]))
        await asyncio.sleep(0)
        return self.documents.get(path)


class Desk:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.api = Api()
        self.versions = VersionNotes("replicate", MemoryKeyValue(self.clock))
        self.schemas = SchemaDesk(self.api, self.versions, self.clock)  # type: ignore[arg-type]


async def test_model_without_a_version_is_asked_for_its_newest_and_again_after_minutes() -> None:
    desk = Desk()
    desk.api.documents["/models/acme/restyle"] = {"latest_version": {"id": VERSION, "openapi_schema": OPENAPI}}
    for _ in range(3):
        schema = await desk.schemas.find(MODEL, ALICE)
        assert schema is not None
        assert schema.fields["image"].may_hold_files
    assert len(desk.api.asked) == 1
    desk.clock.advance(KEEP_S)
    await desk.schemas.find(MODEL, ALICE)
    assert len(desk.api.asked) == 2
    # It may be another one tomorrow, so it is not taken for that of any version.
    assert (await desk.versions.recall(VERSION)).schema is None


async def test_pinned_version_is_asked_for_once_and_for_all() -> None:
    desk = Desk()
    desk.api.documents[f"/models/acme/restyle/versions/{VERSION}"] = {"id": VERSION, "openapi_schema": OPENAPI}
    assert await desk.schemas.find(ModelTarget("acme", "restyle", VERSION), ALICE) is not None
    assert (await desk.versions.recall(VERSION)).schema is not None
    assert await desk.schemas.find(ModelTarget("", "", VERSION), BOB) is not None
    assert len(desk.api.asked) == 1


async def test_deployment_is_what_its_release_is() -> None:
    desk = Desk()
    release = {"model": "acme/restyle", "version": VERSION}
    desk.api.documents["/deployments/acme/live"] = {"current_release": release}
    desk.api.documents[f"/models/acme/restyle/versions/{VERSION}"] = {"id": VERSION, "openapi_schema": OPENAPI}
    assert await desk.schemas.find(ModelTarget("acme", "live", is_deployment=True), ALICE) is not None


@pytest.mark.parametrize(
    "documents",
    [
        {},
        {"/models/acme/restyle": {}},
        {"/models/acme/restyle": {"latest_version": None}},
        {"/models/acme/restyle": {"latest_version": {"openapi_schema": "x"}}},
        {"/models/acme/restyle": {"latest_version": {"openapi_schema": {}}}},
    ],
)
async def test_what_is_not_told_is_unknown_and_not_asked_for_again_at_once(documents: dict[str, Any]) -> None:
    desk = Desk()
    desk.api.documents = documents
    for _ in range(2):
        assert await desk.schemas.find(MODEL, ALICE) is None
    assert len(desk.api.asked) == 1
    desk.clock.advance(KEEP_UNKNOWN_S)
    await desk.schemas.find(MODEL, ALICE)
    assert len(desk.api.asked) == 2


async def test_version_that_answers_with_another_id_is_not_believed() -> None:
    desk = Desk()
    desk.api.documents[f"/models/acme/restyle/versions/{VERSION}"] = {"id": "other", "openapi_schema": OPENAPI}
    assert await desk.schemas.find(ModelTarget("acme", "restyle", VERSION), ALICE) is None
    assert await desk.schemas.find(ModelTarget("", "", VERSION), ALICE) is None


async def test_what_one_account_is_told_is_not_told_to_another() -> None:
    desk = Desk()
    desk.api.documents["/models/acme/restyle"] = {"latest_version": {"openapi_schema": OPENAPI}}
    await desk.schemas.find(MODEL, ALICE)
    await desk.schemas.find(MODEL, BOB)
    assert [who for _, who in desk.api.asked] == ["Bearer a", "Bearer b"]


async def test_all_who_ask_meanwhile_share_one_question() -> None:
    desk = Desk()
    desk.api.documents["/models/acme/restyle"] = {"latest_version": {"openapi_schema": OPENAPI}}
    found = await asyncio.gather(*(desk.schemas.find(MODEL, ALICE) for _ in range(5)))
    assert None not in found
    assert len(desk.api.asked) == 1
