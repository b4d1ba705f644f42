"""Stores in memory: the same promises as the real ones, tested by the same suites.

Each has ``failure``: while it is set, reads find nothing and writes raise it, as when a disk is away.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from storage.counters import StorageCounters
from storage.digest import Digest, PredictionKey, RecordId, Scope, hash_bytes
from storage.errors import BlobRejected, Corrupt, StorageError, StorageFull, StorageUnavailable
from storage.opening import Storage
from storage.ports import BlobInfo
from storage.records import BlobRef, OutputFile, ResultRecord, encode_record
from storage.results import ResultStore

STREAM_CHUNK_BYTES = 64 * 1024


class MemoryActionCache:
    """``ActionCache`` in a dict."""

    def __init__(self) -> None:
        self.failure: StorageUnavailable | None = None
        self._records: dict[PredictionKey, ResultRecord] = {}

    async def get(self, key: PredictionKey) -> ResultRecord | None:
        return None if self.failure else self._records.get(key)

    async def find(self, record_id: RecordId) -> ResultRecord | None:
        if self.failure:
            return None
        return next((record for record in self._records.values() if record.record_id == record_id), None)

    async def put(self, record: ResultRecord) -> None:
        encode_record(record)
        if self.failure:
            raise self.failure
        named = await self.find(record.record_id)
        if named is not None and named.key != record.key:
            raise StorageError("the record's id names another record")
        self._records[record.key] = record

    async def remove(self, key: PredictionKey) -> None:
        if self.failure:
            raise self.failure
        self._records.pop(key, None)

    async def remove_all(self, keys: Sequence[PredictionKey]) -> int:
        if self.failure:
            raise self.failure
        return len([key for key in keys if self._records.pop(key, None) is not None])

    async def tagged(self, tag: str, after: PredictionKey | None, limit: int) -> list[PredictionKey]:
        if self.failure:
            raise self.failure
        return sorted(key for key, record in self._records.items() if tag in record.tags and key > (after or b""))[
            :limit
        ]

    async def page(self, after: PredictionKey | None, limit: int) -> list[ResultRecord]:
        if self.failure:
            raise self.failure
        return [self._records[key] for key in sorted(self._records) if key > (after or b"")][:limit]


class MemoryContentStore:
    """``ContentStore`` in a dict, of at most ``max_bytes``."""

    def __init__(self, max_bytes: int = 2**40, clock: Callable[[], float] = time.time) -> None:
        self.failure: StorageUnavailable | None = None
        self.max_bytes = max_bytes
        self._clock = clock
        self._blobs: dict[Digest, tuple[BlobInfo, bytes]] = {}

    @property
    def used_bytes(self) -> int:
        return sum(len(data) for _, data in self._blobs.values())

    def replace_bytes(self, digest: Digest, data: bytes) -> None:
        """Damage a blob: other bytes in its place."""
        self._blobs[digest] = (self._blobs[digest][0], data)

    def lose(self, digest: Digest) -> None:
        """Remove a blob behind the store's back."""
        del self._blobs[digest]

    async def put(
        self, chunks: AsyncIterator[bytes], *, content_type: str, max_bytes: int, expected_bytes: int | None = None
    ) -> BlobRef:
        limit_bytes = max_bytes if expected_bytes is None else expected_bytes
        if limit_bytes > max_bytes:
            raise BlobRejected(f"{limit_bytes} bytes announced, {max_bytes} allowed")
        data = b""
        async for chunk in chunks:
            data += chunk
            if len(data) > limit_bytes:
                raise BlobRejected(f"more than {limit_bytes} bytes")
        if expected_bytes not in (None, len(data)):
            raise BlobRejected(f"{len(data)} bytes instead of {expected_bytes}")
        if self.failure:
            raise self.failure
        ref = BlobRef(hash_bytes(data), len(data))
        if ref.digest not in self._blobs and self.used_bytes + len(data) > self.max_bytes:
            raise StorageFull(f"{self.used_bytes} of {self.max_bytes} bytes are used")
        self._blobs[ref.digest] = (BlobInfo(ref, content_type, self._clock()), data)
        return ref

    async def info(self, digest: Digest) -> BlobInfo | None:
        info, data = self._blobs.get(digest, (None, b""))
        return info if info is not None and not self.failure and len(data) == info.ref.size_bytes else None

    async def has(self, ref: BlobRef) -> bool:
        info = await self.info(ref.digest)
        return info is not None and info.ref == ref

    async def read(self, ref: BlobRef, first: int = 0, last: int | None = None) -> bytes | None:
        if first < 0:
            raise ValueError("a range starts at 0 or later")
        _, data = self._blobs.get(ref.digest, (None, None))
        if data is None or self.failure or len(data) != ref.size_bytes:
            return None
        if hash_bytes(data) != ref.digest:
            del self._blobs[ref.digest]
            return None
        return data[first : None if last is None else last + 1]

    async def stream(self, ref: BlobRef, first: int = 0, last: int | None = None) -> AsyncGenerator[bytes, None]:
        data = await self.read(ref, first, last)
        if data is None:
            raise Corrupt("blob cannot be vouched for")
        for start in range(0, len(data), STREAM_CHUNK_BYTES):
            yield data[start : start + STREAM_CHUNK_BYTES]


