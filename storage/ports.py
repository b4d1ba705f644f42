"""The Protocols of the store. Their docstrings are the promises that the contract suites test.

Methods are coroutines because a shared tier will wait for a network; the local ones answer without
giving up the event loop on reads, and hand every write to one writer thread.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from storage.digest import Digest, PredictionKey, RecordId
from storage.records import BlobRef, ResultRecord


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """What is known of a stored blob: name, length, media type, when it was stored (epoch seconds)."""

    ref: BlobRef
    content_type: str
    stored_at: float


class ActionCache(Protocol):
    """Map from prediction key to result record."""

    async def get(self, key: PredictionKey) -> ResultRecord | None:
        """The record stored under ``key``, or ``None``. Never a record whose own key differs.

        A store that is away or a row that cannot be read is a miss (counted), never an error.
        """
        ...

    async def find(self, record_id: RecordId) -> ResultRecord | None:
        """The live record that ``record_id`` names, or ``None`` once it was removed or replaced."""
        ...

    async def put(self, record: ResultRecord) -> None:
        """Store ``record``; it replaces an earlier one under the same key.

        When this returns, the record survives an end of the process.

        Raises:
            StorageError: its id names a live record of another key, or it cannot be written as JSON.
            StorageUnavailable: it is not stored; what was there before still is.
        """
        ...

    async def remove(self, key: PredictionKey) -> None:
        """Forget the record under ``key``; nothing happens if there is none.

        Raises:
            StorageUnavailable: it could not be removed.
        """
        ...

    async def remove_all(self, keys: Sequence[PredictionKey]) -> int:
        """Forget the records under ``keys``, all or none of them; how many there were.

        Raises:
            StorageUnavailable: they could not be removed.
        """
        ...

    async def tagged(self, tag: str, after: PredictionKey | None, limit: int) -> list[PredictionKey]:
        """Keys of live records that have ``tag``, in their order, at most ``limit`` of those beyond ``after``.

        As quick with many records as with few.

        Raises:
            StorageUnavailable: they cannot be told now.
        """
        ...

    async def page(self, after: PredictionKey | None, limit: int) -> list[ResultRecord]:
        """Live records in the order of their keys, at most ``limit`` of those beyond ``after``; ``[]`` at the end.

        Records that cannot be read are left out; a page is empty only where there are no more.

        Raises:
            StorageUnavailable: they cannot be told now.
        """
        ...


class ContentStore(Protocol):
    """Map from digest to blob."""

    async def put(
        self, chunks: AsyncIterator[bytes], *, content_type: str, max_bytes: int, expected_bytes: int | None = None
    ) -> BlobRef:
        """Store the bytes that ``chunks`` yields and return their name.

        Reserve, write to a temporary file, hash while writing, verify, fsync, rename. When this returns,
        the blob survives an end of the process. Storing bytes that are there already is cheap and fine.

        Raises:
            BlobRejected: more than ``max_bytes``, or not ``expected_bytes`` long; nothing is kept.
            StorageUnavailable: the medium failed or has no room; nothing is kept.
            Exception: whatever ``chunks`` raises; nothing is kept.
        """
        ...

    async def info(self, digest: Digest) -> BlobInfo | None:
        """What is known of a blob that is there with its length, or ``None``; its bytes are not looked at."""
        ...

    async def has(self, ref: BlobRef) -> bool:
        """Whether the blob is there with that length."""
        ...

    async def read(self, ref: BlobRef, first: int = 0, last: int | None = None) -> bytes | None:
        """Bytes ``first`` to ``last`` inclusive (to the end when ``None``), or ``None`` if they cannot be vouched for.

        The range is what ``data[first : last + 1]`` would give, for ``first`` of at least 0. The length is checked on
        every read and the digest on the first read after the store was opened; a mismatch is quarantined and
        answered as ``None``.
        """
        ...

    def stream(self, ref: BlobRef, first: int = 0, last: int | None = None) -> AsyncGenerator[bytes, None]:
        """The same range in chunks of bounded size, for blobs too large to hold in memory.

        Close it (``contextlib.aclosing``) when leaving early: it holds a file open.

        Raises:
            Corrupt: before the first chunk, when the blob is not there or cannot be vouched for; later only when
                it is cut short while it is read.
            StorageUnavailable: after the first chunk, when the medium failed.
        """
        ...


class KeyValue(Protocol):
    """Small values by name with an optional end of life: the ledger, remembered schemas."""

    async def get(self, name: str) -> bytes | None:
        """The value, or ``None`` when absent, expired or unreadable."""
        ...

    async def put(self, name: str, value: bytes, ttl_s: float | None = None) -> None:
        """Store ``value``; it survives an end of the process once this returns.

        Raises:
            StorageUnavailable: it is not stored.
        """
        ...

    async def remove(self, name: str) -> None:
        """Forget ``name``; nothing happens if it is not there.

        Raises:
            StorageUnavailable: it could not be removed.
        """
        ...

    async def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        """Every value whose name begins with ``prefix``, by name; ended and unreadable ones are left out.

        For start-up and for few rows: all of them are read at once. A store that is away has none.
        """
        ...
