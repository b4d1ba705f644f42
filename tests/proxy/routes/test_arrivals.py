from __future__ import annotations

import asyncio

import pytest

from proxy.engine.uploads import Uploads
from proxy.routes.arrivals import WAITING_PIECES, Copy
from storage.digest import hash_bytes
from storage.errors import StorageUnavailable
from tests.fakes.clock import ManualClock
from tests.fakes.stores import MemoryContentStore, MemoryKeyValue

pytestmark = pytest.mark.anyio


def a_copy() -> tuple[MemoryContentStore, Copy]:
    blobs = MemoryContentStore()
    return blobs, Copy(Uploads(MemoryKeyValue(), blobs, ManualClock()))


async def test_copy_is_what_was_handed_over() -> None:
    blobs, copy = a_copy()
    for piece in (b"one ", b"two ", b"three"):
        await copy.feed(piece)
    ref = await copy.finish()
    assert ref is not None
    assert ref.digest == hash_bytes(b"one two three")
    assert await blobs.has(ref)
    await copy.aclose()


async def test_copy_that_is_given_up_leaves_nothing() -> None:
    blobs, copy = a_copy()
    await copy.feed(b"one")
    await copy.aclose()
    assert blobs.used_bytes == 0


async def test_store_that_gives_up_holds_nobody() -> None:
    blobs, copy = a_copy()
    blobs.failure = StorageUnavailable("away")
    blobs.max_bytes = 0
    async with asyncio.timeout(5):
        for _ in range(10 * WAITING_PIECES):
            await copy.feed(b"x" * 10_000)
        assert await copy.finish() is None
        await copy.aclose()


async def test_store_that_fails_at_once_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.engine.uploads.MAX_UPLOAD_BYTES", 5)
    _, copy = a_copy()
    async with asyncio.timeout(5):
        for _ in range(10 * WAITING_PIECES):
            await copy.feed(b"x" * 10_000)
        assert await copy.finish() is None
        await copy.aclose()
