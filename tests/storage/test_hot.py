from __future__ import annotations

import pytest

from storage.counters import StorageCounters
from storage.hot import HOT_BLOB_BYTES, HotContentStore
from storage.records import BlobRef
from tests.fakes.stores import MemoryContentStore, chunked

pytestmark = pytest.mark.anyio


class CountingStore(MemoryContentStore):
    reads = 0

    async def read(self, ref: BlobRef, first: int = 0, last: int | None = None) -> bytes | None:
        self.reads += 1
        return await super().read(ref, first, last)


async def put(store: HotContentStore, data: bytes) -> BlobRef:
    return await store.put(chunked(data), content_type="image/webp", max_bytes=10_000_000)


async def test_small_blob_is_read_once_and_then_sliced_from_memory() -> None:
    behind, counters = CountingStore(), StorageCounters()
    store = HotContentStore(behind, 10_000, counters)
    ref = await put(store, b"0123456789")
    assert await store.read(ref, 2, 4) == b"234"
    assert await store.read(ref) == b"0123456789"
    assert [chunk async for chunk in store.stream(ref, 8)] == [b"89"]
    assert behind.reads == 1
    assert counters.blob_memory_reads_total == 2


async def test_large_blob_is_always_read_behind() -> None:
    behind = CountingStore()
    store = HotContentStore(behind, 10_000_000, StorageCounters())
    ref = await put(store, bytes(HOT_BLOB_BYTES + 1))
    assert await store.read(ref, 0, 3) == bytes(4)
    assert await store.read(ref, 0, 3) == bytes(4)
    assert behind.reads == 2


async def test_memory_is_bounded() -> None:
    behind = CountingStore()
    store = HotContentStore(behind, 5_000, StorageCounters())
    refs = [await put(store, bytes([number]) * 1000) for number in range(10)]
    for ref in refs:
        await store.read(ref)
    for ref in refs:
        await store.read(ref)
    assert behind.reads == 20


async def test_damaged_blob_is_not_kept() -> None:
    behind = CountingStore()
    store = HotContentStore(behind, 10_000, StorageCounters())
    ref = await put(store, b"good")
    behind.replace_bytes(ref.digest, b"evil")
    assert await store.read(ref) is None
    assert await store.read(ref) is None


async def test_blob_that_is_lost_behind_is_not_there_though_memory_has_it() -> None:
    behind = CountingStore()
    store = HotContentStore(behind, 10_000, StorageCounters())
    ref = await put(store, b"good")
    await store.read(ref)
    behind.lose(ref.digest)
    assert not await store.has(ref)
    assert await store.info(ref.digest) is None
