"""The shelf is tested through ``DiskContentStore``; here, what takes two of its steps at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage.errors import StorageError
from storage.opening import Storage
from tests.fakes.stores import chunked
from tests.storage.helpers import blob_path, files_below, put_blob

pytestmark = pytest.mark.anyio


async def test_blobs_on_their_way_are_cleaned_up_when_the_store_closes(storage: Storage, data_dir: Path) -> None:
    spilled, go_on = asyncio.Event(), asyncio.Event()

    async def stalled() -> AsyncIterator[bytes]:
        async for chunk in chunked(bytes(3_000_000)):
            yield chunk
        spilled.set()
        await go_on.wait()

    putting = asyncio.ensure_future(storage.blobs.put(stalled(), content_type="a/b", max_bytes=10_000_000))
    await spilled.wait()
    assert len(files_below(data_dir / "tmp")) == 1
    await storage.aclose()
    assert files_below(data_dir / "tmp") == []
    go_on.set()
    with pytest.raises(StorageError):
        await putting


async def test_blob_stored_while_it_is_being_missed_keeps_its_row(storage: Storage, data_dir: Path) -> None:
    ref = await put_blob(storage, b"pixels")
    blob_path(data_dir, ref.digest).unlink()
    _, missed = await asyncio.gather(put_blob(storage, b"pixels"), storage.blobs.read(ref))
    assert missed in (None, b"pixels")
    assert await storage.blobs.has(ref)
    assert await storage.blobs.read(ref) == b"pixels"
