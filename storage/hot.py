"""Small blobs kept in memory in front of another content store.

What is kept was vouched for by the store behind and is named by its digest, so it cannot become wrong; it can
only be forgotten. Whether a blob exists (``info``, ``has``) is always asked of the store behind.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from storage.counters import StorageCounters
from storage.digest import Digest
from storage.errors import Corrupt
from storage.memory import ByteLru
from storage.ports import BlobInfo, ContentStore
from storage.records import BlobRef

HOT_BLOB_BYTES = 1024 * 1024
"""Largest blob kept in memory; beyond it reading from the page cache costs little more."""

_ENTRY_BYTES = 200
"""What an entry takes besides its bytes, roughly."""


class HotContentStore:
    """``ContentStore`` that keeps whole small blobs in memory, within ``max_bytes``."""

    def __init__(self, behind: ContentStore, max_bytes: int, counters: StorageCounters) -> None:
        self._behind = behind
        self._counters = counters
        self._kept: ByteLru[Digest, bytes] = ByteLru(max_bytes)

    async def put(
        self, chunks: AsyncIterator[bytes], *, content_type: str, max_bytes: int, expected_bytes: int | None = None
    ) -> BlobRef:
        """See ``ContentStore.put``."""
        return await self._behind.put(
            chunks, content_type=content_type, max_bytes=max_bytes, expected_bytes=expected_bytes
        )

    async def info(self, digest: Digest) -> BlobInfo | None:
        """See ``ContentStore.info``."""
        return await self._behind.info(digest)

    async def has(self, ref: BlobRef) -> bool:
        """See ``ContentStore.has``."""
        return await self._behind.has(ref)

    async def read(self, ref: BlobRef, first: int = 0, last: int | None = None) -> bytes | None:
        """See ``ContentStore.read``."""
        if ref.size_bytes > HOT_BLOB_BYTES:
            return await self._behind.read(ref, first, last)
        if first < 0:
            raise ValueError("a range starts at 0 or later")
        data = await self._whole(ref)
        return data if data is None else data[first : None if last is None else last + 1]

    async def stream(self, ref: BlobRef, first: int = 0, last: int | None = None) -> AsyncGenerator[bytes, None]:
        """See ``ContentStore.stream``."""
        if ref.size_bytes > HOT_BLOB_BYTES:
            async with aclosing(self._behind.stream(ref, first, last)) as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        data = await self.read(ref, first, last)
        if data is None:
            raise Corrupt("blob cannot be vouched for")
        if data:
            yield data

    async def _whole(self, ref: BlobRef) -> bytes | None:
        kept = self._kept.get(ref.digest)
        if kept is not None:
            self._counters.blob_memory_reads_total += 1
            return kept if len(kept) == ref.size_bytes else None
        data = await self._behind.read(ref)
        if data is not None:
            self._kept.put(ref.digest, data, len(data) + _ENTRY_BYTES)
        return data
