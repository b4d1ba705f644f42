from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import Message

from proxy.core.entitlement import Visitor
from proxy.engine.uploads import Uploads, UpstreamFile
from proxy.logs import Note
from proxy.routes.exchange import Exchange
from proxy.routes.files import Files
from proxy.routes.passthrough import Passthrough
from proxy.upstreams.base import Credential, RelayRequest, Upstream
from storage.digest import Digest, Scope
from tests.fakes.clock import ManualClock
from tests.fakes.stores import MemoryContentStore, MemoryKeyValue
from tests.fakes.upstreams import ScriptedUpstream

pytestmark = pytest.mark.anyio

ME = Scope(b"m" * 32)


class Desk:
    """``Files`` in front of an API that holds one upload of this caller's, ``x``."""

    def __init__(self, status: int) -> None:
        clock = ManualClock()
        self.uploads = Uploads(MemoryKeyValue(clock), MemoryContentStore(clock=clock), clock)
        self.upstream: Any = ScriptedUpstream(clock)
        self.upstream.relaying = self._answer
        self.file = UpstreamFile("x", Digest(b"d" * 32), 5, "https://api.replicate.com/v1/files/x", clock() + 60)
        self.status = status
        services: Any = SimpleNamespace(
            base_url="https://images.example.com",
            gatekeeper=SimpleNamespace(files_scope=lambda credential: ME),
            visits=self._visits,
            home=self._home,
            uploads=self.uploads,
            now=clock,
        )
        self.files = Files(services, Passthrough(services))

    async def _visits(self, credential: Credential | None) -> list[tuple[Upstream, Visitor]]:
        return [(self.upstream, Visitor(ME, ME, (), frozenset({ME})))]

    async def _home(self, credential: Credential | None) -> Upstream:
        return self.upstream

    def _answer(self, request: RelayRequest, body: bytes) -> tuple[int, bytes]:
        return self.status, b"" if self.status == 204 else json.dumps({"detail": "no"}).encode()

    async def is_known(self) -> bool:
        return await self.uploads.recall("replicate", ME, "x") is not None

    async def delete(self, *, leaves: bool = False) -> list[tuple[int, bool]]:
        """Ask for the end of ``x``; the answer's status, and whether the file was still known when it was given."""
        await self.uploads.remember("replicate", ME, self.file)
        told: list[tuple[int, bool]] = []

        async def receive() -> Message:
            await asyncio.Event().wait()
            raise AssertionError("nothing comes")

        async def send(message: Message) -> None:
            if leaves:
                raise OSError("the client is gone")
            if message["type"] == "http.response.start":
                told.append((message["status"], await self.is_known()))

        scope = {
            "type": "http",
            "method": "DELETE",
            "path": "/v1/files/x",
            "raw_path": b"/v1/files/x",
            "query_string": b"",
            "headers": [(b"authorization", b"Bearer r8_mine")],
            "path_params": {"id": "x"},
            "hotplate.note": Note(),
        }
        await self.files.delete(Exchange(scope, receive, send))
        return told


@pytest.mark.parametrize("status", [204, 404])
async def test_deleted_file_is_forgotten_before_its_end_is_told(status: int) -> None:
    """A client that had heard 204 could have a hit for the file, for as long as a busy disk took to forget it."""
    assert await Desk(status).delete() == [(status, False)]


async def test_file_whose_end_is_refused_stays_known() -> None:
    desk = Desk(403)
    assert await desk.delete() == [(403, True)]


async def test_deleted_file_is_forgotten_though_the_client_leaves_before_it_is_told() -> None:
    desk = Desk(204)
    with pytest.raises(OSError, match="gone"):
        await desk.delete(leaves=True)
    assert not await desk.is_known()
