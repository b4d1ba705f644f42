"""Records and their blobs together: what a hit is.

A record alone is no answer: it is a hit when it is there *and* every blob that it names is there with the length
it names. Everything that asks "is this cached?" asks here.

Complete records found lately are also kept in memory, where ``peek`` finds them without waiting. An entry there
is trusted for ``RECENT_S`` and then looked up anew, so that what another process removed, or a blob that was lost,
is noticed. What *this* process removes or replaces is never found again once ``remove`` or ``put`` has returned:
the entry is dropped before and after the change, and a look-up that overlaps a change keeps nothing.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from storage.counters import StorageCounters
from storage.digest import PredictionKey, RecordId
from storage.errors import StorageError
from storage.memory import ByteLru
from storage.ports import ActionCache, ContentStore
from storage.records import JsonValue, ResultRecord

RECENT_S = 2.0
"""How long a complete record is trusted without looking at the disk again."""

_RECORD_BYTES = 2000
"""What a record takes in memory besides its JSON values and files."""

_FILE_BYTES = 700


class ResultStore:
    """The cache as the proxy sees it: a hit is a record whose blobs are all present.

    Records that it returns are shared; nobody changes what is inside them.
    """

    def __init__(
        self,
        actions: ActionCache,
        blobs: ContentStore,
        counters: StorageCounters,
        *,
        memory_bytes: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._actions = actions
        self._blobs = blobs
        self._counters = counters
        self._monotonic = monotonic
        self._recent: ByteLru[PredictionKey, tuple[ResultRecord, float]] = ByteLru(memory_bytes)
        self._changes = 0
        self._listeners: list[Callable[[PredictionKey], None]] = []
        self._running: set[asyncio.Task[None]] = set()

    def peek(self, key: PredictionKey) -> ResultRecord | None:
        """The record under ``key`` if memory holds it and it was found complete within ``RECENT_S``.

        ``None`` says nothing: ask ``get_complete``.
        """
        entry = self._recent.get(key)
        if entry is None or self._monotonic() - entry[1] >= RECENT_S:
            return None
        self._counters.record_memory_hits_total += 1
        return entry[0]

    async def get_complete(self, key: PredictionKey) -> ResultRecord | None:
        """The record under ``key`` if it is a hit, else ``None``.

        A record with a blob missing counts in ``incomplete_records_total``; it stays, and the run that follows
        the miss replaces it.
        """
        record = self.peek(key)
        if record is not None:
            return record
        changes = self._changes
        record = await self._actions.get(key)
        if record is None or not await self._is_complete(record):
            self._recent.discard(key)
            return None
        if changes == self._changes:
            self._keep(record)
        return record

    async def find_complete(self, record_id: RecordId) -> ResultRecord | None:
        """The record that ``record_id`` names if it is live and complete, else ``None``."""
        record = await self._actions.find(record_id)
        return record if record is not None and await self._is_complete(record) else None

    async def put(self, record: ResultRecord) -> None:
        """Store a record whose blobs are stored already; it replaces an earlier one under its key.

        Once begun it is carried out, even if the caller is cancelled.

        Raises:
            StorageError: a blob that it names is not there, or its id is taken; nothing was changed.
            StorageUnavailable: it is not stored; what was there before still is.
        """
        await self._to_the_end(self._put(record))

    async def remove(self, key: PredictionKey) -> None:
        """Forget the record under ``key``, on the disk and in memory.

        Once begun it is carried out, even if the caller is cancelled.

        Raises:
            StorageUnavailable: it could not be removed.
        """
        await self._to_the_end(self._remove(key))

    def listen(self, listener: Callable[[PredictionKey], None]) -> None:
        """Call ``listener`` on the event loop after each change made here, with the key that was stored or removed."""
        self._listeners.append(listener)

    def forget(self, key: PredictionKey | None = None) -> None:
        """Look at the disk again for ``key``, or for every key: another process has changed what is there."""
        self._changes += 1
        if key is None:
            self._recent.clear()
        else:
            self._recent.discard(key)

    async def remove_all(self, keys: Sequence[PredictionKey]) -> int:
        """Forget the records under ``keys``, on the disk and in memory, in one step; how many there were.

        Once begun it is carried out, even if the caller is cancelled.

        Raises:
            StorageUnavailable: they could not be removed.
        """
        removed = 0

        async def change() -> None:
            nonlocal removed
            for key in keys:
                self._begin_change(key)
            try:
                removed = await self._actions.remove_all(keys)
            finally:
                for key in keys:
                    self._end_change(key, self._changes)

        if keys:
            await self._to_the_end(change())
        return removed

    def forget_where(self, is_meant: Callable[[ResultRecord], bool]) -> None:
        """Let go of records in memory alone: somebody else has removed them, or is about to."""
        self._changes += 1
        self._recent.discard_where(lambda entry: is_meant(entry[0]))

    async def settle(self) -> None:
        """Wait for the changes that were begun; how each of them ended is told to its caller alone."""
        while self._running:
            await asyncio.wait(self._running)

    async def _put(self, record: ResultRecord) -> None:
        for file in record.files:
            if not await self._blobs.has(file.blob):
                raise StorageError(f"blob {file.blob.digest.hex()} of the record is not stored")
        changes = self._begin_change(record.key)
        try:
            await self._actions.put(record)
        finally:
            is_latest = self._end_change(record.key, changes)
        if is_latest:
            self._keep(record)

    async def _remove(self, key: PredictionKey) -> None:
        changes = self._begin_change(key)
        try:
            await self._actions.remove(key)
        finally:
            self._end_change(key, changes)

    def _begin_change(self, key: PredictionKey) -> int:
        self._changes += 1
        self._recent.discard(key)
        return self._changes

    def _end_change(self, key: PredictionKey, changes: int) -> bool:
        """Forget ``key`` once more; whether no other change began or ended meanwhile."""
        is_latest = changes == self._changes
        self.forget(key)
        for listener in self._listeners:
            listener(key)
        return is_latest

    async def _is_complete(self, record: ResultRecord) -> bool:
        for file in record.files:
            if not await self._blobs.has(file.blob):
                self._counters.incomplete_records_total += 1
                return False
        return True

    def _keep(self, record: ResultRecord) -> None:
        values = (record.input, record.output, record.logs, record.metrics)
        size_bytes = _RECORD_BYTES + _FILE_BYTES * len(record.files) + sum(map(_weigh, values))
        self._recent.put(record.key, (record, self._monotonic()), size_bytes)

    async def _to_the_end(self, change: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(change)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await asyncio.shield(task)


def _weigh(value: JsonValue) -> int:
    """Bytes that a JSON value takes in memory: up to eight times its text, so the text's length will not do."""
    if isinstance(value, dict):
        return sys.getsizeof(value) + sum(sys.getsizeof(name) + _weigh(part) for name, part in value.items())
    if isinstance(value, list):
        return sys.getsizeof(value) + sum(map(_weigh, value))
    return sys.getsizeof(value)