class MemoryKeyValue:
    """``KeyValue`` in a dict."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.failure: StorageUnavailable | None = None
        self._clock = clock
        self._values: dict[str, tuple[bytes, float | None]] = {}

    async def get(self, name: str) -> bytes | None:
        value, ends_at = self._values.get(name, (None, None))
        return None if self.failure or (ends_at is not None and ends_at <= self._clock()) else value

    async def put(self, name: str, value: bytes, ttl_s: float | None = None) -> None:
        if self.failure:
            raise self.failure
        self._values[name] = (value, None if ttl_s is None else self._clock() + ttl_s)

    async def remove(self, name: str) -> None:
        if self.failure:
            raise self.failure
        self._values.pop(name, None)

    async def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        if self.failure:
            return []
        now = self._clock()
        return [
            (name, value)
            for name, (value, ends_at) in sorted(
                self._values.items(), key=lambda item: item[0].encode("utf-8", "surrogatepass")
            )
            if name.startswith(prefix) and (ends_at is None or ends_at > now)
        ]


def memory_storage(*, memory_bytes: int = 2**20, clock: Callable[[], float] = time.time) -> Storage:
    """A whole ``Storage`` in memory; its parts are the classes above."""
    actions, blobs, counters = MemoryActionCache(), MemoryContentStore(clock=clock), StorageCounters()

    async def aclose() -> None:
        return None

    return Storage(
        results=ResultStore(actions, blobs, counters, memory_bytes=memory_bytes),
        actions=actions,
        blobs=blobs,
        ledger=MemoryKeyValue(clock),
        notes=MemoryKeyValue(clock),
        counters=counters,
        used_bytes=lambda: blobs.used_bytes,
        trouble=lambda: str(blobs.failure) if blobs.failure else None,
        aclose=aclose,
    )


async def chunked(data: bytes, size_bytes: int = 64 * 1024) -> AsyncIterator[bytes]:
    """``data`` as a body that arrives in pieces."""
    for start in range(0, len(data), size_bytes):
        yield data[start : start + size_bytes]


def sample_record(name: str = "a", blobs: Iterable[BlobRef] = (), **changes: Any) -> ResultRecord:
    """A record whose key and id follow from ``name``, with ``blobs`` as its files."""
    digest = hash_bytes(name.encode())
    files = tuple(OutputFile((number,), blob, "image/webp", f"out-{number}.webp") for number, blob in enumerate(blobs))
    record = ResultRecord(
        record_id=RecordId(int.from_bytes(digest[:5], "big")),
        key=PredictionKey(digest),
        scope=Scope(bytes(32)),
        upstream="replicate",
        model="acme/painter",
        version="5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa",
        input={"prompt": f"a hot plate, {name}", "seed": 7},
        output=[None] * len(files),
        files=files,
        logs="step 1\nstep 2\n",
        metrics={"predict_time": 2.5},
        created_at=1_700_000_000.0,
        started_at=1_700_000_000.5,
        completed_at=1_700_000_003.0,
        boot_s=0.0,
        upstream_id="ufawqhfynnddngldkgtslldrkq",
    )
    return replace(record, **changes)
